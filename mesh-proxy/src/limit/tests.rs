use super::*;
use mesh_proto::identity::SpiffeId;
use mesh_proto::limit::Rate;
use mesh_proto::name::Port;
use mesh_proto::policy::evaluate::HttpFacts;
use mesh_proto::policy::model::{Operation, PolicyName, Protocol, ProtocolMatch};

const TUNNEL: Subject = Subject::Tunnel(Bytes::Undeclared);
const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn limit(name: &str, key: LimitKey, unit: Unit, amount: u64) -> RateLimit {
    RateLimit {
        name: PolicyName { namespace: None, name: name.parse().unwrap() },
        mode: Mode::Enforce,
        key,
        to: Vec::new(),
        rate: Some(Rate { unit, amount, per: Duration::from_secs(1), burst: amount }),
        concurrent: None,
        body_bytes_max: None,
    }
}

fn request(id: &SpiffeId, port: u16) -> Request<'_> {
    Request {
        source: SourceFacts::Meshed { id, instance: None },
        port: Port::new(port).unwrap(),
        protocol: Protocol::Tcp,
        sni: None,
        http: None,
        now: 0,
    }
}

fn id(name: &str) -> SpiffeId {
    format!("spiffe://mesh.test/ns/default/sa/{name}").parse().unwrap()
}

#[test]
fn one_caller_over_its_rate_leaves_the_others_alone() {
    let now = crate::clock::now();
    let rules = [Arc::new(limit("a", LimitKey::SourceIdentity, Unit::Requests, 2))];
    let limits = Limits::compile(&rules, None, now);
    let (greedy, modest) = (id("greedy"), id("modest"));
    let admit = |who: &SpiffeId, at| limits.admit(&request(who, 80), Subject::Request, HOME, at);
    assert!(admit(&greedy, now).is_ok());
    assert!(admit(&greedy, now).is_ok());
    let limited = admit(&greedy, now).unwrap_err();
    assert_eq!((limited.limit.as_str(), limited.why), ("a", Why::Rate(Duration::from_millis(500))));
    assert!(admit(&modest, now).is_ok());
    assert!(admit(&greedy, now + Duration::from_millis(501)).is_ok());
}

#[test]
fn places_in_flight_come_back() {
    let now = crate::clock::now();
    let mut rule = limit("a", LimitKey::Target, Unit::Requests, 100);
    rule.concurrent = Some(1);
    let limits = Limits::compile(&[Arc::new(rule)], None, now);
    let who = id("web");
    let first = limits.admit(&request(&who, 80), Subject::Request, HOME, now).unwrap();
    let refused = limits.admit(&request(&who, 80), Subject::Request, HOME, now).unwrap_err();
    assert_eq!(refused.why, Why::InFlight);
    drop(first);
    assert!(limits.admit(&request(&who, 80), Subject::Request, HOME, now).is_ok());
}

#[test]
fn an_unchanged_limit_keeps_its_buckets() {
    let now = crate::clock::now();
    let rule = Arc::new(limit("a", LimitKey::Target, Unit::Requests, 1));
    let before = Limits::compile(&[Arc::clone(&rule)], None, now);
    let who = id("web");
    before.admit(&request(&who, 80), Subject::Request, HOME, now).unwrap();
    let other = Arc::new(limit("b", LimitKey::Target, Unit::Requests, 1));
    let after = Limits::compile(&[rule, other], Some(&before), now);
    let limited = after.admit(&request(&who, 80), Subject::Request, HOME, now).unwrap_err();
    assert_eq!(limited.limit, "a");
}

#[test]
fn audit_mode_lets_pass_and_tells() {
    let now = crate::clock::now();
    let mut rule = limit("a", LimitKey::Target, Unit::Requests, 1);
    rule.mode = Mode::Audit;
    let limits = Limits::compile(&[Arc::new(rule)], None, now);
    let who = id("web");
    limits.admit(&request(&who, 80), Subject::Request, HOME, now).unwrap();
    let grant = limits.admit(&request(&who, 80), Subject::Request, HOME, now).unwrap();
    assert_eq!(grant.audited, ["a"]);
}

#[test]
fn only_what_a_limit_covers_is_counted() {
    let now = crate::clock::now();
    let mut rule = limit("a", LimitKey::Target, Unit::Connections, 1);
    rule.to = vec![Operation { ports: vec![Port::new(81).unwrap().into()], ..Operation::default() }];
    let limits = Limits::compile(&[Arc::new(rule)], None, now);
    let who = id("web");
    for _ in 0..3 {
        limits.admit(&request(&who, 80), TUNNEL, HOME, now).unwrap();
    }
    limits.admit(&request(&who, 81), TUNNEL, HOME, now).unwrap();
    limits.admit(&request(&who, 81), TUNNEL, HOME, now).unwrap_err();
}

#[test]
fn bytes_are_charged_after_they_were_carried() {
    let now = crate::clock::now();
    let rules = [Arc::new(limit("a", LimitKey::Target, Unit::Bytes, 1000))];
    let limits = Limits::compile(&rules, None, now);
    let who = id("web");
    let grant = limits.admit(&request(&who, 80), TUNNEL, HOME, now).unwrap();
    assert!(grant.counts_bytes());
    assert_eq!(grant.charge(500, now), Duration::ZERO);
    let wait = grant.charge(1500, now);
    assert!(wait > Duration::from_millis(900) && wait < Duration::from_millis(1100), "{wait:?}");
    limits.admit(&request(&who, 80), TUNNEL, HOME, now).unwrap_err();
}

#[test]
fn requests_that_may_hide_in_a_tunnel_do_not_pass_a_limit_of_requests() {
    let now = crate::clock::now();
    let who = id("web");
    let admit = |rule: RateLimit, bytes| {
        let limits = Limits::compile(&[Arc::new(rule)], None, now);
        let twice = [(); 2].map(|()| limits.admit(&request(&who, 80), Subject::Tunnel(bytes), HOME, now));
        twice.map(|admitted| admitted.map(drop).map_err(|limited| limited.why))
    };
    let hidden = [Err(Why::NeedsHttp), Err(Why::NeedsHttp)];
    let all = limit("a", LimitKey::Target, Unit::Requests, 1);
    assert_eq!(admit(all.clone(), Bytes::Undeclared), hidden);
    // Where the workload says that there are no requests, a connection is one.
    let second = admit(all.clone(), Bytes::Declared)[1];
    assert!(matches!(second, Err(Why::Rate(_))), "{second:?}");
    let bodies = RateLimit { rate: None, body_bytes_max: Some(10), ..all.clone() };
    assert_eq!(admit(bodies, Bytes::Undeclared), hidden);
    let pathwise = Operation { paths: vec!["/admin".parse().unwrap()], ..Operation::default() };
    let path = RateLimit { to: vec![pathwise], ..limit("a", LimitKey::Target, Unit::Bytes, 10) };
    assert_eq!(admit(path.clone(), Bytes::Undeclared), hidden);
    assert_eq!(admit(path, Bytes::Declared), [Ok(()), Ok(())]);
    let audited = RateLimit { mode: Mode::Audit, ..all };
    assert_eq!(admit(audited, Bytes::Undeclared), [Ok(()), Ok(())]);
}

#[test]
fn what_turns_out_to_be_tls_is_counted_once() {
    let now = crate::clock::now();
    let mut all = limit("all", LimitKey::Target, Unit::Connections, 100);
    all.concurrent = Some(1);
    let only = |name: &str, word| {
        let operation = Operation { protocols: vec![word], ..Operation::default() };
        RateLimit {
            to: vec![operation],
            rate: None,
            concurrent: Some(1),
            ..limit(name, LimitKey::Target, Unit::Bytes, 1)
        }
    };
    let rules = [all, only("tcp", ProtocolMatch::Tcp), only("tls", ProtocolMatch::Tls)].map(Arc::new);
    let limits = Limits::compile(&rules, None, now);
    let who = id("web");
    let tcp = request(&who, 80);
    let tls = Request { protocol: Protocol::Tls, ..tcp };
    let mut grant = limits.admit(&tcp, TUNNEL, HOME, now).unwrap();
    limits.admit_more(&tls, TUNNEL, (HOME, now), &mut grant).unwrap();
    let held: Vec<String> = grant.held.iter().map(|held| held.limit.rule.name.to_string()).collect();
    assert_eq!(held, ["all", "tls"], "its place in the limit of plain TCP is free again");
    let refused = limits.admit(&tls, TUNNEL, HOME, now).unwrap_err();
    assert_eq!((refused.limit.as_str(), refused.why), ("all", Why::InFlight));
    drop(grant);
    assert!(limits.admit(&tls, TUNNEL, HOME, now).is_ok());
}

struct NoFields;

impl mesh_proto::matching::Fields for NoFields {
    fn each(&self, _: &str, _: &mut dyn FnMut(&[u8])) {}
}

#[test]
fn a_limit_of_a_grpc_method_counts_it_under_every_content_type() {
    let now = crate::clock::now();
    let operation = Operation {
        protocols: vec![ProtocolMatch::Grpc],
        grpc: vec!["shop.Catalog/List".parse().unwrap()],
        ..Operation::default()
    };
    let rule = RateLimit { to: vec![operation], ..limit("a", LimitKey::Target, Unit::Requests, 3) };
    let limits = Limits::compile(&[Arc::new(rule)], None, now);
    let who = id("web");
    let ask = |protocol, path| {
        let http = HttpFacts { host: "api", method: "POST", path, headers: &NoFields };
        let request = Request { protocol, http: Some(http), ..request(&who, 80) };
        limits.admit(&request, Subject::Request, HOME, now).is_ok()
    };
    for protocol in [Protocol::Grpc, Protocol::Http2, Protocol::Http1] {
        assert!(ask(protocol, "/shop.Catalog/List"));
    }
    for protocol in [Protocol::Grpc, Protocol::Http2, Protocol::Http1] {
        assert!(!ask(protocol, "/shop.Catalog/List"), "{protocol:?}");
        assert!(ask(protocol, "/shop.Catalog/Get"), "{protocol:?}");
    }
}
