use super::*;
use crate::index::{Parts, Trust, World};
use crate::local::registry::{Claims, InboundPort, Registered, WorkloadKey};
use mesh_proto::config::{Bundle, Revision};
use mesh_proto::identity::SpiffeId;
use mesh_proto::name::Port;
use mesh_proto::resource::{Catalog, SourceDocument, parse};
use std::sync::Arc;

fn registered(name: &str) -> Registered {
    let id: SpiffeId = format!("spiffe://mesh.local/ns/default/sa/{name}").parse().unwrap();
    Registered {
        namespace: id.workload().unwrap().0,
        key: WorkloadKey { id, instance: format!("{name}-1").parse().unwrap() },
        workload: name.parse().unwrap(),
        address: "127.0.0.1:4000".parse().unwrap(),
        ports: vec![InboundPort { port: Port::new(8080).unwrap(), protocol: None, name: None }],
        labels: std::collections::BTreeMap::new(),
        version: String::new(),
        claims: Claims::Vouched,
        draining: false,
    }
}

fn world(callers: &[(&str, &str)], previous: Option<&World>) -> World {
    world_with(callers, &[], previous)
}

fn world_with(callers: &[(&str, &str)], others: &[&str], previous: Option<&World>) -> World {
    let policy = |(to, from): &(&str, &str)| {
        let yaml = format!(
            "apiVersion: meshctl.io/v1alpha1\nkind: AccessPolicy\nmetadata: {{name: {to}}}\nspec:\n  target: {{service: {to}}}\n  \
             rules: [{{from: [{{serviceAccount: {from}}}]}}]\n"
        );
        resource(yaml)
    };
    let others = others.iter().map(|yaml| resource((*yaml).to_owned()));
    let trust_domain: mesh_proto::identity::TrustDomain = "mesh.local".parse().unwrap();
    let bundle = Bundle { trust_domain: trust_domain.clone(), roots: vec![vec![1]], sequence: 4 };
    let workloads = ["web", "payments", "store"].map(registered);
    World::build(
        Parts {
            trust_domain,
            revision: 1,
            catalog: Arc::new(Catalog::from_resources(callers.iter().map(policy).chain(others))),
            workloads: workloads.into_iter().map(|w| (w.key.clone(), Arc::new(w))).collect(),
            trust: Arc::new(Trust { bundles: vec![bundle], ..Trust::default() }),
            trust_generation: 0,
        },
        previous,
    )
}

fn resource(yaml: String) -> mesh_proto::resource::Resource {
    parse(&SourceDocument { file: "t".into(), line: 1, yaml }).unwrap()
}

fn keys(wanted: &Wanted) -> Vec<&str> {
    wanted.items.iter().map(Item::key).collect()
}

#[test]
fn a_proxy_sees_its_own_policy_and_what_it_calls_and_no_more() {
    let world = world(&[("payments", "web"), ("store", "payments")], None);
    let subscriptions = ["default/store".parse().unwrap(), "default/nowhere".parse().unwrap()].into();
    let key = registered("payments").key;
    let wanted = wanted(&world, &key, &subscriptions, &mut Inbound::default()).unwrap();
    let expected =
        ["bundle/mesh.local", "destination/default/store", "mesh", "policy/default/payments", "revocations"];
    assert_eq!(keys(&wanted), expected);
    assert_eq!(wanted.bundle_sequence, 4);
    assert!(wanted.items.to_snapshot(Revision(1)).is_ok());
}

#[test]
fn one_who_is_not_registered_gets_nothing() {
    let stranger = registered("stranger").key;
    assert!(wanted(&world(&[], None), &stranger, &BTreeSet::new(), &mut Inbound::default()).is_none());
}

#[test]
fn the_kept_part_follows_the_resources() {
    let key = registered("payments").key;
    let mut kept = Inbound::default();
    let old = world(&[("payments", "web")], None);
    let before = wanted(&old, &key, &BTreeSet::new(), &mut kept).unwrap();
    let new = world(&[("payments", "store")], Some(&old));
    let after = wanted(&new, &key, &BTreeSet::new(), &mut kept).unwrap();
    let fresh = wanted(&new, &key, &BTreeSet::new(), &mut Inbound::default()).unwrap();
    assert!(!before.items.same_as(&after.items));
    assert!(after.items.same_as(&fresh.items));
}

#[test]
fn a_proxy_that_can_read_it_is_told_which_services_its_workload_answers_for() {
    let service = "apiVersion: meshctl.io/v1alpha1\nkind: Service\nmetadata: {name: shop}\nspec: {ports: [{port: 80, \
                   targetPort: 8080}], selector: {workload: store}}\n";
    let world = world_with(&[], &[service], None);
    let key = registered("store").key;
    let told = |understood| {
        let wanted = wanted(&world, &key, &BTreeSet::new(), &mut Inbound::new(understood)).unwrap();
        wanted.items.to_snapshot(Revision(1)).unwrap().workload
    };
    let services = told(Understood { workload: true }).unwrap().services.clone();
    assert_eq!(services, ["default/shop".parse().unwrap()]);
    assert!(told(Understood::default()).is_none(), "one of the release before would refuse it all");
}
