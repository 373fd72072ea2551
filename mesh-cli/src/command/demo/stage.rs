//! What the acts of the demo stand on: the processes, the control plane's answers, the screen, and waiting for a state.

use super::app::Role;
use super::screen::{Mark, Screen};
use super::tally::{Counted, Counts};
use super::world::{self, Counters, Workload, World};
use crate::admin_client::AdminClient;
use crate::command::edges::EdgeOut;
use crate::failure::{Failure, Kind};
use crate::processes::{self, Signals};
use mesh_proto::wire::v1;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;

/// How often a state that is waited for is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often the edges are asked for while the region is redrawn.
const EDGES_EVERY: Duration = Duration::from_millis(400);

/// One thing that must be so, and whether it was.
#[derive(Clone, Debug)]
pub(crate) struct Expectation {
    /// In words.
    pub(crate) what: String,
    /// Whether it was.
    pub(crate) is_met: bool,
}

/// Whether an expectation was met.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// It was.
    Met,
    /// It was not: the demo fails.
    Missed,
}

impl From<bool> for Verdict {
    fn from(is_met: bool) -> Self {
        if is_met { Self::Met } else { Self::Missed }
    }
}

/// Everything the acts use.
pub(crate) struct Stage {
    /// The processes.
    pub(crate) world: World,
    /// The output.
    pub(crate) screen: Screen,
    /// What was expected so far.
    pub(crate) expectations: Vec<Expectation>,
    /// How many processes ran at most.
    pub(crate) process_count: usize,
    counters: BTreeMap<String, Counters>,
    client: Option<AdminClient>,
    signals: Signals,
    edges: Vec<EdgeOut>,
    edges_asked: Option<Instant>,
}

/// What a look at the state found.
pub(crate) enum Look<T> {
    /// It is there.
    There(T),
    /// Not yet; with words for what is still missing.
    NotYet(String),
}

impl Stage {
    /// With no process yet.
    ///
    /// # Errors
    /// When signals cannot be handled.
    pub(crate) fn new(world: World, screen: Screen) -> Result<Self, Failure> {
        Ok(Self {
            world,
            screen,
            expectations: Vec::new(),
            process_count: 0,
            counters: BTreeMap::new(),
            client: None,
            signals: Signals::take()?,
            edges: Vec::new(),
            edges_asked: None,
        })
    }

    /// Starts a workload.
    ///
    /// # Errors
    /// When its process cannot be started.
    pub(crate) fn start(&mut self, workload: &Workload) -> Result<(), Failure> {
        let counters = self.world.start_workload(workload)?;
        self.counters.insert(world::role_name(workload.role), counters);
        Ok(())
    }

    /// What an application counted so far.
    pub(crate) fn counted(&self, role: Role) -> Counted {
        self.counters
            .get(&world::role_name(role))
            .map(|counters| counters.borrow().clone())
            .unwrap_or_default()
    }

    /// What an application counted of one kind of call.
    pub(crate) fn counts(&self, role: Role, call: &str) -> Counts {
        self.counted(role).remove(call).unwrap_or_default()
    }

    /// Connects to the control plane as soon as it answers.
    ///
    /// # Errors
    /// When it does not within the time, or its process ended.
    pub(crate) async fn connect(&mut self, socket: &Path, within: Duration) -> Result<(), Failure> {
        let socket = socket.to_owned();
        let client = self
            .until("the control plane starts", within, async |_| match AdminClient::connect(&socket).await {
                Ok(client) => Ok(Look::There(client)),
                Err(failure) => Ok(Look::NotYet(failure.message)),
            })
            .await?;
        self.client = Some(client);
        Ok(())
    }

    /// The connection to the control plane.
    ///
    /// # Errors
    /// Before [`Stage::connect`].
    pub(crate) fn client(&self) -> Result<AdminClient, Failure> {
        self.client.clone().ok_or_else(|| Failure::failed("the control plane was not asked to start"))
    }

    /// Notes whether something is as it must be, and shows it.
    ///
    /// # Errors
    /// When the reader is gone.
    pub(crate) fn expect(&mut self, verdict: Verdict, what: impl Into<String>) -> Result<(), Failure> {
        let what = what.into();
        let is_met = verdict == Verdict::Met;
        self.screen.step(if is_met { Mark::Pass } else { Mark::Fail }, &what)?;
        self.expectations.push(Expectation { what, is_met });
        Ok(())
    }

    /// Looks again and again until a state is there, redrawing meanwhile.
    ///
    /// # Errors
    /// When it is not there within the time, a process fell, or the user asked for the end.
    pub(crate) async fn until<T>(
        &mut self,
        what: &str,
        within: Duration,
        mut look: impl AsyncFnMut(&Self) -> Result<Look<T>, Failure>,
    ) -> Result<T, Failure> {
        let deadline = self.now() + within;
        loop {
            let missing = match look(self).await? {
                Look::There(found) => return Ok(found),
                Look::NotYet(missing) => missing,
            };
            if let Some(failure) = self.world.fallen() {
                return Err(failure);
            }
            if self.now() >= deadline {
                return Err(Failure::failed(format!("{what}: not within {} s: {missing}", within.as_secs())));
            }
            self.refresh(what).await?;
            self.pause(LOOK_EVERY).await?;
        }
    }

    /// Lets the traffic run for a while, redrawing.
    ///
    /// # Errors
    /// When a process fell, or the user asked for the end.
    pub(crate) async fn watch_for(&mut self, what: &str, span: Duration) -> Result<(), Failure> {
        let end = self.now() + span;
        while self.now() < end {
            if let Some(failure) = self.world.fallen() {
                return Err(failure);
            }
            self.refresh(what).await?;
            self.pause(LOOK_EVERY).await?;
        }
        Ok(())
    }

    /// The edges as the control plane knows them now.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) async fn edges(&mut self) -> Result<Vec<EdgeOut>, Failure> {
        let client = self.client()?;
        let response = client.answer(client.api().edges(v1::EdgesRequest {}).await)?;
        self.edges = response.edges.into_iter().map(EdgeOut::from).collect();
        Ok(self.edges.clone())
    }

    /// The edges as they were asked for last.
    pub(crate) fn known_edges(&self) -> &[EdgeOut] {
        &self.edges
    }

    /// Waits until the user asks for the end.
    pub(crate) async fn until_signal(&mut self) {
        loop {
            let signal = self.signals.next().await;
            if processes::asks_to_end(signal) {
                return;
            }
        }
    }

    async fn refresh(&mut self, doing: &str) -> Result<(), Failure> {
        if !self.screen.is_live() {
            return Ok(());
        }
        let is_due = self.edges_asked.is_none_or(|asked| asked.elapsed() >= EDGES_EVERY);
        if is_due && self.client.is_some() {
            self.edges_asked = Some(self.now());
            self.edges().await?;
        }
        let edges = std::mem::take(&mut self.edges);
        let drawn = self.screen.redraw(doing, &edges);
        self.edges = edges;
        drawn
    }

    /// Waits, unless the user asks for the end.
    async fn pause(&mut self, span: Duration) -> Result<(), Failure> {
        let mut over = std::pin::pin!(tokio::time::sleep(span));
        loop {
            // Cancel safe: the sleep is only borrowed.
            tokio::select! {
                () = &mut over => return Ok(()),
                signal = self.signals.next() => if processes::asks_to_end(signal) {
                    return Err(Failure::new(Kind::Interrupted, "interrupted; everything was ended"));
                },
            }
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the demo is a loop that owns its deadlines")]
    fn now(&self) -> Instant {
        Instant::now()
    }
}
