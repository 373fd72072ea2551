//! The saved form of the authority: JSON, sealed as a whole before it leaves (`Authority::commit`).
//!
//! # Why
//! JSON, because it is rare, self-describing in a repair, and a new field is simply absent in an old state. The types
//! here are a promise to older and newer versions of this program; the domain types are not.

use super::AuthorityError;
use super::attest::join_token::Token;
use super::keys::{CaKey, Signer};
use super::record::{IssuedRecord, Records, ToSave};
use super::revoke::{Revoked, RevokedIdentity, RevokedSerial};
use super::rotation::{Phase, Rotation};
use super::state::{Core, Issuing, RootEntry, RootState};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use zeroize::{Zeroize, Zeroizing};

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    trust_domain: String,
    roots: Vec<StoredRoot>,
    issuing: StoredSigner,
    issuing_root: Bytes,
    rotation: Option<StoredRotation>,
    sequence: u64,
    reissue_epoch: u64,
    revoked_serials: Vec<StoredSerial>,
    revoked_identities: Vec<StoredIdentity>,
    tokens: Vec<StoredToken>,
    #[serde(default)]
    retired: Vec<Bytes>,
    issued_total: u64,
    issued: Vec<StoredRecord>,
}

/// A certificate and its key; the key's text is wiped when dropped.
#[derive(Serialize, Deserialize)]
struct StoredSigner {
    certificate: Bytes,
    key: SecretText,
}

#[derive(Serialize, Deserialize)]
struct StoredRoot {
    signer: StoredSigner,
    state: StoredRootState,
    trusted: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum StoredRootState {
    Active,
    Next,
    Retiring,
}

#[derive(Serialize, Deserialize)]
struct StoredRotation {
    phase: String,
    paused: bool,
    entered: u64,
    #[serde(default)]
    aborted: bool,
    #[serde(default)]
    forced: bool,
}

#[derive(Serialize, Deserialize)]
struct StoredSerial {
    serial: Bytes,
    until: u64,
    intermediate: bool,
    reason: String,
}

#[derive(Serialize, Deserialize)]
struct StoredIdentity {
    id: String,
    reason: String,
}

#[derive(Serialize, Deserialize)]
struct StoredToken {
    hash: Bytes,
    id: String,
    until: u64,
    holder: Option<Bytes>,
    #[serde(default)]
    instance: Option<String>,
}

/// Short names: there may be a hundred thousand of them.
#[derive(Serialize, Deserialize)]
struct StoredRecord {
    s: Bytes,
    id: String,
    i: String,
    from: u64,
    to: u64,
    at: u64,
    by: Bytes,
    root: Bytes,
    on: String,
}

/// Bytes as base64.
struct Bytes(Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Self).map_err(serde::de::Error::custom)
    }
}

/// A secret as base64, wiped when dropped.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct SecretText(String);

impl Drop for SecretText {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// The plain bytes to seal.
pub(super) fn encode(core: &Core, records: &ToSave) -> Zeroizing<Vec<u8>> {
    let Core { trust_domain, roots, issuing, rotation, sequence, reissue_epoch, revoked, tokens, retired } =
        core;
    let stored = Stored {
        version: VERSION,
        trust_domain: trust_domain.to_string(),
        roots: roots.iter().map(encode_root).collect(),
        issuing: encode_signer(&issuing.signer),
        issuing_root: Bytes(issuing.root_sha256.to_vec()),
        rotation: rotation.as_ref().map(|rotation| StoredRotation {
            phase: rotation.phase.as_str().to_owned(),
            paused: rotation.is_paused,
            entered: seconds(rotation.entered),
            aborted: rotation.is_aborted,
            forced: rotation.is_forced,
        }),
        sequence: *sequence,
        reissue_epoch: *reissue_epoch,
        revoked_serials: revoked.serials.iter().map(encode_serial).collect(),
        revoked_identities: revoked
            .identities
            .iter()
            .map(|revoked| StoredIdentity { id: revoked.id.to_string(), reason: revoked.reason.clone() })
            .collect(),
        tokens: tokens.iter().map(encode_token).collect(),
        retired: retired.iter().map(|key| Bytes(key.to_vec())).collect(),
        issued_total: records.total,
        issued: records.records.iter().map(|record| encode_record(record)).collect(),
    };
    // Room from the start: growing would leave unwiped copies of the keys behind.
    let mut plain = Zeroizing::new(Vec::with_capacity(
        16_384_usize.saturating_add(stored.issued.len().saturating_mul(512)),
    ));
    #[expect(clippy::expect_used, reason = "strings, numbers and lists always have a JSON form")]
    serde_json::to_writer(&mut *plain, &stored).expect("writing to memory does not fail");
    plain
}

fn encode_root(root: &RootEntry) -> StoredRoot {
    let RootEntry { signer, state, is_trusted } = root;
    let state = match state {
        RootState::Active => StoredRootState::Active,
        RootState::Next => StoredRootState::Next,
        RootState::Retiring => StoredRootState::Retiring,
    };
    StoredRoot { signer: encode_signer(signer), state, trusted: *is_trusted }
}

fn encode_signer(signer: &Signer) -> StoredSigner {
    let key = SecretText(STANDARD.encode(&*signer.key().secret_der()));
    StoredSigner { certificate: Bytes(signer.certificate_der.clone()), key }
}

fn encode_serial(revoked: &RevokedSerial) -> StoredSerial {
    let RevokedSerial { serial, until, is_intermediate, reason } = revoked;
    StoredSerial {
        serial: Bytes(serial.clone()),
        until: seconds(*until),
        intermediate: *is_intermediate,
        reason: reason.clone(),
    }
}

fn encode_token(token: &Token) -> StoredToken {
    let Token { hash, id, until, holder, instance } = token;
    StoredToken {
        hash: Bytes(hash.to_vec()),
        id: id.to_string(),
        until: seconds(*until),
        holder: holder.map(|holder| Bytes(holder.to_vec())),
        instance: instance.as_ref().map(ToString::to_string),
    }
}

fn encode_record(record: &IssuedRecord) -> StoredRecord {
    let IssuedRecord {
        serial,
        id,
        instance,
        not_before,
        not_after,
        issued_at,
        issuer_serial,
        root_sha256,
        attestor,
    } = record;
    StoredRecord {
        s: Bytes(serial.clone()),
        id: id.to_string(),
        i: instance.to_string(),
        from: seconds(*not_before),
        to: seconds(*not_after),
        at: seconds(*issued_at),
        by: Bytes(issuer_serial.clone()),
        root: Bytes(root_sha256.to_vec()),
        on: attestor.clone(),
    }
}

/// Reads what [`encode`] wrote.
pub(super) fn decode(plain: &[u8]) -> Result<(Core, Records), AuthorityError> {
    let stored: Stored = serde_json::from_slice(plain).map_err(|e| damaged(&e))?;
    if stored.version != VERSION {
        return Err(AuthorityError::Damaged(format!(
            "its version is {}, known is {VERSION}",
            stored.version
        )));
    }
    let core = decode_core(&stored)?;
    let mut records = Records::default();
    for record in &stored.issued {
        records.add(decode_record(record)?);
    }
    records.mark_loaded(stored.issued_total);
    Ok((core, records))
}

fn decode_core(stored: &Stored) -> Result<Core, AuthorityError> {
    let roots: Vec<RootEntry> = stored.roots.iter().map(decode_root).collect::<Result<_, _>>()?;
    if roots.iter().filter(|root| root.state == RootState::Active).count() != 1 {
        return Err(AuthorityError::Damaged("it does not have exactly one active root".to_owned()));
    }
    let issuing = Issuing {
        signer: Arc::new(decode_signer(&stored.issuing)?),
        root_sha256: hash(&stored.issuing_root)?,
    };
    let rotation = stored.rotation.as_ref().map(decode_rotation).transpose()?;
    let revoked = Revoked {
        serials: stored.revoked_serials.iter().map(decode_serial).collect(),
        identities: stored
            .revoked_identities
            .iter()
            .map(|revoked| {
                let id = revoked.id.parse().map_err(|e| damaged(&e))?;
                Ok(RevokedIdentity { id, reason: revoked.reason.clone() })
            })
            .collect::<Result<_, AuthorityError>>()?,
        revision: 0,
    };
    Ok(Core {
        trust_domain: stored.trust_domain.parse().map_err(|e| damaged(&e))?,
        roots,
        issuing,
        rotation,
        sequence: stored.sequence,
        reissue_epoch: stored.reissue_epoch,
        revoked,
        tokens: stored.tokens.iter().map(decode_token).collect::<Result<_, _>>()?,
        retired: stored.retired.iter().map(hash).collect::<Result<_, _>>()?,
    })
}

fn decode_root(stored: &StoredRoot) -> Result<RootEntry, AuthorityError> {
    let state = match stored.state {
        StoredRootState::Active => RootState::Active,
        StoredRootState::Next => RootState::Next,
        StoredRootState::Retiring => RootState::Retiring,
    };
    Ok(RootEntry { signer: Arc::new(decode_signer(&stored.signer)?), state, is_trusted: stored.trusted })
}

fn decode_signer(stored: &StoredSigner) -> Result<Signer, AuthorityError> {
    let key = Zeroizing::new(STANDARD.decode(&stored.key.0).map_err(|e| damaged(&e))?);
    let key = CaKey::from_der(&key).map_err(AuthorityError::Damaged)?;
    Signer::new(stored.certificate.0.clone(), key).map_err(AuthorityError::Damaged)
}

fn decode_rotation(stored: &StoredRotation) -> Result<Rotation, AuthorityError> {
    let phase = Phase::ALL.into_iter().find(|phase| phase.as_str() == stored.phase);
    let unknown = || AuthorityError::Damaged(format!("there is no step {:?} in a rotation", stored.phase));
    Ok(Rotation {
        phase: phase.ok_or_else(unknown)?,
        is_paused: stored.paused,
        entered: time(stored.entered),
        is_aborted: stored.aborted,
        is_forced: stored.forced,
    })
}

fn decode_serial(stored: &StoredSerial) -> RevokedSerial {
    RevokedSerial {
        serial: stored.serial.0.clone(),
        until: time(stored.until),
        is_intermediate: stored.intermediate,
        reason: stored.reason.clone(),
    }
}

fn decode_token(stored: &StoredToken) -> Result<Token, AuthorityError> {
    Ok(Token {
        hash: hash(&stored.hash)?,
        id: stored.id.parse().map_err(|e| damaged(&e))?,
        until: time(stored.until),
        holder: stored.holder.as_ref().map(hash).transpose()?,
        instance: stored.instance.as_ref().map(|name| name.parse().map_err(|e| damaged(&e))).transpose()?,
    })
}

fn decode_record(stored: &StoredRecord) -> Result<IssuedRecord, AuthorityError> {
    Ok(IssuedRecord {
        serial: stored.s.0.clone(),
        id: stored.id.parse().map_err(|e| damaged(&e))?,
        instance: stored.i.parse().map_err(|e| damaged(&e))?,
        not_before: time(stored.from),
        not_after: time(stored.to),
        issued_at: time(stored.at),
        issuer_serial: stored.by.0.clone(),
        root_sha256: hash(&stored.root)?,
        attestor: stored.on.clone(),
    })
}

fn hash(bytes: &Bytes) -> Result<[u8; 32], AuthorityError> {
    <[u8; 32]>::try_from(bytes.0.as_slice()).map_err(|e| damaged(&e))
}

fn damaged(problem: &dyn std::fmt::Display) -> AuthorityError {
    AuthorityError::Damaged(problem.to_string())
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn time(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(SystemTime::UNIX_EPOCH)
}
