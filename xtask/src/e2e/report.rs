//! What the scenarios came to: lines for people, JUnit for machines.

use anyhow::{Context, Result};
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

/// One scenario's outcome.
struct Case {
    name: &'static str,
    took: Duration,
    problem: Option<String>,
    /// What was wrong at the first attempt, of one that passed at the second.
    at_first: Option<String>,
}

/// All of them.
#[derive(Default)]
pub(super) struct Report {
    cases: Vec<Case>,
}

impl Report {
    /// Notes one, and says it.
    pub(super) fn note(&mut self, name: &'static str, took: Duration, outcome: &Result<()>) {
        let problem = outcome.as_ref().err().map(|error| format!("{error:#}"));
        match &problem {
            None => eprintln!("==> {name}: passed after {took:.1?}"),
            Some(problem) => eprintln!("==> {name}: FAILED after {took:.1?}: {problem}"),
        }
        let before = self.cases.iter_mut().find(|case| case.name == name);
        match before {
            Some(case) => {
                let at_first = case.problem.take();
                (case.took, case.problem) = (case.took.saturating_add(took), problem);
                case.at_first = at_first.filter(|_| case.problem.is_none());
            }
            None => self.cases.push(Case { name, took, problem, at_first: None }),
        }
    }

    /// How many there were.
    pub(super) fn total(&self) -> usize {
        self.cases.len()
    }

    /// How many failed.
    pub(super) fn failed(&self) -> usize {
        self.cases.iter().filter(|case| case.problem.is_some()).count()
    }

    /// `N passed, N failed`, and which.
    pub(super) fn summary(&self) -> String {
        let failed: Vec<&str> =
            self.cases.iter().filter(|case| case.problem.is_some()).map(|case| case.name).collect();
        let second: Vec<&str> =
            self.cases.iter().filter(|case| case.at_first.is_some()).map(|case| case.name).collect();
        let named = |before: &str, names: &[&str]| {
            if names.is_empty() { String::new() } else { format!("{before}{}", names.join(", ")) }
        };
        let (passed, not) = (self.total() - failed.len(), failed.len());
        let second = named("; only at the second attempt: ", &second);
        format!("{passed} passed, {not} failed{}{second}", named(": ", &failed))
    }

    /// The five that took longest.
    pub(super) fn slowest(&self) -> String {
        let mut cases: Vec<&Case> = self.cases.iter().collect();
        cases.sort_by_key(|case| std::cmp::Reverse(case.took));
        let named = cases.iter().take(5).map(|case| format!("{} {:.0?}", case.name, case.took));
        named.collect::<Vec<_>>().join(", ")
    }

    /// Writes JUnit's XML.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        std::fs::write(path, self.junit()).with_context(|| format!("{} cannot be written", path.display()))
    }

    fn junit(&self) -> String {
        let seconds = self.cases.iter().map(|case| case.took.as_secs_f64()).sum::<f64>();
        let mut out = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n<testsuite name=\"e2e\" tests=\"{}\" failures=\"{}\" time=\"{seconds:.1}\">\n",
            self.total(),
            self.failed()
        );
        for case in &self.cases {
            let (name, time) = (case.name, case.took.as_secs_f64());
            // Writing into a `String` cannot fail.
            let _ = match case.problem.as_ref().or(case.at_first.as_ref()) {
                Some(problem) if case.problem.is_none() => writeln!(
                    out,
                    "<testcase classname=\"e2e\" name=\"{name}\" time=\"{time:.1}\"><system-out>passed at the second attempt; at the first: {}</system-out></testcase>",
                    escaped(problem)
                ),
                None => writeln!(out, "<testcase classname=\"e2e\" name=\"{name}\" time=\"{time:.1}\"/>"),
                Some(problem) => writeln!(
                    out,
                    "<testcase classname=\"e2e\" name=\"{name}\" time=\"{time:.1}\"><failure>{}</failure></testcase>",
                    escaped(problem)
                ),
            };
        }
        out + "</testsuite>\n</testsuites>\n"
    }
}

/// A text as XML content; what XML cannot hold at all becomes a question mark.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for letter in text.chars() {
        match letter {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '\n' | '\t' => out.push(letter),
            letter if letter.is_control() => out.push('?'),
            letter => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_at_the_second_attempt_is_named() {
        let mut report = Report::default();
        let second = Duration::from_secs(1);
        report.note("scaling", second, &Err(anyhow::anyhow!("1 of 977 failed")));
        report.note("deny", second, &Err(anyhow::anyhow!("it answers 200")));
        report.note("scaling", second, &Ok(()));
        report.note("deny", second, &Err(anyhow::anyhow!("it still does")));
        assert_eq!(report.summary(), "1 passed, 1 failed: deny; only at the second attempt: scaling");
        let xml = report.junit();
        assert!(xml.contains("<system-out>passed at the second attempt; at the first: 1 of 977"), "{xml}");
        assert!(xml.contains("<failure>it still does</failure>"), "{xml}");
    }

    #[test]
    fn a_failure_is_told_to_people_and_machines() {
        let mut report = Report::default();
        report.note("install", Duration::from_secs(3), &Ok(()));
        report.note(
            "deny",
            Duration::from_millis(1500),
            &Err(anyhow::anyhow!("it answers <200> & \u{1b}[0m")),
        );
        assert_eq!(report.summary(), "1 passed, 1 failed: deny");
        let xml = report.junit();
        assert!(xml.contains("tests=\"2\" failures=\"1\" time=\"4.5\""), "{xml}");
        assert!(xml.contains("<failure>it answers &lt;200&gt; &amp; ?[0m</failure>"), "{xml}");
    }
}
