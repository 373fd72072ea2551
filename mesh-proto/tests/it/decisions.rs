//! The decision table and the explanations: golden files that a security officer can read.
//!
//! `UPDATE_GOLDEN=1 cargo test -p mesh-proto --test it` rewrites what stands after `=>`; review the difference as code.

use crate::notation::{World, request};
use mesh_proto::policy::compile::PolicySet;
use mesh_proto::policy::evaluate::{Decision, RuleRef};
use mesh_proto::policy::model::Action;
use mesh_proto::policy::standing::Standing;
use std::fmt::Write;
use std::path::PathBuf;

pub(crate) fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/golden").join(name)
}

#[expect(clippy::disallowed_methods, reason = "the one switch of golden files")]
fn is_update() -> bool {
    std::env::var_os("UPDATE_GOLDEN").is_some()
}

/// Compares a golden file with what it should be, or rewrites it.
pub(crate) fn compare(name: &str, before: &str, after: &str) {
    if is_update() {
        std::fs::write(golden(name), after).unwrap();
        return;
    }
    for (number, (old, new)) in before.lines().zip(after.lines()).enumerate() {
        assert_eq!(
            old,
            new,
            "{name}:{} differs; rewrite with UPDATE_GOLDEN=1 if the new one is right",
            number + 1
        );
    }
    assert_eq!(
        before.lines().count(),
        after.lines().count(),
        "{name} has another length; rewrite with UPDATE_GOLDEN=1"
    );
}

/// What is decided. `kept` is what an earlier case left, of another caller or even other policies.
fn outcome(world: &World, case: &str, kept: &mut Option<Standing>) -> String {
    let request = match request(case) {
        Ok(request) => request,
        Err(code) => return format!("refused {code}"),
    };
    let set = PolicySet::compile(&world.inputs);
    let named = |rule: RuleRef| {
        let about = set.describe(rule).unwrap();
        format!("{} {}", about.policy, about.rule)
    };
    let verdict = set.authorize(&request.facts());
    let kept = kept.get_or_insert_with(|| set.standing(&request.facts().source));
    let again = set.authorize_as(kept, &request.facts());
    assert_eq!(Decision::from(&again.outcome), Decision::from(&verdict.outcome), "{case}");
    assert_eq!(again.audited, verdict.audited, "{case}");
    let mut text = match Decision::from(&verdict.outcome) {
        Decision::Allowed(None) => "allow by default".to_owned(),
        Decision::Allowed(Some(rule)) => format!("allow by {}", named(rule)),
        Decision::Denied(denial) => {
            let rule = denial.rule.map(|rule| format!(" by {}", named(rule))).unwrap_or_default();
            format!("deny {}{rule}", denial.reason.as_str())
        }
    };
    if let Some((action, rule)) = verdict.audited {
        let word = if action == Action::Allow { "allow" } else { "deny" };
        write!(text, "; audit would {word} by {}", named(rule)).unwrap();
    }
    text
}

#[test]
fn the_decision_table_holds() {
    let before = std::fs::read_to_string(golden("decisions.txt")).unwrap();
    let (mut after, mut world, mut cases) = (String::new(), World::default(), 0);
    let mut kept = None;
    for (number, line) in before.lines().enumerate() {
        if line.starts_with("## ") {
            world = World::default();
        } else if line.contains(" -> ") && !line.starts_with('#') {
            let case = line.split("=>").next().unwrap().trim_end();
            writeln!(after, "{case:<78} => {}", outcome(&world, case, &mut kept)).unwrap();
            cases += 1;
            continue;
        } else if !line.trim().is_empty() && !line.starts_with('#') {
            let known = world.line(line, "decisions.txt", u32::try_from(number + 1).unwrap());
            assert!(known, "decisions.txt:{}: {line:?} is neither policy nor request", number + 1);
        }
        writeln!(after, "{line}").unwrap();
    }
    assert!(cases >= 300, "only {cases} cases");
    compare("decisions.txt", &before, &after);
}

/// Each request is followed by its whole explanation, indented.
#[test]
fn explanations_read_as_recorded() {
    let before = std::fs::read_to_string(golden("explanations.txt")).unwrap();
    let (mut after, mut world) = (String::new(), World::default());
    // Lines are counted without the explanations, so that these do not change each other.
    let stated = before.lines().filter(|line| !line.starts_with("    |"));
    for (number, line) in stated.enumerate() {
        writeln!(after, "{line}").unwrap();
        if line.starts_with("## ") {
            world = World::default();
        } else if line.contains(" -> ") && !line.starts_with('#') {
            let request = request(line).unwrap();
            let explanation = PolicySet::compile(&world.inputs).explain(&request.facts());
            for line in explanation.to_string().lines() {
                writeln!(after, "{}", format!("    | {line}").trim_end()).unwrap();
            }
        } else {
            world.line(line, "policy.yaml", u32::try_from(number + 1).unwrap());
        }
    }
    compare("explanations.txt", &before, &after);
}

/// What is kept must follow every change of the policies, even where an old set's memory is used again.
#[test]
fn a_standing_of_before_a_change_is_never_used() {
    let (mut open, mut shut) = (World::default(), World::default());
    for line in ["policy shop/a", "  allow web: from shop/web"] {
        assert!(open.line(line, "a.yaml", 1));
    }
    for line in ["policy shop/a", "  allow bank: from bank/web", "  deny web: from shop/web to /x"] {
        assert!(shut.line(line, "a.yaml", 1));
    }
    let request = request("shop/web -> GET pay.shop:8080/").unwrap();
    let mut set = PolicySet::compile(&open.inputs);
    let mut kept = set.standing(&request.facts().source);
    for round in 0..200 {
        let verdict = set.authorize_as(&mut kept, &request.facts());
        let is_allowed = matches!(Decision::from(&verdict.outcome), Decision::Allowed(Some(_)));
        assert_eq!(is_allowed, round % 2 == 0, "round {round}");
        let next = if round % 2 == 0 { &shut.inputs } else { &open.inputs };
        set = PolicySet::compile(next);
        if round % 5 == 0 {
            // The one in use now was never before this connection.
            set = PolicySet::compile(next);
        }
    }
}

/// Policies, then what is asked and whether anything could ever be allowed there.
#[test]
fn hopeless_is_only_what_nothing_could_open() {
    let check = |policies: &[&str], case: &str, expected: Option<&str>| {
        let mut world = World::default();
        for line in policies {
            assert!(world.line(line, "a.yaml", 1), "{line}");
        }
        let request = request(case).unwrap();
        let set = PolicySet::compile(&world.inputs);
        let denial = set.hopeless(&request.facts().source, request.port, request.now);
        let reason = denial.map(|denial| denial.reason.as_str());
        assert_eq!(reason, expected, "{case} under {policies:#?}");
    };
    let tcp = "shop/web -> tcp :5432";
    check(&[], tcp, Some("no_rule_allows"));
    check(&["default allow"], tcp, None);
    check(&["policy shop/a", "  allow r: from bank/web"], tcp, Some("no_rule_allows"));
    check(&["policy shop/a", "  allow r: from shop/web to :80"], tcp, Some("no_rule_allows"));
    check(&["policy shop/a", "  allow r: from shop/web to :5432 http /x"], tcp, None);
    check(&["policy shop/a", "  allow r: from shop/web to sni=db.example"], tcp, None);
    let denied = ["policy shop/a", "  deny d: from shop/web to :5432", "  allow r: from shop/web"];
    check(&denied, tcp, Some("denied_by_rule"));
    check(&denied, "shop/web -> tcp :80", None);
    check(&["policy shop/a", "  deny d: from shop/web to GET", "  allow r: from shop/web"], tcp, None);
    check(&["policy shop/a", "  deny d: from shop/web to tcp", "  allow r: from shop/web"], tcp, None);
}
