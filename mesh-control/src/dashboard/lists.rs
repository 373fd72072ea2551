//! The other lists of the page, cut to size, and single answers: overview, certificates, policies, proxies, decisions,
//! explanations. Each says how many there are.

use super::ask::{Decisions, Slice};
use mesh_proto::wire::v1;
use serde::Serialize;
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Alarms that burn, in one answer.
const FIRING_MAX: usize = 100;
/// Alarms that are over.
const RESOLVED_MAX: usize = 30;

/// The whole at a glance.
#[derive(Serialize)]
pub(crate) struct OverviewOut {
    trust_domain: String,
    version: String,
    revision: u64,
    store: String,
    warnings: Vec<String>,
    proxies: usize,
    in_sync: usize,
    firing: usize,
    critical: usize,
    acknowledged: usize,
    alarms: Vec<AlarmOut>,
    silences: Vec<SilenceOut>,
    sinks: Vec<SinkOut>,
}

#[derive(Serialize)]
struct AlarmOut {
    id: String,
    detector: String,
    severity: String,
    state: String,
    source: String,
    destination: String,
    service: String,
    since_ms: u64,
    raised_ms: u64,
    last_ms: u64,
    resolved_ms: u64,
    count: u64,
    sentence: String,
    command: String,
    acked_by: String,
    acked_ms: u64,
    comment: String,
    silenced: bool,
    sinks: Vec<String>,
}

#[derive(Serialize)]
struct SilenceOut {
    id: String,
    detector: String,
    source: String,
    destination: String,
    until_ms: u64,
    by: String,
    comment: String,
}

#[derive(Serialize)]
struct SinkOut {
    name: String,
    kind: String,
    target: String,
    waiting: u64,
    lost: u64,
    problem: String,
    failing_since_ms: u64,
}

/// A list that is cut.
#[derive(Serialize)]
pub(crate) struct ListOut<T> {
    items: Vec<T>,
    total: usize,
    matching: usize,
}

impl<T> ListOut<T> {
    fn cut(mut items: Vec<T>, total: usize, limit: usize) -> Self {
        let matching = items.len();
        items.truncate(limit);
        Self { items, total, matching }
    }
}

/// Certificates of workloads, and of who signs them.
#[derive(Serialize)]
pub(crate) struct IdentitiesOut {
    #[serde(flatten)]
    list: ListOut<IdentityOut>,
    authority: AuthorityOut,
}

#[derive(Serialize)]
struct IdentityOut {
    identity: String,
    instance: String,
    serial: String,
    not_before_ms: u64,
    not_after_ms: u64,
    issuer: String,
    attestor: String,
    revoked: bool,
    /// The instance has a newer one.
    replaced: bool,
}

#[derive(Serialize)]
struct AuthorityOut {
    roots: Vec<CertificateOut>,
    issuing: Option<CertificateOut>,
    rotation: String,
    waiting_for: String,
    issued: u64,
    revoked: u32,
}

#[derive(Serialize)]
struct CertificateOut {
    subject: String,
    serial: String,
    not_before_ms: u64,
    not_after_ms: u64,
    state: String,
    sha256: String,
}

/// A resource.
#[derive(Serialize)]
pub(crate) struct PolicyOut {
    kind: String,
    namespace: String,
    name: String,
    revision: u64,
    /// enforced, partial, accepted, idle, trouble: what the page shows the status as.
    state: &'static str,
    status: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    yaml: String,
}

/// A connected proxy.
#[derive(Serialize)]
pub(crate) struct ProxyOut {
    instance: String,
    workload: String,
    identity: String,
    address: String,
    revision: u64,
    lag_ms: u64,
    state: String,
    refusal: String,
    not_after_ms: u64,
    version: String,
    connected_ms: u64,
}

/// A recorded decision.
#[derive(Serialize)]
pub(crate) struct DecisionOut {
    id: String,
    time_ms: u64,
    source: String,
    destination: String,
    port: u32,
    protocol: String,
    method: String,
    path: String,
    host: String,
    allowed: bool,
    reason: String,
    rule: String,
    revision: u64,
}

/// Why.
#[derive(Serialize)]
pub(crate) struct ExplanationOut {
    allowed: bool,
    reason: String,
    text: String,
    rules: Vec<RuleOut>,
    nearest_miss: String,
    patch: String,
    decision: DecisionOut,
}

#[derive(Serialize)]
struct RuleOut {
    policy: String,
    rule: String,
    file: String,
    line: u32,
    action: String,
    matched: bool,
    decided: bool,
    audit: bool,
    failed_condition: String,
}

/// The whole at a glance.
pub(crate) fn overview(status: v1::StatusResponse, alarms: v1::AlarmsResponse) -> OverviewOut {
    let v1::AlarmsResponse { alarms, silences, sinks } = alarms;
    let (firing, resolved): (Vec<_>, Vec<_>) = alarms.into_iter().partition(|alarm| alarm.state == "firing");
    let count = |is: fn(&v1::Alarm) -> bool| firing.iter().filter(|alarm| is(alarm)).count();
    OverviewOut {
        trust_domain: status.trust_domain,
        version: status.version,
        revision: status.revision,
        store: status.store,
        warnings: status.warnings,
        proxies: status.proxies.len(),
        in_sync: status.proxies.iter().filter(|proxy| proxy.state == "in-sync").count(),
        firing: firing.len(),
        critical: count(|alarm| alarm.severity == "critical"),
        acknowledged: count(|alarm| !alarm.acked_by.is_empty()),
        alarms: (firing.into_iter().take(FIRING_MAX))
            .chain(resolved.into_iter().take(RESOLVED_MAX))
            .map(alarm_out)
            .collect(),
        silences: silences.into_iter().map(silence_out).collect(),
        sinks: sinks.into_iter().map(sink_out).collect(),
    }
}

/// Valid certificates: those that end first in front, those that were replaced at the end.
pub(crate) fn identities(
    all: v1::IdentitiesResponse,
    authority: v1::CaStatusResponse,
    slice: &Slice,
) -> IdentitiesOut {
    let total = all.identities.len();
    let mut found: Vec<v1::IdentityInfo> = all.identities;
    found.retain(|one| slice.takes([&*one.spiffe_id, &*one.instance, &*one.serial]));
    let mut newest: BTreeMap<(String, String), u64> = BTreeMap::new();
    for one in &found {
        let issued = newest.entry((one.spiffe_id.clone(), one.instance.clone())).or_default();
        *issued = one.issued_ms.max(*issued);
    }
    let is_replaced = |one: &v1::IdentityInfo| {
        let key = (one.spiffe_id.clone(), one.instance.clone());
        newest.get(&key).is_some_and(|issued| one.issued_ms < *issued)
    };
    found.sort_by_cached_key(|one| (is_replaced(one), one.not_after_ms, one.spiffe_id.clone()));
    let item = |one: v1::IdentityInfo| {
        let replaced = is_replaced(&one);
        let v1::IdentityInfo {
            spiffe_id,
            instance,
            serial,
            not_before_ms,
            not_after_ms,
            issuer,
            attestor,
            issued_ms: _, // says which is the newest
            revoked,
        } = one;
        IdentityOut {
            identity: spiffe_id,
            instance,
            serial,
            not_before_ms,
            not_after_ms,
            issuer,
            attestor,
            revoked,
            replaced,
        }
    };
    IdentitiesOut {
        list: ListOut::cut(found.into_iter().map(item).collect(), total, slice.limit),
        authority: AuthorityOut {
            roots: authority.roots.into_iter().map(certificate_out).collect(),
            issuing: authority.issuing.map(certificate_out),
            rotation: authority.rotation,
            waiting_for: authority.waiting_for,
            issued: authority.issued_total,
            revoked: authority.revoked,
        },
    }
}

/// Resources, those with trouble first.
pub(crate) fn policies(all: v1::GetResponse, slice: &Slice) -> ListOut<PolicyOut> {
    let total = all.objects.len();
    let mut found: Vec<PolicyOut> = all.objects.into_iter().map(policy_out).collect();
    found.iter_mut().for_each(|policy| policy.yaml.clear());
    found.retain(|policy| slice.takes([&*policy.name, &*policy.namespace, &*policy.kind, &*policy.status]));
    found.sort_by_key(|policy| policy.state != "trouble");
    ListOut::cut(found, total, slice.limit)
}

/// One resource with its text.
pub(crate) fn policy(found: v1::GetResponse) -> Option<PolicyOut> {
    found.objects.into_iter().next().map(policy_out)
}

/// Connected proxies, those that are not in sync first.
pub(crate) fn proxies(all: Vec<v1::ProxyStatus>, slice: &Slice) -> ListOut<ProxyOut> {
    let total = all.len();
    let mut found: Vec<ProxyOut> = all.into_iter().map(proxy_out).collect();
    found.retain(|proxy| {
        slice.takes([&*proxy.instance, &*proxy.workload, &*proxy.identity, &*proxy.state, &*proxy.version])
    });
    found.sort_by_key(|proxy| Reverse(proxy.state != "in-sync"));
    ListOut::cut(found, total, slice.limit)
}

/// Recorded decisions, the newest first.
pub(crate) fn decisions(all: Vec<v1::Decision>, asked: &Decisions) -> ListOut<DecisionOut> {
    let total = all.len();
    let mut found = all;
    found.retain(|decision| {
        (asked.source.is_empty() || asked.source == decision.source)
            && (asked.destinations.is_empty() || asked.destinations.contains(&decision.destination))
    });
    ListOut::cut(found.into_iter().map(decision_out).collect(), total, asked.limit)
}

/// Why.
pub(crate) fn explanation(explained: v1::ExplainResponse) -> ExplanationOut {
    let v1::ExplainResponse { allowed, reason, text, rules, nearest_miss, patch, decision } = explained;
    ExplanationOut {
        allowed,
        reason,
        text,
        rules: rules.into_iter().map(rule_out).collect(),
        nearest_miss,
        patch,
        decision: decision_out(decision.unwrap_or_default()),
    }
}

fn alarm_out(alarm: v1::Alarm) -> AlarmOut {
    let v1::Alarm {
        id,
        detector,
        severity,
        state,
        source,
        destination,
        service,
        since_ms,
        raised_ms,
        last_ms,
        resolved_ms,
        count,
        value: _,     // both stand in the sentence
        threshold: _, // in their unit
        sentence,
        command,
        acked_by,
        acked_ms,
        comment,
        silenced,
        sinks,
    } = alarm;
    AlarmOut {
        id,
        detector,
        severity,
        state,
        source,
        destination,
        service,
        since_ms,
        raised_ms,
        last_ms,
        resolved_ms,
        count,
        sentence,
        command,
        acked_by,
        acked_ms,
        comment,
        silenced,
        sinks,
    }
}

fn silence_out(silence: v1::Silence) -> SilenceOut {
    let v1::Silence { id, detector, source, destination, until_ms, by, comment } = silence;
    SilenceOut { id, detector, source, destination, until_ms, by, comment }
}

fn sink_out(sink: v1::SinkStatus) -> SinkOut {
    let v1::SinkStatus { name, kind, target, delivered: _, waiting, lost, problem, failing_since_ms } = sink;
    SinkOut { name, kind, target, waiting, lost, problem, failing_since_ms }
}

fn certificate_out(certificate: v1::CaCertificate) -> CertificateOut {
    let v1::CaCertificate { subject, serial, not_before_ms, not_after_ms, state, sha256 } = certificate;
    CertificateOut { subject, serial, not_before_ms, not_after_ms, state, sha256 }
}

fn policy_out(object: v1::Object) -> PolicyOut {
    let v1::Object { r#ref, yaml, revision, status } = object;
    let v1::ObjectRef { kind, namespace, name } = r#ref.unwrap_or_default();
    PolicyOut { kind, namespace, name, revision, state: state_of(&status), status, yaml }
}

/// What a status comes to. Its words are those of `meshctl get`.
fn state_of(status: &str) -> &'static str {
    if status.starts_with("Invalid") || status.contains("refused by") {
        return "trouble";
    }
    if let Some((done, all)) = status.strip_prefix("Enforced ").and_then(|counts| counts.split_once('/')) {
        return if done == all { "enforced" } else { "partial" };
    }
    match status {
        "Accepted" | "" => "accepted",
        _ => "idle",
    }
}

fn proxy_out(proxy: v1::ProxyStatus) -> ProxyOut {
    let v1::ProxyStatus {
        instance,
        workload,
        identity,
        address,
        revision,
        lag_ms,
        state,
        refusal,
        svid_expires_ms,
        version,
        connected_ms,
    } = proxy;
    ProxyOut {
        instance,
        workload,
        identity,
        address,
        revision,
        lag_ms,
        state,
        refusal,
        not_after_ms: svid_expires_ms,
        version,
        connected_ms,
    }
}

fn decision_out(decision: v1::Decision) -> DecisionOut {
    let v1::Decision {
        id,
        time_ms,
        source,
        destination,
        port,
        protocol,
        method,
        path,
        host,
        allowed,
        reason,
        rule,
        revision,
        ..
    } = decision;
    DecisionOut {
        id,
        time_ms,
        source,
        destination,
        port,
        protocol,
        method,
        path,
        host,
        allowed,
        reason,
        rule,
        revision,
    }
}

fn rule_out(rule: v1::ExplainedRule) -> RuleOut {
    let v1::ExplainedRule { policy, rule, file, line, action, matched, decided, audit, failed_condition } =
        rule;
    RuleOut { policy, rule, file, line, action, matched, decided, audit, failed_condition }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_has_one_state() {
        for (status, state) in [
            ("Enforced 3/3", "enforced"),
            ("Enforced 2/3", "partial"),
            ("Enforced 2/3, refused by web-1: no", "trouble"),
            ("Invalid: spec.rules", "trouble"),
            ("Accepted", "accepted"),
            ("", "accepted"),
            ("NoMatch", "idle"),
            ("Shadowed by shop/other", "idle"),
            ("Expired", "idle"),
        ] {
            assert_eq!(state_of(status), state, "{status}");
        }
    }

    #[test]
    fn certificates_that_were_replaced_come_last() {
        let one = |instance: &str, issued_ms| v1::IdentityInfo {
            instance: instance.to_owned(),
            issued_ms,
            not_after_ms: issued_ms + 9,
            ..v1::IdentityInfo::default()
        };
        let all = v1::IdentitiesResponse { identities: vec![one("a", 1), one("a", 5), one("b", 3)] };
        let slice = Slice { window_ms: 1, filter: String::new(), limit: 9 };
        let found = identities(all, v1::CaStatusResponse::default(), &slice).list.items;
        let order: Vec<_> =
            found.iter().map(|one| (&*one.instance, one.not_after_ms, one.replaced)).collect();
        assert_eq!(order, [("b", 12, false), ("a", 14, false), ("a", 10, true)]);
    }

    #[test]
    fn a_cut_list_says_how_many_there_are() {
        let proxy = |n: usize| v1::ProxyStatus {
            instance: format!("web-{n}"),
            state: if n == 7 { "updating" } else { "in-sync" }.to_owned(),
            ..v1::ProxyStatus::default()
        };
        let slice = |filter: &str| Slice { window_ms: 1, filter: filter.to_owned(), limit: 3 };
        let all: Vec<_> = (0..20).map(proxy).collect();
        let list = proxies(all.clone(), &slice(""));
        assert_eq!((list.items.len(), list.matching, list.total), (3, 20, 20));
        assert_eq!(list.items[0].instance, "web-7", "what is not in sync comes first");
        let list = proxies(all, &slice("web-1"));
        assert_eq!((list.items.len(), list.matching, list.total), (3, 11, 20));
    }
}
