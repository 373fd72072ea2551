//! Two plain relays one after the other: the floor of two more hops, with nothing done to the bytes.

use super::backend::Backend;
use super::contestant::Contestant;
use super::process::{Process, free_port, loopback};
use anyhow::Result;
use std::path::Path;
use std::process::Command;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Starts both.
pub(super) fn start(folder: &Path, backend: &Backend) -> Result<Contestant> {
    let mut relay = Contestant::new("relay", folder);
    let ports = [free_port()?, free_port()?, free_port()?, free_port()?];
    let [http_near, http_far, tcp_near, tcp_far] = ports;
    for (what, pairs) in [
        ("relay-near", [(http_near, http_far), (tcp_near, tcp_far)]),
        ("relay-far", [(http_far, backend.http), (tcp_far, backend.tcp)]),
    ] {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("bench-relay");
        for (from, to) in pairs {
            command.args([from.to_string(), to.to_string()]);
        }
        relay.proxies.push(Process::start(what, folder, &mut command)?);
    }
    relay.http1 = Some(loopback(http_near));
    relay.http2 = relay.http1;
    relay.tcp = Some(loopback(tcp_near));
    Ok(relay)
}

/// Serves pairs of ports, each relayed to the next, until ended.
pub(super) fn serve(ports: &[u16]) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        for pair in ports.chunks(2) {
            let [from, to] = pair else { anyhow::bail!("ports come in pairs") };
            let listener = TcpListener::bind(loopback(*from)).await?;
            let to = loopback(*to);
            tasks.spawn(async move {
                while let Ok((mut near, _)) = listener.accept().await {
                    tokio::spawn(async move {
                        let mut far = TcpStream::connect(to).await?;
                        near.set_nodelay(true)?;
                        far.set_nodelay(true)?;
                        tokio::io::copy_bidirectional(&mut near, &mut far).await
                    });
                }
            });
        }
        while tasks.join_next().await.is_some() {}
        Ok(())
    })
}
