//! The last decisions, by id: who says what, and whose word counts. Pure.
//!
//! # Whose word counts
//! A refused caller is told the decision's id at once, the called side's report comes up to a second later. A caller's proxy
//! could therefore report the same id first, with facts of its choice. So a decision is only taken from one of the two
//! sides that it names, with that side's own instance, and the called side's record replaces the caller's. Ids are random
//! and every proxy draws its own: an honest proxy never uses another's, so whoever loses here has forged. When two
//! proxies both claim to have been the called side of one id, both records are kept, since nobody can tell from here
//! which of them lies, and `explain` says so.
//!
//! # Why the room is shared
//! One proxy that decides a great deal, or says so, would push everybody else's decisions out. When there is no room, the
//! oldest of the identity that holds the most makes place.

use super::{Reporter, Which};
use mesh_proto::wire::v1;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

/// Decisions kept for `explain`; one takes about 0.5 KiB.
pub(super) const DECISIONS_MAX: usize = 10_000;
/// Records of one id, by different proxies. There is no honest reason for a second.
const CLAIMS_MAX: usize = 4;
/// Bytes of a decision id; ours have 16 characters.
const ID_BYTES_MAX: usize = 64;

/// On which side of a decision its reporter stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    Called,
    Calling,
}

#[derive(Debug)]
struct Kept {
    /// Counts all decisions that were ever taken; tells their order.
    number: u64,
    /// The reporting identity and instance.
    by: (Arc<str>, Arc<str>),
    side: Side,
    decision: v1::Decision,
}

impl Kept {
    fn reporter(&self) -> Reporter<'_> {
        Reporter { id: &self.by.0, instance: &self.by.1 }
    }
}

/// What became of a reported decision.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Taken {
    /// It is kept, or is there already.
    Kept,
    /// The reporter is not one of its two sides, or it has no id.
    Foreign,
    /// Its id is another proxy's: who forged it. The reporter itself, or whoever was believed until now.
    Forged(String),
    /// Two proxies claim to have decided this: the other. Both are kept.
    Contested(String),
}

/// A decision with those who claim the same id.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Found {
    /// The record that counts.
    pub(crate) decision: v1::Decision,
    /// Instances of other proxies that claim to have decided it.
    pub(crate) rivals: Vec<String>,
}

/// The table.
#[derive(Debug, Default)]
pub(super) struct Decisions {
    by_id: HashMap<String, Vec<Arc<Kept>>>,
    /// By the reporter's identity, oldest first.
    by_reporter: BTreeMap<Arc<str>, VecDeque<Arc<Kept>>>,
    kept: usize,
    last_number: u64,
}

impl Decisions {
    /// Takes one in, cut to size already.
    pub(super) fn add(&mut self, from: Reporter<'_>, decision: v1::Decision) -> Taken {
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        let id = &decision.id;
        if id.is_empty() || id.len() > ID_BYTES_MAX || !id.bytes().all(is_plain) {
            return Taken::Foreign;
        }
        let Some(side) = side_of(from, &decision) else { return Taken::Foreign };
        let known: Vec<Arc<Kept>> = self.by_id.get(id).cloned().unwrap_or_default();
        if known.iter().any(|kept| *kept.by.0 == *from.id && *kept.by.1 == *from.instance) {
            return Taken::Kept;
        }
        let Some(first) = known.first().cloned() else {
            self.keep(from, side, decision);
            return Taken::Kept;
        };
        match (first.side, side) {
            (Side::Called, Side::Calling) => Taken::Forged(from.to_string()),
            (Side::Calling, Side::Called) => {
                for loser in &known {
                    self.forget(loser);
                }
                self.keep(from, side, decision);
                Taken::Forged(first.reporter().to_string())
            }
            _ => {
                if known.len() < CLAIMS_MAX {
                    self.keep(from, side, decision);
                }
                Taken::Contested(first.reporter().to_string())
            }
        }
    }

    /// The newest first.
    pub(super) fn newest(&self, limit: usize, which: Which) -> Vec<v1::Decision> {
        let all = self.by_reporter.values().flatten();
        let mut wanted: Vec<&Arc<Kept>> =
            all.filter(|kept| which == Which::All || !kept.decision.allowed).collect();
        wanted.sort_unstable_by_key(|kept| std::cmp::Reverse(kept.number));
        wanted.into_iter().take(limit).map(|kept| kept.decision.clone()).collect()
    }

    /// One, if it is still kept.
    pub(super) fn find(&self, id: &str) -> Option<Found> {
        let (first, rivals) = self.by_id.get(id)?.split_first()?;
        let rivals = rivals.iter().map(|kept| kept.by.1.to_string()).collect();
        Some(Found { decision: first.decision.clone(), rivals })
    }

    fn keep(&mut self, from: Reporter<'_>, side: Side, decision: v1::Decision) {
        if self.kept >= DECISIONS_MAX {
            self.make_room(from.id);
        }
        let name = match self.by_reporter.get_key_value(from.id) {
            Some((name, _)) => name.clone(),
            None => from.id.into(),
        };
        self.last_number = self.last_number.saturating_add(1);
        let by = (name.clone(), from.instance.into());
        let id = decision.id.clone();
        let kept = Arc::new(Kept { number: self.last_number, by, side, decision });
        self.by_id.entry(id).or_default().push(kept.clone());
        self.by_reporter.entry(name).or_default().push_back(kept);
        self.kept = self.kept.saturating_add(1);
    }

    /// Forgets the oldest of whoever holds the most; `reporter`'s own when it holds its fair share.
    fn make_room(&mut self, reporter: &str) {
        let share = DECISIONS_MAX / self.by_reporter.len().max(1);
        let own = self.by_reporter.get(reporter).filter(|own| own.len() > share);
        let fullest = || self.by_reporter.values().max_by_key(|queue| queue.len());
        if let Some(oldest) = own.or_else(fullest).and_then(VecDeque::front).cloned() {
            self.forget(&oldest);
        }
    }

    fn forget(&mut self, gone: &Arc<Kept>) {
        if let Some(claims) = self.by_id.get_mut(&gone.decision.id) {
            claims.retain(|kept| kept.number != gone.number);
            if claims.is_empty() {
                self.by_id.remove(&gone.decision.id);
            }
        }
        let Some(queue) = self.by_reporter.get_mut(&gone.by.0) else { return };
        if let Ok(at) = queue.binary_search_by_key(&gone.number, |kept| kept.number) {
            queue.remove(at);
            self.kept = self.kept.saturating_sub(1);
        }
        if queue.is_empty() {
            self.by_reporter.remove(&gone.by.0);
        }
    }
}

/// On which side the reporter stands, if on one; that of the called when it called itself.
fn side_of(from: Reporter<'_>, decision: &v1::Decision) -> Option<Side> {
    let is_own = |id: &str, instance: &str| id == from.id && instance == from.instance;
    if is_own(&decision.destination, &decision.destination_instance) {
        Some(Side::Called)
    } else if is_own(&decision.source, &decision.source_instance) {
        Some(Side::Calling)
    } else {
        None
    }
}
