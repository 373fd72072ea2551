//! The signing authority: a root, a short-lived issuing intermediate, and everything that is signed with them.
//!
//! `mesh-control` opens one [`Authority`], serves [`server::IdentityService`] from it, and calls [`Authority::tick`] about
//! once a second with what its proxies have acknowledged. Every change of state is saved, durably, before it has any
//! effect: after a crash at any moment the authority goes on where it was.
//!
//! Two locks: one is the turn to change what is saved, held while the store is at work, by one change after another; the
//! other guards memory and is held for moments. Reading and issuing need only the second, so a slow disk holds up the
//! changes behind it and nothing else.
//!
//! It reads no clock (time is an argument), does no I/O but through [`AuthorityStore`], and never shows a private key;
//! what it saves is sealed.
//!
//! # Why
//! One sealed value for the whole state, written anew with each change: changes are rare (a rotation, a revocation, a
//! token), and one value cannot be half old. Issued certificates are the exception: they are many, so their records
//! are saved by [`Authority::tick`] some seconds later. A crash may lose the records of the last seconds; a rotation that
//! was in its signing step then asks everybody to renew once more (see `rotation`).
//! Saving with 15,000 records (5,000 workloads of a day) takes 73 ms of one core (`cargo bench -p mesh-ca --profile
//! quick`, two cores under a load of 5), so records are saved the less often the more there are.

use crate::seal::{SealError, SealKey};
use mesh_proto::config::{Bundle, Revocations};
use mesh_proto::identity::{SpiffeId, TrustDomain};
use mesh_proto::name::InstanceName;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, SystemTime};

pub mod attest;
pub mod audit;
mod issue;
mod keys;
mod pace;
mod record;
mod revoke;
mod rotation;
mod serial;
pub mod server;
pub mod serving;
mod share;
mod state;
mod status;
mod stored;

pub use issue::{IssueRefusal, Issued, Order};
pub use record::{Full, IssuedRecord, RecordLimits, Whom};
pub use revoke::{Revocable, Revocation};
pub use rotation::{Phase, Progress, ProxyTrust, RotateRoot};
pub use serial::{Among, SERIAL_DIGITS_MAX, SERIAL_DIGITS_MIN, SerialError, serial_digits};
pub use status::{AuthorityStatus, CaCertificate, CaState};

use audit::{Event, Journal};
use pace::Pace;
use record::{Holder, Records};
use state::Core;

/// The context under which the state is sealed.
const SEAL_CONTEXT: &str = "authority state";
/// The shortest life of an SVID: a renewal must fit into a third of it.
pub const SVID_LIFETIME_MIN: Duration = Duration::from_secs(6);
/// The longest life of an SVID.
pub const SVID_LIFETIME_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long records of issued certificates may stay unsaved at least; and for each record there is, a little more, since
/// all are written at once: at 400 bytes a record that bounds the writing to 400 KB a second.
const RECORDS_UNSAVED_MIN: Duration = Duration::from_secs(3);
const RECORDS_UNSAVED_EACH: Duration = Duration::from_millis(1);

/// Where the sealed state is kept.
pub trait AuthorityStore: Send + Sync {
    /// The last saved state; `None` at the first start.
    ///
    /// # Errors
    /// It cannot be read.
    fn load(&self) -> Result<Option<Vec<u8>>, String>;

    /// Replaces the state; it is durable when this returns. The bytes are sealed already.
    ///
    /// # Errors
    /// It may or may not have been saved; the authority goes on with the old state and tries again.
    fn save(&self, state: &[u8]) -> Result<(), String>;

    /// Whether another process has saved something newer than what was last loaded or saved here.
    fn is_behind(&self) -> bool {
        false
    }

    /// The most bytes that it takes.
    fn bytes_max(&self) -> usize {
        usize::MAX
    }
}

/// A private root to use instead of making one.
pub struct BroughtRoot {
    /// The certificate, PEM.
    pub certificate_pem: String,
    /// Its private key, PEM (PKCS#8, SEC1 or PKCS#1).
    pub key_pem: zeroize::Zeroizing<String>,
}

/// What an authority is told.
pub struct AuthorityConfig {
    /// Whose authority it is; must equal the saved one.
    pub trust_domain: TrustDomain,
    /// How long an SVID lives unless less is asked for.
    pub svid_lifetime: Duration,
    /// How long an issuing intermediate lives; a new one is made at a third left.
    pub intermediate_lifetime: Duration,
    /// How long a root made here lives.
    pub root_lifetime: Duration,
    /// The root to use at the first start, or to change to with the next rotation of the root.
    pub brought_root: Option<BroughtRoot>,
    /// How far `notBefore` lies before now, for peers whose clocks are behind.
    pub backdate: Duration,
    /// How long a rotation waits for a workload that has a certificate but is not connected: it may be starting, or
    /// coming back after a restart of the control plane, or it is gone.
    pub absent_grace: Duration,
    /// How many unexpired certificates there may be.
    pub record_limits: RecordLimits,
}

impl AuthorityConfig {
    /// The defaults: SVIDs of a day, intermediates of a week, a root of a year, a minute for clocks, half for the absent.
    pub fn new(trust_domain: TrustDomain) -> Self {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        Self {
            trust_domain,
            svid_lifetime: DAY,
            intermediate_lifetime: DAY.saturating_mul(7),
            root_lifetime: DAY.saturating_mul(365),
            brought_root: None,
            backdate: Duration::from_secs(60),
            absent_grace: Duration::from_secs(30),
            record_limits: RecordLimits::default(),
        }
    }
}

/// Why the authority could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The store failed; nothing has changed.
    #[error("the authority's state could not be {tried}: {problem}; nothing was changed")]
    Store {
        /// "loaded", "saved".
        tried: &'static str,
        /// What the store said.
        problem: String,
    },
    /// The saved state does not open or cannot be sealed.
    #[error("the authority's state: {0}")]
    Seal(#[from] SealError),
    /// The saved state opens but makes no sense.
    #[error("the authority's state is damaged ({0}); restore a backup with: meshctl restore")]
    Damaged(String),
    /// The saved state is another mesh's.
    #[error("this state directory belongs to the trust domain {saved}, not {told}")]
    OtherTrustDomain {
        /// Whose it is.
        saved: TrustDomain,
        /// What the configuration says.
        told: TrustDomain,
    },
    /// The brought root cannot be an authority's.
    #[error("the given root certificate cannot be used: {0}")]
    BroughtRoot(String),
    /// A certificate or key could not be made.
    #[error("{what} could not be made: {problem}")]
    Make {
        /// What.
        what: &'static str,
        /// What the library said.
        problem: String,
    },
    /// The root's time is over.
    #[error("the root certificate has expired; make a new one with: meshctl ca rotate")]
    RootExpired,
    /// The request does not fit the state of the rotation.
    #[error("{0}")]
    Rotation(&'static str),
    /// The revocation or token cannot be done.
    #[error("{0}")]
    Unacceptable(String),
}

/// The authority of one trust domain. Its methods take `&self` and may be called from any thread. Those that return an
/// [`AuthorityError`] wait for the store, so they belong on threads that may block, and so does
/// [`issue`](Self::issue), which now and then needs a new intermediate first; all others return at once.
pub struct Authority {
    config: AuthorityConfig,
    store: Arc<dyn AuthorityStore>,
    seal: SealKey,
    /// SHA-256 of the brought root's certificate.
    brought_sha256: Option<[u8; 32]>,
    /// See [`Turn`]. Taken before `inner`, never after.
    changing: Mutex<()>,
    /// Never held while the store is at work.
    inner: Mutex<Inner>,
}

/// The turn to change what is saved. Whoever has it may decide on the present state, save, and only then publish: nobody
/// else changes it meanwhile, though certificates are issued and read.
struct Turn<'a> {
    _changing: MutexGuard<'a, ()>,
}

/// What changes. `core` is replaced as a whole, after it was saved.
struct Inner {
    core: Core,
    records: Records,
    journal: Journal,
    pace: Pace,
    guesses: attest::join_token::Guesses,
    /// Whose certificates are being revoked at this moment; it gets none until that is done.
    barred: Option<Holder>,
    opened_at: SystemTime,
    records_saved_at: SystemTime,
}

impl Authority {
    /// Opens the saved authority, or makes a new one at the first start.
    ///
    /// # Errors
    /// The state cannot be loaded, opened or saved, belongs to another trust domain, or the brought root is unusable.
    pub fn open(
        config: AuthorityConfig,
        store: Arc<dyn AuthorityStore>,
        seal: &SealKey,
        now: SystemTime,
    ) -> Result<Self, AuthorityError> {
        let loaded = store.load().map_err(|problem| AuthorityError::Store { tried: "loaded", problem })?;
        let (mut core, mut records) = match &loaded {
            Some(sealed) => stored::decode(&seal.open(SEAL_CONTEXT, sealed)?)?,
            None => (Core::create(&config, now)?, Records::default()),
        };
        if core.trust_domain != config.trust_domain {
            let (saved, told) = (core.trust_domain, config.trust_domain);
            return Err(AuthorityError::OtherTrustDomain { saved, told });
        }
        let renewed = core.resume();
        records.prune(now);
        let root_sha256 = core.active_root().sha256;
        let inner = Inner {
            core: core.clone(),
            records,
            journal: Journal::default(),
            pace: Pace::default(),
            guesses: attest::join_token::Guesses::default(),
            barred: None,
            opened_at: now,
            records_saved_at: now,
        };
        let brought_sha256 = config.brought_root.as_ref().and_then(state::brought_sha256);
        let authority = Self {
            config,
            brought_sha256,
            store,
            seal: seal.share(),
            changing: Mutex::new(()),
            inner: Mutex::new(inner),
        };
        if loaded.is_none() || renewed {
            authority.commit(&authority.turn(), core, now)?;
        }
        if loaded.is_none() {
            authority.lock().journal.push(now, Event::Created { root_sha256 });
        }
        Ok(authority)
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.config.trust_domain
    }

    /// How long an SVID lives unless less is asked for.
    pub fn svid_lifetime(&self) -> Duration {
        self.config.svid_lifetime.clamp(SVID_LIFETIME_MIN, SVID_LIFETIME_MAX)
    }

    /// The bundles that workloads must believe: our own.
    pub fn bundles(&self) -> Vec<Bundle> {
        vec![self.lock().core.bundle()]
    }

    /// What workloads must no longer believe.
    pub fn revocations(&self) -> Revocations {
        self.lock().core.revocations()
    }

    /// Grows when SVIDs in use should be replaced soon. Read it *before* issuing.
    pub fn reissue_epoch(&self) -> u64 {
        self.lock().core.reissue_epoch
    }

    /// SHA-256 of the root that a joining machine pins: the one the control plane's own chain ends in.
    pub fn root_sha256(&self) -> [u8; 32] {
        self.lock().core.issuing.root_sha256
    }

    /// SHA-256 of the root that the SVID with this serial chains to, if it is one of ours and not expired.
    pub fn root_of(&self, serial: &[u8]) -> Option<[u8; 32]> {
        self.lock().records.by_serial(serial).map(|record| record.root_sha256)
    }

    /// What is known of the certificate with this serial, if it is one of ours and not expired.
    pub fn record(&self, serial: &[u8]) -> Option<IssuedRecord> {
        self.lock().records.by_serial(serial).map(|record| IssuedRecord::clone(record))
    }

    /// The newest unexpired certificate of an instance.
    pub fn newest(&self, id: &SpiffeId, instance: &InstanceName) -> Option<IssuedRecord> {
        self.lock().records.newest_of(id, instance).map(|record| IssuedRecord::clone(record))
    }

    /// The unexpired certificates that were issued, oldest first.
    pub fn issued(&self) -> Vec<Arc<IssuedRecord>> {
        self.lock().records.all().cloned().collect()
    }

    /// Takes what happened since the last call, oldest first, for the audit log.
    pub fn take_events(&self) -> Vec<audit::Entry> {
        self.lock().journal.take()
    }

    /// Notes an event for the audit log.
    pub(crate) fn note(&self, now: SystemTime, event: Event) {
        self.lock().journal.push(now, event);
    }

    /// Never poisoned for long: a panic while it is held leaves the state as it was saved.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until all changes before are done.
    fn turn(&self) -> Turn<'_> {
        Turn { _changing: self.changing.lock().unwrap_or_else(PoisonError::into_inner) }
    }

    /// The turn, if nobody has it.
    fn try_turn(&self) -> Option<Turn<'_>> {
        match self.changing.try_lock() {
            Ok(guard) => Some(Turn { _changing: guard }),
            Err(TryLockError::Poisoned(poisoned)) => Some(Turn { _changing: poisoned.into_inner() }),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Saves `core`, then makes it the present one. On an error nothing has changed.
    fn commit(&self, _turn: &Turn<'_>, core: Core, now: SystemTime) -> Result<(), AuthorityError> {
        let mut records = self.lock().records.to_save();
        let plain = self.plain(&core, &mut records);
        let sealed = self.seal.seal(SEAL_CONTEXT, &plain)?;
        self.store.save(&sealed).map_err(|problem| AuthorityError::Store { tried: "saved", problem })?;
        let mut inner = self.lock();
        inner.core = core;
        inner.records.mark_saved(records.version());
        inner.records_saved_at = now;
        Ok(())
    }
}
