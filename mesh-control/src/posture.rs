//! What of the mesh deviates from strict mTLS and default deny, and the command that mends it: `meshctl posture`.
//!
//! A pure function: `admin` gathers the [`Facts`], [`findings`] judges them. It changes nothing, and it does not guess: of a
//! rule it says "unused" only when the flow ledger has no allowed call that the rule could have let through.
//!
//! # Unused rules
//! Proxies count calls by edge, not by rule, so that a rule counts as used when any caller that it admits was let through to
//! any workload that it is about, be it by another rule. What is told as unused therefore is; what is not told may be. Days
//! are those that the ledger and the rule's own age allow: a rule of yesterday is unused for a day at most.

mod rules;

use mesh_proto::flows::{OTHERS, UNMESHED};
use mesh_proto::identity::SpiffeId;
use mesh_proto::policy::model::Policy;
use mesh_proto::wire::v1;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Findings of one answer; the gravest first, so that what is cut off is the least.
const FINDINGS_MAX: usize = 10_000;
/// A certificate with less of its life left than this is looked at: renewal is due when two thirds are left.
const CERTIFICATE_PERCENT: f64 = 50.0;
/// With less than this it is a warning.
const CERTIFICATE_WARN_PERCENT: f64 = 25.0;

/// A policy with what it is about at present.
#[derive(Clone, Debug)]
pub(crate) struct InForce {
    /// The policy; the identities of the workloads that it is about, none when no such workload runs.
    pub(crate) policy: Arc<Policy>,
    /// Them.
    pub(crate) targets: BTreeSet<SpiffeId>,
    /// When it was last changed, milliseconds since the epoch.
    pub(crate) changed_ms: u64,
}

/// A certificate in use.
#[derive(Clone, Debug)]
pub(crate) struct Certificate {
    /// The instance, or which of the authority's.
    pub(crate) holder: String,
    /// The workload's namespace; empty for the authority's.
    pub(crate) namespace: String,
    /// Its validity, milliseconds since the epoch.
    pub(crate) not_before_ms: u64,
    /// Its end.
    pub(crate) not_after_ms: u64,
    /// Shows more of it.
    pub(crate) command: String,
}

/// What is judged.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// The present, milliseconds since the epoch.
    pub(crate) now_ms: u64,
    /// How far back `flows` reach.
    pub(crate) watched_ms: u64,
    /// Until when plaintext is accepted, Unix seconds; `None` in strict mode.
    pub(crate) permissive_until: Option<u64>,
    /// Whether passes what no rule allows.
    pub(crate) default_allow: bool,
    /// All access policies.
    pub(crate) policies: Vec<InForce>,
    /// Services (`namespace/name`) with endpoints that have no identity.
    pub(crate) unmeshed_services: Vec<String>,
    /// `namespace/pod` of what asks for a proxy and has none.
    pub(crate) unmeshed_pods: Vec<String>,
    /// Certificates in use.
    pub(crate) certificates: Vec<Certificate>,
    /// Who called whom, as far back as is known.
    pub(crate) flows: Vec<v1::Flow>,
}

/// How grave a finding is, gravest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Severity {
    Critical,
    Warning,
    Info,
}

impl Severity {
    fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }
}

/// Everything that deviates: by namespace, the gravest first, then by code and subject.
pub(crate) fn findings(facts: &Facts) -> Vec<v1::PostureFinding> {
    let mut found: Vec<(Severity, v1::PostureFinding)> = Vec::new();
    let mut say = |severity: Severity, finding: v1::PostureFinding| found.push((severity, finding));
    settings(facts, &mut say);
    traffic(facts, &mut say);
    unmeshed(facts, &mut say);
    rules::look(facts, &mut say);
    certificates(facts, &mut say);
    found.sort_by(|(one, a), (two, b)| (one, &a.code, &a.subject).cmp(&(two, &b.code, &b.subject)));
    found.truncate(FINDINGS_MAX);
    found.sort_by(|(_, a), (_, b)| a.namespace.cmp(&b.namespace));
    let told = |(severity, finding)| v1::PostureFinding {
        severity: Severity::as_str(severity).to_owned(),
        ..finding
    };
    found.into_iter().map(told).collect()
}

/// A finding without severity and measure.
fn finding(
    code: &str,
    namespace: &str,
    subject: impl Into<String>,
    message: String,
    command: String,
) -> v1::PostureFinding {
    v1::PostureFinding {
        code: code.to_owned(),
        severity: String::new(),
        namespace: namespace.to_owned(),
        subject: subject.into(),
        message,
        command,
        measure: 0.0,
    }
}

fn settings(facts: &Facts, say: &mut impl FnMut(Severity, v1::PostureFinding)) {
    let edit = |what: &str| format!("meshctl get meshconfig/mesh -o yaml   # {what}, then meshctl apply -f");
    let left_s = facts.permissive_until.map(|until| until.saturating_sub(facts.now_ms / 1_000));
    if let Some(left_s) = left_s.filter(|left| *left > 0) {
        let hours = left_s.div_ceil(3_600);
        let message = format!("plaintext from outside the mesh is accepted for {hours} more hours");
        let found =
            finding("plaintext", "", "MeshConfig/mesh", message, edit("set spec.mtls to {mode: strict}"));
        say(Severity::Critical, found);
    }
    if facts.default_allow {
        let message = "what no rule allows passes all the same".to_owned();
        let found =
            finding("default-allow", "", "MeshConfig/mesh", message, edit("set spec.defaultAccess to deny"));
        say(Severity::Critical, found);
    }
}

/// What has really passed in plaintext, or from peers without an identity.
fn traffic(facts: &Facts, say: &mut impl FnMut(Severity, v1::PostureFinding)) {
    let mut plain: BTreeMap<(&str, String), u64> = BTreeMap::new();
    let mut strangers: BTreeMap<(&str, String), u64> = BTreeMap::new();
    for flow in facts.flows.iter().filter(|flow| flow.allowed > 0) {
        let is_inbound = flow.direction == i32::from(v1::Direction::Inbound);
        let callee = if is_inbound || flow.service.is_empty() { &flow.destination } else { &flow.service };
        let namespace = if is_inbound { namespace_of(&flow.destination) } else { namespace_of(&flow.source) };
        if flow.tls_version.is_empty() && !callee.is_empty() && flow.source != OTHERS {
            let edge = format!("{} -> {callee}", flow.source);
            let sum = plain.entry((namespace, edge)).or_default();
            *sum = sum.saturating_add(flow.allowed);
        }
        if is_inbound && flow.source == UNMESHED {
            let sum = strangers.entry((namespace, flow.destination.clone())).or_default();
            *sum = sum.saturating_add(flow.allowed);
        }
    }
    let since = days(facts.watched_ms);
    for ((namespace, edge), count) in plain {
        let message = format!("{count} calls in plaintext in the last {since}");
        say(
            Severity::Critical,
            finding("plaintext", namespace, edge, message, see_edges("", facts.watched_ms)),
        );
    }
    for ((namespace, callee), count) in strangers {
        let message = format!("{count} calls of peers without an identity were let in in the last {since}");
        let command = see_edges(" --from unmeshed", facts.watched_ms);
        say(Severity::Critical, finding("unmeshed", namespace, callee, message, command));
    }
}

fn unmeshed(facts: &Facts, say: &mut impl FnMut(Severity, v1::PostureFinding)) {
    for pod in &facts.unmeshed_pods {
        let namespace = pod.split('/').next().unwrap_or_default();
        let command =
            format!("kubectl rollout restart deployment -n {namespace}   # or what else started it");
        let message = "asks for a proxy and has none".to_owned();
        say(Severity::Warning, finding("unmeshed", namespace, pod, message, command));
    }
    for service in &facts.unmeshed_services {
        let namespace = service.split('/').next().unwrap_or_default();
        let message =
            "has endpoints without an identity: calls to them leave the mesh in plaintext".to_owned();
        let command = format!(
            "meshctl get service/{service} -o yaml   # give each endpoint an identity, or run it with a sidecar"
        );
        say(
            Severity::Warning,
            finding("unmeshed", namespace, format!("Service/{service}"), message, command),
        );
    }
}

fn certificates(facts: &Facts, say: &mut impl FnMut(Severity, v1::PostureFinding)) {
    for certificate in &facts.certificates {
        let life = float(certificate.not_after_ms.saturating_sub(certificate.not_before_ms)).max(1.0);
        let percent = float(certificate.not_after_ms.saturating_sub(facts.now_ms)) * 100.0 / life;
        if percent >= CERTIFICATE_PERCENT {
            continue;
        }
        let severity = match percent {
            ..=0.0 => Severity::Critical,
            ..CERTIFICATE_WARN_PERCENT => Severity::Warning,
            _ => Severity::Info,
        };
        let message = if percent > 0.0 {
            format!("{percent:.0} % of the certificate's life are left, and it has not been renewed")
        } else {
            "the certificate has expired".to_owned()
        };
        let Certificate { holder, namespace, command, .. } = certificate;
        let found = finding("certificate", namespace, holder, message, command.clone());
        say(severity, v1::PostureFinding { measure: percent, ..found });
    }
}

/// `meshctl edges` over what was watched, at most a week.
fn see_edges(filter: &str, watched_ms: u64) -> String {
    let hours = watched_ms.div_ceil(3_600_000).clamp(1, 7 * 24);
    format!("meshctl edges{filter} --since {hours}h")
}

/// The namespace of an identity; empty for what has none.
fn namespace_of(identity: &str) -> &str {
    let mut parts = identity.split('/').skip_while(|part| *part != "ns");
    parts.nth(1).unwrap_or_default()
}

/// A span for people: `7.0 days`, `3.2 hours`.
fn days(ms: u64) -> String {
    let hours = float(ms) / 3_600_000.0;
    if hours < 48.0 { format!("{hours:.1} hours") } else { format!("{:.1} days", hours / 24.0) }
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds since the epoch are below 2^53")]
fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests;
