//! What a caller asks is judged here: once before it is carried, again whenever something changes meanwhile, and told to
//! counters, access log and control plane when it has ended.
//!
//! It decides nothing itself: `mesh_proto::policy` does, and `limit` counts.

use super::{Call, Inbound, Peer, local::App};
use crate::clock;
use crate::connections::Direction;
use crate::discovery::Applied;
use crate::http::Meter;
use crate::http::canonical::Canonical;
use crate::limit::{Bytes, Grant, Limited, Subject, Why};
use crate::observe::edges::UNMESHED;
use crate::observe::record::Worth;
use crate::observe::trace::{self, Span};
use crate::observe::{Edge, EdgeKey, Outcome, Record};
use crate::refusal::Refusal;
use mesh_proto::matching::Fields;
use mesh_proto::name::Port;
use mesh_proto::policy::evaluate::{self, DenyReason, HttpFacts, Request, RuleRef};
use mesh_proto::policy::model::Protocol;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What is asked.
#[derive(Clone, Copy)]
pub(crate) struct Question<'a> {
    /// What is spoken.
    pub(crate) protocol: Protocol,
    /// Server name of the application's own TLS.
    pub(crate) sni: Option<&'a str>,
    /// The request; `None` for opaque connections.
    pub(crate) http: Option<&'a Canonical<'a>>,
}

struct CanonicalFields<'a>(&'a Canonical<'a>);

impl Fields for CanonicalFields<'_> {
    fn each(&self, name: &str, visit: &mut dyn FnMut(&[u8])) {
        self.0.each(name, visit);
    }
}

/// A refusal and what it is explained by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Refuse {
    /// Why.
    pub(crate) refusal: Refusal,
    /// Which rule or limit; empty when none.
    pub(crate) rule: String,
}

impl From<Refusal> for Refuse {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, rule: String::new() }
    }
}

/// What was admitted: the way to the application, what it holds of the limits, and which rule opened it.
pub(crate) struct Admitted<'a> {
    /// The way to the application.
    pub(crate) app: App<'a>,
    /// Its share of the limits.
    pub(crate) grant: Grant,
    /// The rule that allowed it.
    pub(crate) by: Option<RuleRef>,
}

/// Judges, then counts against the limits.
///
/// # Errors
/// Why not, and by which rule or limit.
pub(crate) fn admit<'a>(
    inbound: &'a Inbound,
    applied: &Applied,
    call: &Call,
    question: Question<'_>,
    now: Instant,
) -> Result<Admitted<'a>, Refuse> {
    let subject = subject(call, question);
    with_request(call, question, |request| {
        let (app, by) = authorize(inbound, applied, call, request)?;
        let grant = match applied.limits.is_empty() {
            true => Grant::default(),
            false => applied.limits.admit(request, subject, call.peer.ip, now).map_err(limited)?,
        };
        for _ in &grant.audited {
            inbound.worker.shard.audited("limited");
        }
        Ok(Admitted { app, grant, by })
    })
}

/// Judges what was admitted as plain TCP and has turned out to be TLS, and counts it where it was not counted yet.
///
/// # Errors
/// As [`admit`].
pub(crate) fn admit_as_tls(
    inbound: &Inbound,
    applied: &Applied,
    call: &Call,
    question: Question<'_>,
    admitted: &mut Admitted<'_>,
) -> Result<(), Refuse> {
    let subject = subject(call, question);
    with_request(call, question, |request| {
        let (_, by) = authorize(inbound, applied, call, request)?;
        let at = (call.peer.ip, clock::now());
        applied.limits.admit_more(request, subject, at, &mut admitted.grant).map_err(limited)?;
        admitted.by = by;
        Ok(())
    })
}

fn subject(call: &Call, question: Question<'_>) -> Subject {
    match (question.http, call.port.protocol) {
        (Some(_), _) => Subject::Request,
        (None, Some(Protocol::Tcp | Protocol::Tls)) => Subject::Tunnel(Bytes::Declared),
        (None, _) => Subject::Tunnel(Bytes::Undeclared),
    }
}

/// Counts an HTTP connection against the limits that count connections; its requests are judged one by one.
///
/// # Errors
/// The limit that has no room.
pub(crate) fn admit_connection(
    applied: &Applied,
    peer: &Peer,
    port: Port,
    protocol: Protocol,
) -> Result<Grant, Refuse> {
    if applied.limits.is_empty() {
        return Ok(Grant::default());
    }
    let now = clock::since_epoch().as_secs();
    let request = Request { source: peer.facts(), port, protocol, sni: None, http: None, now };
    applied.limits.admit(&request, Subject::HttpConnection, peer.ip, clock::now()).map_err(limited)
}

/// Whether what was admitted may still go on.
pub(crate) fn may_go_on(applied: &Applied, call: &Call, question: Question<'_>) -> Result<(), Refuse> {
    call.peer.may_stay(applied)?;
    with_request(call, question, |request| match verdict(applied, call, request).outcome {
        evaluate::Outcome::Allowed { .. } => Ok(()),
        evaluate::Outcome::Denied(denial) => Err(denied(applied, denial)),
    })
}

/// Why nothing that the caller could still say is allowed on its port, whatever it speaks.
pub(crate) fn hopeless(applied: &Applied, call: &Call) -> Option<Refuse> {
    let now = clock::since_epoch().as_secs();
    let denial = applied.policy.hopeless(&call.peer.facts(), call.port.port, now)?;
    Some(denied(applied, denial))
}

/// Asks the evaluator; who calls was looked up when the connection began, or when the policies changed.
fn verdict(applied: &Applied, call: &Call, request: &Request<'_>) -> evaluate::Verdict {
    applied.policy.authorize_as(&mut call.standing.borrow_mut(), request)
}

fn authorize<'a>(
    inbound: &'a Inbound,
    applied: &Applied,
    call: &Call,
    request: &Request<'_>,
) -> Result<(App<'a>, Option<RuleRef>), Refuse> {
    let verdict = verdict(applied, call, request);
    if let Some((mesh_proto::policy::model::Action::Deny, _)) = verdict.audited {
        inbound.worker.shard.audited("denied_by_rule");
    }
    match verdict.outcome {
        evaluate::Outcome::Allowed { permit, by } => Ok((App::new(inbound, call.port.app, permit), by)),
        evaluate::Outcome::Denied(denial) => Err(denied(applied, denial)),
    }
}

fn with_request<T>(call: &Call, question: Question<'_>, judge: impl FnOnce(&Request<'_>) -> T) -> T {
    let Question { protocol, sni, http } = question;
    let fields = http.map(CanonicalFields);
    let http = http.zip(fields.as_ref()).map(|(request, fields)| HttpFacts {
        host: request.host.host(),
        method: request.method,
        path: &request.path,
        headers: fields,
    });
    let now = clock::since_epoch().as_secs();
    judge(&Request { source: call.peer.facts(), port: call.port.port, protocol, sni, http, now })
}

fn denied(applied: &Applied, denial: evaluate::Denial) -> Refuse {
    let refusal = match denial.reason {
        DenyReason::Quarantined => Refusal::Quarantined,
        DenyReason::Isolated => Refusal::Isolated,
        DenyReason::DeniedByRule => Refusal::DeniedByRule,
        DenyReason::GuardrailNotMet => Refusal::GuardrailNotMet,
        DenyReason::NeedsHttp => Refusal::NeedsHttp,
        DenyReason::NameUnreadable => Refusal::NameUnreadable,
        DenyReason::NoRuleAllows => Refusal::NoRuleAllows,
    };
    Refuse { refusal, rule: denial.rule.map(|rule| describe(applied, rule)).unwrap_or_default() }
}

fn limited(limited: Limited) -> Refuse {
    let refusal = match limited.why {
        Why::Rate(retry_after) => Refusal::Limited { retry_after },
        Why::InFlight => Refusal::TooManyConcurrent,
        Why::NeedsHttp => Refusal::NeedsHttp,
    };
    Refuse { refusal, rule: format!("limit {}", limited.limit) }
}

/// `policy namespace/name rule N (file:line)`.
pub(crate) fn describe(applied: &Applied, rule: RuleRef) -> String {
    match applied.policy.describe(rule) {
        Some(rule) if rule.file.is_empty() => format!("policy {} {}", rule.policy, rule.rule),
        Some(rule) => format!("policy {} {} ({}:{})", rule.policy, rule.rule, rule.file, rule.line),
        None => String::new(),
    }
}

/// What became of one request or connection.
#[derive(Debug)]
pub(crate) struct Told<'a> {
    /// What was spoken.
    pub(crate) protocol: Protocol,
    /// Server name of the application's own TLS.
    pub(crate) sni: Option<&'a str>,
    /// The request, if there was one with a single reading.
    pub(crate) request: Option<&'a Canonical<'a>>,
    /// Why it was refused or failed.
    pub(crate) refuse: Option<Refuse>,
    /// The rule that allowed it.
    pub(crate) by: Option<RuleRef>,
    /// What was moved, and the status.
    pub(crate) meter: Meter,
    /// How long it took.
    pub(crate) duration: Duration,
    /// The decision's id, if the caller was told one.
    pub(crate) id: String,
    /// Whether its permit was counted when it began; see [`begun`].
    pub(crate) begin: Begin,
    /// Its part of a trace.
    pub(crate) span: Option<Box<Span>>,
}

/// Whether a permit was counted when the connection began.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Begin {
    /// It is counted at the end, with everything else.
    Uncounted,
    /// It was; only a refusal that cut it short is counted beside.
    Counted,
}

/// Counts the permit of a connection that may live for long.
pub(crate) fn begun(inbound: &Inbound, applied: &Applied, call: &Call, protocol: Protocol) {
    Edges::default().edge(inbound, applied, call, protocol).count_begun();
}

impl<'a> Told<'a> {
    /// Nothing yet.
    pub(crate) fn new(protocol: Protocol) -> Self {
        Self {
            protocol,
            sni: None,
            request: None,
            refuse: None,
            by: None,
            meter: Meter::default(),
            duration: Duration::ZERO,
            id: String::new(),
            begin: Begin::Uncounted,
            span: None,
        }
    }

    fn outcome(&self) -> Outcome {
        let Some(refuse) = &self.refuse else { return Outcome::Allowed };
        match refuse.refusal {
            Refusal::Limited { .. }
            | Refusal::TooManyConcurrent
            | Refusal::TooManyConnections
            | Refusal::BodyTooLarge => Outcome::Limited,
            Refusal::Quarantined
            | Refusal::Isolated
            | Refusal::DeniedByRule
            | Refusal::GuardrailNotMet
            | Refusal::NeedsHttp
            | Refusal::NoRuleAllows
            | Refusal::UnreadableHello
            | Refusal::NameUnreadable
            | Refusal::PeerExpired
            | Refusal::UpgradeRefused => Outcome::Denied,
            Refusal::BadRequest(_) | Refusal::HeaderTooLarge | Refusal::ConnectMethod => Outcome::Malformed,
            _ => Outcome::Failed,
        }
    }

    /// Counts it on its edge, and writes a line where it is worth one.
    pub(crate) fn record(self, inbound: &Inbound, applied: &Applied, call: &Call, edges: &mut Edges) {
        let worker = &inbound.worker;
        let outcome = self.outcome();
        let edge = edges.edge(inbound, applied, call, self.protocol);
        edge.bytes_in.add(self.meter.request_bytes);
        edge.bytes_out.add(self.meter.response_bytes);
        match (self.begin, outcome) {
            (Begin::Counted, Outcome::Allowed) => edge.count_ended(self.duration),
            _ => edge.count(outcome, self.meter.status, self.duration),
        }
        if let Some(refuse) = &self.refuse {
            worker.shard.refused(Direction::Inbound, refuse.refusal.label());
            edge.set_last(refuse.refusal.label(), &refuse.rule);
        }
        let is_plain = outcome == Outcome::Allowed && self.meter.status < 500 && !worker.samples(applied);
        if is_plain && self.span.is_none() {
            return;
        }
        let rule = match (&self.refuse, self.by) {
            (Some(refuse), _) => refuse.rule.clone(),
            (None, Some(by)) => describe(applied, by),
            (None, None) => String::new(),
        };
        let instance = call.peer.identity.as_ref().and_then(|peer| peer.instance.as_ref());
        let text = |of: fn(&Canonical<'_>) -> String| self.request.map(of).unwrap_or_default();
        worker.recorder.record(Record {
            time_ms: clock::unix_ms(),
            direction: Direction::Inbound,
            source: Arc::clone(&call.peer.text),
            source_instance: instance.map(ToString::to_string).unwrap_or_default(),
            source_ip: call.peer.ip.to_string(),
            destination: Arc::clone(&applied.trust.id_text),
            destination_instance: worker.facts.instance.to_string(),
            service: Arc::clone(&call.service),
            port: call.port.port.number(),
            protocol: Some(self.protocol),
            sni: self.sni.unwrap_or_default().to_owned(),
            host: text(|request| request.host.authority().to_owned()),
            method: text(|request| request.method.to_owned()),
            path: text(|request| request.path.to_string()),
            outcome,
            reason: self.refuse.as_ref().map_or("", |refuse| refuse.refusal.label()),
            rule,
            status: self.meter.status,
            bytes_in: self.meter.request_bytes,
            bytes_out: self.meter.response_bytes,
            duration_us: clock::micros(self.duration),
            revision: applied.snapshot.revision.0,
            header_names: applied.judged.iter().map(ToString::to_string).collect(),
            trace_id: trace::id_text(self.span.as_deref(), self.request),
            span: trace::end(self.span, self.meter.grpc_status),
            worth: if is_plain { Worth::Span } else { Worth::Line },
            id: if self.id.is_empty() { worker.recorder.decision_id() } else { self.id },
        });
    }
}

/// The edges of one connection, looked up once for each protocol.
#[derive(Debug, Default)]
pub(crate) struct Edges(Vec<Arc<Edge>>);

impl Edges {
    fn edge(&mut self, inbound: &Inbound, applied: &Applied, call: &Call, protocol: Protocol) -> &Edge {
        let at = match self.0.iter().position(|edge| edge.key.protocol == protocol) {
            Some(at) => at,
            None => {
                self.0.push(inbound.worker.shard.edge(EdgeKey {
                    direction: Direction::Inbound,
                    source: match call.peer.identity {
                        Some(_) => Arc::clone(&call.peer.text),
                        None => UNMESHED.into(),
                    },
                    destination: Arc::clone(&applied.trust.id_text),
                    service: Arc::clone(&call.service),
                    port: call.port.port.number(),
                    protocol,
                    tls_version: call.peer.tls.version,
                    key_exchange: call.peer.tls.key_exchange,
                }));
                self.0.len() - 1
            }
        };
        #[expect(clippy::indexing_slicing, reason = "found or pushed just above")]
        &self.0[at]
    }
}
