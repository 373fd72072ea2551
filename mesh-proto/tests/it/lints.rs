//! What `lint` finds, as data; and that what it says of coverage is true of the evaluator.

use crate::notation::{NOW, World, seconds};
use mesh_proto::policy::compile::PolicySet;
use mesh_proto::policy::diff::diff;
use mesh_proto::policy::evaluate::Decision;
use mesh_proto::policy::lint::{FindingKind, lint};
use std::collections::BTreeSet;

fn world(lines: &str) -> World {
    let mut world = World::default();
    for (number, line) in lines.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        assert!(world.line(line, "p.yaml", u32::try_from(number + 1).unwrap()), "{line:?}");
    }
    world
}

/// `rule: code` for each finding, in order.
fn check(lines: &str, expected: &[&str]) {
    let found: Vec<String> = lint(&world(lines).inputs.policies, seconds(NOW))
        .iter()
        .map(|found| {
            let because =
                found.because_of.as_ref().map(|(_, rule)| format!(" by {rule}")).unwrap_or_default();
            format!("{}: {}{because}", found.rule.as_deref().unwrap_or("-"), found.kind.code())
        })
        .collect();
    assert_eq!(found, expected, "under {lines}");
}

#[test]
fn a_plain_policy_has_no_finding() {
    check(
        "policy a\n allow web: from shop/web to :8080 GET /x\n deny old: from legacy/* to http DELETE\n",
        &[],
    );
}

#[test]
fn rules_without_effect_are_found() {
    check("policy a\n", &["-: no-rules"]);
    check("policy a\n allow web: from shop/web until 2026-01-01T00:00:00Z\n", &["web: expired"]);
    check("segment none =\npolicy a\n allow web: from segment:none\n", &["web: no-source"]);
    check("role none =\npolicy a\n allow web: from shop/web, role:none\n", &["web: empty-group"]);
    check("policy a\n allow web: from shop/web except shop/*\n", &["web: no-source"]);
    check("policy a\n allow lan: from 10.1.0.0/16 except 10.0.0.0/8\n", &["lan: no-source"]);
}

#[test]
fn impossible_combinations_are_found() {
    for operation in [
        "tcp grpc=a.B/C",
        "tls GET",
        "tcp tls /x",
        "http1 grpc=a.B/C",
        "grpc=a.B/C GET",
        "grpc=a.B/C /other",
        "tcp sni=a.example",
        "sni=a.example /x",
        "header=\"x-a: 1\" header=\"x-a: 2\"",
    ] {
        check(&format!("policy a\n allow web: from shop/web to {operation}\n"), &["web: impossible"]);
    }
    for operation in
        ["http grpc=a.B/C", "grpc=a.B/C POST", "grpc=a.B/C /a.B/*", "tls sni=a.example", "http2 grpc=a.B/*"]
    {
        check(&format!("policy a\n allow web: from shop/web to {operation}\n"), &[]);
    }
}

#[test]
fn shadowed_rules_are_found_with_what_shadows_them() {
    check(
        "policy a\n allow wide: from shop/*\n allow narrow: from shop/web to GET /x\n",
        &["narrow: shadowed by wide"],
    );
    check(
        "policy a\n allow narrow: from shop/web to GET /x\n allow wide: from shop/*\n",
        &["narrow: shadowed by wide"],
    );
    check(
        "policy a\n allow one: from shop/web\npolicy b\n allow two: from shop/web\n",
        &["two: shadowed by one"],
    );
    check(
        "policy a\n allow one: from shop/web to /v1/*\n allow two: from shop/web to /v1/{x}/y\n",
        &["two: shadowed by one"],
    );
    check(
        "policy a\n allow one: from meshed to grpc=a.B/*\n allow two: from shop/web to grpc=a.B/C\n",
        &["two: shadowed by one"],
    );
    check(
        "policy a\n allow one: from anyone to :1-100\n allow two: from 10.0.0.0/8 to :7\n",
        &["two: shadowed by one"],
    );
    check(
        "guardrail r\n deny one: from shop/*\npolicy a\n deny two: from shop/web\n",
        &["two: shadowed by one"],
    );
}

#[test]
fn rules_that_still_decide_something_are_not_called_shadowed() {
    for lines in [
        "policy a\n allow one: from shop/*  except shop/web\n allow two: from shop/web\n",
        "policy a\n allow one: from shop/* to GET\n allow two: from shop/web\n",
        "policy a\n allow one: from shop/* until 2026-12-01T00:00:00Z\n allow two: from shop/web\n",
        "policy a audit\n allow one: from shop/*\npolicy b\n allow two: from shop/web\n",
        "guardrail r\n allow one: from shop/*\npolicy b\n allow two: from shop/web\n",
        "policy a\n allow one: from shop/* to http\n allow two: from shop/web to :80\n",
        "policy a\n allow one: from shop/* to header=\"x-a: 1*\"\n allow two: from shop/web to header=\"x-b: 1\"\n",
        "policy a\n allow one: from shop/* until 2026-01-01T00:00:00Z\n allow two: from shop/web\n",
    ] {
        let kinds: Vec<_> =
            lint(&world(lines).inputs.policies, seconds(NOW)).iter().map(|found| found.kind).collect();
        assert!(!kinds.contains(&FindingKind::Shadowed), "{lines}");
    }
}

#[test]
fn contradictions_are_found() {
    check("policy a\n allow web: from shop/web to GET\n deny all: from shop/* to http GET,POST\n", &[]);
    check(
        "policy a\n allow web: from shop/web to http GET\n deny all: from shop/* to http GET,POST\n",
        &["web: contradictory by all"],
    );
    check("policy a\n allow web: from shop/web\n deny all: from shop/*\n", &["web: contradictory by all"]);
    check("policy a\n allow web: from shop/web\n deny all: from shop/* except shop/web\n", &[]);
    check(
        "policy a\n allow call: from shop/web to grpc=a.B/C\n deny path: from meshed to /a.B/*\n",
        &["call: contradictory by path"],
    );
    check("policy a audit\n deny all: from shop/*\npolicy b\n allow web: from shop/web\n", &[]);
}

#[test]
fn open_doors_are_found() {
    check("policy a\n allow all: from anyone\n", &["all: open-door"]);
    check("policy a\n allow all: from anyone except 10.0.0.0/8\n", &[]);
    check("policy a\n allow all: from meshed\n", &[]);
    check("policy a\n allow some: from anyone to /healthz\n", &[]);
}

#[test]
fn a_deny_that_cuts_raw_connections_is_found() {
    check(
        "policy a\n allow raw: from shop/web to tcp\n deny del: from anyone to DELETE\n",
        &["del: denies-non-http by raw"],
    );
    check("policy a\n allow raw: from shop/web to tcp\n deny del: from anyone to :80 DELETE\n", &[]);
}

#[test]
fn codes_are_unique_and_findings_name_their_place() {
    let codes: BTreeSet<_> = FindingKind::ALL.into_iter().map(FindingKind::code).collect();
    assert_eq!(codes.len(), FindingKind::ALL.len());
    let found = lint(
        &world("policy shop/a\n allow one: from shop/*\n allow two: from shop/web\n").inputs.policies,
        0,
    );
    assert_eq!(
        found.first().map(ToString::to_string).as_deref(),
        Some(
            "p.yaml:3: shop/a two: never decides: one of shop/a (p.yaml:2) covers all of it; remove it, or narrow that one [shadowed]"
        )
    );
}

#[test]
fn ten_thousand_rules_are_compared_without_ado() {
    let mut lines = String::from("policy a\n");
    for number in 0..10_000 {
        lines.push_str(&format!(" allow r{number}: from shop/c{number} to /p{number}\n"));
    }
    lines.push_str(" allow last: from shop/c7 to /p7 GET\n");
    check(&lines, &["last: shadowed by r7"]);
}

#[test]
fn diff_names_the_requests_whose_outcome_changes() {
    let set = |lines: &str| PolicySet::compile(&world(lines).inputs);
    let before = set("policy a\n allow web: from shop/web to GET\n");
    let after = set("policy a\n allow web: from shop/* to GET /x\n");
    let requests: Vec<_> = [
        "shop/web -> GET h:1/x",
        "shop/web -> GET h:1/y",
        "shop/cart -> GET h:1/x",
        "shop/cart -> POST h:1/x",
    ]
    .map(|text| crate::notation::request(text).unwrap())
    .into();
    let facts: Vec<_> = requests.iter().map(crate::notation::OwnedRequest::facts).collect();
    let found = diff(&before, &after, &facts);
    let changed: Vec<_> =
        found.iter().map(|found| (found.request, matches!(found.after, Decision::Allowed(_)))).collect();
    assert_eq!(changed, [(1, false), (2, true)]);
    assert!(diff(&before, &before, &facts).is_empty());
}
