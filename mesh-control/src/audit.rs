//! The audit chain outside the store: signed checkpoints of it, exports that prove themselves, and their verification.
//!
//! The store hashes each record with the hash before it, so whoever changes one byte must change all records after it. What
//! he cannot make is the signature of a checkpoint: [`keep`] signs the chain's end about once a minute while it grows, with
//! a key of its own that is sealed like the authority's. [`export`] writes records, documents and checkpoints as JSON
//! lines; [`verify()`] needs nothing but those and the public key, and names the first line that is not as it was.
//!
//! # Why
//! The authority's keys rotate and sign certificates; a key that signs nothing else can be written down once by the auditor.
//! Checkpoints stand beside the chain, not in it, so that an idle mesh does not fill its log with them.

pub(crate) mod export;
mod verify;

pub use verify::{Broken, Report, verify};

use crate::clock;
use crate::store::view::Hash;
use crate::store::{Health, Store};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use mesh_ca::seal::SealKey;
use prost::Message;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio_util::sync::CancellationToken;

/// The names of the key and of the checkpoints in the store.
const KEY: &str = "audit-key";
const CHECKPOINTS: &str = "audit-checkpoints";
/// How often the end of a growing chain is signed.
const EVERY: Duration = Duration::from_secs(60);
/// Checkpoints kept: 110 bytes each, written anew each minute. Of more, every second of the older half goes.
const CHECKPOINTS_MAX: usize = 1_024;
/// What stands before the signed bytes, so that a signature is never that of anything else.
const DOMAIN: &[u8] = b"meshctl audit checkpoint 1\n";
/// The same before the head of an export.
const HEAD_DOMAIN: &[u8] = b"meshctl audit export 1\n";

/// Why the key that signs checkpoints cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "the key that signs the audit log cannot be used: {0}; restore the store from a backup, or remove nothing and report this"
)]
pub struct AuditKeyError(String);

/// Signs checkpoints.
pub(crate) struct AuditKey(Ed25519KeyPair);

impl AuditKey {
    /// The store's key; at the first start a new one, sealed.
    ///
    /// # Errors
    /// What is kept does not open or is no key, or a new one cannot be kept.
    pub(crate) fn open(store: &dyn Store, seal: &SealKey) -> Result<Self, AuditKeyError> {
        let error = |problem: &dyn std::fmt::Display| AuditKeyError(problem.to_string());
        if let Some(sealed) = store.read().meta(KEY) {
            let plain = seal.open(KEY, &sealed).map_err(|problem| error(&problem))?;
            return Ed25519KeyPair::from_pkcs8(&plain).map(Self).map_err(|problem| error(&problem));
        }
        let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|problem| error(&problem))?;
        let sealed = seal.seal(KEY, made.as_ref()).map_err(|problem| error(&problem))?;
        store.put_meta(KEY, sealed).map_err(|problem| error(&problem))?;
        Ed25519KeyPair::from_pkcs8(made.as_ref()).map(Self).map_err(|problem| error(&problem))
    }

    /// What verifies its signatures: 32 bytes.
    pub(crate) fn public(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    /// Signs what an export says of itself.
    pub(crate) fn sign_head(&self, trust_domain: &str, from: u64) -> Vec<u8> {
        self.0.sign(&head_signed(trust_domain, from)).as_ref().to_vec()
    }

    /// Says that the chain ends so at this time.
    pub(crate) fn sign(&self, sequence: u64, head: Hash, now: SystemTime) -> Checkpoint {
        let mut checkpoint =
            Checkpoint { sequence, time_ms: clock::unix_ms(now), head: head.to_vec(), signature: Vec::new() };
        checkpoint.signature = self.0.sign(&checkpoint.signed()).as_ref().to_vec();
        checkpoint
    }
}

fn head_signed(trust_domain: &str, from: u64) -> Vec<u8> {
    [HEAD_DOMAIN, &from.to_be_bytes(), trust_domain.as_bytes()].concat()
}

/// Whether the holder of the key has signed what an export says of itself.
fn is_head_signed(trust_domain: &str, from: u64, signature: &[u8], public: &[u8]) -> bool {
    let signed = head_signed(trust_domain, from);
    UnparsedPublicKey::new(&ED25519, public).verify(&signed, signature).is_ok()
}

/// A signed statement: after this record the chain has this head.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Checkpoint {
    /// The record.
    #[prost(uint64, tag = "1")]
    pub(crate) sequence: u64,
    /// When it was signed.
    #[prost(uint64, tag = "2")]
    pub(crate) time_ms: u64,
    /// Its hash.
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) head: Vec<u8>,
    /// Ed25519.
    #[prost(bytes = "vec", tag = "4")]
    pub(crate) signature: Vec<u8>,
}

impl Checkpoint {
    fn signed(&self) -> Vec<u8> {
        let numbers = [self.sequence.to_be_bytes(), self.time_ms.to_be_bytes()].concat();
        [DOMAIN, &numbers, &self.head].concat()
    }

    /// Whether the holder of the key has signed it.
    pub(crate) fn is_signed_by(&self, public: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, public).verify(&self.signed(), &self.signature).is_ok()
    }
}

#[derive(Clone, PartialEq, Message)]
struct Kept {
    #[prost(message, repeated, tag = "1")]
    all: Vec<Checkpoint>,
}

/// The checkpoints that are kept, oldest first.
pub(crate) fn checkpoints(store: &dyn Store) -> Vec<Checkpoint> {
    store.read().meta(CHECKPOINTS).and_then(|kept| Kept::decode(&*kept).ok()).unwrap_or_default().all
}

/// Signs the chain's end whenever it has grown, until `shutdown`.
pub(crate) async fn keep(key: Arc<AuditKey>, store: Arc<dyn Store>, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        let (key, store) = (key.clone(), store.clone());
        // Waits for the disk: not on a thread that others wait for.
        let signed = tokio::task::spawn_blocking(move || sign(&key, &*store, clock::wall())).await;
        if let Ok(Err(problem)) = signed {
            tracing::warn!(
                problem,
                "the end of the audit log could not be signed; it is tried again in a minute"
            );
        }
    }
}

/// Signs the chain's end if it is not signed yet.
fn sign(key: &AuditKey, store: &dyn Store, now: SystemTime) -> Result<(), String> {
    let view = store.read();
    let mut all = checkpoints(store);
    let is_new = all.last().is_none_or(|last| last.sequence < view.audit_sequence());
    if view.audit_sequence() == 0 || !is_new || store.health() != Health::Ok {
        return Ok(());
    }
    all.push(key.sign(view.audit_sequence(), view.audit_head(), now));
    if all.len() > CHECKPOINTS_MAX {
        let half = all.len() / 2;
        let mut at = 0_usize;
        all.retain(|_| {
            at = at.saturating_add(1);
            at > half || at.is_multiple_of(2)
        });
    }
    store.put_meta(CHECKPOINTS, Kept { all }.encode_to_vec()).map_err(|error| error.to_string())
}

/// Whether the chain in the store still leads to what was signed of it; the first checkpoint that it does not lead to.
pub(crate) fn unsigned_by(key: &AuditKey, store: &dyn Store) -> (usize, Option<u64>) {
    let view = store.read();
    let all = checkpoints(store);
    let holds = |checkpoint: &&Checkpoint| {
        let sequence = checkpoint.sequence;
        let record = view.audit(sequence..=sequence);
        let is_head = record.first().is_some_and(|record| record.hash.as_slice() == checkpoint.head);
        is_head && checkpoint.is_signed_by(key.public())
    };
    let broken = all.iter().find(|checkpoint| !holds(checkpoint)).map(|checkpoint| checkpoint.sequence);
    (all.len(), broken)
}

/// Bytes in lower-case hexadecimal.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes that such a text names.
fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text.bytes().map(|b| char::from(b).to_digit(16)?.try_into().ok()).collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2))?;
    Some(digits.chunks_exact(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect())
}

#[cfg(test)]
mod tests;
