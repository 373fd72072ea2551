//! What the shop's examples mean for real requests, and what becomes of roles, segments and bindings.

use super::examples::read_all;
use super::fleet::Fleet;
use crate::notation::request;
use mesh_proto::policy::compile::PolicySet;
use mesh_proto::policy::evaluate::Outcome;
use mesh_proto::policy::model::Scope;
use mesh_proto::resource::catalog::Status;
use mesh_proto::resource::problem::Code;
use mesh_proto::resource::role::{AdminAction, AdminRole};
use mesh_proto::resource::{Catalog, Kind, Resource, ResourceKey, parse, split_documents};

const WORKLOADS: [&str; 7] = ["web", "catalog", "payments", "store", "shopper", "batch", "intruder"];

fn shop() -> Catalog {
    Catalog::from_resources(read_all("shop"))
}

fn of(yaml: &str) -> Catalog {
    let documents = split_documents("all.yaml", yaml);
    Catalog::from_resources(
        documents.iter().map(|document| parse(document).unwrap_or_else(|p| panic!("{}", p[0]))),
    )
}

/// `allowed by RULE`, `denied REASON by RULE`, with `, audit RULE` when an audit-mode policy would have decided.
fn judge(catalog: &Catalog, fleet: &Fleet, target: &str, case: &str) -> String {
    let set = PolicySet::compile(&catalog.policy_inputs(&fleet.target(target), &[]));
    let verdict = set.authorize(&request(case).unwrap().facts());
    let named = |rule| {
        let rule = set.describe(rule).unwrap();
        format!(" by {} ({}:{})", rule.rule, rule.file, rule.line)
    };
    let outcome = match verdict.outcome {
        Outcome::Allowed { by, .. } => format!("allowed{}", by.map(named).unwrap_or_default()),
        Outcome::Denied(denial) => {
            format!("{}{}", denial.reason.as_str(), denial.rule.map(named).unwrap_or_default())
        }
    };
    let audited = verdict.audited.map(|(_, rule)| format!(", audit{}", named(rule)));
    format!("{outcome}{}", audited.unwrap_or_default())
}

#[test]
fn the_shop_allows_what_it_says_and_nothing_else() {
    let catalog = shop();
    let fleet = Fleet::of(&catalog, &WORKLOADS);
    for (target, case, expected) in [
        (
            "web",
            "shop/shopper -> GET web.shop:8080/products/7",
            "allowed by shoppers browse and buy (access.yaml:9)",
        ),
        ("web", "shop/shopper -> GET web.shop:8080/products/7/edit", "no_rule_allows"),
        // web is in the segment front, which takes no calls from outside of it.
        ("web", "shop/catalog -> GET web.shop:8080/", "isolated"),
        ("web", "10.1.2.3 -> GET web.shop:8080/", "isolated"),
        ("web", "shop/batch -> GET web.shop:8080/", "no_rule_allows"),
        (
            "catalog",
            "shop/web -> grpc catalog.shop:9090/shop.Catalog/Watch",
            "allowed by readers read (access.yaml:22)",
        ),
        (
            "catalog",
            "shop/web -> grpc catalog.shop:9090/shop.Catalog/List",
            "allowed by readers read (access.yaml:22), audit by does anybody still list (access.yaml:69)",
        ),
        ("catalog", "shop/web -> grpc catalog.shop:9090/shop.Catalog/Delete", "no_rule_allows"),
        (
            "payments",
            "shop/web -> POST payments.shop:8081/charge",
            "allowed by web and the nightly batch charge (access.yaml:31)",
        ),
        ("payments", "shop/web -> GET payments.shop:8081/charge", "no_rule_allows"),
        (
            "payments",
            "shop/intruder -> POST payments.shop:8081/charge",
            "denied_by_rule by the intruder stays outside (access.yaml:56)",
        ),
        // catalog is in no segment, so that cardholder does not take its calls at all.
        ("payments", "shop/catalog -> POST payments.shop:8081/charge", "isolated"),
        (
            "store",
            "shop/payments -> tcp store.shop:7000",
            "allowed by payments keeps its records (access.yaml:44)",
        ),
        (
            "store",
            "shop/web -> tcp store.shop:7000",
            "guardrail_not_met by payments only (guardrails.yaml:11)",
        ),
        (
            "store",
            "shop/intruder -> tcp store.shop:7000",
            "denied_by_rule by the intruder stays outside (access.yaml:56)",
        ),
    ] {
        assert_eq!(judge(&catalog, &fleet, target, case), expected, "{case}");
    }
}

#[test]
fn the_shop_fits_together() {
    let catalog = shop();
    let fleet = Fleet::of(&catalog, &WORKLOADS);
    let changed: Vec<ResourceKey> = catalog.iter().map(|(key, _)| key.clone()).collect();
    let problems = catalog.check(&changed, &fleet.targets(), 0);
    assert!(
        problems.is_empty(),
        "{}",
        problems.iter().map(|problem| format!("{problem}\n")).collect::<String>()
    );
    for (key, status) in catalog.statuses(&fleet.targets(), 0) {
        assert!(matches!(status, Status::Effective { .. } | Status::Accepted), "{key}: {status}");
    }
    let limits = catalog.limits(&fleet.target("payments"));
    assert_eq!(limits.len(), 1);
    assert!(catalog.limits(&fleet.target("web")).is_empty());
}

#[test]
fn statuses_say_what_is_without_effect() {
    let catalog = of("
apiVersion: meshctl.io/v1alpha1
kind: AccessPolicy
metadata: {name: nobody, namespace: shop}
spec: {target: {service: nothing}, rules: [{from: [{anyMeshed: true}]}]}
---
apiVersion: meshctl.io/v1alpha1
kind: AccessPolicy
metadata: {name: over, namespace: shop}
spec: {rules: [{from: [{anyMeshed: true}], validUntil: 2026-01-01T00:00:00Z}]}
---
apiVersion: meshctl.io/v1alpha1
kind: AccessPolicy
metadata: {name: now, namespace: shop}
spec: {target: {workload: web}, rules: [{from: [{serviceAccount: catalog}]}]}
");
    let fleet = Fleet::of(&catalog, &["web", "catalog"]);
    let statuses = catalog.statuses(&fleet.targets(), 1_795_521_600);
    let of = |name: &str| statuses[&format!("ap/shop/{name}").parse::<ResourceKey>().unwrap()].to_string();
    assert_eq!(
        (of("nobody"), of("over"), of("now")),
        ("NoMatch".into(), "Expired".into(), "Effective 1".into())
    );
}

#[test]
fn what_is_removed_is_missed_by_what_refers_to_it() {
    let before = shop();
    let key: ResourceKey = "role/catalog-reader".parse().unwrap();
    let after = before.with_changes([(key.clone(), None)]);
    let fleet = Fleet::of(&after, &WORKLOADS);
    let problems = after.check(&[key], &fleet.targets(), 0);
    let errors: Vec<String> =
        problems.iter().filter(|problem| problem.is_error()).map(ToString::to_string).collect();
    assert_eq!(
        errors,
        [
            "access.yaml:22: spec.rules[0].from[0].role: there is no Role \"catalog-reader\"; this change removes it; \
             change what refers to it first",
            "roles.yaml:14: spec.role: there is no Role \"catalog-reader\"; this change removes it; change what refers \
             to it first",
        ]
    );
    // Should it be stored all the same, nobody gets in by it.
    let case = "shop/web -> grpc catalog.shop:9090/shop.Catalog/Watch";
    assert_eq!(judge(&after, &fleet, "catalog", case), "no_rule_allows");
}

/// A guard-rail whose only allow rule names a role that is gone must not turn into one that allows everything.
#[test]
fn a_guardrail_does_not_open_when_its_role_is_missing() {
    let catalog = of("
apiVersion: meshctl.io/v1alpha1
kind: AccessPolicy
metadata: {name: rail}
spec: {guardrail: true, rules: [{from: [{role: gone}]}]}
---
apiVersion: meshctl.io/v1alpha1
kind: AccessPolicy
metadata: {name: open, namespace: shop}
spec: {rules: [{from: [{anyone: true}]}]}
");
    let fleet = Fleet::of(&catalog, &["web"]);
    let found = judge(&catalog, &fleet, "web", "shop/catalog -> GET web.shop:8080/");
    assert!(found.starts_with("guardrail_not_met"), "{found}");
}

#[test]
fn a_role_narrows_the_rule_that_names_it() {
    let catalog = of("
apiVersion: meshctl.io/v1alpha1
kind: Role
metadata: {name: reader}
spec: {operations: [{methods: [GET], paths: [/a]}, {methods: [HEAD]}]}
---
apiVersion: meshctl.io/v1alpha1
kind: RoleBinding
metadata: {name: reader}
spec: {role: reader, subjects: [{segment: front}, {serviceAccount: shop/catalog}]}
---
apiVersion: meshctl.io/v1alpha1
kind: Segment
metadata: {name: front}
spec: {members: [{serviceAccount: shop/shopper}]}
---
apiVersion: meshctl.io/v1alpha1
kind: AccessPolicy
metadata: {name: web, namespace: shop}
spec: {rules: [{from: [{role: reader}, {serviceAccount: batch}], to: [{ports: [8080]}]}]}
");
    let fleet = Fleet::of(&catalog, &["web"]);
    let allowed = |case: &str| judge(&catalog, &fleet, "web", case).starts_with("allowed");
    assert!(allowed("shop/catalog -> GET web.shop:8080/a"));
    assert!(allowed("shop/shopper -> HEAD web.shop:8080/b"), "members of a bound segment hold the role");
    assert!(!allowed("shop/catalog -> GET web.shop:8080/b"), "the role's paths hold");
    assert!(!allowed("shop/catalog -> GET web.shop:8081/a"), "and so do the rule's ports");
    assert!(allowed("shop/batch -> POST web.shop:8080/b"), "who is named without a role is not bound by it");
    assert!(!allowed("shop/web -> GET web.shop:8080/a"));
}

#[test]
fn admin_roles_are_held_by_uid() {
    let catalog = Catalog::from_resources(
        read_all(".")
            .into_iter()
            .filter(|resource| matches!(resource, Resource::Role(_) | Resource::RoleBinding(_))),
    );
    assert_eq!(catalog.admin_roles(1000).into_iter().collect::<Vec<_>>(), [AdminRole::PolicyAuthor]);
    assert!(catalog.uid_may(1000, AdminAction::Author) && catalog.uid_may(1000, AdminAction::View));
    assert!(!catalog.uid_may(1000, AdminAction::Certify) && !catalog.uid_may(1001, AdminAction::View));
    assert_eq!(AdminAction::Operate.roles().collect::<Vec<_>>(), [AdminRole::Operator]);
}

#[test]
fn policies_of_one_catalog_are_shared_between_workloads() {
    let catalog = shop();
    let fleet = Fleet::of(&catalog, &WORKLOADS);
    let web = catalog.policy_inputs(&fleet.target("web"), &[]);
    let store = catalog.policy_inputs(&fleet.target("store"), &[]);
    let keep_out = |policies: &[std::sync::Arc<mesh_proto::policy::model::Policy>]| {
        policies.iter().find(|policy| policy.name.name.as_str() == "keep-out").cloned().unwrap()
    };
    assert!(std::sync::Arc::ptr_eq(&keep_out(&web.policies), &keep_out(&store.policies)));
    assert!(store.policies.iter().any(|policy| policy.scope == Scope::Guardrail));
    assert_eq!(store.isolation.unwrap().accepts.len(), 2);
    assert!(catalog.of_kind(Kind::AccessPolicy).count() > web.policies.len());
}

#[test]
fn what_cannot_be_is_refused_however_much_is_applied_with_it() {
    let rule = |number: usize, target: &str, to: &str| {
        format!(
            "apiVersion: meshctl.io/v1alpha1\nkind: AccessPolicy\nmetadata: {{name: p{number}, namespace: shop}}\nspec:\n  \
             target: {{workload: {target}}}\n  rules: [{{from: [{{serviceAccount: web}}], to: [{to}]}}]\n---\n"
        )
    };
    // More pairs of rules than are compared, then rules of another workload.
    let mut yaml: String =
        (0..2_100).map(|number| rule(number, "a", &format!("{{paths: [/{number}]}}"))).collect();
    yaml.push_str(&rule(9_999, "z", "{ports: [80], protocols: [tcp], paths: [/x]}"));
    let catalog = of(&yaml);
    let keys: Vec<ResourceKey> = catalog.iter().map(|(key, _)| key.clone()).collect();
    let found = catalog.check(&keys, &[], 0);
    let has = |code: Code| found.iter().any(|problem| problem.code == code);
    assert!(has(Code::TooLarge), "nothing says that not all was compared");
    assert!(has(Code::NotEnforceable), "an impossible rule passed among many");
}
