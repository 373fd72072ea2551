//! The evaluator, the explainer and the reference agree on whatever policies and requests there are.

use crate::notation::{Headers, OwnedHttp, OwnedRequest, OwnedSource, identity, operation, pattern};
use crate::reference::{self, Expected};
use mesh_proto::matching::canonical_path;
use mesh_proto::policy::compile::PolicySet;
use mesh_proto::policy::evaluate::{Decision, DenyReason, RuleRef};
use mesh_proto::policy::lint::{FindingKind, lint};
use mesh_proto::policy::model::{
    Action, GroupKind, Isolation, Mode, Operation, Policy, PolicyInputs, PolicyName, Protocol, Rule, Scope,
    Source,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use std::sync::Arc;

const IDENTITIES: [&str; 7] = [
    "shop/web",
    "shop/cart",
    "shop/web-2",
    "bank/web",
    "spiffe://mesh.local/ns/shop/sa/web/extra",
    "spiffe://other.example/ns/shop/sa/web",
    "spiffe://other.example/runner",
];

fn any_source() -> impl Strategy<Value = Source> {
    let patterns = [
        "shop/*",
        "bank/*",
        "spiffe://mesh.local/*",
        "spiffe://other.example/*",
        "spiffe://mesh.local/ns/shop/sa/*",
    ];
    let member =
        prop_oneof![select(&IDENTITIES[..]).prop_map(pattern), select(patterns.to_vec()).prop_map(pattern)];
    prop_oneof![
        4 => member.clone().prop_map(Source::Identity),
        2 => (any::<bool>(), vec(member, 0..4)).prop_map(|(segment, members)| Source::Group {
            kind: if segment { GroupKind::Segment } else { GroupKind::Role },
            name: "some".into(),
            members,
        }),
        1 => (select(&IDENTITIES[..]), select(vec!["web-1", "web-2"])).prop_map(|(id, instance)| Source::Instance {
            id: identity(id),
            instance: instance.parse().unwrap(),
        }),
        1 => select(vec!["10.0.0.0/8", "10.1.0.0/16", "fd00::/8", "0.0.0.0/0", "10.1.2.3/32"])
            .prop_map(|cidr| Source::Unmeshed(cidr.parse().unwrap())),
        1 => Just(Source::AnyMeshed),
        1 => Just(Source::Anyone),
    ]
}

fn any_operation() -> impl Strategy<Value = Operation> {
    let words = vec![
        ":80",
        ":8080",
        ":8000-8090",
        ":1-65535",
        "http",
        "http1",
        "http2",
        "grpc",
        "tls",
        "tcp",
        "sni=db.example",
        "sni=*.example",
        "host=pay.shop",
        "host=*.shop",
        "GET",
        "POST",
        "BREW",
        "/",
        "/*",
        "/a",
        "/a/b",
        "/a/*",
        "/{x}",
        "/{x}/b",
        "/a/{x}",
        "/{x}/{y}",
        "/a/{x}/*",
        "/a%25b",
        "/a%2Ab",
        "/pkg.Svc/M",
        "grpc=pkg.Svc/M",
        "grpc=pkg.Svc/*",
        "grpc=a/b",
        "header=x-a",
        "header=\"x-a: 1\"",
        "header=\"x-a: 1*\"",
        "header=\"x-b: a, b\"",
        "header=\"authorization: Basic*\"",
    ];
    subsequence(words, 0..5).prop_map(|words| operation(&words.join(" ")))
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let end = prop_oneof![4 => Just(None), 1 => (0_u64..20).prop_map(Some)];
    (any::<bool>(), vec(any_source(), 1..4), vec(any_source(), 0..2), vec(any_operation(), 0..4), end)
        .prop_map(|(deny, from, except, to, valid_until)| Rule {
            name: "rule".into(),
            line: 1,
            action: if deny { Action::Deny } else { Action::Allow },
            from,
            except,
            to,
            valid_until,
        })
}

fn any_policy(rules: usize) -> impl Strategy<Value = Policy> {
    let scope = prop_oneof![1 => Just(Scope::Guardrail), 3 => Just(Scope::Ordinary)];
    let mode = prop_oneof![3 => Just(Mode::Enforce), 1 => Just(Mode::Audit)];
    // Few policies have deny rules, or else nothing would get past them.
    (scope, mode, vec(any_rule(), 0..rules), 0..4_u8).prop_map(|(scope, mode, mut rules, kind)| {
        if kind > 0 {
            rules.retain(|rule| rule.action == Action::Allow);
        }
        Policy {
            name: PolicyName { namespace: None, name: "p".parse().unwrap() },
            scope,
            mode,
            rules,
            file: "p.yaml".into(),
        }
    })
}

fn any_inputs(policies: usize, rules: usize) -> impl Strategy<Value = PolicyInputs> {
    let isolation = prop_oneof![
        4 => Just(None),
        1 => vec(select(vec!["shop/*", "bank/web", "spiffe://other.example/*"]), 0..3).prop_map(|members| {
            let accepts = vec![("own".into(), members.into_iter().map(pattern).collect())];
            Some(Arc::new(Isolation { segment: "own".into(), accepts, file: "s.yaml".into(), line: 3 }))
        }),
    ];
    let quarantined =
        prop_oneof![4 => Just(Vec::new()), 1 => vec(select(&IDENTITIES[..]).prop_map(identity), 0..2)];
    (
        vec(any_policy(rules).prop_map(Arc::new), 0..policies),
        isolation,
        quarantined,
        prop::bool::weighted(0.2),
    )
        .prop_map(|(policies, isolation, quarantined, default_allow)| PolicyInputs {
            policies,
            isolation,
            quarantined,
            default_allow,
        })
}

fn any_request() -> impl Strategy<Value = OwnedRequest> {
    let meshed = (select(&IDENTITIES[..]), prop::option::of(select(vec!["web-1", "web-2", "web-3"])))
        .prop_map(|(id, instance)| OwnedSource::Meshed(identity(id), instance.map(str::to_owned)));
    let unmeshed = select(vec!["10.1.2.3", "10.9.9.9", "192.0.2.1", "fd00::1", "::ffff:10.1.2.3"])
        .prop_map(|ip| OwnedSource::Unmeshed(ip.parse().unwrap()));
    let paths = vec![
        "/",
        "/a",
        "/a/",
        "/a;x/b",
        "/a/b",
        "/a/b/c",
        "/A/b",
        "/a/;x",
        "/a%3Bx/b",
        "/a%25b",
        "/a*b",
        "/a%2ab",
        "/b",
        "/pkg.Svc/M",
        "/pkg.Svc/N",
        "/pkg.Svc/M/",
        "/a%c3%a4",
        "//a//b",
        "*",
    ];
    let headers = vec![
        ("x-a", "1"),
        ("x-a", "1, 12"),
        ("x-a", "2"),
        ("x-a", " 1 ,2"),
        ("x-a", ""),
        ("x-b", "a, b"),
        ("x-b", "a"),
        ("authorization", "Basic a, b"),
        ("authorization", "b, Basic a"),
        ("x-a", "1,"),
    ];
    let http = (
        select(vec!["pay.shop", "shop", "db.example", "other"]),
        select(vec!["GET", "POST", "BREW", "get"]),
        select(paths),
        subsequence(headers, 0..4),
    )
        .prop_map(|(host, method, path, headers)| OwnedHttp {
            host: host.to_owned(),
            method: method.to_owned(),
            path: canonical_path(path.as_bytes())
                .map_or_else(|_| path.to_owned(), std::borrow::Cow::into_owned),
            headers: Headers(
                headers.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            ),
        });
    let protocol =
        select(vec![Protocol::Http1, Protocol::Http2, Protocol::Grpc, Protocol::Tls, Protocol::Tcp]);
    (
        prop_oneof![5 => meshed, 1 => unmeshed],
        select(vec!["80", "8080", "8090", "9000"]),
        protocol,
        prop::option::of(select(vec!["db.example", "a.b.example", "example"])),
        http,
        0_u64..20,
    )
        .prop_map(|(source, port, protocol, sni, http, now)| OwnedRequest {
            source,
            port: port.parse().unwrap(),
            protocol,
            sni: sni.map(str::to_owned),
            http: (!matches!(protocol, Protocol::Tls | Protocol::Tcp)).then_some(http),
            now,
        })
}

fn agree(inputs: &PolicyInputs, requests: &[OwnedRequest]) {
    let set = PolicySet::compile(inputs);
    let place = |rule: RuleRef| {
        let found = set.describe(rule).unwrap();
        let policy = inputs
            .policies
            .iter()
            .position(|policy| std::ptr::eq(&raw const policy.name, found.policy))
            .unwrap();
        let named = |rule: &Rule| std::ptr::eq(&raw const *rule.name, found.rule);
        (policy, inputs.policies[policy].rules.iter().position(named).unwrap())
    };
    // What a connection keeps: at first of another set, then of whoever called before.
    let mut kept = requests
        .first()
        .map(|request| PolicySet::compile(&PolicyInputs::default()).standing(&request.facts().source));
    for request in requests {
        let verdict = set.authorize(&request.facts());
        let decision = Decision::from(&verdict.outcome);
        for round in ["after another's", "again"] {
            let again = kept.as_mut().map(|kept| set.authorize_as(kept, &request.facts()));
            assert_eq!(
                again.map(|again| (Decision::from(&again.outcome), again.audited)),
                Some((decision, verdict.audited)),
                "a kept standing, used {round}, differs for {request:?} under {inputs:#?}"
            );
        }
        if let Some(denial) = set.hopeless(&request.facts().source, request.port, request.now) {
            assert!(
                matches!(decision, Decision::Denied(_)),
                "{request:?} passes, but was called hopeless ({denial:?}) under {inputs:#?}"
            );
        }
        let got = match decision {
            Decision::Allowed(by) => Expected::Allowed(by.map(place)),
            Decision::Denied(denial) => Expected::Denied(denial.reason, denial.rule.map(place)),
        };
        let audited = verdict.audited.map(|(action, rule)| (action, place(rule)));
        let expected = reference::decide(inputs, request);
        assert_eq!(
            (got, audited),
            expected,
            "authorize differs from the reference for {request:?} under {inputs:#?}"
        );
        let explanation = set.explain(&request.facts());
        assert_eq!(explanation.decision, decision, "explain differs for {request:?} under {inputs:#?}");
        assert_eq!(
            explanation.audited, verdict.audited,
            "explain's audit differs for {request:?} under {inputs:#?}"
        );
        assert_eq!(
            explanation.nearest_miss.is_some(),
            matches!(decision, Decision::Denied(_)),
            "a refusal names what comes nearest, nothing else does: {request:?} under {inputs:#?}"
        );
        assert!(explanation.to_string().starts_with(&explanation.question));
        if let (Expected::Denied(DenyReason::NoRuleAllows, _), Some(miss)) = (got, &explanation.nearest_miss)
        {
            let allows = explanation.rules.iter().filter(|rule| {
                (rule.action, rule.mode, rule.scope) == (Action::Allow, Mode::Enforce, Scope::Ordinary)
            });
            let fewest = allows.clone().map(|rule| rule.misses.len()).min();
            let named =
                allows.clone().find(|rule| Some(rule.rule) == miss.rule).map(|rule| rule.misses.len());
            assert_eq!(named, fewest, "{} is not nearest for {request:?} under {inputs:#?}", miss.sentence);
        }
        if matches!(got, Expected::Denied(DenyReason::NeedsHttp, _)) {
            assert!(set.needs_http(request.port), "needs_http({}) is false under {inputs:#?}", request.port);
        }
    }
}

/// What lint calls covered decides nothing: without the rule every request has the same outcome.
fn covered_rules_can_go(inputs: &PolicyInputs, requests: &[OwnedRequest]) {
    let set = PolicySet::compile(inputs);
    for request in requests {
        for finding in lint(&inputs.policies, request.now) {
            if !matches!(finding.kind, FindingKind::Shadowed | FindingKind::Contradictory) {
                continue;
            }
            let mut without = inputs.clone();
            for policy in without.policies.iter_mut().filter(|policy| policy.name == finding.policy) {
                Arc::make_mut(policy).rules.retain(|rule| Some(&rule.name) != finding.rule.as_ref());
            }
            let outcome = |set: &PolicySet| {
                let verdict = set.authorize(&request.facts());
                let is_allowed = matches!(Decision::from(&verdict.outcome), Decision::Allowed(_));
                // An audit-mode allow that an enforced deny covers is still recorded.
                let audited = verdict.audited.map(|(action, _)| action);
                (is_allowed, audited.filter(|_| finding.kind == FindingKind::Shadowed))
            };
            let (before, after) = (outcome(&set), outcome(&PolicySet::compile(&without)));
            assert_eq!(before, after, "{finding} is wrong for {request:?} under {inputs:#?}");
        }
    }
}

/// Rules differ in identity, or else the names that `describe` gives back could not be told apart.
fn with_own_names(mut inputs: PolicyInputs) -> PolicyInputs {
    for (number, policy) in inputs.policies.iter_mut().enumerate() {
        Arc::make_mut(policy).name.name = format!("p{number}").parse().unwrap();
        for (at, rule) in Arc::make_mut(policy).rules.iter_mut().enumerate() {
            rule.name = format!("rule {}", at + 1).into();
        }
    }
    inputs
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn evaluator_explainer_and_reference_agree(inputs in any_inputs(5, 5), requests in vec(any_request(), 1..8)) {
        agree(&with_own_names(inputs), &requests);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_lint_calls_covered_decides_nothing(inputs in any_inputs(4, 6), requests in vec(any_request(), 4..12)) {
        covered_rules_can_go(&with_own_names(inputs), &requests);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    /// Enough rules for the index to arrange candidates by source and port.
    #[test]
    fn they_agree_on_many_rules(inputs in any_inputs(6, 80), requests in vec(any_request(), 10..30)) {
        agree(&with_own_names(inputs), &requests);
    }
}
