//! What all connections of one data thread share.
//!
//! Made by `app` for each thread, used by `inbound` and `outbound`. Single-threaded: cells, no locks. It holds no
//! connection and no pool; those belong to the stage that uses them.

use crate::connections::Connections;
use crate::discovery::Applied;
use crate::facts::Facts;
use crate::http::Limits;
use crate::http::bodies::Bodies;
use crate::http::canonical::Canonical;
use crate::mux::state::Budget;
use crate::observe::trace::{Asked, Hop, Span, Tracer};
use crate::observe::{Recorder, Shard};
use crate::standing::Standing;
use crate::transport::Dialer;
use crate::tunnel::Scratch;
use mesh_proto::config::Subject;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

/// What all connections of one data thread share.
#[derive(Debug)]
pub(crate) struct Worker {
    /// What does not change.
    pub(crate) facts: Arc<Facts>,
    /// The open connections and the configuration they use.
    pub(crate) connections: Rc<Connections>,
    /// Counters.
    pub(crate) shard: Arc<Shard>,
    /// What is traced.
    pub(crate) tracer: Tracer,
    /// Lines for the access log and the control plane.
    pub(crate) recorder: Recorder,
    /// Destinations to subscribe to.
    pub(crate) wanted: mpsc::Sender<Subject>,
    /// Open connections in each direction; beyond, new ones are closed at once.
    pub(crate) connections_max: u64,
    /// Bounds of the HTTP codec.
    pub(crate) limits: Limits,
    /// What HTTP/2 bodies the process holds.
    pub(crate) bodies: Arc<Bodies>,
    /// What peers have proven to the process.
    pub(crate) standing: Arc<Standing>,
    /// Opens sockets towards peers.
    pub(crate) dialer: Dialer,
    /// Opens sockets towards the workload.
    pub(crate) to_workload: Dialer,
    /// What all sessions with many streams may hold.
    pub(crate) mux_budget: Rc<Budget>,
    /// The read buffer of all tunnels.
    pub(crate) scratch: Scratch,
    /// Tasks that belong to no single caller's connection: drivers of shared upstream connections.
    pub(crate) tasks: TaskTracker,
    /// State of the random numbers for balancing and sampling.
    pub(crate) random: Random,
}

impl Worker {
    /// The configuration in use now.
    pub(crate) fn applied(&self) -> Arc<Applied> {
        self.connections.current()
    }

    /// Whether an allowed request is one of the sampled.
    pub(crate) fn samples(&self, applied: &Applied) -> bool {
        let share = applied.snapshot.mesh.access_log_sample;
        share > 0 && self.random.below(10_000) < usize::try_from(share).unwrap_or(usize::MAX)
    }

    /// The part of a trace that a request is, if it is sampled.
    pub(crate) fn trace(
        &self,
        applied: &Applied,
        request: &Canonical<'_>,
        hop: Hop,
        began: Instant,
    ) -> Option<Box<Span>> {
        // All there is to it where nothing is traced.
        let tracing = applied.snapshot.mesh.tracing.as_deref()?;
        let asked = Asked { request, hop, began };
        self.tracer.begin(tracing, asked, |n| self.random.below(n), || self.shard.dropped("traces"))
    }

    /// Counts a task that ends by a panic; keep it alive for as long as the task runs.
    pub(crate) fn panic_guard(&self) -> PanicGuard {
        PanicGuard(Arc::clone(&self.shard))
    }
}

/// Counts a task that ends by a panic.
#[derive(Debug)]
pub(crate) struct PanicGuard(Arc<Shard>);

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.panics.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Random numbers that need not be secret: xorshift64* (Vigna 2016), seeded from the system once for each worker.
#[derive(Debug)]
pub(crate) struct Random(Cell<u64>);

impl Random {
    /// Any seed will do; zero is replaced.
    pub(crate) fn new(seed: u64) -> Self {
        Self(Cell::new(seed.max(1)))
    }

    /// A number below `n`; 0 for `n` of 0.
    pub(crate) fn below(&self, n: usize) -> usize {
        let mut x = self.0.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.0.set(x);
        let high = x.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        let n = u64::try_from(n).unwrap_or(u64::MAX).min(u64::from(u32::MAX));
        usize::try_from((high * n) >> 32).unwrap_or(0)
    }
}
