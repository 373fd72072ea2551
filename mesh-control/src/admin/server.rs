//! The table of admin calls: who may make each, and who answers.

use super::Control;
use super::access::Actor;
use super::change::Run;
use super::receipts::{self, Issued};
use crate::advise;
use crate::clock;
use crate::events::Event;
use crate::store::write::Verb;
use futures_util::Stream;
use mesh_proto::ops::metrics::EventKind;
use mesh_proto::resource::role::AdminAction::{self, Certify, Operate, View};
use mesh_proto::wire::v1;
use mesh_proto::wire::v1::admin_server::Admin;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tonic::{Code, Request, Response, Status};

/// The largest call: all documents of a mesh of 10,000 policies, and what the store takes in one write.
pub(crate) const MESSAGE_BYTES_MAX: usize = 40 * 1024 * 1024;
/// Receipts of one revision are sent at most this often.
const RECEIPT_PAUSE: Duration = Duration::from_millis(20);

/// The service.
pub(crate) struct AdminService {
    /// What it works with.
    pub(crate) control: Arc<Control>,
}

type Answer<T> = Result<Response<T>, Status>;
/// Answers that come one after the other.
pub(super) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl AdminService {
    /// Who calls, if it may do `action`; whoever may not is audited.
    fn caller<T>(
        &self,
        request: &Request<T>,
        call: &'static str,
        action: AdminAction,
    ) -> Result<Actor, Status> {
        let actor = Actor::of(request, self.control.owner)?;
        let required = actor.require(&self.control.mesh.world().catalog, action);
        self.judged(&actor, call, required).map(|_| actor)
    }

    /// An answer; when it is that the caller may not do this (its documents can ask for more than the call), that is
    /// audited.
    fn judged<T>(&self, actor: &Actor, call: &'static str, answer: Result<T, Status>) -> Answer<T> {
        if answer.as_ref().is_err_and(|status| status.code() == Code::PermissionDenied) {
            self.control.metrics.denied();
            self.control.notices.add(&actor.to_string(), Verb::Denied, call, 1);
            let mut event = Event::new(EventKind::AdminRefused, clock::wall(), "no_role");
            event.source = actor.to_string();
            event.destination = call.to_owned();
            self.control.events.tell(&event.source.clone(), event);
        }
        answer.map(Response::new)
    }
}

#[tonic::async_trait]
impl Admin for AdminService {
    type AwaitStream = Answers<v1::Receipt>;
    type BackupStream = Answers<v1::BackupChunk>;
    type AuditExportStream = Answers<v1::AuditExportChunk>;
    type AlarmsStream = Answers<v1::AlarmsResponse>;
    type EventsStream = Answers<v1::MeshEvent>;

    async fn apply(&self, request: Request<v1::ApplyRequest>) -> Answer<v1::ApplyResponse> {
        let actor = self.caller(&request, "apply", Run::from(request.get_ref().dry_run).action())?;
        let done = self.control.apply(&actor, request.into_inner()).await;
        self.judged(&actor, "apply", done)
    }

    async fn delete(&self, request: Request<v1::DeleteRequest>) -> Answer<v1::ApplyResponse> {
        let actor = self.caller(&request, "delete", Run::from(request.get_ref().dry_run).action())?;
        let done = self.control.delete(&actor, request.into_inner()).await;
        self.judged(&actor, "delete", done)
    }

    async fn rollback(&self, request: Request<v1::RollbackRequest>) -> Answer<v1::ApplyResponse> {
        let actor = self.caller(&request, "rollback", Run::from(request.get_ref().dry_run).action())?;
        let done = self.control.rollback(&actor, request.into_inner()).await;
        self.judged(&actor, "rollback", done)
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Answer<v1::GetResponse> {
        self.caller(&request, "get", View)?;
        let request = request.into_inner();
        self.control.aside(move |control| control.objects(&request)).await.map(Response::new)
    }

    async fn r#await(&self, request: Request<v1::AwaitRequest>) -> Answer<Self::AwaitStream> {
        self.caller(&request, "await", View)?;
        let revision = request.get_ref().revision;
        let newest = self.control.mesh.world().revision;
        if revision > newest {
            return Err(Status::not_found(format!(
                "there is no revision {revision}; the newest is {newest} (list them with `meshctl history`)"
            )));
        }
        let issued = self.control.receipts.get(revision, clock::monotonic());
        let fleet = self.control.mesh.fleet.watch();
        let waiting = Waiting { control: self.control.clone(), issued, fleet, last: None };
        Ok(Response::new(Box::pin(futures_util::stream::unfold(waiting, Waiting::step))))
    }

    async fn history(&self, request: Request<v1::HistoryRequest>) -> Answer<v1::HistoryResponse> {
        self.caller(&request, "history", View)?;
        let request = request.into_inner();
        self.control.aside(move |control| control.history(&request)).await.map(Response::new)
    }

    async fn diff(&self, request: Request<v1::DiffRequest>) -> Answer<v1::DiffResponse> {
        self.caller(&request, "diff", View)?;
        let request = request.into_inner();
        self.control.aside(move |control| control.difference(&request)).await.map(Response::new)
    }

    async fn explain(&self, request: Request<v1::ExplainRequest>) -> Answer<v1::ExplainResponse> {
        self.caller(&request, "explain", View)?;
        let request = request.into_inner();
        let explained = self.control.aside(move |control| {
            let world = control.mesh.world();
            let sources =
                advise::Sources { world: &world, store: &*control.store, traffic: &control.traffic };
            advise::explain(&sources, request, clock::wall())
        });
        explained.await.map(Response::new)
    }

    async fn status(&self, request: Request<v1::StatusRequest>) -> Answer<v1::StatusResponse> {
        self.caller(&request, "status", View)?;
        Ok(Response::new(self.control.status()))
    }

    async fn edges(&self, request: Request<v1::EdgesRequest>) -> Answer<v1::EdgesResponse> {
        self.caller(&request, "edges", View)?;
        Ok(Response::new(self.control.edges()))
    }

    async fn flows(&self, request: Request<v1::FlowsRequest>) -> Answer<v1::FlowsResponse> {
        self.caller(&request, "flows", View)?;
        let request = request.into_inner();
        self.control.aside(move |control| control.flows(&request)).await.map(Response::new)
    }

    async fn posture(&self, request: Request<v1::PostureRequest>) -> Answer<v1::PostureResponse> {
        self.caller(&request, "posture", View)?;
        self.control.aside(|control| control.posture()).await.map(Response::new)
    }

    async fn alarms(&self, request: Request<v1::AlarmsRequest>) -> Answer<Self::AlarmsStream> {
        self.caller(&request, "alarms", View)?;
        Ok(Response::new(self.control.alarms(request.into_inner())))
    }

    async fn page(&self, request: Request<v1::PageRequest>) -> Answer<v1::PageResponse> {
        self.caller(&request, "dashboard", View)?;
        let request = request.into_inner();
        self.control.aside(move |control| control.page(&request)).await.map(Response::new)
    }

    async fn alarm_act(&self, request: Request<v1::AlarmActRequest>) -> Answer<v1::AlarmActResponse> {
        let actor = self.caller(&request, "acknowledge or silence alarms", Operate)?;
        let done = self.control.alarm_act(&actor, request.into_inner()).await;
        self.judged(&actor, "acknowledge or silence alarms", done)
    }

    async fn decisions(&self, request: Request<v1::DecisionsRequest>) -> Answer<v1::DecisionsResponse> {
        self.caller(&request, "decisions", View)?;
        Ok(Response::new(self.control.decisions(request.get_ref())))
    }

    async fn identities(&self, request: Request<v1::IdentitiesRequest>) -> Answer<v1::IdentitiesResponse> {
        self.caller(&request, "identities", View)?;
        let request = request.into_inner();
        self.control.aside(move |control| control.identities(&request)).await.map(Response::new)
    }

    async fn create_join_token(
        &self,
        request: Request<v1::CreateJoinTokenRequest>,
    ) -> Answer<v1::CreateJoinTokenResponse> {
        // A token for an identity is that identity.
        let actor = Actor::of(&request, self.control.owner)?;
        let done = match actor.require_owner("make join tokens") {
            Ok(()) => self.control.create_join_token(&actor, request.into_inner()).await,
            Err(refused) => Err(refused),
        };
        self.judged(&actor, "create join token", done)
    }

    async fn ca_status(&self, request: Request<v1::CaStatusRequest>) -> Answer<v1::CaStatusResponse> {
        self.caller(&request, "ca status", View)?;
        Ok(Response::new(self.control.authority_status()))
    }

    async fn ca_rotate(&self, request: Request<v1::CaRotateRequest>) -> Answer<v1::CaStatusResponse> {
        let actor = self.caller(&request, "ca rotate", Certify)?;
        let done = self.control.rotate(&actor, request.into_inner()).await;
        self.judged(&actor, "ca rotate", done)
    }

    async fn ca_revoke(&self, request: Request<v1::CaRevokeRequest>) -> Answer<v1::CaRevokeResponse> {
        let actor = self.caller(&request, "ca revoke", Certify)?;
        let done = self.control.revoke(&actor, request.into_inner()).await;
        self.judged(&actor, "ca revoke", done)
    }

    async fn backup(&self, request: Request<v1::BackupRequest>) -> Answer<Self::BackupStream> {
        let actor = self.caller(&request, "backup", Operate)?;
        self.control.backup(&actor).await.map(Response::new)
    }

    async fn audit(&self, request: Request<v1::AuditRequest>) -> Answer<v1::AuditResponse> {
        self.caller(&request, "audit", View)?;
        self.control.audit(request.into_inner()).await.map(Response::new)
    }

    async fn audit_export(
        &self,
        request: Request<v1::AuditExportRequest>,
    ) -> Answer<Self::AuditExportStream> {
        self.caller(&request, "audit export", View)?;
        Ok(Response::new(self.control.audit_export(request.get_ref().from)))
    }

    async fn events(&self, request: Request<v1::EventsRequest>) -> Answer<Self::EventsStream> {
        self.caller(&request, "events", View)?;
        self.control.events(request.into_inner()).map(Response::new)
    }
}

/// Somebody who waits for a revision to be enforced.
struct Waiting {
    control: Arc<Control>,
    issued: Issued,
    fleet: watch::Receiver<u64>,
    last: Option<v1::Receipt>,
}

impl Waiting {
    /// The next receipt that says something new; after the one that says "done" the stream ends.
    async fn step(mut self) -> Option<(Result<v1::Receipt, Status>, Self)> {
        loop {
            if self.last.as_ref().is_some_and(|last| last.done) {
                return None;
            }
            self.fleet.mark_unchanged();
            let receipt = receipts::receipt(&self.issued, &self.control.mesh.fleet.all(), clock::monotonic());
            let is_news = self.last.as_ref().is_none_or(|last| {
                (last.enforced, last.affected, &last.refused, last.done)
                    != (receipt.enforced, receipt.affected, &receipt.refused, receipt.done)
            });
            if is_news {
                self.last = Some(receipt.clone());
                return Some((Ok(receipt), self));
            }
            // Cancel safe: `changed` loses no version.
            tokio::select! {
                () = self.control.shutdown.cancelled() => {
                    return Some((Err(Status::unavailable("the control plane is going down")), self));
                }
                Ok(()) = self.fleet.changed() => tokio::time::sleep(RECEIPT_PAUSE).await,
            }
        }
    }
}
