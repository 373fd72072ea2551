//! "Why?": explains a decision that was made, or one that would be, with the very rules that decide.
//!
//! `admin` calls it for `meshctl explain`. It builds the target workload's policy set from the catalog, exactly as its
//! proxy gets it, and lets the one evaluator explain. It never decides anything itself and changes nothing.
//!
//! - [`names`]: what a user's word for a caller or a target means.
//! - [`facts`]: from the words of a request to the canonical request that would be judged.

mod facts;
mod names;

use crate::clock;
use crate::index::World;
use crate::store::Store;
use crate::traffic::{Found, Traffic};
use facts::{Asked, Headers};
use mesh_proto::identity::SpiffeId;
use mesh_proto::policy::compile::PolicySet;
use mesh_proto::policy::evaluate::{Decision, HttpFacts, Request, SourceFacts};
use mesh_proto::policy::explain::Explanation;
use mesh_proto::policy::model::{Action, Mode};
use mesh_proto::resource::{self, Catalog, SourceDocument, Target};
use mesh_proto::wire::v1;
use names::{Callee, Caller};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::SystemTime;
use tonic::Status;

/// What explanations are made from.
pub(crate) struct Sources<'a> {
    /// The mesh as it is.
    pub(crate) world: &'a World,
    /// What it was.
    pub(crate) store: &'a dyn Store,
    /// What was decided.
    pub(crate) traffic: &'a Traffic,
}

/// Answers `meshctl explain`.
///
/// # Errors
/// A name means nothing (with what there is), the decision is not kept, or the request could not be made at all.
pub(crate) fn explain(
    sources: &Sources<'_>,
    request: v1::ExplainRequest,
    now: SystemTime,
) -> Result<v1::ExplainResponse, Status> {
    if request.decision_id.is_empty() {
        hypothetical(sources.world, request, clock::unix_s(now))
    } else {
        recorded(sources, request.decision_id.trim())
    }
}

/// What would be decided if the request came now.
fn hypothetical(world: &World, request: v1::ExplainRequest, now: u64) -> Result<v1::ExplainResponse, Status> {
    let v1::ExplainRequest { decision_id: _, from, to, method, path, host, port, protocol, headers } =
        request;
    let caller = names::caller(world, from.trim())?;
    let callee = names::callee(world, to.trim())?;
    let words = facts::Words { method, path, host, port, protocol, headers };
    let asked = facts::read(&words, &callee)?;
    let set = policy_set(world, &world.catalog, &callee.target());
    let explanation = set.explain(&asked.request(caller.source(), now));
    let decision = facts_of(&caller, &callee, &asked, &explanation, world.revision);
    let head = format!("{} calls {}\n", caller.shown(), callee.shown());
    let mut notes = asked.notes.clone();
    notes.extend(callee.note.clone());
    Ok(answer(&set, &explanation, decision, Prose { head, notes }))
}

/// Why a past decision was made: under the policy of its own revision, and what has changed since.
fn recorded(sources: &Sources<'_>, id: &str) -> Result<v1::ExplainResponse, Status> {
    let world = sources.world;
    let Some(Found { decision, rivals }) = sources.traffic.decision(id) else {
        return Err(Status::not_found(format!(
            "no decision {:?} is kept; refusals and sampled permits are kept since the control plane started, the last \
             10,000 of them: list them with `meshctl explain --denied`, or ask with names: `meshctl explain FROM TO METHOD PATH`",
            id.chars().take(80).collect::<String>()
        )));
    };
    let (catalog, mut notes) = catalog_at(sources, decision.revision);
    if !rivals.is_empty() {
        notes.push(format!(
            "{} and {} both claim to have made this decision, and one of them lies; what is shown is what came first. Look at \
             the others with `meshctl explain --denied`, and at `meshctl audit`",
            decision.destination_instance,
            rivals.join(", ")
        ));
    }
    let callee = names::callee_of(world, &decision)?;
    let asked = facts::recorded(&decision)?;
    let caller = names::caller_of(&decision)?;
    let set = policy_set(world, &catalog, &callee.target());
    let explanation = set.explain(&asked.request(caller.source(), decision.time_ms / 1000));
    let would = matches!(explanation.decision, Decision::Allowed(_));
    if would != decision.allowed {
        notes.push(format!(
            "the proxy decided {:?}{}; the rules below say otherwise, because {}",
            decision.reason,
            if decision.rule.is_empty() { String::new() } else { format!(" by {}", decision.rule) },
            if decision.header_names.is_empty() {
                "that reason is not one of policy (limits, malformed requests, unreachable endpoints come on top of it)"
            } else {
                "header values are never recorded, and a rule judged one"
            },
        ));
    }
    if !Arc::ptr_eq(&catalog, &world.catalog) {
        let today = policy_set(world, &world.catalog, &callee.target());
        let today = today.explain(&asked.request(caller.source(), decision.time_ms / 1000));
        let word = if matches!(today.decision, Decision::Allowed(_)) { "allowed" } else { "refused" };
        notes.push(format!(
            "this was decided at revision {}; today, at revision {}, it would be {word}",
            decision.revision, world.revision
        ));
    }
    let word = if decision.allowed { "allowed" } else { decision.reason.as_str() };
    let head = format!("decision {} at {}: {word}\n", decision.id, decision.destination_instance);
    let mut answer = answer(&set, &explanation, decision.clone(), Prose { head, notes });
    // What happened is what the proxy says, not what is computed afterwards.
    answer.allowed = decision.allowed;
    answer.reason.clone_from(&decision.reason);
    Ok(answer)
}

/// The catalog of a past revision; the present one, with a note, when that cannot be had.
fn catalog_at(sources: &Sources<'_>, revision: u64) -> (Arc<Catalog>, Vec<String>) {
    let world = sources.world;
    if revision == world.revision {
        return (world.catalog.clone(), Vec::new());
    }
    let found = sources.store.read().resources_at(revision);
    match found {
        Ok(resources) => {
            let read = resources.values().filter_map(|stored| {
                let document = SourceDocument {
                    file: stored.file.clone(),
                    line: stored.line,
                    yaml: stored.yaml.clone(),
                };
                resource::parse(&document).ok()
            });
            (Arc::new(Catalog::from_resources(read)), Vec::new())
        }
        Err(error) => {
            let note =
                format!("explained by the rules of today, since those of then are not there: {}", error);
            (world.catalog.clone(), vec![note])
        }
    }
}

fn policy_set(world: &World, catalog: &Catalog, target: &Target<'_>) -> PolicySet {
    PolicySet::compile(&catalog.policy_inputs(target, &world.trust.revocations.identities))
}

/// What stands around the evaluator's own words.
struct Prose {
    head: String,
    notes: Vec<String>,
}

fn answer(
    set: &PolicySet,
    explanation: &Explanation,
    decision: v1::Decision,
    prose: Prose,
) -> v1::ExplainResponse {
    let mut text = prose.head;
    // Writing to a string does not fail.
    let _ = writeln!(text, "{explanation}");
    for note in &prose.notes {
        let _ = writeln!(text, "note: {note}");
    }
    let miss = explanation.nearest_miss.as_ref();
    v1::ExplainResponse {
        allowed: matches!(explanation.decision, Decision::Allowed(_)),
        reason: reason(&explanation.decision).to_owned(),
        text,
        rules: explanation.rules.iter().map(rule).collect(),
        nearest_miss: miss.map(|miss| miss.sentence.clone()).unwrap_or_default(),
        patch: miss.map(|miss| miss.change.clone()).unwrap_or_default(),
        decision: Some(with_rule(set, explanation, decision)),
    }
}

fn reason(decision: &Decision) -> &'static str {
    match decision {
        Decision::Allowed(Some(_)) => "allowed_by_rule",
        Decision::Allowed(None) => "allowed_by_default",
        Decision::Denied(denial) => denial.reason.as_str(),
    }
}

fn rule(rule: &mesh_proto::policy::explain::ExplainedRule) -> v1::ExplainedRule {
    v1::ExplainedRule {
        policy: rule.policy.to_string(),
        rule: rule.name.to_string(),
        file: rule.file.to_string(),
        line: rule.line,
        action: match rule.action {
            Action::Allow => "allow".to_owned(),
            Action::Deny => "deny".to_owned(),
        },
        matched: rule.matched,
        decided: rule.decided,
        audit: rule.mode == Mode::Audit,
        failed_condition: rule.misses.first().cloned().unwrap_or_default(),
    }
}

/// Names the deciding rule in the facts, where they do not name it already.
fn with_rule(set: &PolicySet, explanation: &Explanation, mut decision: v1::Decision) -> v1::Decision {
    let deciding = match explanation.decision {
        Decision::Allowed(rule) => rule,
        Decision::Denied(denial) => denial.rule,
    };
    if decision.rule.is_empty()
        && let Some(rule) = deciding.and_then(|rule| set.describe(rule))
    {
        decision.rule = format!("policy {} {} ({}:{})", rule.policy, rule.rule, rule.file, rule.line);
    }
    decision
}

/// The facts of a hypothetical decision, in the form in which real ones are kept.
fn facts_of(
    caller: &Caller,
    callee: &Callee<'_>,
    asked: &Asked,
    explanation: &Explanation,
    revision: u64,
) -> v1::Decision {
    let (source, source_instance, source_ip) = match caller.source() {
        SourceFacts::Meshed { id, instance } => {
            (id.to_string(), instance.unwrap_or_default().to_owned(), String::new())
        }
        SourceFacts::Unmeshed { ip } => (format!("unmeshed:{ip}"), String::new(), ip.to_string()),
    };
    let identity: &SpiffeId = callee.target().identity;
    v1::Decision {
        source,
        source_instance,
        source_ip,
        destination: identity.to_string(),
        destination_instance: callee.target().instance.to_string(),
        port: asked.port.number().into(),
        protocol: asked.protocol.as_str().to_owned(),
        sni: asked.sni.clone().unwrap_or_default(),
        host: asked.host.clone(),
        method: asked.method.clone(),
        path: asked.path.clone(),
        allowed: matches!(explanation.decision, Decision::Allowed(_)),
        reason: reason(&explanation.decision).to_owned(),
        revision,
        header_names: asked.headers.names(),
        ..v1::Decision::default()
    }
}

impl Asked {
    /// The request as the proxy would judge it.
    fn request<'a>(&'a self, source: SourceFacts<'a>, now: u64) -> Request<'a> {
        let headers: &Headers = &self.headers;
        let http = self.is_http().then_some(HttpFacts {
            host: &self.host,
            method: &self.method,
            path: &self.path,
            headers,
        });
        Request { source, port: self.port, protocol: self.protocol, sni: self.sni.as_deref(), http, now }
    }
}

/// The first of some names, for the text of an error.
pub(crate) fn listed(names: impl Iterator<Item = String>) -> String {
    let all: Vec<String> = names.collect();
    match all.as_slice() {
        [] => "nobody".to_owned(),
        few if few.len() <= 12 => few.join(", "),
        many => {
            let first = many.get(..12).unwrap_or_default().join(", ");
            format!("{first} and {} more", many.len().saturating_sub(12))
        }
    }
}

#[cfg(test)]
mod tests;
