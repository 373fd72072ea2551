//! What is asked of a store, and how much may be asked at once. Pure.

use mesh_proto::resource::ResourceKey;
use std::fmt;
use std::str::FromStr;

/// Changes in one write. A whole mesh of 10,000 policies can be applied at once, twice over.
pub const CHANGES_MAX: usize = 20_000;
/// Bytes of one document. Kubernetes allows an object 1.5 MiB, and 1 MiB for a ConfigMap.
pub const DOCUMENT_BYTES_MAX: usize = 1 << 20;
/// Bytes of all documents of one write: what the writer thread holds at once.
pub const WRITE_BYTES_MAX: usize = 32 << 20;
/// Bytes of an actor, a detail or a file name: they are shown on one line.
pub const LINE_BYTES_MAX: usize = 4096;
/// Bytes of a value of [`put_meta`](super::Store::put_meta).
pub const META_BYTES_MAX: usize = 16 << 20;
/// Different names of such values; the manifest lists them all at every write.
pub const META_KEYS_MAX: usize = 256;
/// Bytes of such a name.
pub const META_NAME_BYTES_MAX: usize = 128;

/// What kind of act a write is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Verb {
    /// Documents were applied.
    Apply,
    /// Resources were deleted.
    Delete,
    /// A past revision was brought back.
    Rollback,
    /// A backup was brought back.
    Restore,
    /// The certificate authority was told to do something: rotate, revoke, undo.
    Ca,
    /// A join token was made or used.
    Token,
    /// A backup was taken.
    Backup,
    /// An alarm was acknowledged or silenced.
    Alarm,
    /// Somebody asked for what is not theirs, or reported it.
    Denied,
    /// Something of the mesh's own doing, for instance a first start.
    System,
}

impl Verb {
    /// All verbs.
    pub const ALL: [Self; 10] = [
        Self::Apply,
        Self::Delete,
        Self::Rollback,
        Self::Restore,
        Self::Ca,
        Self::Token,
        Self::Backup,
        Self::Alarm,
        Self::Denied,
        Self::System,
    ];

    /// The word in records and on screens.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Apply => "apply",
            Self::Delete => "delete",
            Self::Rollback => "rollback",
            Self::Restore => "restore",
            Self::Ca => "ca",
            Self::Token => "token",
            Self::Backup => "backup",
            Self::Alarm => "alarm",
            Self::Denied => "denied",
            Self::System => "system",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is no verb.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown verb {0:?}")]
pub struct UnknownVerb(pub String);

impl FromStr for Verb {
    type Err = UnknownVerb;

    fn from_str(text: &str) -> Result<Self, UnknownVerb> {
        Self::ALL
            .into_iter()
            .find(|verb| verb.as_str() == text)
            .ok_or_else(|| UnknownVerb(text.chars().take(40).collect()))
    }
}

/// A change to one resource.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResourceChange {
    /// Which one.
    pub key: ResourceKey,
    /// Where its document came from, so that refusals can name file and line; empty when unknown.
    pub file: String,
    /// The document's first line in that file, from 1; 0 when unknown.
    pub line: u32,
    /// The document; `None` deletes the resource.
    pub yaml: Option<String>,
}

/// All that one act changes, and who did it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Write {
    /// Who, for instance `uid 1000 (alice)`.
    pub actor: String,
    /// What kind of act.
    pub verb: Verb,
    /// When, in milliseconds since 1970.
    pub time_ms: u64,
    /// What changes; of several changes to one resource the last one counts. Empty: only an audit record.
    pub changes: Vec<ResourceChange>,
    /// One line for people.
    pub detail: String,
}

/// Where a write ended up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Committed {
    /// The revision in force after it: a new one exactly if it changed a resource.
    pub revision: u64,
    /// The sequence number of its audit record.
    pub audit_sequence: u64,
}

/// Why a write is not taken, whatever the disk says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteProblem {
    /// Too many changes.
    #[error("{count} changes at once; at most {CHANGES_MAX} are taken: apply them in several parts")]
    TooManyChanges {
        /// How many there were.
        count: usize,
    },
    /// A document is too long.
    #[error("the document of {key} has {bytes} bytes; at most {DOCUMENT_BYTES_MAX} are taken: split it")]
    DocumentTooLong {
        /// Whose document.
        key: ResourceKey,
        /// Its length.
        bytes: usize,
    },
    /// All documents together are too long.
    #[error(
        "{bytes} bytes of documents at once; at most {WRITE_BYTES_MAX} are taken: apply them in several parts"
    )]
    TooLong {
        /// Their length.
        bytes: usize,
    },
    /// A text that belongs on one line does not fit there.
    #[error("the {field} has {bytes} bytes; at most {LINE_BYTES_MAX} are taken")]
    LineTooLong {
        /// Which text.
        field: &'static str,
        /// Its length.
        bytes: usize,
    },
    /// A value of another part is too long.
    #[error("the value {key:?} has {bytes} bytes; at most {META_BYTES_MAX} are taken")]
    MetaTooLong {
        /// Its name.
        key: String,
        /// Its length.
        bytes: usize,
    },
    /// The name of such a value is not one.
    #[error(
        "{key:?} is no name for a value: 1 to {META_NAME_BYTES_MAX} of a-z, 0-9, '-', '.', '/' are taken"
    )]
    MetaName {
        /// The name, cut.
        key: String,
    },
    /// Too many such names.
    #[error("there are {META_KEYS_MAX} values already, {key:?} would be one more")]
    TooManyMeta {
        /// The new name.
        key: String,
    },
}

impl Write {
    /// Checks the limits of this module.
    pub(super) fn check(&self) -> Result<(), WriteProblem> {
        if self.changes.len() > CHANGES_MAX {
            return Err(WriteProblem::TooManyChanges { count: self.changes.len() });
        }
        let line = |field, text: &str| match text.len() {
            bytes if bytes > LINE_BYTES_MAX => Err(WriteProblem::LineTooLong { field, bytes }),
            _ => Ok(()),
        };
        line("actor", &self.actor)?;
        line("detail", &self.detail)?;
        let mut total = 0_usize;
        for change in &self.changes {
            line("file name", &change.file)?;
            let bytes = change.yaml.as_ref().map_or(0, String::len);
            if bytes > DOCUMENT_BYTES_MAX {
                return Err(WriteProblem::DocumentTooLong { key: change.key.clone(), bytes });
            }
            total = total.saturating_add(bytes);
        }
        if total > WRITE_BYTES_MAX { Err(WriteProblem::TooLong { bytes: total }) } else { Ok(()) }
    }
}

/// Checks the limits of a value of another part.
pub(super) fn check_meta(key: &str, value: &[u8]) -> Result<(), WriteProblem> {
    let named = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-./".contains(&b);
    if key.is_empty() || key.len() > META_NAME_BYTES_MAX || !key.bytes().all(named) {
        return Err(WriteProblem::MetaName { key: key.chars().take(META_NAME_BYTES_MAX).collect() });
    }
    if value.len() > META_BYTES_MAX {
        return Err(WriteProblem::MetaTooLong { key: key.to_owned(), bytes: value.len() });
    }
    Ok(())
}
