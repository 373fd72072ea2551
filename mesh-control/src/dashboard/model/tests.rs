use super::*;

const WEB: &str = "spiffe://mesh.local/ns/shop/sa/web";
const PAY: &str = "spiffe://mesh.local/ns/shop/sa/pay";
const JOB: &str = "spiffe://mesh.local/ns/shop/sa/job";

fn member(identity: &str, name: &str, services: &[&str]) -> Member {
    Member {
        identity: identity.to_owned(),
        workload: format!("shop/{name}"),
        services: services.iter().map(|service| format!("shop/{service}")).collect(),
        is_in_sync: true,
    }
}

fn edge(source: &str, destination: &str, service: &str, allowed: u64) -> v1::Edge {
    v1::Edge {
        stats: Some(v1::EdgeStats {
            source: source.to_owned(),
            destination: destination.to_owned(),
            service: service.to_owned(),
            tls_version: "TLSv1.3".to_owned(),
            allowed,
            last_reason: format!("r{allowed}"),
            ..v1::EdgeStats::default()
        }),
        last_seen_ms: allowed,
        ..v1::Edge::default()
    }
}

fn model(members: Vec<Member>, ever: &[v1::Edge], alarms: &[v1::Alarm]) -> Model {
    let picture =
        Picture::of(&ever.iter().map(|edge| flow_of(edge.stats.as_ref().unwrap())).collect::<Vec<_>>());
    Model::of(Parts { members, services: vec!["shop/empty".to_owned()], ever, picture, alarms })
}

#[test]
fn a_chain_of_calls_is_one_line() {
    let members = vec![
        member(WEB, "web", &["other", "web"]),
        member(PAY, "pay", &["pay"]),
        member(PAY, "pay", &["pay"]),
        member(JOB, "job", &[]),
    ];
    let alarm = v1::Alarm {
        id: "a1".to_owned(),
        source: JOB.to_owned(),
        service: "shop/web".to_owned(),
        ..Default::default()
    };
    let model = model(members, &[edge(JOB, WEB, "shop/web", 3), edge(WEB, PAY, "shop/pay", 5)], &[alarm]);
    let lines: Vec<_> =
        model.calls.iter().map(|call| (&*call.from, &*call.to, call.now.tally.asked())).collect();
    assert_eq!(lines, [(JOB, "shop/web", 3), ("shop/web", "shop/pay", 5)]);
    let ids: Vec<_> = model.nodes.iter().map(|(id, node)| (&**id, node.kind)).collect();
    let expected = [
        ("shop/empty", Kind::Service),
        ("shop/other", Kind::Service),
        ("shop/pay", Kind::Service),
        ("shop/web", Kind::Service),
        (JOB, Kind::Workload),
    ];
    assert_eq!(ids, expected);
    let web = &model.nodes["shop/web"];
    assert_eq!((web.received.asked(), web.sent.asked(), web.proxies), (3, 5, (1, 1)));
    assert_eq!(model.nodes["shop/pay"].proxies, (2, 2));
    assert_eq!(model.calls[0].alarms, ["a1"]);
    assert!(model.calls[1].alarms.is_empty());
    assert_eq!((model.nodes[JOB].alarms.len(), web.alarms.len()), (1, 0), "it is the caller's doing");
}

#[test]
fn who_is_gone_and_who_has_no_name_are_there() {
    let ever = [
        edge(JOB, WEB, "shop/web", 3),
        edge(WEB, PAY, "shop/pay", 5),
        edge(UNMESHED, PAY, "shop/pay", 1),
        edge(OTHERS, OTHERS, OTHERS, 9),
    ];
    let model = model(Vec::new(), &ever, &[]);
    let froms: Vec<_> = model.calls.iter().map(|call| (&*call.from, &*call.to)).collect();
    assert_eq!(
        froms,
        [("others", "others"), (JOB, "shop/web"), ("shop/web", "shop/pay"), ("unmeshed", "shop/pay")]
    );
    assert_eq!(model.nodes["unmeshed"].kind, Kind::Unmeshed);
    assert_eq!(model.nodes["others"].kind, Kind::Others);
}

#[test]
fn names_are_taken_apart() {
    let name = |namespace: &str, name: &str| (namespace.to_owned(), name.to_owned());
    assert_eq!(parts_of(WEB), name("shop", "web"));
    assert_eq!(parts_of("shop/web"), name("shop", "web"));
    assert_eq!(parts_of("spiffe://else/where"), name("", "spiffe://else/where"));
    assert_eq!(parts_of("unmeshed"), name("", "unmeshed"));
}
