//! What `meshctl dashboard` shows a browser: put together from what the other calls answer. See [`crate::dashboard`].

use super::Control;
use super::query::{ENTRIES_MAX, hex};
use crate::advise;
use crate::clock;
use crate::dashboard::ask::{self, Ask, Slice};
use crate::dashboard::model::{Member, Model, Parts};
use crate::dashboard::{Answer, graph, lists};
use crate::traffic::Which;
use aws_lc_rs::digest;
use mesh_proto::flows::Picture;
use mesh_proto::wire::v1;
use std::sync::Arc;
use tonic::Status;

impl Control {
    /// Answers one request of a browser. Waits for the disk.
    ///
    /// # Errors
    /// There is no such thing, or what is asked cannot be meant: in words for people.
    pub(super) fn page(self: &Arc<Self>, request: &v1::PageRequest) -> Result<v1::PageResponse, Status> {
        let v1::PageRequest { path, query, tag: known } = request;
        let asked = ask::read(path, query).map_err(Status::invalid_argument)?;
        let Some(asked) = asked else {
            return Err(Status::not_found(
                "the dashboard of this release has no such part; load the page again",
            ));
        };
        let Answer { content_type, body } = self.shown(asked)?;
        let tag = hex(digest::digest(&digest::SHA256, &body).as_ref());
        let unchanged = tag == *known;
        Ok(v1::PageResponse {
            content_type: content_type.to_owned(),
            tag,
            unchanged,
            body: if unchanged { Vec::new() } else { body },
            now_ms: clock::unix_ms(clock::wall()),
        })
    }

    fn shown(self: &Arc<Self>, asked: Ask) -> Result<Answer, Status> {
        Ok(match asked {
            Ask::Asset(asset) => {
                Answer { content_type: asset.content_type, body: asset.text.as_bytes().to_vec() }
            }
            Ask::Overview => Answer::json(&lists::overview(self.status(), self.alarms.all())),
            Ask::Graph(slice) => {
                let (model, span) = self.model(&slice)?;
                Answer::json(&graph::graph(&model, &slice, span))
            }
            Ask::Services(slice) => {
                let (model, span) = self.model(&slice)?;
                Answer::json(&graph::services(&model, &slice, &span))
            }
            Ask::Identities(slice) => {
                let all = self.identities(&v1::IdentitiesRequest::default())?;
                Answer::json(&lists::identities(all, self.authority_status(), &slice))
            }
            Ask::Policies(slice) => {
                Answer::json(&lists::policies(self.objects(&v1::GetRequest::default())?, &slice))
            }
            Ask::Policy(request) => {
                let found = lists::policy(self.objects(&request)?);
                Answer::json(&found.ok_or_else(|| Status::not_found("there is no such resource any more"))?)
            }
            Ask::Proxies(slice) => Answer::json(&lists::proxies(self.status().proxies, &slice)),
            Ask::Decisions(asked) => {
                let which = if asked.refused { Which::Refused } else { Which::All };
                Answer::json(&lists::decisions(self.traffic.decisions(ENTRIES_MAX, which), &asked))
            }
            Ask::Explain(request) => {
                let world = self.mesh.world();
                let sources = advise::Sources { world: &world, store: &*self.store, traffic: &self.traffic };
                Answer::json(&lists::explanation(advise::explain(&sources, request, clock::wall())?))
            }
        })
    }

    fn model(&self, slice: &Slice) -> Result<(Model, graph::Span), Status> {
        let flows =
            self.flows(&v1::FlowsRequest { window_ms: slice.window_ms, ..v1::FlowsRequest::default() })?;
        let mut alarms = self.alarms.all().alarms;
        alarms.retain(|alarm| alarm.state == "firing");
        let world = self.mesh.world();
        let proxies = self.mesh.fleet.all();
        let members = world.members.iter().map(|(key, member)| {
            let state = proxies.get(key);
            Member {
                identity: key.id.to_string(),
                workload: format!("{}/{}", member.registered.namespace, member.registered.workload),
                services: member.services.iter().map(ToString::to_string).collect(),
                is_in_sync: state
                    .is_some_and(|state| state.refusal.is_none() && state.waiting_since.is_none()),
            }
        });
        let model = Model::of(Parts {
            members: members.collect(),
            services: world.destinations.keys().map(ToString::to_string).collect(),
            ever: &self.traffic.edges(),
            picture: Picture::of(&flows.flows),
            alarms: &alarms,
        });
        let span = graph::Span { span_ms: flows.to_ms.saturating_sub(flows.from_ms), gaps: flows.gaps };
        Ok((model, span))
    }
}
