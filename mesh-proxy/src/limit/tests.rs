use super::*;
use mesh_proto::identity::SpiffeId;
use mesh_proto::limit::Rate;
use mesh_proto::name::Port;
use mesh_proto::policy::model::{Operation, PolicyName, Protocol};

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
    assert_eq!((limited.limit.as_str(), limited.retry_after), ("a", Some(Duration::from_millis(500))));
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
    assert_eq!(refused.retry_after, None);
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
        limits.admit(&request(&who, 80), Subject::Tunnel, HOME, now).unwrap();
    }
    limits.admit(&request(&who, 81), Subject::Tunnel, HOME, now).unwrap();
    limits.admit(&request(&who, 81), Subject::Tunnel, HOME, now).unwrap_err();
}

#[test]
fn bytes_are_charged_after_they_were_carried() {
    let now = crate::clock::now();
    let rules = [Arc::new(limit("a", LimitKey::Target, Unit::Bytes, 1000))];
    let limits = Limits::compile(&rules, None, now);
    let who = id("web");
    let grant = limits.admit(&request(&who, 80), Subject::Tunnel, HOME, now).unwrap();
    assert!(grant.counts_bytes());
    assert_eq!(grant.charge(500, now), Duration::ZERO);
    let wait = grant.charge(1500, now);
    assert!(wait > Duration::from_millis(900) && wait < Duration::from_millis(1100), "{wait:?}");
    limits.admit(&request(&who, 80), Subject::Tunnel, HOME, now).unwrap_err();
}
