use super::*;
use crate::local::registry::InboundPort;
use mesh_proto::resource::{SourceDocument, parse};

fn registered(account: &str, workload: &str, claims: Claims) -> Registered {
    let id: SpiffeId = format!("spiffe://mesh.local/ns/shop/sa/{account}").parse().unwrap();
    Registered {
        namespace: id.workload().unwrap().0,
        key: WorkloadKey { id, instance: format!("{workload}-1").parse().unwrap() },
        workload: workload.parse().unwrap(),
        address: "127.0.0.1:4000".parse().unwrap(),
        ports: vec![InboundPort { port: Port::new(8080).unwrap(), protocol: None, name: None }],
        labels: [("app".to_owned(), "pay".to_owned())].into(),
        version: String::new(),
        claims,
        draining: false,
    }
}

fn catalog(documents: &[&str]) -> Arc<Catalog> {
    let read = documents.iter().map(|yaml| {
        let yaml = format!("apiVersion: meshctl.io/v1alpha1\n{yaml}");
        parse(&SourceDocument { file: "t".into(), line: 1, yaml })
            .unwrap_or_else(|problems| panic!("{problems:?}"))
    });
    Arc::new(Catalog::from_resources(read))
}

fn world(documents: &[&str], workloads: Vec<Registered>, previous: Option<&World>) -> World {
    let trust_domain: TrustDomain = "mesh.local".parse().unwrap();
    let bundle = Bundle { trust_domain: trust_domain.clone(), roots: vec![vec![1]], sequence: 4 };
    let parts = Parts {
        trust_domain,
        revision: 1,
        catalog: catalog(documents),
        workloads: workloads.into_iter().map(|w| (w.key.clone(), Arc::new(w))).collect(),
        trust: Arc::new(Trust { bundles: vec![bundle], ..Trust::default() }),
        trust_generation: 0,
        platform: None,
    };
    World::build(parts, previous)
}

/// The services of a mesh with their endpoints: `shop/web=web-1,web-2`.
fn check(documents: &[&str], workloads: Vec<Registered>, expected: &[&str]) -> World {
    let world = world(documents, workloads, None);
    let shown: Vec<String> = world
        .destinations
        .keys()
        .map(|service| {
            let destination = world.destination(service).unwrap();
            let instances: Vec<_> = destination.endpoints.iter().map(|e| e.instance.to_string()).collect();
            format!("{service}={}", instances.join(","))
        })
        .collect();
    assert_eq!(shown, expected, "{documents:?}");
    world
}

const SERVICE: &str = "kind: Service\nmetadata: {name: payments, namespace: shop}\nspec: {ports: [{port: 80, \
                       targetPort: 8080}], selector: {labels: {app: pay}}}\n";
const WORKLOAD: &str = "kind: Workload\nmetadata: {name: till, namespace: shop}\nspec: {serviceAccount: web, labels: \
                        {app: pay}}\n";

#[test]
fn a_name_is_answered_for_by_its_account_alone_unless_somebody_vouches() {
    use Claims::{Unproven, Vouched};
    check(&[], vec![registered("web", "web", Unproven)], &["shop/web=web-1"]);
    check(&[], vec![registered("web", "payments", Vouched)], &["shop/payments=payments-1"]);
    let world = check(&[], vec![registered("web", "payments", Unproven)], &[]);
    let member = world.members.values().next().unwrap();
    assert!(member.warning.as_ref().unwrap().contains("serviceAccount: web"), "{member:?}");
    check(&[WORKLOAD], vec![registered("web", "till", Unproven)], &["shop/till=till-1"]);
    check(&[WORKLOAD], vec![registered("intruder", "till", Unproven)], &[]);
}

#[test]
fn labels_count_when_vouched_for_or_when_a_resource_gives_them() {
    use Claims::{Unproven, Vouched};
    check(&[SERVICE], vec![registered("web", "web", Vouched)], &["shop/payments=web-1"]);
    let world =
        check(&[SERVICE], vec![registered("web", "web", Unproven)], &["shop/payments=", "shop/web=web-1"]);
    let member = world.members.values().next().unwrap();
    assert!(member.warning.as_ref().unwrap().contains("labels"), "{member:?}");
    check(&[SERVICE, WORKLOAD], vec![registered("web", "till", Unproven)], &["shop/payments=till-1"]);
}

#[test]
fn a_service_has_the_ports_of_its_resource_or_else_of_its_workloads() {
    let of = |world: &World| {
        let destination =
            world.destinations.keys().next().and_then(|service| world.destination(service)).unwrap();
        (destination.ports[0].port.number(), destination.ports[0].target_port.number())
    };
    let workload = || vec![registered("web", "web", Claims::Vouched)];
    assert_eq!(of(&world(&[SERVICE], workload(), None)), (80, 8080));
    assert_eq!(of(&world(&[], workload(), None)), (8080, 8080));
    let mut caller = registered("web", "web", Claims::Vouched);
    caller.ports.clear();
    check(&[], vec![caller], &[]);
}

#[test]
fn what_is_equal_in_two_worlds_is_the_same_memory() {
    let both = || vec![registered("web", "web", Claims::Vouched), registered("pay", "pay", Claims::Vouched)];
    let old = world(&[], both(), None);
    let mut changed = both();
    changed[1].draining = true;
    let new = world(&[], changed, Some(&old));
    let service = |name: &str| format!("shop/{name}").parse().unwrap();
    let same = |name| {
        Arc::ptr_eq(old.destination(&service(name)).unwrap(), new.destination(&service(name)).unwrap())
    };
    assert!(same("web") && !same("pay"));
    assert!(Arc::ptr_eq(&old.common, &new.common));
    assert!(Arc::ptr_eq(&old.members[&both()[0].key], &new.members[&both()[0].key]));
}

#[test]
fn a_workload_resource_names_its_user() {
    let known =
        "kind: Workload\nmetadata: {name: till, namespace: shop}\nspec: {attestation: {unix: {uid: 4242}}}\n";
    let world = world(&[known], Vec::new(), None);
    let owner = |id: &str| world.named_owner(&id.parse().unwrap());
    assert_eq!(owner("spiffe://mesh.local/ns/shop/sa/till"), Some(4242));
    assert_eq!(owner("spiffe://mesh.local/ns/shop/sa/web"), None);
    assert_eq!(owner("spiffe://mesh.local/ns/default/sa/till"), None);
}

#[test]
fn a_revoked_identity_answers_for_nothing_although_its_stream_is_still_there() {
    let members =
        || vec![registered("web", "web", Claims::Unproven), registered("pay", "pay", Claims::Unproven)];
    let before = check(&[], members(), &["shop/pay=pay-1", "shop/web=web-1"]);
    let trust = Trust {
        revocations: Revocations { serials: Vec::new(), identities: vec![members()[0].key.id.clone()] },
        ..(*before.trust).clone()
    };
    let parts = Parts {
        trust_domain: before.trust_domain.clone(),
        revision: 1,
        catalog: before.catalog.clone(),
        workloads: members().into_iter().map(|w| (w.key.clone(), Arc::new(w))).collect(),
        trust: Arc::new(trust),
        trust_generation: 1,
        platform: None,
    };
    let after = World::build(parts, Some(&before));
    assert_eq!(after.destinations.keys().map(ToString::to_string).collect::<Vec<_>>(), ["shop/pay"]);
    assert_eq!(after.members.len(), 2);
}
