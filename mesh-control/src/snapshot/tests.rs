use super::*;
use crate::index::{Parts, Platform, PlatformWorkload, Trust, World};
use crate::local::registry::{Claims, InboundPort, Registered, WorkloadKey};
use mesh_proto::config::{Bundle, Destination, DestinationPort, Endpoint, EndpointState, Revision};
use mesh_proto::identity::SpiffeId;
use mesh_proto::name::{Port, ServiceRef};
use mesh_proto::resource::{Catalog, SourceDocument, parse};
use std::collections::BTreeMap;
use std::sync::Arc;

fn registered(name: &str) -> Registered {
    let id: SpiffeId = format!("spiffe://mesh.local/ns/default/sa/{name}").parse().unwrap();
    Registered {
        namespace: id.workload().unwrap().0,
        key: WorkloadKey { id, instance: format!("{name}-1").parse().unwrap() },
        workload: name.parse().unwrap(),
        address: "127.0.0.1:4000".parse().unwrap(),
        ports: vec![InboundPort { port: Port::new(8080).unwrap(), protocol: None, name: None }],
        labels: BTreeMap::new(),
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
            platform: None,
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
    let services = ["default/store".parse().unwrap(), "default/nowhere".parse().unwrap()].into();
    let subscriptions = Subscriptions { services, ..Subscriptions::default() };
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
    assert!(
        wanted(&world(&[], None), &stranger, &Subscriptions::default(), &mut Inbound::default()).is_none()
    );
}

#[test]
fn the_kept_part_follows_the_resources() {
    let key = registered("payments").key;
    let mut kept = Inbound::default();
    let old = world(&[("payments", "web")], None);
    let before = wanted(&old, &key, &Subscriptions::default(), &mut kept).unwrap();
    let new = world(&[("payments", "store")], Some(&old));
    let after = wanted(&new, &key, &Subscriptions::default(), &mut kept).unwrap();
    let fresh = wanted(&new, &key, &Subscriptions::default(), &mut Inbound::default()).unwrap();
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
        let wanted = wanted(&world, &key, &Subscriptions::default(), &mut Inbound::new(understood)).unwrap();
        wanted.items.to_snapshot(Revision(1)).unwrap().workload
    };
    let services = told(Understood { workload: true }).unwrap().services.clone();
    assert_eq!(services, ["default/shop".parse().unwrap()]);
    assert!(told(Understood::default()).is_none(), "one of the release before would refuse it all");
}

/// A world whose platform knows the service `shop/pay` at 10.96.0.7 with one pod, 10.244.0.9.
fn on_platform() -> World {
    let service: ServiceRef = "shop/pay".parse().unwrap();
    let id: SpiffeId = "spiffe://mesh.local/ns/shop/sa/pay".parse().unwrap();
    let endpoint = Endpoint {
        address: "10.244.0.9:15008".parse().unwrap(),
        identity: Some(id.clone()),
        instance: "pay-abc".parse().unwrap(),
        state: EndpointState::Ready,
        ports: BTreeMap::new(),
    };
    let port = |number| Port::new(number).unwrap();
    let ports = vec![DestinationPort { port: port(80), name: None, protocol: None, target_port: port(8080) }];
    let destination = Destination { service: service.clone(), ports, endpoints: vec![endpoint.clone()] };
    let owned = |ip: &str, owner| {
        let address: IpAddr = ip.parse().unwrap();
        (address, Item::new(Part::Address(Arc::new(AddressOwner { address, owner }))))
    };
    let workload = PlatformWorkload {
        workload: "pay".parse().unwrap(),
        address: "10.244.0.9:15008".parse().unwrap(),
        labels: [("app".to_owned(), "pay".to_owned())].into(),
        services: vec![service.clone()],
    };
    let key = WorkloadKey { id, instance: endpoint.instance.clone() };
    let platform = Platform {
        destinations: [(service.clone(), Item::new(Part::Destination(Arc::new(destination))))].into(),
        addresses: [
            owned("10.96.0.7", Owner::Service(service.clone())),
            owned("10.244.0.9", Owner::Workload { workload: service, endpoint }),
        ]
        .into(),
        workloads: [(key.clone(), workload)].into(),
        unmeshed: Vec::new(),
    };
    let mut world = world(&[], None);
    let mut pod = registered("web");
    pod.key = key.clone();
    pod.claims = Claims::Unproven;
    let mut workloads: BTreeMap<_, _> = world
        .members
        .values()
        .map(|member| (member.registered.key.clone(), member.registered.clone()))
        .collect();
    workloads.insert(key, Arc::new(pod));
    let parts = Parts {
        trust_domain: world.trust_domain.clone(),
        revision: 1,
        catalog: world.catalog.clone(),
        workloads,
        trust: world.trust.clone(),
        trust_generation: 0,
        platform: Some(Arc::new(platform)),
    };
    world = World::build(parts, Some(&world));
    world
}

#[test]
fn an_address_is_answered_with_its_owner_and_the_service_behind_it() {
    let world = on_platform();
    let key = registered("web").key;
    let of = |addresses: &[&str]| {
        let addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
        let subscriptions = Subscriptions { addresses, ..Subscriptions::default() };
        let wanted = wanted(&world, &key, &subscriptions, &mut Inbound::default()).unwrap();
        let snapshot = wanted.items.to_snapshot(Revision(1)).unwrap();
        (snapshot.addresses, snapshot.destinations.into_keys().collect::<Vec<_>>())
    };
    let (owners, destinations) = of(&["10.96.0.7"]);
    assert!(
        matches!(&owners.values().next().unwrap().owner, Owner::Service(name) if name.to_string() == "shop/pay")
    );
    assert_eq!(destinations, ["shop/pay".parse().unwrap()]);
    let (owners, destinations) = of(&["10.244.0.9", "192.0.2.1"]);
    let shown: Vec<_> = owners.values().map(|owner| matches!(owner.owner, Owner::Outside)).collect();
    assert_eq!(shown, [false, true]);
    assert!(destinations.is_empty());
}

#[test]
fn what_the_platform_says_of_a_workload_counts_and_what_it_says_itself_does_not() {
    let world = on_platform();
    let member =
        world.members.values().find(|member| member.registered.key.instance.as_str() == "pay-abc").unwrap();
    assert_eq!((member.registered.workload.as_str(), &member.warning), ("pay", &None));
    assert_eq!(member.services, ["shop/pay".parse().unwrap()]);
    assert_eq!(member.labels.get("app").map(String::as_str), Some("pay"));
    let destination = world.destination(&"shop/pay".parse().unwrap()).unwrap();
    assert_eq!(destination.endpoints.len(), 1, "the registration adds no second endpoint");
}

#[test]
fn without_a_platform_addresses_are_not_answered() {
    let world = world(&[], None);
    let subscriptions =
        Subscriptions { addresses: ["10.96.0.7".parse().unwrap()].into(), ..Subscriptions::default() };
    let wanted = wanted(&world, &registered("web").key, &subscriptions, &mut Inbound::default()).unwrap();
    assert!(wanted.items.to_snapshot(Revision(1)).unwrap().addresses.is_empty());
}
