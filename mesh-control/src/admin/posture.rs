//! Gathers what `posture` judges.

use super::{Control, ms};
use crate::clock;
use crate::index::World;
use crate::ledger::{RETAIN_MS, history};
use crate::posture::{self, Certificate, Facts, InForce};
use mesh_proto::config::MtlsMode;
use mesh_proto::identity::SpiffeId;
use mesh_proto::policy::model::{Policy, PolicyName};
use mesh_proto::resource::{Kind, Resource, ResourceKey, service::Backing};
use mesh_proto::wire::v1;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tonic::Status;

impl Control {
    /// What deviates from strict mTLS and default deny. Waits for the disk.
    pub(super) fn posture(&self) -> Result<v1::PostureResponse, Status> {
        let now_ms = clock::unix_ms(clock::wall());
        let sum = self.ledger.sum(now_ms.saturating_sub(RETAIN_MS), now_ms, now_ms);
        let sum =
            sum.map_err(|error| Status::internal(format!("the flow ledger cannot be read: {error}")))?;
        let history::Sum { span, rows, gaps, .. } = sum;
        let watched_ms = span.map_or(0, |(from, _)| now_ms.saturating_sub(from));
        let world = self.mesh.world();
        let config = world.catalog.mesh_config();
        let facts = Facts {
            now_ms,
            watched_ms,
            permissive_until: match config.mtls {
                MtlsMode::Permissive { until } => Some(until),
                MtlsMode::Strict => None,
            },
            default_allow: config.default_allow,
            policies: self.policies(&world),
            unmeshed_services: unmeshed_services(&world),
            unmeshed_pods: world.platform.iter().flat_map(|platform| platform.unmeshed.clone()).collect(),
            certificates: self.certificates(&world),
            flows: rows.iter().map(|(key, counts)| key.to_wire(counts)).collect(),
        };
        Ok(v1::PostureResponse { findings: posture::findings(&facts), watched_ms, gaps })
    }

    /// All access policies, with roles and segments expanded, and whom they are about.
    fn policies(&self, world: &World) -> Vec<InForce> {
        let view = self.store.read();
        let mut targets: BTreeMap<PolicyName, BTreeSet<SpiffeId>> = BTreeMap::new();
        for target in world.targets() {
            for policy in world.catalog.policy_inputs(&target, &[]).policies {
                targets.entry(policy.name.clone()).or_default().insert(target.identity.clone());
            }
        }
        let in_force = |policy: Arc<Policy>| {
            let PolicyName { namespace, name } = policy.name.clone();
            let stored = view.resource(&ResourceKey { kind: Kind::AccessPolicy, namespace, name });
            // What is not known is taken for new, so that nothing is called unused for longer than it has been there.
            let changed = stored.and_then(|stored| view.change_set(stored.revision).ok());
            let changed_ms = changed.map_or(u64::MAX, |revision| revision.time_ms);
            let targets = targets.remove(&policy.name).unwrap_or_default();
            InForce { policy, targets, changed_ms }
        };
        world.catalog.policies(&world.trust_domain).into_iter().map(in_force).collect()
    }

    /// Those of connected workloads and of the authority.
    fn certificates(&self, world: &World) -> Vec<Certificate> {
        let fleet = self.mesh.fleet.all();
        let workload = |key: &crate::local::registry::WorkloadKey| {
            let record = self.authority.newest(key)?;
            let member = world.members.get(key);
            Some(Certificate {
                holder: key.instance.to_string(),
                namespace: member.map(|member| member.registered.namespace.to_string()).unwrap_or_default(),
                not_before_ms: ms(record.not_before),
                not_after_ms: ms(record.not_after),
                command: format!("meshctl identity {}   # then its proxy's log", key.instance),
            })
        };
        let mut all: Vec<Certificate> = fleet.keys().filter_map(workload).collect();
        let status = self.authority_status();
        let authority = status.roots.into_iter().map(|root| ("root", "meshctl ca rotate", root));
        let issuing = status.issuing.map(|issuing| ("issuing", "meshctl ca rotate --intermediate", issuing));
        all.extend(authority.chain(issuing).map(|(what, command, certificate)| Certificate {
            holder: format!("authority/{what} {}", certificate.serial),
            namespace: String::new(),
            not_before_ms: certificate.not_before_ms,
            not_after_ms: certificate.not_after_ms,
            command: command.to_owned(),
        }));
        all
    }
}

fn unmeshed_services(world: &World) -> Vec<String> {
    let services = world.catalog.of_kind(Kind::Service).filter_map(|resource| match &**resource {
        Resource::Service(service) => Some(service),
        _ => None,
    });
    let is_open = |backing: &Backing| match backing {
        Backing::Endpoints(endpoints) => endpoints.iter().any(|endpoint| endpoint.identity.is_none()),
        Backing::Workload(_) | Backing::Labels(_) => false,
    };
    services
        .filter(|service| is_open(&service.backing))
        .map(|service| service.service_ref().to_string())
        .collect()
}
