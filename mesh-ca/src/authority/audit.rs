//! What the authority did, for the audit log of the control plane.
//!
//! The authority notes events; [`Authority::take_events`](super::Authority::take_events) hands them over. It never writes
//! them anywhere itself: the chained log is the store's.

use mesh_proto::identity::SpiffeId;
use mesh_proto::name::InstanceName;
use std::collections::VecDeque;
use std::fmt;
use std::time::SystemTime;

use super::Phase;
use crate::x509::hex;

/// The most events that wait to be taken: several minutes of a busy mesh. The oldest are dropped beyond it, and counted.
const WAITING_MAX: usize = 10_000;

/// Something the authority did. `Display` gives the words for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It came to be.
    Created {
        /// Its first root.
        root_sha256: [u8; 32],
    },
    /// It issued a certificate.
    Issued {
        /// For whom.
        id: SpiffeId,
        /// To which instance.
        instance: InstanceName,
        /// The serial, hexadecimal.
        serial: String,
        /// On what evidence.
        attestor: String,
    },
    /// It refused to issue one.
    Refused {
        /// Who asked, as far as known.
        caller: String,
        /// Why not.
        reason: String,
    },
    /// It made a new issuing intermediate.
    IntermediateRotated {
        /// The new one's serial, hexadecimal.
        serial: String,
    },
    /// A rotation of the root took a step; `None` is its end.
    RootRotation {
        /// The step that began.
        phase: Option<Phase>,
    },
    /// A rotation was paused, resumed or aborted.
    RotationControl {
        /// Which.
        action: &'static str,
    },
    /// Something was revoked.
    Revoked {
        /// What, in words.
        what: String,
        /// Why, in the words of who did it.
        reason: String,
    },
    /// A revocation was taken back.
    RevocationUndone {
        /// Of what.
        what: String,
    },
    /// A join token was made.
    TokenCreated {
        /// For whom.
        id: SpiffeId,
        /// The beginning of its hash.
        name: String,
    },
    /// Events were lost because nobody took them.
    Dropped {
        /// How many.
        count: u64,
    },
}

impl Event {
    /// The verb for the log, of a closed set.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Created { .. } => "ca_created",
            Self::Issued { .. } => "issued",
            Self::Refused { .. } => "issue_refused",
            Self::IntermediateRotated { .. } => "intermediate_rotated",
            Self::RootRotation { .. } => "root_rotation",
            Self::RotationControl { .. } => "root_rotation_control",
            Self::Revoked { .. } => "revoked",
            Self::RevocationUndone { .. } => "revocation_undone",
            Self::TokenCreated { .. } => "token_created",
            Self::Dropped { .. } => "events_dropped",
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Created { root_sha256 } => write!(f, "made the root {}", hex(root_sha256)),
            Self::Issued { id, instance, serial, attestor } => {
                write!(f, "issued {serial} to {id} ({instance}) on {attestor}")
            }
            Self::Refused { caller, reason } => write!(f, "refused {caller}: {reason}"),
            Self::IntermediateRotated { serial } => {
                write!(f, "issues with the intermediate {serial} from now on")
            }
            Self::RootRotation { phase: Some(phase) } => write!(f, "rotation of the root: {phase}"),
            Self::RootRotation { phase: None } => write!(f, "rotation of the root: done"),
            Self::RotationControl { action } => write!(f, "rotation of the root: {action}"),
            Self::Revoked { what, reason } => write!(f, "revoked {what}: {reason}"),
            Self::RevocationUndone { what } => write!(f, "took back the revocation of {what}"),
            Self::TokenCreated { id, name } => write!(f, "made the join token {name} for {id}"),
            Self::Dropped { count } => write!(f, "{count} events were lost: the log did not keep up"),
        }
    }
}

/// An event and its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// When.
    pub at: SystemTime,
    /// What.
    pub event: Event,
}

/// Events that wait to be taken.
#[derive(Default)]
pub(super) struct Journal {
    waiting: VecDeque<Entry>,
    dropped: u64,
}

impl Journal {
    pub(super) fn push(&mut self, at: SystemTime, event: Event) {
        if self.waiting.len() >= WAITING_MAX {
            self.waiting.pop_front();
            self.dropped = self.dropped.saturating_add(1);
        }
        self.waiting.push_back(Entry { at, event });
    }

    pub(super) fn take(&mut self) -> Vec<Entry> {
        let mut taken: Vec<Entry> = Vec::with_capacity(self.waiting.len().saturating_add(1));
        if let (Some(first), 1..) = (self.waiting.front(), self.dropped) {
            taken.push(Entry { at: first.at, event: Event::Dropped { count: self.dropped } });
            self.dropped = 0;
        }
        taken.extend(self.waiting.drain(..));
        taken
    }
}
