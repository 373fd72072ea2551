//! Arbitrary values of the domain, for properties that must hold for all of them.

use mesh_proto::identity::pattern::IdentityPattern;
use mesh_proto::identity::{SpiffeId, TrustDomain};
use mesh_proto::limit::{LimitKey, Rate, RateLimit, Unit};
use mesh_proto::matching::{HeaderCondition, HeaderTest};
use mesh_proto::name::{Namespace, Port, ServiceRef};
use mesh_proto::net::PortRange;
use mesh_proto::policy::model::{Mode, Operation, PolicyName, ProtocolMatch};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use std::fmt::Debug;
use std::str::FromStr;
use std::time::Duration;

/// Any name.
pub(crate) fn name<T: FromStr<Err: Debug> + Debug>() -> impl Strategy<Value = T> {
    "[a-z0-9]([a-z0-9-]{0,12}[a-z0-9])?".prop_map(|text| text.parse().unwrap())
}

/// Values of a domain type from texts that it takes.
fn one_of<T: FromStr<Err: Debug> + Debug>(texts: &'static [&'static str]) -> impl Strategy<Value = T> {
    select(texts).prop_map(|text| text.parse().unwrap())
}

pub(crate) fn trust_domain() -> impl Strategy<Value = TrustDomain> {
    one_of(&["mesh.local", "a", "x-1.example_2"])
}

pub(crate) fn spiffe_id() -> impl Strategy<Value = SpiffeId> {
    (trust_domain(), name(), name()).prop_map(|(td, ns, sa)| SpiffeId::for_workload(&td, &ns, &sa))
}

pub(crate) fn identity_pattern() -> impl Strategy<Value = IdentityPattern> {
    prop_oneof![
        spiffe_id().prop_map(IdentityPattern::Exact),
        (trust_domain(), name::<Namespace>()).prop_map(|(td, ns)| IdentityPattern::namespace(&td, &ns)),
        one_of(&["spiffe://mesh.local/*", "spiffe://other/Team-1/x.y/*", "spiffe://a/b"]),
    ]
}

pub(crate) fn port() -> impl Strategy<Value = Port> {
    (1_u16..).prop_map(|number| Port::new(number).unwrap())
}

pub(crate) fn service_ref() -> impl Strategy<Value = ServiceRef> {
    (name(), name()).prop_map(|(namespace, name)| ServiceRef { namespace, name })
}

pub(crate) fn policy_name() -> impl Strategy<Value = PolicyName> {
    (option::of(name()), name()).prop_map(|(namespace, name)| PolicyName { namespace, name })
}

fn port_range() -> impl Strategy<Value = PortRange> {
    (port(), port()).prop_map(|(a, b)| PortRange::new(a.min(b), a.max(b)).unwrap())
}

fn header() -> impl Strategy<Value = HeaderCondition> {
    let value = "[!-~]([ -~]{0,10}[!-~])?";
    let test = prop_oneof![
        value.prop_map(|text| HeaderTest::Exact(text.into())),
        value.prop_map(|text| HeaderTest::Prefix(text.into())),
        Just(HeaderTest::Present),
    ];
    ("[a-z][a-z0-9-]{0,8}", test).prop_map(|(name, test)| HeaderCondition::new(&name, test).unwrap())
}

/// An operation with at least one condition.
pub(crate) fn operation() -> impl Strategy<Value = Operation> {
    let lists = (
        vec(port_range(), 0..3),
        vec(select(&ProtocolMatch::ALL[..]), 0..3),
        vec(one_of(&["shop.example", "*.shop.example"]), 0..3),
        vec(one_of(&["web.shop", "*.example.com", "a"]), 0..3),
        vec(one_of(&["GET", "POST", "PURGE", "M-SEARCH"]), 0..3),
        vec(one_of(&["/", "/v1/*", "/orders/{id}/items", "/a/b.c", "/on"]), 0..3),
        vec(header(), 0..3),
        vec(one_of(&["shop.Catalog/List", "a.b.C/*"]), 0..3),
    );
    let made = lists.prop_map(|(ports, protocols, sni, hosts, methods, paths, headers, grpc)| Operation {
        ports,
        protocols,
        sni,
        hosts,
        methods,
        paths,
        headers,
        grpc,
    });
    made.prop_filter("says something", |operation| *operation != Operation::default())
}

pub(crate) fn mode() -> impl Strategy<Value = Mode> {
    select(&[Mode::Enforce, Mode::Audit][..])
}

/// Unix seconds up to the year 9999.
pub(crate) fn time() -> impl Strategy<Value = u64> {
    1_u64..253_402_300_799
}

fn rate() -> impl Strategy<Value = Rate> {
    let unit = select(&[Unit::Requests, Unit::Bytes][..]);
    (unit, 1_u64..1_000_000_000, 1_u64..86_400_000, 1_u64..1_000_000_000)
        .prop_map(|(unit, amount, per, burst)| Rate { unit, amount, per: Duration::from_millis(per), burst })
}

/// A limit that limits something and can be told everywhere.
pub(crate) fn rate_limit() -> impl Strategy<Value = RateLimit> {
    let key = prop_oneof![
        Just(LimitKey::SourceIdentity),
        Just(LimitKey::Address),
        Just(LimitKey::Target),
        "[a-z][a-z0-9-]{0,8}".prop_map(|name| LimitKey::Header(name.into())),
    ];
    let parts = (
        policy_name(),
        mode(),
        key,
        vec(operation(), 0..3),
        option::of(rate()),
        option::of(1_u32..1_000_000),
        option::of(1_u64..1 << 40),
    );
    let made = parts.prop_map(|(name, mode, key, to, rate, concurrent, body_bytes_max)| RateLimit {
        name,
        mode,
        key,
        to,
        rate,
        concurrent,
        body_bytes_max,
    });
    let made = made.prop_map(|mut limit| {
        // Requests, bodies and headers are not told apart in opaque bytes.
        let asks_http = limit.rate.is_some_and(|rate| rate.unit == Unit::Requests)
            || limit.body_bytes_max.is_some()
            || matches!(limit.key, LimitKey::Header(_));
        if asks_http {
            for operation in &mut limit.to {
                operation.sni.clear();
                operation.protocols.retain(|word| !matches!(word, ProtocolMatch::Tcp | ProtocolMatch::Tls));
            }
            limit.to.retain(|operation| *operation != Operation::default());
        }
        limit
    });
    made.prop_filter("limits something", |limit| {
        limit.rate.is_some() || limit.concurrent.is_some() || limit.body_bytes_max.is_some()
    })
}
