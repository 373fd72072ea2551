//! Which proxies a revision concerns, and how far they are: what `meshctl apply --wait` waits for.
//!
//! The affected set is fixed when the revision is committed; who is still connected and what each has confirmed comes
//! from the fleet. A change of the authority's word (a revocation) has no revision of its own: it is remembered under the one in
//! force, with the generation that proxies must have. A proxy that has left is not waited for: when it comes back, it gets the newest state anyway.

use crate::clock;
use crate::discovery::fanout::{Fleet, ProxyState};
use crate::index::World;
use crate::local::registry::WorkloadKey;
use crate::snapshot::{self, Inbound};
use mesh_proto::wire::v1;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Revisions whose affected sets are remembered; an older one is awaited from everybody.
const REMEMBERED_MAX: usize = 256;

/// What is remembered of a revision.
#[derive(Clone, Debug)]
pub(crate) struct Issued {
    /// The revision.
    pub(crate) revision: u64,
    /// The generation of the authority's word that must be enforced as well; 0: none.
    pub(crate) trust_generation: u64,
    /// Whom it concerns; `None`: not remembered, everybody.
    pub(crate) affected: Option<Arc<BTreeSet<WorkloadKey>>>,
    /// When it was committed.
    pub(crate) at: Instant,
}

/// The last revisions.
#[derive(Debug, Default)]
pub(crate) struct Receipts {
    issued: Mutex<VecDeque<Issued>>,
}

impl Receipts {
    /// Remembers a revision.
    pub(crate) fn add(&self, issued: Issued) {
        let mut all = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= REMEMBERED_MAX {
            all.pop_front();
        }
        all.push_back(issued);
    }

    /// What is known of a revision; `now` stands for the commit of one that is not remembered.
    pub(crate) fn get(&self, revision: u64, now: Instant) -> Issued {
        let all = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        let found = all.iter().rev().find(|issued| issued.revision == revision).cloned();
        found.unwrap_or(Issued { revision, trust_generation: 0, affected: None, at: now })
    }
}

/// The connected proxies whose snapshot differs between two worlds.
pub(crate) fn affected(old: &World, new: &World, fleet: &Fleet) -> BTreeSet<WorkloadKey> {
    let differs = |(key, state): &(WorkloadKey, ProxyState)| {
        let wanted = |world| snapshot::wanted(world, key, &state.subscriptions, &mut Inbound::default());
        match (wanted(old), wanted(new)) {
            (Some(old), Some(new)) => !old.items.same_as(&new.items),
            (old, new) => old.is_some() != new.is_some(),
        }
    };
    fleet.all().into_iter().filter(differs).map(|(key, _)| key).collect()
}

/// How far a revision is.
pub(crate) fn receipt(
    issued: &Issued,
    proxies: &BTreeMap<WorkloadKey, ProxyState>,
    now: Instant,
) -> v1::Receipt {
    let concerned = proxies
        .iter()
        .filter(|(key, _)| issued.affected.as_ref().is_none_or(|affected| affected.contains(*key)));
    let is_enforced = |state: &ProxyState| {
        state.confirmed.revision >= issued.revision
            && state.confirmed.trust_generation >= issued.trust_generation
    };
    let mut receipt = v1::Receipt::default();
    let mut last = issued.at;
    for (key, state) in concerned {
        receipt.affected = receipt.affected.saturating_add(1);
        match &state.refusal {
            _ if is_enforced(state) => {
                receipt.enforced = receipt.enforced.saturating_add(1);
                last = last.max(state.confirmed_at);
            }
            Some(refused) if refused.revision >= issued.revision => {
                receipt.refused.push(format!("{}: {}", key.instance, refused.reason));
            }
            _ => receipt.waiting.push(key.instance.to_string()),
        }
    }
    receipt.done = receipt.waiting.is_empty();
    let until = if receipt.done { last } else { now };
    receipt.elapsed_us = clock::micros(until.saturating_duration_since(issued.at));
    receipt
}
