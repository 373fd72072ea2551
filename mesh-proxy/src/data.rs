//! One data thread: its listeners, its connections, and the loop that tells them of changes.
//!
//! `app` starts it and tells it to drain. Everything in here runs on one current-thread runtime.

use crate::capture::original_dst::original_dst;
use crate::capture::{self, vip::VirtualAddresses};
use crate::clock;
use crate::connections::{Connections, Description};
use crate::discovery::Applied;
use crate::discovery::apply::InUse;
use crate::facts::Facts;
use crate::http::Limits;
use crate::http::bodies::Bodies;
use crate::inbound::{self, Inbound};
use crate::observe::trace::Tracer;
use crate::observe::{Recorder, Shard};
use crate::outbound::pool::SWEEP_EVERY;
use crate::outbound::{self, Intent, Listener, Outbound, renewal};
use crate::standing::Standing;
use crate::transport::Dialer;
use crate::tunnel::Scratch;
use crate::worker::{Random, Worker};
use mesh_proto::config::Subject;
use mesh_proto::name::Port;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections that wait to be accepted.
pub(crate) const BACKLOG: i32 = 1_024;
/// Most open connections in each direction of a data thread, however many descriptors there are: beyond, new ones are closed
/// at once. At 25 KiB each this is 500 MB.
pub(crate) const CONNECTIONS_MAX: u64 = 20_000;
/// Pause after an accept failed, mostly for want of descriptors: others may close meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Questions of the admin endpoint that wait.
pub(crate) const QUESTIONS_MAX: usize = 4;

/// What a data thread is made of.
pub(crate) struct Setup {
    /// Which one, from 0.
    pub(crate) index: usize,
    /// What does not change.
    pub(crate) facts: Arc<Facts>,
    /// Counters.
    pub(crate) shard: Arc<Shard>,
    /// What HTTP/2 bodies the process holds.
    pub(crate) bodies: Arc<Bodies>,
    /// What peers have proven to the process.
    pub(crate) standing: Arc<Standing>,
    /// Lines for the access log.
    pub(crate) records: mpsc::Sender<crate::observe::Record>,
    /// Destinations to subscribe to.
    pub(crate) wanted: mpsc::Sender<Subject>,
    /// Where connections arrive.
    pub(crate) sockets: DataSockets,
    /// The configuration; holds one already.
    pub(crate) applied: watch::Receiver<Option<Arc<Applied>>>,
    /// Told which one is in use.
    pub(crate) in_use: Arc<InUse>,
    /// Questions of the admin endpoint.
    pub(crate) questions: mpsc::Receiver<oneshot::Sender<Vec<Description>>>,
    /// Open connections in each direction.
    pub(crate) connections_max: u64,
    /// When to begin to drain, and how long at most.
    pub(crate) drain: (CancellationToken, Duration),
    /// Told when connections are accepted.
    pub(crate) ready: oneshot::Sender<()>,
}

/// The sockets of one data thread.
pub(crate) struct DataSockets {
    /// The mesh listener.
    pub(crate) mesh: std::net::TcpListener,
    /// The explicit listeners.
    pub(crate) explicit: Vec<(std::net::TcpListener, Intent)>,
    /// What a captured workload needs.
    pub(crate) captured: Option<Captured>,
    /// Where a pod's connections are redirected to.
    pub(crate) redirected: Option<Redirected>,
}

/// A listener of connections to the workload.
type Arriving = (TcpListener, Arrives);

impl DataSockets {
    /// The listeners, for peers and for the workload's own connections.
    fn listening(self) -> io::Result<(Vec<Arriving>, Vec<Listener>)> {
        let mut arriving = vec![(TcpListener::from_std(self.mesh)?, Arrives::Here)];
        let mut leaving = Vec::new();
        for (socket, intent) in self.explicit {
            let socket = TcpListener::from_std(socket)?;
            leaving.push(Listener::Explicit { socket, intent: Rc::new(intent) });
        }
        if let Some(Captured { socket, addresses, dialer: _ }) = self.captured {
            leaving.push(Listener::Captured { socket: TcpListener::from_std(socket)?, addresses });
        }
        if let Some(Redirected { outbound, inbound }) = self.redirected {
            leaving.push(Listener::Redirected { socket: TcpListener::from_std(outbound)? });
            arriving.push((TcpListener::from_std(inbound)?, Arrives::Redirected));
        }
        Ok((arriving, leaving))
    }
}

/// What a data thread needs for a captured workload.
pub(crate) struct Captured {
    /// Where its connections arrive.
    pub(crate) socket: std::net::TcpListener,
    /// What the addresses it dials mean.
    pub(crate) addresses: Arc<VirtualAddresses>,
    /// The way to its own ports.
    pub(crate) dialer: capture::dialer::Dialer,
}

/// Where a pod's connections are redirected to.
pub(crate) struct Redirected {
    /// Those that the pod makes.
    pub(crate) outbound: std::net::TcpListener,
    /// Those that are made to it.
    pub(crate) inbound: std::net::TcpListener,
}

/// Runs a data thread to its end: until it has drained.
///
/// # Errors
/// The runtime or a listener could not be set up.
pub(crate) fn run(setup: Setup) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    let result = runtime.block_on(serve(setup));
    // Blocking work is never started here, so nothing is waited for.
    runtime.shutdown_background();
    result
}

async fn serve(setup: Setup) -> io::Result<()> {
    let Some(first) = setup.applied.borrow().clone() else {
        return Err(io::Error::other("a data thread was started without a snapshot"));
    };
    let generation = first.generation;
    let worker = Rc::new(Worker {
        facts: setup.facts,
        connections: Connections::new(first),
        tracer: Tracer::default(),
        recorder: Recorder::new(setup.records, Arc::clone(&setup.shard), rand::random()),
        shard: setup.shard,
        wanted: setup.wanted,
        connections_max: setup.connections_max,
        limits: Limits::default(),
        bodies: setup.bodies,
        standing: setup.standing,
        dialer: Dialer::Here,
        to_workload: setup
            .sockets
            .captured
            .as_ref()
            .map_or(Dialer::Here, |own| Dialer::Inside(own.dialer.clone())),
        mux_budget: Rc::default(),
        scratch: Scratch::new(),
        tasks: TaskTracker::new(),
        random: Random::new(rand::random()),
    });
    setup.in_use.set(setup.index, generation);
    let inbound = Inbound::new(Rc::clone(&worker));
    let outbound = Outbound::new(Rc::clone(&worker));
    let stop = CancellationToken::new();
    let accepting = TaskTracker::new();
    let (arriving, leaving) = setup.sockets.listening()?;
    arriving.into_iter().for_each(|one| {
        accepting.spawn_local(accept_mesh(Rc::clone(&inbound), one, stop.clone()));
    });
    leaving.into_iter().for_each(|one| {
        accepting.spawn_local(accept_outbound(Rc::clone(&outbound), one, stop.clone()));
    });
    // Nobody waits any more if the start was given up meanwhile.
    let _ = setup.ready.send(());
    let mut desk = Desk {
        index: setup.index,
        applied: setup.applied,
        in_use: setup.in_use,
        questions: setup.questions,
        worker: Rc::clone(&worker),
        inbound,
        outbound,
    };
    let (drain, drain_max) = setup.drain;
    tokio::select! {
        () = desk.run() => {}
        () = drain.cancelled() => {}
    }
    // Listeners stay open while others learn that this workload goes away; `app` cancels only after that.
    stop.cancel();
    accepting.close();
    worker.connections.drain();
    worker.tasks.close();
    desk.inbound.apps.close_idle();
    desk.outbound.lanes.close_idle();
    tokio::select! {
        _ = async { tokio::join!(accepting.wait(), worker.tasks.wait()) } => {}
        // Configuration still counts while connections finish.
        () = desk.run() => {}
        () = tokio::time::sleep(drain_max) => {
            tracing::warn!(open = worker.connections.len(), "drain time is over; cutting what is left");
        }
    }
    Ok(())
}

/// What the thread's own loop works with.
struct Desk {
    index: usize,
    applied: watch::Receiver<Option<Arc<Applied>>>,
    in_use: Arc<InUse>,
    questions: mpsc::Receiver<oneshot::Sender<Vec<Description>>>,
    worker: Rc<Worker>,
    inbound: Rc<Inbound>,
    outbound: Rc<Outbound>,
}

impl Desk {
    /// Puts configurations to use, sweeps pools, answers questions; ends when its senders are gone.
    async fn run(&mut self) {
        let mut sweep = tokio::time::interval(SWEEP_EVERY);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut judged_at = clock::since_epoch().as_secs();
        loop {
            // All branches are cancel safe.
            tokio::select! {
                changed = self.applied.changed() => {
                    if changed.is_err() {
                        return std::future::pending().await;
                    }
                    self.take().await;
                }
                Some(answer) = self.questions.recv() => {
                    // Who asked may have gone.
                    let _ = answer.send(self.worker.connections.describe());
                }
                _ = sweep.tick() => {
                    let applied = self.worker.applied();
                    self.sweep(&applied);
                    let now = clock::since_epoch().as_secs();
                    let has_ended = applied.expiries.iter().any(|at| (judged_at + 1..=now).contains(at));
                    let own_end = applied.trust.not_after;
                    if has_ended || self.worker.standing.has_ended(own_end, judged_at, now) {
                        self.worker.connections.judge_again();
                    }
                    judged_at = now;
                }
            }
        }
    }

    async fn take(&mut self) {
        let Some(applied) = self.applied.borrow_and_update().clone() else { return };
        let generation = applied.generation;
        self.worker.connections.replace(Arc::clone(&applied));
        self.sweep(&applied);
        // Those that were woken judge before this is reported as in use.
        tokio::task::yield_now().await;
        self.in_use.set(self.index, generation);
    }

    fn sweep(&self, applied: &Applied) {
        let now = clock::now();
        self.inbound.apps.sweep(applied, now);
        self.outbound.lanes.sweep(applied, now);
        renewal::renew(&self.outbound.lanes, applied, clock::wall());
    }
}

/// How connections come to a listener.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Arrives {
    /// They were dialled to it.
    Here,
    /// They were dialled to a port of the pod.
    Redirected,
}

async fn accept_mesh(
    inbound: Rc<Inbound>,
    (socket, arrives): (TcpListener, Arrives),
    stop: CancellationToken,
) {
    loop {
        // Cancel safe: a connection that was not returned stays in the backlog.
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok((stream, from)) => {
                let port = match arrives {
                    Arrives::Here => None,
                    // Without an original destination somebody dialled the listener itself.
                    Arrives::Redirected => match original_dst(&stream).map(|to| Port::new(to.port())) {
                        Ok(Some(port)) => Some(port),
                        Ok(None) | Err(_) => continue,
                    },
                };
                let serving = inbound::serve(Rc::clone(&inbound), stream, from, port);
                inbound.worker.tasks.spawn_local(serving);
            }
            Err(error) => pause_accepting(&error).await,
        }
    }
}

async fn accept_outbound(outbound: Rc<Outbound>, listener: Listener, stop: CancellationToken) {
    loop {
        // Cancel safe: a connection that was not returned stays in the backlog.
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(arrival) => {
                outbound.worker.tasks.spawn_local(outbound::serve(Rc::clone(&outbound), arrival));
            }
            Err(error) => pause_accepting(&error).await,
        }
    }
}

async fn pause_accepting(error: &io::Error) {
    tracing::warn!(%error, "cannot accept a connection");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}
