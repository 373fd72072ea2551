//! `meshctl dashboard`: the mesh in a browser, with the user's own credentials.

use crate::config;
use crate::dashboard::door::Door;
use crate::dashboard::relay::Relay;
use crate::failure::{Exit, Failure};
use crate::output::{self, Format};
use crate::processes::{self, Signals};
use crate::session::{Mode, Session};
use clap::Args;
use serde::Serialize;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::Arc;
use tokio::net::TcpListener;

const EXAMPLES: &str = "\
Examples:
  meshctl dashboard                    # opens the browser; Ctrl-C ends it
  meshctl dashboard --no-open          # prints the address, which works once
  meshctl dashboard --port 15080 --no-open   # behind: ssh -L 15080:127.0.0.1:15080 HOST
  meshctl --kubernetes dashboard       # the mesh of a cluster, as its user";

/// What `dashboard` is told.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DashboardArgs {
    /// Listens on this port of 127.0.0.1; 0 takes any free one
    #[arg(long, default_value_t = 0, value_name = "PORT")]
    port: u16,
    /// Prints the address and leaves the browser alone
    #[arg(long)]
    no_open: bool,
}

#[derive(Serialize)]
struct Opened {
    url: String,
    address: String,
}

/// Serves the dashboard until a signal.
///
/// # Errors
/// When no control plane answers, the user may not look at this mesh, or the port is taken.
pub(crate) async fn run(args: DashboardArgs, session: &Session) -> Result<Exit, Failure> {
    let (client, cluster) = session.connect().await?;
    // A connection that is lost is made again to the same mesh, whatever else is there by then.
    let mode = if cluster.is_some() { Mode::Cluster } else { Mode::Local };
    let session = Session { mode, ..session.clone() };
    // Whoever may not look is told so here and not in a browser.
    client.answer(client.api().page(mesh_proto::wire::v1::PageRequest::default()).await)?;
    let wanted = SocketAddr::from((Ipv4Addr::LOCALHOST, args.port));
    let listener = TcpListener::bind(wanted).await.map_err(|error| {
        Failure::failed(format!("cannot listen on {wanted}: {error}")).next("meshctl dashboard --port 0")
    })?;
    let address = listener
        .local_addr()
        .map_err(|error| Failure::failed(format!("cannot learn the port that was taken: {error}")))?;
    let no_random = || Failure::failed("this machine's random source failed; no dashboard was opened");
    let door = Door::new(address.to_string()).ok_or_else(no_random)?;
    let url = door.address().ok_or_else(no_random)?;
    let mut signals = Signals::take()?;
    let opened = Opened { url: url.clone(), address: address.to_string() };
    let page = if args.no_open || session.format != Format::Table { None } else { open(&url) };
    let mesh = cluster.map_or_else(String::new, |name| format!("cluster {}\n", output::clean(&name)));
    output::print_value(session.format, &opened, || match &page {
        Some(_) => {
            format!("{mesh}the dashboard opens in your browser; Ctrl-C ends it\nif it does not: {url}")
        }
        None => format!("{mesh}open this address, which works once; Ctrl-C ends the dashboard\n{url}"),
    })?;
    let relay = Arc::new(Relay::new(door, session, client));
    let serving = relay.serve(listener);
    tokio::pin!(serving);
    loop {
        // Cancel safe: the server goes on where it was, a signal that is not received is kept.
        tokio::select! {
            () = &mut serving => return Ok(Exit::Done),
            signal = signals.next() => if processes::asks_to_end(signal) { return Ok(Exit::Done) },
        }
    }
}

/// Lets the desktop open the address; `None` when there is none. The file goes when the result is dropped.
///
/// The address stands in a file of the user's own, since what stands on a command line can be read by everybody.
fn open(url: &str) -> Option<tempfile::NamedTempFile> {
    let program = config::browser_opener()?;
    let mut file = tempfile::Builder::new().prefix("meshctl-dashboard-").suffix(".html").tempfile().ok()?;
    let page = format!(
        "<!doctype html><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" content=\"0; url={url}\">\
         <title>meshctl dashboard</title>"
    );
    file.write_all(page.as_bytes()).and_then(|()| file.flush()).ok()?;
    let mut command = Command::new(program);
    command.arg(file.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().ok().map(|_| file)
}
