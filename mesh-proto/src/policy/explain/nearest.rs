//! Finds what comes nearest to allowing a refused request.

use super::condition::{as_pattern, listed, source_yaml};
use super::{Checked, NearestMiss, Recorder, caller};
use crate::matching::PathPattern;
use crate::policy::compile::{Entry, Guard, PolicySet};
use crate::policy::evaluate::{Condition, Denial, DenyReason, Facts, Match, Request, RuleRef, SourceFacts};
use crate::policy::model::{Action, GroupKind, Mode, Operation, Protocol, Source};

/// How far an entry is from matching: failed conditions, then how hard they are to change.
type Distance = (usize, u32);

impl PolicySet {
    /// What comes nearest to allowing this refused request.
    pub(super) fn nearest_miss(
        &self,
        denial: &Denial,
        facts: &Facts<'_>,
        seen: &[Checked],
    ) -> Option<NearestMiss> {
        match denial.reason {
            DenyReason::Quarantined => Some(NearestMiss {
                rule: None,
                sentence: format!(
                    "rules would be looked at if {} were not quarantined",
                    caller(&facts.request.source)
                ),
                change: String::new(),
            }),
            DenyReason::Isolated => Some(self.isolated(facts.request)),
            DenyReason::DeniedByRule | DenyReason::NeedsHttp | DenyReason::NameUnreadable => {
                self.denied(denial, facts, seen)
            }
            DenyReason::GuardrailNotMet => {
                let guard = self.enforced.guards.iter().find(|guard| Some(guard.first) == denial.rule)?;
                let (_, checked) = self.look_at(&guard.allow, facts);
                let mut miss = self.nearest_of(&checked, facts.request)?;
                miss.sentence.push_str(&self.afterwards(facts, Some(guard.first)));
                Some(miss)
            }
            DenyReason::NoRuleAllows => {
                let (_, checked) = self.look_at(&self.enforced.allow, facts);
                Some(
                    self.nearest_of(&checked, facts.request)
                        .unwrap_or_else(|| self.no_allow_rule(facts.request)),
                )
            }
        }
    }

    fn isolated(&self, request: &Request<'_>) -> NearestMiss {
        let isolation = self.inputs.isolation.as_deref();
        let names: Vec<_> =
            isolation.iter().flat_map(|isolation| &isolation.accepts).map(|(name, _)| &**name).collect();
        let target = isolation.map_or("", |isolation| &*isolation.segment);
        let sentence = match &request.source {
            SourceFacts::Meshed { id, .. } => {
                format!("the segment would accept {id} if it were a member of {}", listed(&names))
            }
            SourceFacts::Unmeshed { .. } => {
                format!(
                    "the segment would accept a meshed member of {}; peers without a mesh identity never",
                    names.join(", ")
                )
            }
        };
        let change = match &request.source {
            SourceFacts::Meshed { .. } => format!(
                "add the caller to the members of Segment {target}: - {}, or make its own segment one that {target} accepts",
                source_yaml(&request.source)
            ),
            SourceFacts::Unmeshed { .. } => String::new(),
        };
        NearestMiss { rule: None, sentence, change }
    }

    /// A deny rule stands in the way: what would take the request out of it, and what then.
    fn denied(&self, denial: &Denial, facts: &Facts<'_>, seen: &[Checked]) -> Option<NearestMiss> {
        let rule = denial.rule?;
        let request = facts.request;
        let matched = seen.iter().filter(|checked| checked.found != Match::Misses);
        let deny = |entry: &&Entry| {
            entry.action == Action::Deny && self.is_enforced(entry.rule) && entry.rule != rule
        };
        let mut others: Vec<_> =
            matched.filter_map(|seen| self.entry_of(seen)).filter(deny).map(|entry| entry.rule).collect();
        others.dedup();
        let named = self.named(rule);
        let also = match others[..] {
            [] => self.afterwards(facts, None),
            [one] => format!("; but {} denies it too", self.named(one)),
            [one, ..] => {
                format!("; but {} and {} more deny it too", self.named(one), others.len().saturating_sub(1))
            }
        };
        if denial.reason == DenyReason::NeedsHttp {
            return Some(NearestMiss {
                rule: Some(rule),
                sentence: format!(
                    "{named} would be judged on its conditions if the connection were HTTP (it speaks {}){also}",
                    request.protocol.as_str(),
                ),
                change: format!(
                    "in {named}, limit to[].ports to ports that speak HTTP, or add to except: - {}",
                    source_yaml(&request.source)
                ),
            });
        }
        if denial.reason == DenyReason::NameUnreadable {
            return Some(NearestMiss {
                rule: Some(rule),
                sentence: format!(
                    "{named} would be judged on its server names if the client sent one (SNI) in the clear{also}"
                ),
                change: format!(
                    "let the client send the server name without ECH, or in {named}, add to except: - {}",
                    source_yaml(&request.source)
                ),
            });
        }
        Some(NearestMiss {
            rule: Some(rule),
            sentence: format!("{named} would not match if {} were excepted{also}", caller(&request.source)),
            change: format!("in {named}, add to except: - {}", source_yaml(&request.source)),
        })
    }

    /// What the stages after the one that refused would say; `met` is the guard-rail that is taken as met.
    fn afterwards(&self, facts: &Facts<'_>, met: Option<RuleRef>) -> String {
        let unmet = |guard: &&Guard| {
            Some(guard.first) != met && self.first(&guard.allow, facts, &mut Recorder::default()).is_none()
        };
        if let Some(guard) = self.enforced.guards.iter().find(unmet) {
            let policy = self.describe(guard.first).map(|about| about.policy.to_string()).unwrap_or_default();
            return format!("; but guard-rail {policy} does not allow it either");
        }
        match self.first(&self.enforced.allow, facts, &mut Recorder::default()) {
            Some((rule, _)) => format!("; then {} would allow it", self.named(rule)),
            None if self.inputs.default_allow => "; then the default would allow it".to_owned(),
            None => "; but no rule allows it either".to_owned(),
        }
    }

    fn is_enforced(&self, rule: RuleRef) -> bool {
        self.describe(rule).is_some_and(|about| about.mode == Mode::Enforce)
    }

    /// The nearest of the entries that missed.
    fn nearest_of(&self, checked: &[Checked], request: &Request<'_>) -> Option<NearestMiss> {
        let missed = checked.iter().filter(|checked| checked.found == Match::Misses);
        let nearest = missed.min_by_key(|checked| self.distance(checked, request))?;
        let entry = self.entry_of(nearest)?;
        let wishes: Vec<_> = nearest.failed.iter().map(|failed| self.wish(*failed, entry, request)).collect();
        let changes: Vec<_> =
            nearest.failed.iter().map(|failed| self.change(*failed, entry, request)).collect();
        let named = self.named(entry.rule);
        Some(NearestMiss {
            rule: Some(entry.rule),
            sentence: format!("{named} would match if {}", wishes.join(" and ")),
            change: format!("in {named}: {}", changes.join("; ")),
        })
    }

    /// Nothing comes near, since there is no allow rule at all: a whole rule to write.
    fn no_allow_rule(&self, request: &Request<'_>) -> NearestMiss {
        let mut operation = format!("ports: [{}]", request.port);
        if let Some(http) = &request.http {
            operation.push_str(&match request.protocol {
                Protocol::Grpc => format!(", grpc: [{}]", http.path.strip_prefix('/').unwrap_or(http.path)),
                _ => format!(", methods: [{}], paths: [{}]", http.method, as_pattern(http.path)),
            });
        }
        let from = source_yaml(&request.source);
        NearestMiss {
            rule: None,
            sentence: "no policy with an allow rule applies to the target".to_owned(),
            change: format!(
                "an AccessPolicy for the target with the rule: - {{from: [{{{from}}}], to: [{{{operation}}}]}}"
            ),
        }
    }

    pub(super) fn distance(&self, checked: &Checked, request: &Request<'_>) -> Distance {
        if checked.found != Match::Misses {
            return (0, 0);
        }
        let Some(entry) = self.entry_of(checked) else { return (usize::MAX, 0) };
        let nothing = Operation::default();
        let operation = self.operation(entry).unwrap_or(&nothing);
        let cost = checked.failed.iter().map(|failed| self.cost(*failed, entry, operation, request));
        (checked.failed.len(), cost.fold(0, u32::saturating_add))
    }

    /// How hard a condition is to change: a hundred for each step from "another word in the request" to "another caller",
    /// and below that how far apart the values are.
    fn cost(&self, failed: Condition, entry: &Entry, operation: &Operation, request: &Request<'_>) -> u32 {
        match failed {
            Condition::Method => 100,
            Condition::Path => 200_u32.saturating_add(path_gap(&operation.paths, request)),
            Condition::Grpc => {
                let paths: Vec<_> =
                    operation.grpc.iter().map(crate::matching::GrpcPattern::as_path).collect();
                200_u32.saturating_add(path_gap(&paths, request))
            }
            Condition::Header(_) => 300,
            Condition::Host | Condition::Sni => 400,
            Condition::Port => 500,
            Condition::Protocol | Condition::NeedsHttp => 600,
            Condition::ValidUntil => 700,
            Condition::From => 800_u32
                .saturating_add(self.rule(entry.rule).map_or(99, |rule| caller_gap(&rule.from, request))),
            Condition::Except => 900,
        }
    }
}

/// 0 to 99: fewer, the more segments at the start agree.
fn path_gap(paths: &[PathPattern], request: &Request<'_>) -> u32 {
    let Some(http) = &request.http else { return 99 };
    let agreement = paths.iter().map(|path| path.agreement(http.path)).max().unwrap_or(0);
    99_u32.saturating_sub(u32::try_from(agreement).unwrap_or(u32::MAX).saturating_mul(10))
}

/// 0 to 99: nearest for another instance, then for the same namespace, then for the same trust domain.
fn caller_gap(from: &[Source], request: &Request<'_>) -> u32 {
    let SourceFacts::Meshed { id, .. } = &request.source else { return 99 };
    let shared = |text: &str| {
        let pairs = id.as_str().split('/').zip(text.split('/'));
        pairs.take_while(|(a, b)| a == b).count()
    };
    let nearness = |source: &Source| match source {
        Source::Instance { id: own, .. } if own == *id => 9,
        Source::Identity(pattern) => shared(&pattern.to_string()),
        // A named set is the better place for one more member than a list of identities.
        Source::Group { kind: GroupKind::Segment | GroupKind::Role, members, .. } => {
            members.iter().map(|member| shared(&member.to_string())).max().unwrap_or(0)
        }
        Source::Instance { id, .. } => shared(id.as_str()),
        Source::Unmeshed(_) | Source::AnyMeshed | Source::Anyone => 0,
    };
    let nearest = from.iter().map(nearness).max().unwrap_or(0);
    99_u32.saturating_sub(u32::try_from(nearest).unwrap_or(9).saturating_mul(10))
}
