//! Writing is the inverse of reading, for every object there can be.

use crate::arbitrary::{
    identity_pattern, mode, name, operation, port, rate_limit, service_ref, spiffe_id, time, trust_domain,
};
use mesh_proto::config::{MtlsMode, Tracing};
use mesh_proto::name::{Namespace, ServiceRef};
use mesh_proto::policy::model::{Action, PolicyName, Protocol, Scope};
use mesh_proto::resource::access_policy::{AccessPolicy, AccessRule};
use mesh_proto::resource::mesh_config::MeshConfig;
use mesh_proto::resource::meta::{Labels, Meta, Origin};
use mesh_proto::resource::rate_limit::RateLimit;
use mesh_proto::resource::role::{AdminRole, Grants, Holder, Role, RoleBinding};
use mesh_proto::resource::segment::Segment;
use mesh_proto::resource::selector::Selector;
use mesh_proto::resource::service::{Backing, Service, ServicePort, StaticEndpoint, Workload};
use mesh_proto::resource::subject::Subject;
use mesh_proto::resource::{Resource, SourceDocument, parse};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use std::sync::Arc;

fn labels(at_least: usize) -> impl Strategy<Value = Labels> {
    let key = "([a-z]{1,4}[.][a-z]{1,3}/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,8}[A-Za-z0-9])?";
    btree_map(key, "([A-Za-z0-9]([A-Za-z0-9_.-]{0,8}[A-Za-z0-9])?)?", at_least..4)
}

fn meta(namespace: Option<Namespace>) -> impl Strategy<Value = Meta> {
    let origin = Origin::new("made", 1);
    (name(), labels(0)).prop_map(move |(name, labels)| Meta {
        namespace: namespace.clone(),
        name,
        labels,
        origin: origin.clone(),
    })
}

fn in_namespace() -> impl Strategy<Value = Meta> {
    name::<Namespace>().prop_flat_map(|namespace| meta(Some(namespace)))
}

fn member() -> impl Strategy<Value = Subject> {
    prop_oneof![
        identity_pattern().prop_map(Subject::Identity),
        (name(), name()).prop_map(|(namespace, account)| Subject::ServiceAccount { namespace, account }),
        name().prop_map(Subject::Namespace),
    ]
}

fn exception() -> impl Strategy<Value = Subject> {
    prop_oneof![
        member(),
        name().prop_map(Subject::Segment),
        name().prop_map(Subject::Role),
        (name(), name(), name()).prop_map(|(namespace, account, instance)| Subject::Instance {
            namespace,
            account,
            instance
        }),
        select(&["10.0.0.0/8", "fd00::/16", "0.0.0.0/0"][..])
            .prop_map(|text| Subject::Cidr(text.parse().unwrap())),
    ]
}

fn source() -> impl Strategy<Value = Subject> {
    prop_oneof![exception(), Just(Subject::AnyMeshed), Just(Subject::Anyone)]
}

fn selector(home: Option<Namespace>) -> BoxedStrategy<Selector> {
    match home {
        Some(home) => {
            let in_home = home.clone();
            let named = (name(), any::<bool>()).prop_map(move |(name, is_service)| {
                let name = ServiceRef { namespace: in_home.clone(), name };
                if is_service { Selector::Service(name) } else { Selector::Workload(name) }
            });
            let whole = Selector::Namespace(home.clone());
            prop_oneof![
                Just(whole),
                named,
                labels(1).prop_map(move |labels| Selector::Labels { namespace: Some(home.clone()), labels }),
            ]
            .boxed()
        }
        None => prop_oneof![
            Just(Selector::Mesh),
            name().prop_map(Selector::Namespace),
            service_ref().prop_map(Selector::Service),
            service_ref().prop_map(Selector::Workload),
            labels(1).prop_map(|labels| Selector::Labels { namespace: None, labels }),
        ]
        .boxed(),
    }
}

fn rule() -> impl Strategy<Value = AccessRule> {
    (
        select(&[Action::Allow, Action::Deny][..]),
        vec(source(), 1..4),
        vec(exception(), 0..3),
        vec(operation(), 0..3),
        option::of(time()),
    )
        .prop_map(|(action, from, except, to, valid_until)| AccessRule {
            name: None,
            line: 0,
            action,
            from,
            except,
            to,
            valid_until,
        })
}

fn access_policy() -> impl Strategy<Value = AccessPolicy> {
    let place = prop_oneof![
        in_namespace().prop_map(|meta| (meta, Scope::Ordinary)),
        meta(None).prop_map(|meta| (meta, Scope::Guardrail)),
        meta(None).prop_map(|meta| (meta, Scope::Ordinary)),
    ];
    let target = place.prop_flat_map(|(meta, scope)| {
        let target = match (&meta.namespace, scope) {
            // What is not a guard-rail and has no namespace says that it is for the mesh.
            (None, Scope::Ordinary) => Just(Selector::Mesh).boxed(),
            (home, _) => selector(home.clone()),
        };
        (Just(meta), Just(scope), target)
    });
    (target, mode(), vec(rule(), 1..4), any::<bool>()).prop_map(
        |((meta, scope, target), mode, rules, named)| {
            let name = |index: usize| named.then(|| Arc::from(format!("rule-{index} of them")));
            let rules = rules.into_iter().enumerate();
            let rules = rules.map(|(index, rule)| AccessRule { name: name(index), ..rule }).collect();
            AccessPolicy { meta, scope, target, mode, rules }
        },
    )
}

fn protocol() -> impl Strategy<Value = Protocol> {
    select(&[Protocol::Http1, Protocol::Http2, Protocol::Grpc, Protocol::Tls, Protocol::Tcp][..])
}

fn service() -> impl Strategy<Value = Service> {
    let port = (option::of(name()), port(), port(), option::of(protocol()))
        .prop_map(|(name, port, target_port, protocol)| ServicePort { name, port, target_port, protocol });
    let ports = vec(port, 1..4).prop_filter("ports and names once", |ports| {
        let once = |index: usize, port: &ServicePort| {
            ports[..index]
                .iter()
                .all(|other| other.port != port.port && (port.name.is_none() || other.name != port.name))
        };
        ports.iter().enumerate().all(|(index, port)| once(index, port))
    });
    let endpoint = (select(&["10.0.0.1:80", "[fd00::1]:5432"][..]), option::of(spiffe_id()));
    let endpoint = endpoint
        .prop_map(|(address, identity)| StaticEndpoint { address: address.parse().unwrap(), identity });
    let backing = prop_oneof![
        name().prop_map(Backing::Workload),
        labels(1).prop_map(Backing::Labels),
        vec(endpoint, 1..3).prop_map(Backing::Endpoints),
    ];
    (in_namespace(), ports, backing).prop_map(|(meta, ports, backing)| Service { meta, ports, backing })
}

fn limit() -> impl Strategy<Value = RateLimit> {
    let place = prop_oneof![in_namespace(), meta(None)];
    let place = place.prop_flat_map(|meta| {
        let target = match &meta.namespace {
            None => Just(Selector::Mesh).boxed(),
            home => selector(home.clone()),
        };
        (Just(meta), target)
    });
    (place, rate_limit()).prop_map(|((meta, target), mut limit)| {
        limit.name = PolicyName { namespace: meta.namespace.clone(), name: meta.name.clone() };
        RateLimit { meta, target, limit: Arc::new(limit) }
    })
}

fn mesh_config() -> impl Strategy<Value = MeshConfig> {
    let mtls = prop_oneof![Just(MtlsMode::Strict), time().prop_map(|until| MtlsMode::Permissive { until })];
    let ca = option::of("-----BEGIN CERTIFICATE-----\n[A-Za-z0-9+/=]{1,64}\n-----END CERTIFICATE-----\n");
    let tracing = ("https://([a-z]{1,4}[.][a-z]{1,4}|\\[::1\\]):[1-9][0-9]{0,3}", ca, 0_u32..=10_000)
        .prop_map(|(endpoint, ca, sampling)| Arc::new(Tracing { endpoint, ca, sampling }));
    (option::of(trust_domain()), any::<bool>(), mtls, 0_u32..=10_000, option::of(tracing)).prop_map(
        |(trust_domain, default_allow, mtls, access_log_sample, tracing)| MeshConfig {
            trust_domain,
            default_allow,
            mtls,
            access_log_sample,
            tracing,
            ..MeshConfig::defaults()
        },
    )
}

fn resource() -> impl Strategy<Value = Resource> {
    let grants = prop_oneof![
        vec(operation(), 1..4).prop_map(Grants::Operations),
        select(&AdminRole::ALL[..]).prop_map(Grants::Admin),
    ];
    let holder = prop_oneof![
        member().prop_map(Holder::Peers),
        name().prop_map(|name| Holder::Peers(Subject::Segment(name))),
        (0..u32::MAX).prop_map(Holder::Uid),
    ];
    let segment = (meta(None), vec(member(), 1..4), vec(name(), 0..3))
        .prop_map(|(meta, members, accepts)| Segment { meta, members, accepts })
        .prop_filter("does not accept itself", |segment| !segment.accepts.contains(&segment.meta.name));
    let workload = (in_namespace(), name(), labels(0), option::of(0..u32::MAX));
    prop_oneof![
        mesh_config().prop_map(Resource::MeshConfig),
        access_policy().prop_map(Resource::AccessPolicy),
        (meta(None), grants).prop_map(|(meta, grants)| Resource::Role(Role { meta, grants })),
        (meta(None), name(), vec(holder, 1..4))
            .prop_map(|(meta, role, subjects)| Resource::RoleBinding(RoleBinding { meta, role, subjects })),
        segment.prop_map(Resource::Segment),
        limit().prop_map(Resource::RateLimit),
        service().prop_map(Resource::Service),
        workload.prop_map(|(meta, account, labels, uid)| Resource::Workload(Workload {
            meta,
            account,
            labels,
            uid
        })),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(resource in resource()) {
        let yaml = resource.to_yaml();
        let document = SourceDocument { file: "made".to_owned(), line: 1, yaml: yaml.clone() };
        match parse(&document) {
            Ok(again) => {
                prop_assert_eq!(&again, &resource, "{}", yaml);
                prop_assert_eq!(again.to_yaml(), yaml);
                prop_assert_eq!(again.key().to_string().parse(), Ok(again.key()));
            }
            Err(problems) => prop_assert!(false, "{}\n{yaml}", problems[0]),
        }
    }

    #[test]
    fn no_text_breaks_the_reader(text in "(?s).{0,200}") {
        let document = SourceDocument { file: "f".to_owned(), line: 1, yaml: text };
        if let Err(problems) = parse(&document) {
            prop_assert!(!problems.is_empty());
        }
    }

    #[test]
    fn a_damaged_document_is_refused_with_a_place(resource in resource(), at in any::<prop::sample::Index>(), byte in "[ -~\n]") {
        let mut yaml = resource.to_yaml();
        let at = at.index(yaml.len());
        // Canonical YAML of these resources is ASCII.
        yaml.replace_range(at..=at, &byte);
        let lines = u32::try_from(yaml.lines().count()).unwrap();
        let document = SourceDocument { file: "f".to_owned(), line: 10, yaml };
        if let Err(problems) = parse(&document) {
            for problem in problems {
                prop_assert!(problem.line >= 10 && problem.line <= 10 + lines, "{}", problem);
            }
        }
    }
}

/// What is accepted is stored in its canonical form, and must be readable from there.
#[test]
fn an_object_that_grows_beyond_the_limit_is_refused_when_read() {
    let of = |sources: usize, rules: usize| {
        let rule = format!("{{from: [{}]}}", vec!["{role: a}"; sources].join(","));
        let yaml = format!(
            "{{apiVersion: meshctl.io/v1alpha1, kind: AccessPolicy, metadata: {{name: a}}, spec: {{rules: [{}]}}}}",
            vec![rule; rules].join(",")
        );
        parse(&SourceDocument { file: "f".to_owned(), line: 1, yaml })
    };
    let big = of(1000, 40).unwrap();
    let again = SourceDocument { file: "f".to_owned(), line: 1, yaml: big.to_yaml() };
    assert_eq!(parse(&again).unwrap(), big);
    let problems = of(1000, 60).unwrap_err();
    assert!(problems[0].message.contains("when written out"), "{}", problems[0]);
}
