//! The decision table and the explanations: golden files that a security officer can read.
//!
//! `UPDATE_GOLDEN=1 cargo test -p mesh-proto --test it` rewrites what stands after `=>`; review the difference as code.

use crate::notation::{World, request};
use mesh_proto::policy::compile::PolicySet;
use mesh_proto::policy::evaluate::{Decision, RuleRef};
use mesh_proto::policy::model::Action;
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

fn outcome(world: &World, case: &str) -> String {
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
    for (number, line) in before.lines().enumerate() {
        if line.starts_with("## ") {
            world = World::default();
        } else if line.contains(" -> ") && !line.starts_with('#') {
            let case = line.split("=>").next().unwrap().trim_end();
            writeln!(after, "{case:<78} => {}", outcome(&world, case)).unwrap();
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
