use super::*;
use mesh_proto::policy::model::PolicyInputs;
use mesh_proto::resource::{self, Catalog, SourceDocument, catalog::Target};

const DAY_MS: u64 = 86_400_000;
const NOW_MS: u64 = 1_000 * DAY_MS;

fn id(name: &str) -> SpiffeId {
    format!("spiffe://mesh.local/ns/shop/sa/{name}").parse().unwrap()
}

/// The policy of a document about the workload `pay`, changed so many days ago.
fn policy(spec: &str, days_ago: u64) -> InForce {
    let yaml = format!(
        "apiVersion: meshctl.io/v1alpha1\nkind: AccessPolicy\nmetadata: {{name: pay, namespace: shop}}\nspec: {{target: {{workload: pay}}, {spec}}}"
    );
    let resource = resource::parse(&SourceDocument { file: "pay.yaml".to_owned(), line: 1, yaml }).unwrap();
    let (identity, namespace) = (id("pay"), "shop".parse().unwrap());
    let (workload, instance) = ("pay".parse().unwrap(), "pay-1".parse().unwrap());
    let target = Target {
        identity: &identity,
        namespace: &namespace,
        workload: &workload,
        services: &[],
        labels: &BTreeMap::new(),
        instance: &instance,
    };
    let PolicyInputs { policies, .. } = Catalog::from_resources([resource]).policy_inputs(&target, &[]);
    let policy = policies.first().unwrap().clone();
    InForce { policy, targets: [id("pay")].into(), changed_ms: NOW_MS - days_ago * DAY_MS }
}

fn facts(policies: Vec<InForce>, flows: Vec<v1::Flow>) -> Facts {
    Facts { now_ms: NOW_MS, watched_ms: 7 * DAY_MS, policies, flows, ..Facts::default() }
}

fn call(from: &str, allowed: u64) -> v1::Flow {
    let source = if from == UNMESHED { from.to_owned() } else { id(from).to_string() };
    v1::Flow {
        source,
        destination: id("pay").to_string(),
        service: "shop/pay".to_owned(),
        tls_version: if from == UNMESHED { "" } else { "TLSv1.3" }.to_owned(),
        allowed,
        ..v1::Flow::default()
    }
}

fn codes(facts: &Facts) -> Vec<String> {
    findings(facts).into_iter().map(|finding| format!("{} {}", finding.severity, finding.code)).collect()
}

const WEB: &str = "rules: [{name: web, from: [{serviceAccount: web}]}]";

#[test]
fn a_strict_mesh_whose_rules_are_used_has_no_finding() {
    assert_eq!(codes(&facts(vec![policy(WEB, 30)], vec![call("web", 1)])), Vec::<String>::new());
}

#[test]
fn an_unused_rule_is_no_older_than_what_is_known() {
    let unused = |days_ago, flows| findings(&facts(vec![policy(WEB, days_ago)], flows));
    // Denied calls, and those of others, are no use.
    let refused = v1::Flow { allowed: 0, denied: 9, ..call("web", 0) };
    let found = unused(30, vec![refused, call("batch", 5)]);
    let [finding] = &found[..] else { panic!("{found:?}") };
    assert_eq!((&*finding.code, finding.measure, &*finding.namespace), ("unused-rule", 7.0, "shop"));
    assert!(finding.command.contains("(pay.yaml:"), "{}", finding.command);
    assert_eq!(unused(2, Vec::new())[0].measure, 2.0, "the rule is two days old");
    let nobodys = InForce { targets: BTreeSet::new(), ..policy(WEB, 3) };
    let found = findings(&facts(vec![nobodys], vec![call("web", 1)]));
    assert!(found[0].message.starts_with("no workload that it is about runs now"), "{found:?}");
    // Somebody for whom there was no room can have been anybody.
    let others = v1::Flow { source: OTHERS.to_owned(), ..call("web", 1) };
    assert_eq!(unused(30, vec![others]), Vec::new());
    let to_others = v1::Flow { destination: OTHERS.to_owned(), ..call("web", 1) };
    assert_eq!(unused(30, vec![to_others]), Vec::new());
}

#[test]
fn what_admits_everybody_is_told() {
    for (from, expected) in [
        ("[{anyMeshed: true}]", "warning wildcard"),
        ("[{anyone: true}]", "critical unmeshed"),
        ("[{cidr: 10.0.0.0/8}]", "warning unmeshed"),
        ("[{identity: 'spiffe://mesh.local/*'}]", "warning wildcard"),
    ] {
        let spec = format!("rules: [{{name: all, from: {from}}}]");
        let found = codes(&facts(vec![policy(&spec, 1)], vec![call("web", 1), call(UNMESHED, 0)]));
        assert!(found.contains(&expected.to_owned()), "{from}: {found:?}");
    }
    let narrow = policy("rules: [{name: ours, from: [{namespace: shop}]}]", 1);
    assert_eq!(codes(&facts(vec![narrow], vec![call("web", 1)])), Vec::<String>::new());
}

#[test]
fn settings_and_traffic_in_plaintext_are_critical() {
    let mut facts = facts(Vec::new(), vec![call(UNMESHED, 3)]);
    facts.permissive_until = Some(NOW_MS / 1_000 + 7_200);
    facts.default_allow = true;
    facts.unmeshed_pods = vec!["shop/early".to_owned()];
    facts.unmeshed_services = vec!["shop/legacy".to_owned()];
    assert_eq!(
        codes(&facts),
        [
            "critical default-allow",
            "critical plaintext",
            "critical plaintext",
            "critical unmeshed",
            "warning unmeshed",
            "warning unmeshed"
        ]
    );
    facts.permissive_until = Some(NOW_MS / 1_000 - 1);
    assert_eq!(codes(&facts).len(), 5, "a permission that is over is none");
}

#[test]
fn a_certificate_that_is_not_renewed_has_its_share() {
    let certificate = |left: u64| Certificate {
        holder: "pay-1".to_owned(),
        namespace: "shop".to_owned(),
        not_before_ms: NOW_MS + left - 100,
        not_after_ms: NOW_MS + left,
        command: "meshctl identity pay-1".to_owned(),
    };
    let facts =
        Facts { certificates: [60, 40, 20, 0].map(certificate).into(), ..facts(Vec::new(), Vec::new()) };
    let found = findings(&facts);
    let told: Vec<(&str, f64)> = found.iter().map(|finding| (&*finding.severity, finding.measure)).collect();
    assert_eq!(told, [("critical", 0.0), ("warning", 20.0), ("info", 40.0)]);
}
