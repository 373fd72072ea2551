//! What people ask of the authority: status, rotation, revocation ([`revocation`] is its words), join tokens.
//!
//! The authority acts first and its state is durable; then the audit record is written with the caller's name. While the
//! store refuses writes neither happens, and the caller is told why.

mod revocation;

use super::access::Actor;
use super::query::hex;
use super::receipts::Issued;
use super::{Control, ms};
use crate::clock;
use crate::local::registry::WorkloadKey;
use crate::store::Health;
use crate::store::write::{Verb, Write};
use mesh_ca::authority::{AuthorityError, CaCertificate, RotateRoot};
use mesh_proto::identity::SpiffeId;
use mesh_proto::name::{Namespace, ServiceAccount};
use mesh_proto::wire::v1;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tonic::Status;

/// How long a join token is good for unless its maker says.
const TOKEN_LIFETIME: Duration = Duration::from_secs(600);
/// Bytes of a revocation's reason.
const REASON_BYTES_MAX: usize = 500;

impl Control {
    /// The authority at this moment.
    pub(super) fn authority_status(&self) -> v1::CaStatusResponse {
        let fleet = self.fleet_trust();
        let status = self.authority.inner().status(&fleet, clock::wall());
        let rotation = match (status.phase, status.is_paused) {
            (None, _) => "idle".to_owned(),
            (Some(phase), false) => phase.to_string(),
            (Some(phase), true) => format!("{phase} (paused)"),
        };
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        v1::CaStatusResponse {
            roots: status.roots.iter().map(certificate).collect(),
            issuing: Some(certificate(&status.issuing)),
            rotation,
            waiting_for: status.waiting_for,
            proxies_total: count(status.proxies_total),
            proxies_trusting: count(status.proxies_trusting),
            svids_total: count(status.svids_total),
            svids_on_new: count(status.svids_on_active),
            issued_total: status.issued_total,
            revoked: count(status.revoked),
        }
    }

    /// Rotates the root or the intermediate.
    pub(super) async fn rotate(
        self: &Arc<Self>,
        actor: &Actor,
        request: v1::CaRotateRequest,
    ) -> Result<v1::CaStatusResponse, Status> {
        let v1::CaRotateRequest { action, intermediate_only } = request;
        let action = match action.as_str() {
            "" | "start" => RotateRoot::Start,
            "pause" => RotateRoot::Pause,
            "resume" => RotateRoot::Resume,
            "abort" => RotateRoot::Abort,
            "force" => RotateRoot::Force,
            other => {
                let other: String = other.chars().take(40).collect();
                return Err(Status::invalid_argument(format!(
                    "unknown action {other:?}; write start, pause, resume, abort or force"
                )));
            }
        };
        let word = match (intermediate_only, action) {
            (true, _) => "rotate the intermediate",
            (false, RotateRoot::Start) => "rotate the root",
            (false, RotateRoot::Pause) => "pause the rotation of the root",
            (false, RotateRoot::Resume) => "resume the rotation of the root",
            (false, RotateRoot::Abort) => "abort the rotation of the root",
            (false, RotateRoot::Force) => {
                "go on with the rotation of the root without machines that are away"
            }
        };
        self.with_authority(move |control| {
            let (authority, now) = (control.authority.inner(), clock::wall());
            if intermediate_only {
                authority.rotate_intermediate(now)
            } else {
                authority.rotate_root(action, now)
            }
        })
        .await?;
        self.note(actor, Verb::Ca, word.to_owned()).await?;
        Ok(self.authority_status())
    }

    /// Revokes a certificate, an identity or the intermediate, or takes a revocation back.
    pub(super) async fn revoke(
        self: &Arc<Self>,
        actor: &Actor,
        request: v1::CaRevokeRequest,
    ) -> Result<v1::CaRevokeResponse, Status> {
        let (what, shown) = revocation::target(self.authority.inner(), &request)?;
        let v1::CaRevokeRequest { reason, undo, .. } = request;
        let reason: String = reason.chars().filter(|c| !c.is_control()).take(REASON_BYTES_MAX).collect();
        let mut detail = if undo {
            format!("take back the revocation of {shown}")
        } else {
            format!("revoke {shown}: {reason}")
        };
        let at = clock::monotonic();
        let done = self.with_authority(move |control| {
            let (authority, now) = (control.authority.inner(), clock::wall());
            if undo {
                authority.undo_revocation(&what, now)
            } else {
                authority.revoke(&what, &reason, now).map(Some)
            }
        });
        let Some(done) = done.await? else {
            return Err(Status::not_found(format!(
                "{shown} is not revoked; `meshctl ca status` shows what is"
            )));
        };
        let world = self.mesh.world();
        let affected: BTreeSet<WorkloadKey> = self.mesh.fleet.all().into_keys().collect();
        let affected_proxies = u32::try_from(affected.len()).unwrap_or(u32::MAX);
        self.receipts.add(Issued {
            revision: world.revision,
            trust_generation: world.trust_generation,
            affected: Some(Arc::new(affected)),
            at,
        });
        detail.push_str(&revocation::extent(&done));
        self.note(actor, Verb::Ca, detail).await?;
        Ok(v1::CaRevokeResponse {
            revision: world.revision,
            affected_proxies,
            serials: done.serials.iter().map(|serial| hex(serial)).collect(),
            whom: done.holder.as_ref().map(revocation::whom).unwrap_or_default(),
            notes: if undo { Vec::new() } else { revocation::notes(&done) },
        })
    }

    /// Makes a one-time token for a machine that joins.
    pub(super) async fn create_join_token(
        self: &Arc<Self>,
        actor: &Actor,
        request: v1::CreateJoinTokenRequest,
    ) -> Result<v1::CreateJoinTokenResponse, Status> {
        let v1::CreateJoinTokenRequest { namespace, service_account, lifetime_seconds } = request;
        let invalid = |error: mesh_proto::name::NameError| Status::invalid_argument(error.to_string());
        let namespace: Namespace = match namespace.as_str() {
            "" => Namespace::default_local(),
            namespace => namespace.parse().map_err(invalid)?,
        };
        let account: ServiceAccount = service_account.parse().map_err(invalid)?;
        let id = SpiffeId::for_workload(self.authority.trust_domain(), &namespace, &account);
        let lifetime = match lifetime_seconds {
            0 => TOKEN_LIFETIME,
            seconds => {
                Duration::from_secs(seconds).min(mesh_ca::authority::attest::join_token::TOKEN_LIFETIME_MAX)
            }
        };
        let now = clock::wall();
        let for_whom = id.clone();
        let token = self
            .with_authority(move |control| {
                control.authority.inner().create_join_token(&for_whom, lifetime, now)
            })
            .await?;
        self.note(
            actor,
            Verb::Token,
            format!("create a join token for {id}, good for {} s", lifetime.as_secs()),
        )
        .await?;
        Ok(v1::CreateJoinTokenResponse {
            token,
            expires_ms: now.checked_add(lifetime).map_or(u64::MAX, ms),
            root_sha256: hex(&self.authority.inner().root_sha256()),
            address: self.advertised.clone(),
        })
    }

    /// Lets the authority act, off the threads that others wait for, and publishes what follows from it.
    async fn with_authority<T: Send + 'static>(
        self: &Arc<Self>,
        act: impl FnOnce(&Self) -> Result<T, AuthorityError> + Send + 'static,
    ) -> Result<T, Status> {
        if let Health::WritesRefused { reason } = self.store.health() {
            return Err(Status::unavailable(format!(
                "the store takes no writes: {reason}; nothing was changed. Free space or mend the disk, then repeat the command"
            )));
        }
        let control = self.clone();
        let acted = tokio::task::spawn_blocking(move || act(&control)).await;
        let done = acted
            .map_err(|_| Status::internal("the authority broke off"))?
            .map_err(|error| status(&error))?;
        self.authority.publish(&self.mesh);
        self.authority.nudge();
        Ok(done)
    }

    /// Writes an audit record that changes no resource.
    async fn note(&self, actor: &Actor, verb: Verb, detail: String) -> Result<(), Status> {
        let time_ms = ms(clock::wall());
        tracing::info!(%actor, %verb, detail, "authority");
        let write = Write { actor: actor.to_string(), verb, time_ms, changes: Vec::new(), detail };
        self.commit(write).await.map(|_| ())
    }
}

fn status(error: &AuthorityError) -> Status {
    let text = error.to_string();
    match error {
        AuthorityError::Store { .. } => Status::unavailable(text),
        AuthorityError::Rotation(_) | AuthorityError::RootExpired => Status::failed_precondition(text),
        AuthorityError::Unacceptable(_) | AuthorityError::BroughtRoot(_) => Status::invalid_argument(text),
        AuthorityError::Seal(_)
        | AuthorityError::Damaged(_)
        | AuthorityError::OtherTrustDomain { .. }
        | AuthorityError::Make { .. } => Status::internal(text),
    }
}

fn certificate(certificate: &CaCertificate) -> v1::CaCertificate {
    let CaCertificate { subject, serial, not_before, not_after, state, sha256 } = certificate;
    v1::CaCertificate {
        subject: subject.clone(),
        serial: hex(serial),
        not_before_ms: ms(*not_before),
        not_after_ms: ms(*not_after),
        state: state.as_str().to_owned(),
        sha256: hex(sha256),
    }
}
