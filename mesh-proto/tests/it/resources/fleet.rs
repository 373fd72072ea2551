//! Running workloads for tests: one instance of each, in the namespace `shop`.

use mesh_proto::identity::SpiffeId;
use mesh_proto::name::{InstanceName, Namespace, ObjectName, ServiceRef};
use mesh_proto::resource::meta::Labels;
use mesh_proto::resource::{Catalog, Kind, Resource, Target};

pub(super) struct Fleet(Vec<Member>);

struct Member {
    identity: SpiffeId,
    namespace: Namespace,
    workload: ObjectName,
    services: Vec<ServiceRef>,
    labels: Labels,
    instance: InstanceName,
}

impl Fleet {
    /// One instance of each workload, which answers for the services of the catalog that select it.
    pub(super) fn of(catalog: &Catalog, workloads: &[&str]) -> Self {
        let member = |name: &&str| {
            let namespace: Namespace = "shop".parse().unwrap();
            let workload: ObjectName = name.parse().unwrap();
            let labels = Labels::from([("app".to_owned(), (*name).to_owned())]);
            let services = catalog.of_kind(Kind::Service).filter_map(|resource| match &**resource {
                Resource::Service(service) if service.is_backed_by(&namespace, &workload, &labels) => {
                    Some(service.service_ref())
                }
                _ => None,
            });
            Member {
                identity: format!("spiffe://mesh.local/ns/shop/sa/{name}").parse().unwrap(),
                services: services.collect(),
                instance: format!("{name}-1").parse().unwrap(),
                namespace,
                workload,
                labels,
            }
        };
        Self(workloads.iter().map(member).collect())
    }

    pub(super) fn targets(&self) -> Vec<Target<'_>> {
        self.0.iter().map(Member::target).collect()
    }

    pub(super) fn target(&self, workload: &str) -> Target<'_> {
        self.0.iter().find(|member| member.workload.as_str() == workload).unwrap().target()
    }
}

impl Member {
    fn target(&self) -> Target<'_> {
        Target {
            identity: &self.identity,
            namespace: &self.namespace,
            workload: &self.workload,
            services: &self.services,
            labels: &self.labels,
            instance: &self.instance,
        }
    }
}
