//! Issuing: from a certificate request and an attested identity to a chain.
//!
//! The server calls it after attestation. Nothing in the request is taken but the public key, and that only with proof
//! of possession; the names come from the attestation.
//!
//! # Why
//! Signing happens under the lock of the authority's memory, so that a certificate and its record are one: no step of a
//! rotation looks between them. A step that is being saved meanwhile takes effect after it, and its gates know the record. Checking a
//! request, signing and recording take 0.2 ms together, that is 5,000 certificates a second on one core (`cargo bench -p
//! mesh-ca --profile quick`, two cores under a load of 5); 5,000 workloads of a day need one every nine seconds.

use super::audit::Event;
use super::keys::{Span, public_key_of_request};
use super::record::{Full, IssuedRecord, Whom};
use super::state::Core;
use super::{Authority, AuthorityError, Inner, SVID_LIFETIME_MIN, Turn};
use crate::tls::control_identity;
use crate::x509::hex;
use mesh_proto::identity::SpiffeId;
use mesh_proto::name::InstanceName;
use std::time::{Duration, SystemTime};
use tracing::warn;

/// What to issue, and to whom.
#[derive(Debug, Clone, Copy)]
pub struct Order<'a> {
    /// PKCS#10, DER.
    pub csr_der: &'a [u8],
    /// The attested identity.
    pub id: &'a SpiffeId,
    /// Which instance.
    pub instance: &'a InstanceName,
    /// Asked-for lifetime; shortened to the mesh's, never lengthened.
    pub lifetime: Option<Duration>,
    /// What attested it, in words, for the record.
    pub attestor: &'a str,
}

/// An issued certificate.
#[derive(Debug, Clone)]
pub struct Issued {
    /// Leaf first, then the intermediate; without the root.
    pub chain_der: Vec<Vec<u8>>,
    /// Big-endian, without leading zeros.
    pub serial: Vec<u8>,
    /// From when on it is valid.
    pub not_before: SystemTime,
    /// Until when.
    pub not_after: SystemTime,
    /// Subject of the intermediate.
    pub issuer: String,
    /// As it stood when this was signed.
    pub reissue_epoch: u64,
}

/// Why nothing was issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueRefusal {
    /// The request is not well-formed, not signed, or its key too weak.
    #[error("{0}")]
    Request(&'static str),
    /// Not our trust domain.
    #[error("{0} is not of the trust domain of this authority")]
    OtherTrustDomain(SpiffeId),
    /// The identity is revoked.
    #[error("the identity {0} is revoked; undo it with: meshctl ca revoke {0} --undo")]
    Revoked(SpiffeId),
    /// Too many in too short a time.
    #[error("{id} asks for certificates too fast (now for {instance}); wait {wait:?}")]
    TooFast {
        /// Who.
        id: SpiffeId,
        /// For which instance.
        instance: InstanceName,
        /// How long until the next.
        wait: Duration,
    },
    /// More certificates are unexpired than can be kept track of.
    #[error(transparent)]
    Full(#[from] Full),
    /// Its certificates, or others, were revoked since it was attested.
    #[error("certificates were revoked while {0} asked for one; ask again")]
    Overtaken(InstanceName),
    /// The authority itself cannot.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

impl Authority {
    /// Issues an SVID. The life is what was asked for, at most the mesh's, and never beyond the intermediate's end.
    ///
    /// # Errors
    /// See [`IssueRefusal`].
    pub fn issue(&self, order: &Order<'_>, now: SystemTime) -> Result<Issued, IssueRefusal> {
        let revocation = self.revocation();
        self.issue_as_of(revocation, order, now)
    }

    /// As [`issue`](Self::issue), for whom was attested when `revocation` was the last. A certificate that is revoked
    /// after it has served as evidence must not bring forth another.
    pub(super) fn issue_as_of(
        &self,
        revocation: u64,
        order: &Order<'_>,
        now: SystemTime,
    ) -> Result<Issued, IssueRefusal> {
        let public_key = public_key_of_request(order.csr_der).map_err(IssueRefusal::Request)?;
        if order.id.trust_domain_str() != self.config.trust_domain.as_str() {
            return Err(IssueRefusal::OtherTrustDomain(order.id.clone()));
        }
        let lifetime =
            order.lifetime.unwrap_or(Duration::MAX).min(self.svid_lifetime()).max(SVID_LIFETIME_MIN);
        self.freshen_intermediate(now)?;
        let mut inner = self.lock();
        if inner.core.revoked.has_identity(order.id) {
            return Err(IssueRefusal::Revoked(order.id.clone()));
        }
        let is_barred =
            inner.barred.as_ref().is_some_and(|(id, instance)| id == order.id && instance == order.instance);
        if is_barred || inner.core.revoked.revision != revocation {
            return Err(IssueRefusal::Overtaken(order.instance.clone()));
        }
        if !inner.core.intermediate_is_usable(now) {
            return Err(AuthorityError::RootExpired.into());
        }
        self.admit(&mut inner, order, now)?;
        let issuing = inner.core.issuing.clone();
        // A backdate longer than the life itself would make a certificate mostly of the past.
        let span = Span::new(now, self.config.backdate.min(lifetime), lifetime).within(&issuing.signer.facts);
        let leaf = issuing.signer.sign_leaf(order.id, order.instance, &public_key, span)?;
        inner.records.add(IssuedRecord {
            serial: leaf.serial.clone(),
            id: order.id.clone(),
            instance: order.instance.clone(),
            not_before: span.not_before,
            not_after: span.not_after,
            issued_at: now,
            issuer_serial: issuing.signer.facts.serial.clone(),
            root_sha256: issuing.root_sha256,
            attestor: order.attestor.to_owned(),
        });
        inner.journal.push(
            now,
            Event::Issued {
                id: order.id.clone(),
                instance: order.instance.clone(),
                serial: hex(&leaf.serial),
                attestor: order.attestor.to_owned(),
            },
        );
        Ok(Issued {
            chain_der: vec![leaf.der, issuing.signer.certificate_der.clone()],
            serial: leaf.serial,
            not_before: span.not_before,
            not_after: span.not_after,
            issuer: issuing.signer.facts.subject.clone(),
            reissue_epoch: inner.core.reissue_epoch,
        })
    }

    /// Whether there is room for one more certificate, and its asker is not too fast.
    ///
    /// The control plane is always admitted: it asks only itself, and without a certificate of its own nobody could ask it.
    fn admit(&self, inner: &mut Inner, order: &Order<'_>, now: SystemTime) -> Result<(), IssueRefusal> {
        let Order { id, instance, .. } = *order;
        if *id == control_identity(&self.config.trust_domain) {
            return Ok(());
        }
        inner.records.room_for(id, instance, &self.config.record_limits)?;
        match inner.records.knows(id, instance) {
            Whom::Known => inner.pace.take_renewal((id.clone(), instance.clone()), now),
            Whom::New => inner.pace.take_new(id, now),
        }
        .map_err(|wait| IssueRefusal::TooFast { id: id.clone(), instance: instance.clone(), wait })
    }

    /// Grows with each revocation, and when one is taken back. Read it before attesting.
    pub(super) fn revocation(&self) -> u64 {
        self.lock().core.revoked.revision
    }

    /// Sees to it that there is an intermediate to issue below. One that is due but good for another third of its life is only
    /// replaced if nobody else is changing anything: no asker has to wait for the store because of it.
    fn freshen_intermediate(&self, now: SystemTime) -> Result<(), AuthorityError> {
        let (is_usable, is_due) = {
            let core = &self.lock().core;
            (core.intermediate_is_usable(now), core.intermediate_is_due(&self.config, now))
        };
        let turn = match (is_usable, is_due) {
            (true, false) => None,
            (true, true) => self.try_turn(),
            (false, _) => Some(self.turn()),
        };
        let Some(turn) = turn else { return Ok(()) };
        match self.renew_intermediate_if_due(&turn, now) {
            Err(error) if is_usable => {
                warn!(%error, "the issuing intermediate is due, but was not replaced");
                Ok(())
            }
            done => done.map(drop),
        }
    }

    /// Makes a new issuing intermediate when a third of its life is left, or it is revoked. Says whether it did.
    pub(super) fn renew_intermediate_if_due(
        &self,
        turn: &Turn<'_>,
        now: SystemTime,
    ) -> Result<bool, AuthorityError> {
        let mut core = self.lock().core.clone();
        if !core.intermediate_is_due(&self.config, now) {
            return Ok(false);
        }
        core.renew_intermediate(&self.config, now)?;
        self.commit_intermediate(turn, core, now)?;
        Ok(true)
    }

    pub(super) fn commit_intermediate(
        &self,
        turn: &Turn<'_>,
        core: Core,
        now: SystemTime,
    ) -> Result<(), AuthorityError> {
        let serial = hex(&core.issuing.signer.facts.serial);
        self.commit(turn, core, now)?;
        self.note(now, Event::IntermediateRotated { serial });
        Ok(())
    }
}
