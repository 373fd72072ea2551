//! Replacing the root while everything runs: prepare → trust → sign → retire.
//!
//! `start` makes the new root (*prepare*). [`Authority::tick`] then takes each step when its gate opens: it adds the root to
//! the bundle (*trust*); when every connected proxy has acknowledged that bundle, it issues from the new root and asks
//! everybody to renew (*sign*); when no live SVID chains to the old root, it takes that out of the bundle and forgets its
//! key (*retire*); when that is acknowledged, it is done. Each step is saved before it has any effect, so a crash
//! resumes in the step that was last saved. It can be paused in any step, and aborted until *retire*; aborting is final.
//!
//! # Why
//! The gates look at the connected proxies, and besides at every holder of an unexpired certificate that is *not* connected: it
//! may be starting, or the control plane itself has just restarted and nobody has come back yet. Such a holder blocks for
//! `absent_grace`, not for ever: most are processes that ended, and a step that waits a day for them would never be taken. A workload that was
//! cut off for longer gets a new SVID on the evidence it has, for which it needs neither root.
//! That is not so of a machine that joined with a token: it knows the control plane by the roots it was told of, and is known by
//! its SVID. Left behind, it could only be joined anew by hand. So *trust* and *sign* wait for each of them, at the longest
//! until its certificate expires, unless somebody goes on without them (`RotateRoot::Force`).
//! Whoever got its first certificate after a step began got its bundle with it and is waited for only while connected; otherwise
//! jobs that come and go would hold the rotation up for ever.
//! After a crash in *sign* the records of the last seconds may be lost, so everybody is asked to renew once more.
//! SPIRE's names for the same steps are prepare, activate, taint, revoke; its *taint* is our reissue epoch.

use super::attest::Origin;
use super::audit::Event;
use super::record::{IssuedRecord, Records};
use super::state::{Core, RootEntry, RootState, next_root};
use super::{
    Authority, AuthorityConfig, AuthorityError, Inner, RECORDS_UNSAVED_EACH, RECORDS_UNSAVED_MIN, Turn,
};
use crate::tls::control_identity;
use crate::x509::sha256;
use mesh_proto::identity::SpiffeId;
use mesh_proto::name::InstanceName;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// How many names a sentence about what is waited for holds.
const NAMES_SHOWN: usize = 5;

/// What is waited for of machines that could not come back.
const LOCKED_OUT: &str = "to connect: joined from other machines and away, they would be locked out and each need a new token; go on without them with: meshctl ca rotate --force";
/// Keys of retired roots that are remembered: one rotation a week for a year.
const RETIRED_MAX: usize = 52;

/// A step of the rotation of the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The new root exists; nobody has heard of it.
    Prepare,
    /// It is in every bundle; proxies acknowledge.
    Trust,
    /// SVIDs are issued below it; those below the old one are replaced.
    Sign,
    /// The old one is out of the bundle; proxies acknowledge.
    Retire,
}

impl Phase {
    /// All, in their order.
    pub const ALL: [Self; 4] = [Self::Prepare, Self::Trust, Self::Sign, Self::Retire];

    /// One word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Trust => "trust",
            Self::Sign => "sign",
            Self::Retire => "retire",
        }
    }
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a person may ask of a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RotateRoot {
    /// Begin one: to the brought root if that is new, else to one made here.
    Start,
    /// Take no further step.
    Pause,
    /// Go on.
    Resume,
    /// Go back to the old root: at once before *sign*, by the same gated way back in *sign*.
    Abort,
    /// Go on without the machines that joined with a token and are away; each of them then needs a new token.
    Force,
}

/// What one connected proxy has, as far as the control plane knows.
#[derive(Debug, Clone)]
pub struct ProxyTrust {
    /// Whose identity.
    pub id: SpiffeId,
    /// Which instance.
    pub instance: InstanceName,
    /// Of the newest bundle it has acknowledged.
    pub bundle_sequence: u64,
    /// The root that its SVID chains to, if already known; otherwise it is looked up by the serial.
    pub svid_root: Option<[u8; 32]>,
    /// The SVID's serial, as it was presented in the handshake or reported since.
    pub serial: Vec<u8>,
}

/// What a tick has changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Proxies need the new bundle.
    pub bundles_changed: bool,
    /// Proxies need the new list.
    pub revocations_changed: bool,
    /// SVIDs in use should be replaced: the reissue epoch has grown.
    pub reissue: bool,
    /// A new issuing intermediate was made.
    pub intermediate_rotated: bool,
    /// The step of the rotation under way.
    pub phase: Option<Phase>,
    /// What it waits for, in words.
    pub waiting_for: Option<String>,
}

/// The rotation under way, as it is saved.
#[derive(Clone, Debug)]
pub(super) struct Rotation {
    pub(super) phase: Phase,
    pub(super) is_paused: bool,
    /// When the step began.
    pub(super) entered: SystemTime,
    /// It was aborted in *sign*: the old root signs again, and the new one retires.
    pub(super) is_aborted: bool,
    /// Machines that are away are not waited for.
    pub(super) is_forced: bool,
}

/// Everything that the gates look at.
pub(super) struct Gate<'a> {
    pub(super) core: &'a Core,
    pub(super) records: &'a Records,
    pub(super) fleet: &'a [ProxyTrust],
    pub(super) now: SystemTime,
    pub(super) opened_at: SystemTime,
}

impl Authority {
    /// Does what time and the fleet allow: replaces the intermediate, takes the steps of a rotation whose gates are open,
    /// forgets what has expired, saves records. Call it about once a second with *all* connected proxies.
    ///
    /// # Errors
    /// A certificate could not be made or the state not saved; nothing of that step has happened and the next tick
    /// tries again.
    pub fn tick(&self, now: SystemTime, fleet: &[ProxyTrust]) -> Result<Progress, AuthorityError> {
        let turn = self.turn();
        if self.store.is_behind() {
            self.take_over(&turn, now)?;
        }
        match self.tick_once(&turn, fleet, now) {
            // Another process was faster: once more, from what it has made.
            Err(AuthorityError::Store { tried: "saved", .. }) if self.store.is_behind() => {
                self.take_over(&turn, now)?;
                self.tick_once(&turn, fleet, now)
            }
            done => done,
        }
    }

    fn tick_once(
        &self,
        turn: &Turn<'_>,
        fleet: &[ProxyTrust],
        now: SystemTime,
    ) -> Result<Progress, AuthorityError> {
        let before = {
            let mut inner = self.lock();
            for proxy in fleet {
                inner.records.saw(&proxy.id, &proxy.instance, (now, proxy.bundle_sequence));
            }
            inner.records.prune(now);
            (inner.core.sequence, inner.core.revoked.count(), inner.core.reissue_epoch)
        };
        let intermediate_rotated = match self.renew_intermediate_if_due(turn, now) {
            // The rotation is what mends that; it must not wait for it.
            Err(AuthorityError::RootExpired) if self.lock().core.rotation.is_some() => false,
            done => done?,
        };
        // Prepare, trust, sign and retire may follow each other at once in a mesh without proxies.
        for _ in Phase::ALL {
            if !self.step(turn, fleet, now)? {
                break;
            }
        }
        self.forget_expired(turn, now)?;
        let inner = self.lock();
        let gate = gate(&inner, fleet, now);
        Ok(Progress {
            bundles_changed: inner.core.sequence != before.0,
            revocations_changed: inner.core.revoked.count() != before.1,
            reissue: inner.core.reissue_epoch != before.2,
            intermediate_rotated,
            phase: inner.core.rotation.as_ref().map(|rotation| rotation.phase),
            waiting_for: gate.waiting_for(self.config.absent_grace),
        })
    }

    /// Starts, pauses, resumes or aborts a rotation of the root.
    ///
    /// # Errors
    /// It does not fit the present step, the new root could not be made, or the state not saved.
    pub fn rotate_root(&self, action: RotateRoot, now: SystemTime) -> Result<(), AuthorityError> {
        let turn = self.turn();
        let mut core = self.lock().core.clone();
        let word = match action {
            RotateRoot::Start => {
                core.start_rotation(&self.config, now)?;
                "started"
            }
            RotateRoot::Pause => {
                core.present_rotation()?.is_paused = true;
                "paused"
            }
            RotateRoot::Resume => {
                core.present_rotation()?.is_paused = false;
                "resumed"
            }
            RotateRoot::Abort => {
                core.abort_rotation(&self.config, now)?;
                "aborted"
            }
            RotateRoot::Force => {
                core.present_rotation()?.is_forced = true;
                "told to go on without machines that are away"
            }
        };
        self.commit(&turn, core, now)?;
        self.note(now, Event::RotationControl { action: word });
        Ok(())
    }

    /// Replaces the issuing intermediate now, and asks every proxy for an SVID from the new one. Those in use stay good
    /// meanwhile: they carry the old one in their chain. (When it rotates by itself, SVIDs follow as they are due.)
    ///
    /// # Errors
    /// It could not be made, or the state not saved.
    pub fn rotate_intermediate(&self, now: SystemTime) -> Result<(), AuthorityError> {
        let turn = self.turn();
        let mut core = self.lock().core.clone();
        core.renew_intermediate(&self.config, now)?;
        core.bump_reissue_epoch();
        self.commit_intermediate(&turn, core, now)
    }

    /// Takes one step if its gate is open. Says whether it did.
    fn step(&self, turn: &Turn<'_>, fleet: &[ProxyTrust], now: SystemTime) -> Result<bool, AuthorityError> {
        let (mut core, rotation) = {
            let inner = self.lock();
            let Some(rotation) = inner.core.rotation.clone() else { return Ok(false) };
            if rotation.is_paused
                || gate(&inner, fleet, now).closed_by(&rotation, self.config.absent_grace).is_some()
            {
                return Ok(false);
            }
            (inner.core.clone(), rotation)
        };
        core.advance(&rotation, &self.config, now)?;
        let phase = core.rotation.as_ref().map(|rotation| rotation.phase);
        self.commit(turn, core, now)?;
        self.note(now, Event::RootRotation { phase });
        Ok(true)
    }

    /// Drops expired revocations and tokens, and saves these changes and new records, if there are any.
    fn forget_expired(&self, turn: &Turn<'_>, now: SystemTime) -> Result<(), AuthorityError> {
        let inner = self.lock();
        let mut core = inner.core.clone();
        let forgot = core.revoked.prune(now) | core.prune_tokens(now);
        let unsaved_for = now.duration_since(inner.records_saved_at).unwrap_or(Duration::MAX);
        let each =
            RECORDS_UNSAVED_EACH.saturating_mul(u32::try_from(inner.records.len()).unwrap_or(u32::MAX));
        let is_time = unsaved_for >= RECORDS_UNSAVED_MIN.saturating_add(each);
        let is_needed = forgot || (inner.records.is_unsaved() && is_time);
        drop(inner);
        if is_needed { self.commit(turn, core, now) } else { Ok(()) }
    }
}

fn gate<'a>(inner: &'a Inner, fleet: &'a [ProxyTrust], now: SystemTime) -> Gate<'a> {
    Gate { core: &inner.core, records: &inner.records, fleet, now, opened_at: inner.opened_at }
}

impl Core {
    /// After a restart: records of the last seconds may be lost, so in *sign* everybody is asked once more. Says whether.
    pub(super) fn resume(&mut self) -> bool {
        let signing = self.rotation.as_ref().is_some_and(|rotation| rotation.phase == Phase::Sign);
        if signing {
            self.bump_reissue_epoch();
        }
        signing
    }

    fn present_rotation(&mut self) -> Result<&mut Rotation, AuthorityError> {
        self.rotation.as_mut().ok_or(AuthorityError::Rotation(
            "no rotation of the root is under way; start one with: meshctl ca rotate",
        ))
    }

    fn start_rotation(&mut self, config: &AuthorityConfig, now: SystemTime) -> Result<(), AuthorityError> {
        if self.rotation.is_some() {
            return Err(AuthorityError::Rotation(
                "a rotation of the root is under way already; see: meshctl ca status",
            ));
        }
        let next = next_root(config, now)?;
        let refuse = |why: &str| Err(AuthorityError::BroughtRoot(why.to_owned()));
        if self.roots.iter().any(|root| root.signer.sha256 == next.sha256) {
            return refuse(
                "it is the root in use; start the control plane with another one, or with none to have one made, and rotate again",
            );
        }
        if self.retired.contains(&sha256(&next.facts.public_key_der)) {
            return refuse(
                "its key was that of a root that was replaced; start the control plane with another one, or with none to have one made, and rotate again",
            );
        }
        self.roots.push(RootEntry { signer: Arc::new(next), state: RootState::Next, is_trusted: false });
        self.enter(Phase::Prepare, now);
        Ok(())
    }

    fn abort_rotation(&mut self, config: &AuthorityConfig, now: SystemTime) -> Result<(), AuthorityError> {
        let Rotation { phase, is_aborted, .. } = *self.present_rotation()?;
        match phase {
            Phase::Prepare => {
                self.roots.retain(|root| root.state != RootState::Next);
                self.rotation = None;
            }
            Phase::Trust => {
                self.roots.retain(|root| root.state != RootState::Next);
                self.bump_sequence();
                self.rotation = None;
            }
            Phase::Sign if is_aborted => {
                return Err(AuthorityError::Rotation(
                    "it is aborted already: the new root is being retired, and will not sign again; see: meshctl ca status",
                ));
            }
            Phase::Sign => {
                self.switch_roots(RootState::Retiring, config, now)?;
                let rotation = self.present_rotation()?;
                (rotation.is_aborted, rotation.is_forced) = (true, false);
            }
            Phase::Retire => {
                return Err(AuthorityError::Rotation(
                    "the old root's key is gone already, so there is no way back; start a new rotation afterwards",
                ));
            }
        }
        Ok(())
    }

    /// The step after the present one.
    fn advance(
        &mut self,
        rotation: &Rotation,
        config: &AuthorityConfig,
        now: SystemTime,
    ) -> Result<(), AuthorityError> {
        match rotation.phase {
            Phase::Prepare => {
                for root in &mut self.roots {
                    root.is_trusted = true;
                }
                self.bump_sequence();
                self.enter(Phase::Trust, now);
            }
            Phase::Trust => self.switch_roots(RootState::Next, config, now)?,
            Phase::Sign => {
                if !rotation.is_aborted {
                    self.remember_retired();
                }
                self.roots.retain(|root| root.state == RootState::Active);
                self.bump_sequence();
                self.enter(Phase::Retire, now);
            }
            Phase::Retire => self.rotation = None,
        }
        Ok(())
    }

    /// Makes the root in state `from` the active one, and the active one retiring; everything is to be issued anew.
    fn switch_roots(
        &mut self,
        from: RootState,
        config: &AuthorityConfig,
        now: SystemTime,
    ) -> Result<(), AuthorityError> {
        for root in &mut self.roots {
            if root.state == RootState::Active {
                root.state = RootState::Retiring;
            } else if root.state == from {
                root.state = RootState::Active;
            }
        }
        self.renew_intermediate(config, now)?;
        self.bump_reissue_epoch();
        self.enter(Phase::Sign, now);
        Ok(())
    }

    fn enter(&mut self, phase: Phase, now: SystemTime) {
        let first = Rotation { phase, is_paused: false, entered: now, is_aborted: false, is_forced: false };
        let present = self.rotation.take().unwrap_or(first);
        self.rotation = Some(Rotation { phase, entered: now, ..present });
    }

    /// Keeps the keys of the roots that are about to be forgotten, so that none of them is ever a root again.
    fn remember_retired(&mut self) {
        let kept = self.active_root().facts.public_key_der.clone();
        let gone = self.roots.iter().map(|root| &root.signer.facts.public_key_der);
        self.retired.extend(gone.filter(|key| **key != kept).map(|key| sha256(key)));
        let surplus = self.retired.len().saturating_sub(RETIRED_MAX);
        self.retired.drain(..surplus);
    }
}

impl Gate<'_> {
    /// What the rotation waits for; `None` when there is none under way or nothing is in its way.
    pub(super) fn waiting_for(&self, grace: Duration) -> Option<String> {
        let rotation = self.core.rotation.as_ref()?;
        if rotation.is_paused {
            return Some("it is paused; go on with: meshctl ca rotate --resume".to_owned());
        }
        self.closed_by(rotation, grace)
    }

    /// Why the gate out of the present step is closed.
    fn closed_by(&self, rotation: &Rotation, grace: Duration) -> Option<String> {
        match rotation.phase {
            Phase::Prepare => None,
            Phase::Trust => self
                .unacknowledged()
                .or_else(|| self.absent(rotation, grace, |record| !self.knows_bundle(record, rotation))),
            Phase::Sign => self.on_old_root(rotation, grace).or_else(|| {
                self.absent(rotation, grace, |record| record.root_sha256 != self.core.issuing.root_sha256)
            }),
            Phase::Retire => self.unacknowledged(),
        }
    }

    /// Newcomers are waited for here: what is connected follows within moments, or is not heard of any more.
    fn unacknowledged(&self) -> Option<String> {
        let behind = self.fleet.iter().filter(|proxy| proxy.bundle_sequence < self.core.sequence);
        let names: BTreeSet<&str> = behind.map(|proxy| proxy.instance.as_str()).collect();
        sentence(&names, "to acknowledge the bundle")
    }

    fn on_old_root(&self, rotation: &Rotation, grace: Duration) -> Option<String> {
        let old = self.fleet.iter().filter(|proxy| !self.is_on_active_root(proxy));
        let mut names: BTreeSet<&str> = old.map(|proxy| proxy.instance.as_str()).collect();
        // The control plane is not in its own fleet, and must not be left behind by its own rotation.
        let control = control_identity(&self.core.trust_domain);
        let (renewed, behind): (Vec<_>, Vec<_>) = self
            .records
            .newest()
            .filter(|record| record.id == control)
            .partition(|record| record.root_sha256 == self.core.issuing.root_sha256);
        // Replicas renew at once; one that has not when another has, and the grace is over, has ended.
        let since = rotation.entered.max(self.opened_at);
        let is_over = self.now.duration_since(since).unwrap_or_default() >= grace;
        if renewed.is_empty() || !is_over {
            names.extend(behind.iter().map(|record| record.instance.as_str()));
        }
        sentence(&names, "to renew below the new root")
    }

    /// Whether a connected proxy's SVID chains to the root that issues now. An unknown serial does not.
    pub(super) fn is_on_active_root(&self, proxy: &ProxyTrust) -> bool {
        let looked_up =
            || self.records.by_serial(crate::x509::strip_zeros(&proxy.serial)).map(|r| r.root_sha256);
        proxy.svid_root.or_else(looked_up) == Some(self.core.issuing.root_sha256)
    }

    /// Whether a holder came into being after the present step began, and with its bundle.
    fn is_newcomer(&self, id: &SpiffeId, instance: &InstanceName, rotation: &Rotation) -> bool {
        let first = self.records.first_known(id, instance);
        first.is_some_and(|first| is_after(first, rotation.entered) && first >= self.opened_at)
    }

    /// Whether the holder of a record has the present bundle although it is not connected: it has acknowledged it, or came
    /// into being with it.
    fn knows_bundle(&self, record: &IssuedRecord, rotation: &Rotation) -> bool {
        let seen = self.records.last_seen(&record.id, &record.instance);
        seen.is_some_and(|(_, acknowledged)| acknowledged >= self.core.sequence)
            || self.is_newcomer(&record.id, &record.instance, rotation)
    }

    /// Whether the holder of a record cannot come back by itself once this step is taken.
    fn would_be_locked_out(&self, record: &IssuedRecord, rotation: &Rotation) -> bool {
        let revoked = &self.core.revoked;
        let is_out = revoked.has_serial(&record.serial)
            || revoked.has_serial(&record.issuer_serial)
            || revoked.has_identity(&record.id);
        // In *trust* a renewal has brought it the new root already.
        let is_told = rotation.phase == Phase::Trust && is_after(record.issued_at, rotation.entered);
        record.origin() == Origin::JoinToken && record.not_after >= self.now && !is_out && !is_told
    }

    /// Holders of unexpired certificates that are not connected and still within their grace, or would be locked out.
    fn absent(
        &self,
        rotation: &Rotation,
        grace: Duration,
        matters: impl Fn(&IssuedRecord) -> bool,
    ) -> Option<String> {
        let control = control_identity(&self.core.trust_domain);
        let present: BTreeSet<(&SpiffeId, &InstanceName)> =
            self.fleet.iter().map(|proxy| (&proxy.id, &proxy.instance)).collect();
        let is_present = |record: &IssuedRecord| present.contains(&(&record.id, &record.instance));
        let (mut held, mut soon) = (BTreeSet::new(), BTreeSet::new());
        for record in self.records.newest() {
            if record.id == control || is_present(record) || !matters(record) {
                continue;
            }
            let seen = self.records.last_seen(&record.id, &record.instance).map(|(at, _)| at);
            let since = rotation.entered.max(self.opened_at).max(seen.unwrap_or(self.opened_at));
            if !rotation.is_forced && self.would_be_locked_out(record, rotation) {
                held.insert(record.instance.as_str());
            } else if self.now.duration_since(since).unwrap_or_default() < grace {
                soon.insert(record.instance.as_str());
            }
        }
        sentence(&held, LOCKED_OUT)
            .or_else(|| sentence(&soon, "to connect, or to stay away long enough to be given up"))
    }
}

/// Whether something surely happened after a step began: saved times are whole seconds.
fn is_after(what: SystemTime, entered: SystemTime) -> bool {
    what.duration_since(entered).is_ok_and(|past| past >= Duration::from_secs(1))
}

/// "a, b and 3 more `to_do`", or `None` for nobody.
fn sentence(names: &BTreeSet<&str>, to_do: &str) -> Option<String> {
    if names.is_empty() {
        return None;
    }
    let shown: Vec<&str> = names.iter().take(NAMES_SHOWN).copied().collect();
    let more = names.len().saturating_sub(shown.len());
    let tail = if more == 0 { String::new() } else { format!(" and {more} more") };
    Some(format!("{}{tail} {to_do}", shown.join(", ")))
}
