//! The admin API for `meshctl`: one gRPC service on the Unix socket.
//!
//! [`server`] is the table of calls: who may make each, and which function answers. `access` judges callers; `change`
//! applies, deletes and rolls back; `receipts` says how far a revision is; `query` shows what is and was; `report` sums up;
//! `certify` speaks to the authority, `backup` reads everything. Explanations come from `advise`.
//!
//! Every call that changes a resource leaves an audit record with the caller's uid, in the same write as the change; a
//! backup leaves one before it is taken, and a call that its caller may not make leaves one through `notices`.

pub(crate) mod access;
mod audit;
mod backup;
mod certify;
pub(crate) mod change;
mod documents;
mod events;
mod follow;
mod page;
mod posture;
mod query;
pub(crate) mod receipts;
mod report;
pub(crate) mod server;
pub(crate) mod users;
mod watch;

use crate::alarm::Alarms;
use crate::audit::AuditKey;
use crate::authority::CertificateAuthority;
use crate::clock;
use crate::discovery::fanout::Mesh;
use crate::events::{Event, Events};
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::notices::Notices;
use crate::store::write::{Committed, Verb, Write};
use crate::store::{Store, StoreError};
use crate::traffic::Traffic;
use mesh_proto::ops::metrics::{EventKind, OpResult};
use receipts::Receipts;
use std::sync::Arc;
use std::time::{Instant, SystemTime};
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// Everything the admin API works with.
pub(crate) struct Control {
    /// The mesh as it is.
    pub(crate) mesh: Arc<Mesh>,
    /// What it was told.
    pub(crate) store: Arc<dyn Store>,
    /// Who signs.
    pub(crate) authority: Arc<CertificateAuthority>,
    /// Who called whom.
    pub(crate) traffic: Arc<Traffic>,
    /// How far revisions are.
    pub(crate) receipts: Receipts,
    /// Counters.
    pub(crate) metrics: Arc<Metrics>,
    /// Refusals for the audit log.
    pub(crate) notices: Arc<Notices>,
    /// Refusals at proxies for the audit log; apart, so that a flood there hides none of the others.
    pub(crate) denials: Arc<Notices>,
    /// Signs the audit log.
    pub(crate) audit_key: Arc<AuditKey>,
    /// Security events.
    pub(crate) events: Arc<Events>,
    /// Who called whom, when.
    pub(crate) ledger: Arc<Ledger>,
    /// What is unusual about it.
    pub(crate) alarms: Arc<Alarms>,
    /// One change at a time: each is checked against the catalog that the one before has made.
    pub(crate) changing: Arc<tokio::sync::Mutex<()>>,
    /// The control plane's own uid.
    pub(crate) owner: u32,
    /// The mutual-TLS port, as other machines reach it.
    pub(crate) advertised: String,
    /// When the process began.
    pub(crate) started: Instant,
    /// Documents in the store that this version cannot read, as sentences.
    pub(crate) unreadable: Vec<String>,
    /// Where resources are changed: here, or in the cluster that the mesh follows.
    pub(crate) home: Home,
    /// Ends what waits.
    pub(crate) shutdown: CancellationToken,
}

/// Where resources are changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Home {
    /// With `meshctl`, and they are kept here.
    Here,
    /// In the cluster's API server; here is their history.
    Cluster,
}

impl Control {
    /// Does what may take long (thousands of documents) on a thread that nobody else waits for.
    ///
    /// # Errors
    /// Those of `work`; and when it panicked, which ends this call alone.
    pub(crate) async fn aside<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Arc<Self>) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        let control = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&control)).await;
        done.unwrap_or_else(|_| Err(Status::internal("the work broke off; please report what was asked")))
    }

    /// Writes to the store and counts it.
    ///
    /// # Errors
    /// In the store's words; nothing is in force then.
    pub(crate) async fn commit(&self, write: Write) -> Result<Committed, Status> {
        let begun = clock::monotonic();
        let event = changed(&write);
        let done = self.store.commit(write).await;
        let result = if done.is_ok() { OpResult::Ok } else { OpResult::Error };
        self.metrics.committed(result, clock::monotonic().saturating_duration_since(begun));
        if let Some(event) = event.filter(|_| done.is_ok()) {
            self.events.tell("", event);
        }
        done.map_err(|error| store_status(&error))
    }
}

/// Objects named in the event of a change.
const NAMED_MAX: usize = 3;

/// The event of a write that changes resources. What the authority does tells its ticker.
fn changed(write: &Write) -> Option<Event> {
    if !matches!(write.verb, Verb::Apply | Verb::Delete | Verb::Rollback | Verb::Restore) {
        return None;
    }
    let mut event =
        Event::new(EventKind::PolicyChanged, clock::of_unix_ms(write.time_ms), write.verb.as_str());
    event.source.clone_from(&write.actor);
    let named: Vec<String> =
        write.changes.iter().take(NAMED_MAX).map(|change| change.key.to_string()).collect();
    let more = write.changes.len().saturating_sub(NAMED_MAX);
    event.destination = named.join(", ");
    if more > 0 {
        event.destination.push_str(&format!(" and {more} more"));
    }
    event.detail.clone_from(&write.detail);
    Some(event)
}

/// A store's error as a gRPC status; the words are the store's.
pub(crate) fn store_status(error: &StoreError) -> Status {
    let text = error.to_string();
    match error {
        StoreError::Invalid(_) => Status::invalid_argument(text),
        StoreError::NoSuchRevision { .. } => Status::not_found(text),
        StoreError::WritesRefused { .. } | StoreError::Closed => Status::unavailable(text),
        StoreError::Backup { .. } | StoreError::Unreadable { .. } => Status::internal(text),
    }
}

/// A time for the wire.
pub(crate) fn ms(time: SystemTime) -> u64 {
    clock::unix_ms(time)
}
