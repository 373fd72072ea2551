//! Steady load of every kind through a mesh, that counts what it did and remembers everything that failed.
//!
//! The origins and the clients run in this process, between them the built programs: HTTP/1.1 on kept and on new
//! connections, HTTP/2 as gRPC uses it (unary calls and one stream that stays open), bytes in tunnels that stay open and in
//! new ones. Every answer is compared with what was sent. A connection that ends without being asked to is a failure, also
//! when nothing was under way on it.

mod clients;
mod origins;

use crate::world::{World, allow, free_port, loopback};
use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long one exchange may take before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two exchanges of one client: some hundred a second of all together, so that the machine has room for the rest.
const PAUSE: Duration = Duration::from_millis(20);
/// At most this many failures are remembered word by word.
const REMEMBERED_MAX: usize = 40;

/// The origins as workloads.
const NAMES: [&str; 3] = ["load-http", "load-grpc", "load-tcp"];

/// What was done so far.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Exchanges that went right, by kind.
    pub good: BTreeMap<&'static str, u64>,
    /// How many failed.
    pub failed: u64,
    /// The first failures, in words.
    pub failures: Vec<String>,
}

/// Where the clients write what happened.
#[derive(Debug, Default)]
struct Tally(Mutex<Counts>);

impl Tally {
    fn with<T>(&self, work: impl FnOnce(&mut Counts) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn good(&self, kind: &'static str) {
        self.with(|counts| *counts.good.entry(kind).or_default() += 1);
    }

    fn failed(&self, kind: &'static str, what: &str) {
        self.with(|counts| {
            counts.failed += 1;
            if counts.failures.len() < REMEMBERED_MAX {
                counts.failures.push(format!("{kind}: {what}"));
            }
        });
    }
}

/// What every client has at hand.
#[derive(Debug, Clone)]
struct Client {
    kind: &'static str,
    target: SocketAddr,
    tally: Arc<Tally>,
    stop: CancellationToken,
}

impl Client {
    /// Whether the load goes on; pauses before it says yes.
    async fn goes_on(&self) -> bool {
        tokio::select! {
            () = self.stop.cancelled() => false,
            () = tokio::time::sleep(PAUSE) => true,
        }
    }

    /// Counts one exchange; it fails when it takes too long.
    async fn exchange<T>(&self, work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
        let done = match tokio::time::timeout(PATIENCE, work).await {
            Ok(done) => done,
            Err(_) => Err(format!("no answer within {PATIENCE:?}")),
        };
        match &done {
            Ok(_) => self.tally.good(self.kind),
            Err(what) => self.tally.failed(self.kind, what),
        }
        done
    }
}

/// Load that goes on until it is finished or dropped.
pub struct Load {
    tally: Arc<Tally>,
    stop: CancellationToken,
    clients: JoinSet<()>,
    // Dropped last: the tasks above run on it.
    runtime: Runtime,
}

impl Load {
    /// Starts the origins `load-http`, `load-grpc` and `load-tcp`, a workload `load-caller` that may call them, and all
    /// clients.
    #[track_caller]
    pub fn start(world: &mut World) -> Self {
        let mut load = Self::idle();
        world.apply(&NAMES.map(|name| allow("load-caller", name)).concat());
        for (name, origin) in NAMES.iter().zip(load.origins()) {
            world.run(name, &["--port", &origin.port().to_string()], &[]);
        }
        let targets = NAMES.map(|_| loopback(free_port()));
        let reached: Vec<String> =
            NAMES.iter().zip(&targets).map(|(name, target)| format!("{name}={target}")).collect();
        let args: Vec<&str> = reached.iter().flat_map(|to| ["--to", to]).collect();
        world.run("load-caller", &args, &[]);
        load.spawn_all(targets);
        load
    }

    /// The same clients and origins without a mesh between them: what the load itself is worth.
    #[track_caller]
    pub fn start_without_mesh() -> Self {
        let mut load = Self::idle();
        let targets = load.origins();
        load.spawn_all(targets);
        load
    }

    #[track_caller]
    fn idle() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap_or_else(|error| panic!("a runtime for the load: {error}"));
        Self { tally: Arc::default(), stop: CancellationToken::new(), clients: JoinSet::new(), runtime }
    }

    /// Starts the origins, in the order of [`NAMES`].
    #[track_caller]
    fn origins(&self) -> [SocketAddr; 3] {
        NAMES.map(|name| {
            let listener = self.runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"));
            let listener = listener.unwrap_or_else(|error| panic!("a port for {name}: {error}"));
            let address = listener.local_addr().unwrap_or_else(|error| panic!("the port of {name}: {error}"));
            match name {
                "load-http" => drop(self.runtime.spawn(origins::http(listener))),
                "load-grpc" => drop(self.runtime.spawn(origins::grpc(listener))),
                _ => drop(self.runtime.spawn(origins::tcp(listener))),
            }
            address
        })
    }

    fn spawn_all(&mut self, [http, grpc, tcp]: [SocketAddr; 3]) {
        for _ in 0..2 {
            self.spawn("HTTP/1.1, kept connection", http, clients::http_kept);
            self.spawn("gRPC, unary", grpc, clients::grpc_unary);
            self.spawn("TCP, open tunnel", tcp, clients::tunnel_kept);
        }
        self.spawn("HTTP/1.1, new connection", http, clients::http_new);
        self.spawn("gRPC, open stream", grpc, clients::grpc_stream);
        self.spawn("TCP, new tunnel", tcp, clients::tunnel_new);
    }

    fn spawn<F>(&mut self, kind: &'static str, target: SocketAddr, work: fn(Client) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let client = Client { kind, target, tally: self.tally.clone(), stop: self.stop.clone() };
        self.clients.spawn_on(work(client), self.runtime.handle());
    }

    /// What was done so far.
    pub fn counts(&self) -> Counts {
        self.tally.with(|counts| counts.clone())
    }

    /// Ends every client orderly and gives what all of them did.
    #[track_caller]
    pub fn finish(mut self) -> Counts {
        self.stop.cancel();
        self.runtime.block_on(async {
            while let Some(ended) = self.clients.join_next().await {
                if let Err(error) = ended {
                    panic!("a client of the load: {error}");
                }
            }
        });
        self.counts()
    }
}
