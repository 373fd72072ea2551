//! What one side says is what the other side understands: messages and items there and back, and refusals of what means
//! nothing.

use crate::arbitrary::{
    identity_pattern, mode, name, operation, policy_name, port, rate_limit, service_ref, spiffe_id, time,
    trust_domain,
};
use mesh_proto::config::{
    AddressOwner, Bundle, Destination, DestinationPort, Endpoint, EndpointState, MeshSettings, MtlsMode,
    OwnWorkload, Owner, Revision, Revocations, Tracing,
};
use mesh_proto::name::ServiceRef;
use mesh_proto::policy::model::{Action, GroupKind, Isolation, Policy, Protocol, Rule, Scope, Source};
use mesh_proto::wire::item::{Item, ItemKey, Items, Part};
use mesh_proto::wire::v1;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use std::sync::Arc;

fn source() -> impl Strategy<Value = Source> {
    let group =
        (select(&[GroupKind::Segment, GroupKind::Role][..]), "[a-z]{1,5}", vec(identity_pattern(), 0..3));
    prop_oneof![
        identity_pattern().prop_map(Source::Identity),
        group.prop_map(|(kind, name, members)| Source::Group { kind, name: name.into(), members }),
        (spiffe_id(), name()).prop_map(|(id, instance)| Source::Instance { id, instance }),
        Just(Source::Unmeshed("10.0.0.0/8".parse().unwrap())),
        Just(Source::AnyMeshed),
        Just(Source::Anyone),
    ]
}

fn policy() -> impl Strategy<Value = Policy> {
    let rule = (
        ("[a-z ]{1,9}", any::<u32>(), select(&[Action::Allow, Action::Deny][..])),
        vec(source(), 1..3),
        vec(source(), 0..3),
        vec(operation(), 0..3),
        option::of(time()),
    );
    let rule = rule.prop_map(|((name, line, action), from, except, to, valid_until)| Rule {
        name: name.into(),
        line,
        action,
        from,
        except,
        to,
        valid_until,
    });
    let scope = select(&[Scope::Guardrail, Scope::Ordinary][..]);
    (policy_name(), scope, mode(), vec(rule, 0..4), "[a-z./]{0,9}")
        .prop_map(|(name, scope, mode, rules, file)| Policy { name, scope, mode, rules, file: file.into() })
}

fn mesh() -> impl Strategy<Value = MeshSettings> {
    let mtls = prop_oneof![Just(MtlsMode::Strict), time().prop_map(|until| MtlsMode::Permissive { until })];
    let tracing = ("http://[a-z.]{1,9}:[1-9]", option::of("[A-Z]{1,9}"), 0_u32..=10_000)
        .prop_map(|(endpoint, ca, sampling)| Arc::new(Tracing { endpoint, ca, sampling }));
    (trust_domain(), mtls, any::<bool>(), 0_u32..=10_000, option::of(tracing), any::<u64>()).prop_map(
        |(trust_domain, mtls, default_allow, access_log_sample, tracing, reissue_epoch)| MeshSettings {
            trust_domain,
            mtls,
            default_allow,
            access_log_sample,
            tracing,
            reissue_epoch,
        },
    )
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    let address = select(&["127.0.0.1:1", "[fd00::1]:65535"][..]);
    let state = select(&[EndpointState::Ready, EndpointState::Draining][..]);
    let ports = proptest::collection::btree_map(port(), port(), 0..3);
    (address, option::of(spiffe_id()), name(), state, ports).prop_map(
        |(address, identity, instance, state, ports)| Endpoint {
            address: address.parse().unwrap(),
            identity,
            instance,
            state,
            ports,
        },
    )
}

fn destination() -> impl Strategy<Value = Destination> {
    let protocol =
        select(&[Protocol::Http1, Protocol::Http2, Protocol::Grpc, Protocol::Tls, Protocol::Tcp][..]);
    let port = (port(), option::of(name()), option::of(protocol), port()).prop_map(
        |(port, name, protocol, target_port)| DestinationPort { port, name, protocol, target_port },
    );
    (service_ref(), vec(port, 1..3), vec(endpoint(), 0..3))
        .prop_map(|(service, ports, endpoints)| Destination { service, ports, endpoints })
}

fn revocations() -> impl Strategy<Value = Revocations> {
    let serials = proptest::collection::btree_set(vec(any::<u8>(), 1..20), 0..4);
    let identities = proptest::collection::btree_set(spiffe_id(), 0..4);
    (serials, identities).prop_map(|(serials, identities)| Revocations {
        serials: serials.into_iter().collect(),
        identities: identities.into_iter().collect(),
    })
}

fn isolation() -> impl Strategy<Value = Isolation> {
    let group = ("[a-z]{1,5}", vec(identity_pattern(), 0..3)).prop_map(|(name, ids)| (Arc::from(name), ids));
    ("[a-z]{1,5}", vec(group, 0..3), "[a-z]{0,5}", any::<u32>()).prop_map(|(segment, accepts, file, line)| {
        Isolation { segment: segment.into(), accepts, file: file.into(), line }
    })
}

fn bundle() -> impl Strategy<Value = Bundle> {
    (trust_domain(), vec(vec(any::<u8>(), 0..9), 1..3), any::<u64>())
        .prop_map(|(trust_domain, roots, sequence)| Bundle { trust_domain, roots, sequence })
}

fn own_workload(mut services: Vec<ServiceRef>) -> Part {
    services.sort();
    services.dedup();
    Part::Workload(Arc::new(OwnWorkload { services }))
}

fn address_owner() -> impl Strategy<Value = AddressOwner> {
    let meshed = endpoint().prop_filter("the meshed have one", |endpoint| endpoint.identity.is_some());
    let owner = prop_oneof![
        service_ref().prop_map(Owner::Service),
        (service_ref(), meshed).prop_map(|(workload, endpoint)| Owner::Workload { workload, endpoint }),
        Just(Owner::Outside),
    ];
    (any::<std::net::IpAddr>(), owner)
        .prop_map(|(address, owner)| AddressOwner { address: address.to_canonical(), owner })
}

fn part() -> impl Strategy<Value = Part> {
    prop_oneof![
        mesh().prop_map(|part| Part::Mesh(Arc::new(part))),
        bundle().prop_map(|part| Part::Bundle(Arc::new(part))),
        revocations().prop_map(|part| Part::Revocations(Arc::new(part))),
        isolation().prop_map(|part| Part::Isolation(Arc::new(part))),
        policy().prop_map(|part| Part::Policy(Arc::new(part))),
        rate_limit().prop_map(|part| Part::Limit(Arc::new(part))),
        destination().prop_map(|part| Part::Destination(Arc::new(part))),
        vec(service_ref(), 0..3).prop_map(own_workload),
        address_owner().prop_map(|part| Part::Address(Arc::new(part))),
    ]
}

fn items() -> impl Strategy<Value = Items> {
    vec(part(), 0..8).prop_map(|parts| parts.into_iter().map(Item::new).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn an_item_says_the_same_on_both_sides(part in part()) {
        let sent = Item::new(part.clone());
        let update = [sent].into_iter().collect::<Items>().full(Revision(1));
        let received = Item::decode(update.items[0].clone()).unwrap();
        prop_assert_eq!(received.part(), &part);
        prop_assert_eq!(received.key().parse::<ItemKey>().unwrap(), part.key());
    }

    #[test]
    fn a_difference_turns_the_old_into_the_new(old in items(), new in items()) {
        let update = Items::diff(&old, &new, Revision(7));
        let applied = old.apply(update).unwrap();
        prop_assert!(applied.same_as(&new));
        prop_assert_eq!(applied.digest(), new.digest());
        prop_assert!(old.apply(new.full(Revision(7))).unwrap().same_as(&new));
        let nothing = Items::diff(&new, &new, Revision(8));
        prop_assert!(nothing.items.is_empty() && nothing.removed.is_empty());
    }

    #[test]
    fn no_bytes_break_the_decoder(body in vec(any::<u8>(), 0..200), key in select(&["mesh", "isolation", "policy/-/a"][..])) {
        let _ = Item::decode(v1::Item { key: key.to_owned(), body: body.into() });
    }
}

fn settings(domain: &str) -> Part {
    Part::Mesh(Arc::new(MeshSettings {
        trust_domain: domain.parse().unwrap(),
        mtls: MtlsMode::Strict,
        default_allow: true,
        access_log_sample: 1,
        tracing: None,
        reissue_epoch: 0,
    }))
}

fn roots(domain: &str) -> Part {
    Part::Bundle(Arc::new(Bundle {
        trust_domain: domain.parse().unwrap(),
        roots: vec![vec![1]],
        sequence: 1,
    }))
}

#[test]
fn a_snapshot_needs_settings_and_the_roots_of_its_own_domain() {
    let of = |parts: Vec<Part>| parts.into_iter().map(Item::new).collect::<Items>().to_snapshot(Revision(3));
    assert_eq!(of(vec![roots("a")]).unwrap_err().field, "mesh");
    assert_eq!(of(vec![settings("a"), roots("b")]).unwrap_err().field, "bundle/a");
    let revoked = Revocations { serials: vec![], identities: vec!["spiffe://a/x".parse().unwrap()] };
    let own = own_workload(vec!["shop/web".parse().unwrap()]);
    let parts = vec![settings("a"), roots("a"), roots("b"), Part::Revocations(Arc::new(revoked)), own];
    let snapshot = of(parts).unwrap();
    assert_eq!(snapshot.workload.unwrap().services.len(), 1);
    assert!(of(vec![settings("a"), roots("a")]).unwrap().workload.is_none(), "not every control plane tells");
    assert_eq!(snapshot.revision, Revision(3));
    assert_eq!(snapshot.bundles.len(), 2);
    assert_eq!(snapshot.policy.quarantined.len(), 1, "revoked identities are quarantined");
    assert!(snapshot.policy.default_allow);
}

/// Makes a message mean nothing.
type Damage<M> = fn(&mut M);

#[test]
fn a_refused_update_names_its_field_and_changes_nothing() {
    let held: Items = [Item::new(settings("a"))].into_iter().collect();
    let good =
        Items::diff(&held, &[settings("a"), roots("a")].map(Item::new).into_iter().collect(), Revision(2));
    let cases: [(&str, Damage<v1::Update>); 5] = [
        ("digest", |update| update.digest[0] ^= 1),
        ("removed", |update| update.removed.push("isolation".to_owned())),
        ("bundle/b", |update| update.items[0].key = "bundle/b".to_owned()),
        ("key \"mesg\"", |update| update.items[0].key = "mesg".to_owned()),
        ("bundle/a.body", |update| update.items[0].body = vec![0xff; 9].into()),
    ];
    for (field, damage) in cases {
        let mut update = good.clone();
        damage(&mut update);
        assert_eq!(held.apply(update).unwrap_err().field, field);
        assert_eq!(held.len(), 1);
    }
    assert_eq!(held.apply(good).unwrap().len(), 2);
}

/// A condition that a newer release knows and this one does not must not vanish from a rule.
#[test]
fn what_is_not_known_is_refused_rather_than_skipped() {
    let rule = v1::Rule {
        from: vec![v1::Source { kind: Some(v1::source::Kind::AnyMeshed(true)) }],
        conditions: 1,
        ..v1::Rule::default()
    };
    let policy = v1::Policy { name: "a".to_owned(), rules: vec![rule], ..v1::Policy::default() };
    let cases: [(&str, Damage<v1::Rule>); 7] = [
        ("rules[0].conditions", |rule| rule.conditions = 2),
        ("rules[0].to[0].conditions", |rule| {
            rule.to = vec![v1::Operation { conditions: 1, ..v1::Operation::default() }];
            rule.conditions = 2;
        }),
        ("rules[0].action", |rule| rule.action = 7),
        ("rules[0].from[0].kind", |rule| rule.from[0].kind = None),
        ("rules[0].from", |rule| rule.from.clear()),
        ("rules[0].to[0].protocols[0]", |rule| {
            rule.to = vec![v1::Operation { protocols: vec!["quic".to_owned()], ..v1::Operation::default() }];
            rule.conditions = 2;
        }),
        ("rules[0].to[0].headers[0].test", |rule| {
            let header = v1::HeaderCondition { name: "x".to_owned(), test: None };
            rule.to = vec![v1::Operation { headers: vec![header], ..v1::Operation::default() }];
            rule.conditions = 2;
        }),
    ];
    assert!(Policy::try_from(policy.clone()).is_ok());
    for (field, damage) in cases {
        let mut policy = policy.clone();
        damage(&mut policy.rules[0]);
        assert_eq!(Policy::try_from(policy).unwrap_err().field, field);
    }
}
