//! Connections that outlive the certificates they were made with.

use super::control::Control;
use super::world::{Plan, Proxy, allow, calls, serves, soon};
use mesh_proto::policy::model::Protocol;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The shortest that an authority issues.
const LIFE: Duration = Duration::from_secs(6);
const GRACE: Duration = Duration::from_secs(4);
/// Nothing of a test lives so long.
const LONG: Duration = Duration::from_secs(3_600);

/// Echoes, and counts its connections.
async fn database() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    (address, count)
}

/// A database and its only caller, with certificates of a short life, and one connection.
struct Quiet {
    control: Control,
    database: Proxy,
    web: Proxy,
    tunnel: TcpStream,
    opened: SystemTime,
    connections: Arc<AtomicUsize>,
}

impl Quiet {
    /// With the graces of the called and of the calling side.
    async fn start(called: Duration, calling: Duration) -> Self {
        let control = Control::start();
        control.set_lifetime(LIFE);
        control.change(|state| {
            state.policies.insert("database".to_owned(), vec![allow("web")]);
        });
        let (app, connections) = database().await;
        let declared = Some(Protocol::Tcp);
        let plan = Plan { declared, workers: 2, grace: called, ..serves("database", app) };
        let database = plan.start(&control).await;
        let plan = Plan { workers: 2, grace: calling, ..calls("web", "database") };
        let web = plan.start(&control).await;
        control.settled().await;
        let tunnel = TcpStream::connect(web.to()).await.unwrap();
        let opened = SystemTime::now();
        let mut quiet = Self { control, database, web, tunnel, opened, connections };
        quiet.talk().await.unwrap();
        quiet
    }

    /// A byte there and back.
    async fn talk(&mut self) -> std::io::Result<()> {
        self.tunnel.write_all(b"q").await?;
        let mut answer = [0; 1];
        soon("the answer", self.tunnel.read_exact(&mut answer)).await.map(drop)
    }

    /// A byte every now and then, until a time or until it is cut.
    async fn talk_until(&mut self, end: SystemTime) -> std::io::Result<()> {
        let mut now_and_then = tokio::time::interval(Duration::from_millis(250));
        while SystemTime::now() < end {
            now_and_then.tick().await;
            self.talk().await?;
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_connection_that_stands_alone_outlives_three_certificates() {
    let mut quiet = Quiet::start(GRACE, GRACE).await;
    let end = quiet.opened + LIFE * 3 + GRACE;
    let talked = quiet.talk_until(end).await;
    assert!(talked.is_ok(), "{talked:?} after {:?}", quiet.opened.elapsed());
    assert_eq!(quiet.connections.load(Ordering::SeqCst), 1, "a proof does not reach the application");
}

#[tokio::test]
async fn a_caller_that_is_refused_renewal_is_cut_after_the_grace() {
    // It would not cut itself.
    let mut quiet = Quiet::start(GRACE, LONG).await;
    quiet.control.change(|state| state.uncertified.extend(["web".to_owned()]));
    let talked = quiet.talk_until(quiet.opened + LIFE * 3 + GRACE).await;
    assert!(talked.is_err(), "it still talks after {:?}", quiet.opened.elapsed());
    quiet.database.metric("mesh_refusals_total{direction=\"inbound\",reason=\"peer_expired\"}").await;
    assert!(quiet.opened.elapsed().unwrap() > GRACE, "the grace is granted");
}

#[tokio::test]
async fn a_callee_that_is_refused_renewal_is_cut_after_the_grace() {
    let mut quiet = Quiet::start(LONG, GRACE).await;
    quiet.control.change(|state| state.uncertified.extend(["database".to_owned()]));
    let talked = quiet.talk_until(quiet.opened + LIFE * 3 + GRACE).await;
    assert!(talked.is_err(), "it still talks after {:?}", quiet.opened.elapsed());
    quiet.web.metric("mesh_refusals_total{direction=\"outbound\",reason=\"endpoint_expired\"}").await;
    assert!(quiet.opened.elapsed().unwrap() > GRACE, "the grace is granted");
}
