//! Decides requests.
//!
//! The proxy calls [`PolicySet::authorize`] for each request, the control plane through `explain` and `diff`: all are the one
//! walk here (`PolicySet::walk`), which a `Watch` follows. In this order: quarantine, segment isolation, deny rules (of
//! guard-rails first), the allow rules of each guard-rail that has some, allow rules, the default. Policies in audit mode
//! run through the same stages beside it and never change the outcome.
//!
//! Never allocates for a request whose path is plain; never formats, logs, reads the clock or waits.
//!
//! # Why
//! The walk is generic over who watches, so that a decision pays nothing for explanations and an explanation cannot
//! differ from the decision. A watcher that wants every rule sees them in order; the proxy's wants none, and gets the
//! candidates of an index instead (`index`), which this module checks by the same conditions. A separate explainer was the
//! alternative; the peers' show what becomes of it (Envoy's RBAC logs name no rule at all).
//!
//! One decision among 10 / 10,000 rules, in nanoseconds, the best of 100 samples on two busy cores of an AMD EPYC
//! (`cargo bench --bench decision -- decision/`), first with the caller's standing kept, as the proxy has it, then without:
//!
//! | the rules are told apart by | kept | looked up |
//! |---|---|---|
//! | path alone | 67 / 98 | 93 / 121 |
//! | a grid of a hundred callers and templates | 86 / 142 | 142 / 203 |
//! | caller and path | 64 / 119 | 112 / 195 |
//! | a prefix of identities, no path | 63 / 111 | 125 / 224 |
//! | templates that begin with an open segment | 80 / 151 | 109 / 185 |
//!
//! What grows is cache misses, not work. The worst case is work: rules that all name this caller and no path, told apart by
//! port alone, are looked at one by one, 2 ns each: 10,000 of them take 19 µs (36 without the standing, which lists 10,000
//! sets). The canonical form of a path of 40 bytes takes 18, of a host with port 63.

use super::compile::{Entry, OTHER_METHOD, PolicySet, Program, method_bit, protocol_bit};
use super::index::{NO_PATH, SOME_PATH, Slots, Stage};
use super::model::{Action, Protocol};
use super::standing::Standing;
use crate::identity::SpiffeId;
use crate::matching::{Fields, HostPattern, Quantifier, matching_form};
use crate::name::Port;
use std::net::IpAddr;
use std::ops::ControlFlow;

/// Who calls, as far as it was proven.
#[derive(Clone, Copy, Debug)]
pub enum SourceFacts<'a> {
    /// A peer that proved an identity in the mesh handshake.
    Meshed {
        /// Its identity.
        id: &'a SpiffeId,
        /// The DNS SAN of its certificate.
        instance: Option<&'a str>,
    },
    /// A peer without a mesh identity.
    Unmeshed {
        /// The address it came from.
        ip: IpAddr,
    },
}

/// What an HTTP request says.
#[derive(Clone, Copy)]
pub struct HttpFacts<'a> {
    /// The canonical host, without port.
    pub host: &'a str,
    /// The method.
    pub method: &'a str,
    /// The canonical path.
    pub path: &'a str,
    /// Its header fields.
    pub headers: &'a dyn Fields,
}

/// What is to be decided.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// Who calls.
    pub source: SourceFacts<'a>,
    /// The target workload's port.
    pub port: Port,
    /// What the connection speaks.
    pub protocol: Protocol,
    /// The server name of the application's own TLS, lower-case; `None` when there is none, or none that can be read.
    pub sni: Option<&'a str>,
    /// `None` when the connection is not HTTP.
    pub http: Option<HttpFacts<'a>>,
    /// Unix seconds.
    pub now: u64,
}

/// A rule of a [`PolicySet`]; [`PolicySet::describe`] says which.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RuleRef {
    pub(super) policy: u32,
    pub(super) rule: u32,
}

/// What was decided, and what an audit-mode policy would have done.
#[derive(Debug)]
pub struct Verdict {
    /// What takes effect.
    pub outcome: Outcome,
    /// What the first matching rule of an audit-mode policy would have done.
    pub audited: Option<(Action, RuleRef)>,
}

/// What takes effect.
#[derive(Debug)]
pub enum Outcome {
    /// The request may pass.
    Allowed {
        /// What forwarding asks for.
        permit: Permit,
        /// The rule that allowed it; `None`: the default.
        by: Option<RuleRef>,
    },
    /// It may not.
    Denied(Denial),
}

/// The proof that a request was allowed. Only the evaluator makes one.
#[derive(Debug)]
pub struct Permit(());

/// Why a request was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Denial {
    /// The stage that refused it.
    pub reason: DenyReason,
    /// The rule that did, where it was a rule.
    pub rule: Option<RuleRef>,
}

/// The stage that refused a request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum DenyReason {
    /// The caller's identity is quarantined or revoked.
    Quarantined,
    /// The target's segment does not accept the caller.
    Isolated,
    /// A deny rule matched.
    DeniedByRule,
    /// A guard-rail with allow rules does not allow it.
    GuardrailNotMet,
    /// A deny rule can only be judged on HTTP, and the connection is not HTTP.
    NeedsHttp,
    /// A deny rule asks for the server name of the application's TLS, and there is none to be read.
    NameUnreadable,
    /// Nothing allows it.
    NoRuleAllows,
}

impl DenyReason {
    /// All of them, in the order of evaluation.
    pub const ALL: [Self; 7] = [
        Self::Quarantined,
        Self::Isolated,
        Self::DeniedByRule,
        Self::NeedsHttp,
        Self::NameUnreadable,
        Self::GuardrailNotMet,
        Self::NoRuleAllows,
    ];

    /// The word for it in headers, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Quarantined => "quarantined",
            Self::Isolated => "isolated",
            Self::DeniedByRule => "denied_by_rule",
            Self::GuardrailNotMet => "guardrail_not_met",
            Self::NeedsHttp => "needs_http",
            Self::NameUnreadable => "name_unreadable",
            Self::NoRuleAllows => "no_rule_allows",
        }
    }
}

/// One decision without its permit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Allowed; by the default when there is no rule.
    Allowed(Option<RuleRef>),
    /// Refused.
    Denied(Denial),
}

impl From<&Outcome> for Decision {
    fn from(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Allowed { permit: _, by } => Self::Allowed(*by),
            Outcome::Denied(denial) => Self::Denied(*denial),
        }
    }
}

impl PolicySet {
    /// Decides a request.
    pub fn authorize(&self, request: &Request<'_>) -> Verdict {
        self.authorize_as(&mut self.standing(&request.source), request)
    }

    /// Decides a request of a caller whose standing is kept, as a connection does. The same as [`Self::authorize`].
    ///
    /// A standing before another set, or of another caller, is replaced first: a stale one is never used.
    pub fn authorize_as(&self, standing: &mut Standing, request: &Request<'_>) -> Verdict {
        if !standing.is_before(self, &request.source) {
            *standing = self.standing(&request.source);
        }
        let (decision, audited) = self.walk(&self.facts(standing, request), &mut Unwatched);
        let outcome = match decision {
            Decision::Allowed(by) => Outcome::Allowed { permit: Permit(()), by },
            Decision::Denied(denial) => Outcome::Denied(denial),
        };
        Verdict { outcome, audited }
    }

    /// The walk over the rules.
    pub(super) fn walk<W: Watch>(
        &self,
        facts: &Facts<'_>,
        watch: &mut W,
    ) -> (Decision, Option<(Action, RuleRef)>) {
        if let Some(reason) = facts.standing.refused {
            return (denied(reason, None), None);
        }
        let decision = self.decide(facts, watch);
        (decision, self.audit(facts, watch))
    }

    fn decide<W: Watch>(&self, facts: &Facts<'_>, watch: &mut W) -> Decision {
        let Program { deny, guards, allow } = &self.enforced;
        if let Some((rule, found)) = self.first(deny, facts, watch) {
            let reason = match found {
                Match::NeedsHttp => DenyReason::NeedsHttp,
                Match::NeedsName => DenyReason::NameUnreadable,
                Match::Holds | Match::Misses => DenyReason::DeniedByRule,
            };
            return denied(reason, Some(rule));
        }
        for guard in guards {
            if self.first(&guard.allow, facts, watch).is_none() {
                return denied(DenyReason::GuardrailNotMet, Some(guard.first));
            }
        }
        match self.first(allow, facts, watch) {
            Some((rule, _)) => Decision::Allowed(Some(rule)),
            None if self.inputs.default_allow => Decision::Allowed(None),
            None => denied(DenyReason::NoRuleAllows, None),
        }
    }

    /// What the policies in audit mode would do if they were enforced; `None` when no rule of them has a say.
    fn audit<W: Watch>(&self, facts: &Facts<'_>, watch: &mut W) -> Option<(Action, RuleRef)> {
        let Program { deny, guards, allow } = &self.audited;
        if let Some((rule, _)) = self.first(deny, facts, watch) {
            return Some((Action::Deny, rule));
        }
        for guard in guards {
            if self.first(&guard.allow, facts, watch).is_none() {
                return Some((Action::Deny, guard.first));
            }
        }
        self.first(allow, facts, watch).map(|(rule, _)| (Action::Allow, rule))
    }

    /// The first rule of a stage that matches.
    pub(super) fn first<W: Watch>(
        &self,
        stage: &Stage,
        facts: &Facts<'_>,
        watch: &mut W,
    ) -> Option<(RuleRef, Match)> {
        if stage.entries.is_empty() {
            return None;
        }
        let mut best: Option<(u32, Match)> = None;
        let mut look_at = |list: &[u32]| {
            for number in list {
                if !W::EVERY_RULE && best.is_some_and(|(known, _)| *number >= known) {
                    return;
                }
                let Some(entry) = self.entries.get(*number as usize) else { continue };
                let mut fails = W::Fails::default();
                let found = self.check(entry, facts, &mut fails);
                watch.checked(*number, found, fails);
                if found != Match::Misses && best.is_none_or(|(known, _)| *number < known) {
                    best = Some((*number, found));
                }
            }
        };
        if W::EVERY_RULE {
            look_at(&stage.entries);
        } else {
            for slot in facts.slots.iter() {
                stage.candidates(slot, &facts.standing.sets, facts.request.port, &mut look_at);
            }
        }
        let (number, found) = best?;
        Some((self.entries.get(number as usize)?.rule, found))
    }

    /// Checks one entry, condition by condition.
    fn check<F: Fails>(&self, entry: &Entry, facts: &Facts<'_>, fails: &mut F) -> Match {
        if self.check_connection(entry, facts, fails).is_break() {
            return Match::Misses;
        }
        if entry.needs_http && facts.request.http.is_none() {
            // A deny that cannot be judged holds, or else a port would silently lose its protection.
            return match entry.action {
                Action::Deny if fails.is_empty() => Match::NeedsHttp,
                Action::Deny | Action::Allow => {
                    let _ = fails.failed(Condition::NeedsHttp);
                    Match::Misses
                }
            };
        }
        if self.check_http(entry, facts, fails).is_break() || !fails.is_empty() {
            return Match::Misses;
        }
        if is_in_doubt_of_name(entry, facts.request) && !self.server_names(entry).is_empty() {
            return Match::NeedsName;
        }
        Match::Holds
    }

    /// The server names that an entry asks for; empty: any.
    fn server_names(&self, entry: &Entry) -> &[HostPattern] {
        if !entry.has_more {
            return &[];
        }
        self.operation(entry).map_or(&[], |operation| &operation.sni)
    }

    /// The conditions that any connection has an answer to.
    fn check_connection<F: Fails>(&self, entry: &Entry, facts: &Facts<'_>, fails: &mut F) -> ControlFlow<()> {
        let request = facts.request;
        if request.now >= entry.valid_until {
            fails.failed(Condition::ValidUntil)?;
        }
        if !facts.standing.sets.contains(entry.from) {
            fails.failed(Condition::From)?;
        }
        if entry.except.is_some_and(|except| facts.standing.sets.contains(except)) {
            fails.failed(Condition::Except)?;
        }
        if !(entry.ports.is_empty() || entry.ports.iter().any(|range| range.contains(request.port))) {
            fails.failed(Condition::Port)?;
        }
        if entry.protocols != 0 && entry.protocols & protocol_bit(request.protocol) == 0 {
            fails.failed(Condition::Protocol)?;
        }
        let names = self.server_names(entry);
        let is_named = || request.sni.is_some_and(|name| names.iter().any(|own| own.matches(name)));
        if !(names.is_empty() || is_named() || is_in_doubt_of_name(entry, request)) {
            fails.failed(Condition::Sni)?;
        }
        ControlFlow::Continue(())
    }

    /// The conditions on an HTTP request.
    fn check_http<F: Fails>(&self, entry: &Entry, facts: &Facts<'_>, fails: &mut F) -> ControlFlow<()> {
        let Some(http) = &facts.request.http else {
            return ControlFlow::Continue(());
        };
        let more = if entry.has_more { self.operation(entry) } else { None };
        let hosts = more.map_or(&[][..], |more| &more.hosts);
        if !(hosts.is_empty() || hosts.iter().any(|host| host.matches(http.host))) {
            fails.failed(Condition::Host)?;
        }
        if entry.methods != 0 && !self.fits_method(entry, facts.method, http.method) {
            fails.failed(Condition::Method)?;
        }
        if !(entry.paths.is_empty() || entry.paths.iter().any(|slot| facts.slots.contains(*slot))) {
            fails.failed(Condition::Path)?;
        }
        if !entry.grpc.is_empty() {
            // Some servers answer gRPC methods to other content types too (Connect, gRPC-Web, transcoding), so a deny
            // looks at the path alone.
            let is_grpc = entry.action == Action::Deny || facts.request.protocol == Protocol::Grpc;
            if !(is_grpc && entry.grpc.iter().any(|slot| facts.slots.contains(*slot))) {
                fails.failed(Condition::Grpc)?;
            }
        }
        let quantifier = match entry.action {
            Action::Allow => Quantifier::All,
            Action::Deny => Quantifier::Any,
        };
        for (at, header) in more.map_or(&[][..], |more| &more.headers).iter().enumerate() {
            if !header.matches(http.headers, quantifier) {
                fails.failed(Condition::Header(at))?;
            }
        }
        ControlFlow::Continue(())
    }

    fn fits_method(&self, entry: &Entry, bit: u16, method: &str) -> bool {
        if bit != OTHER_METHOD {
            return entry.methods & bit != 0;
        }
        entry.methods & OTHER_METHOD != 0
            && self
                .operation(entry)
                .is_some_and(|operation| operation.methods.iter().any(|own| own.matches(method)))
    }

    /// Looks up what the rules will be asked about this request.
    pub(super) fn facts<'r>(&self, standing: &'r Standing, request: &'r Request<'r>) -> Facts<'r> {
        let mut slots = Slots::default();
        slots.push(NO_PATH);
        match &request.http {
            Some(http) if http.path.starts_with('/') => {
                self.paths.fitting(&matching_form(http.path), &mut slots)
            }
            Some(_) => {}
            None => slots.push(SOME_PATH),
        }
        let method = request.http.map_or(OTHER_METHOD, |http| method_bit(http.method));
        Facts { request, standing, slots: slots.finish(), method }
    }
}

/// Whether a deny that asks for a server name has to hold because the TLS it meets shows none: whoever wants the denied
/// server need only leave its name out, hide it or misspell the hello.
fn is_in_doubt_of_name(entry: &Entry, request: &Request<'_>) -> bool {
    entry.action == Action::Deny && request.protocol == Protocol::Tls && request.sni.is_none()
}

fn denied(reason: DenyReason, rule: Option<RuleRef>) -> Decision {
    Decision::Denied(Denial { reason, rule })
}

/// A request, with what the tables say of it.
pub(super) struct Facts<'r> {
    pub(super) request: &'r Request<'r>,
    standing: &'r Standing,
    /// The places where candidates are.
    pub(super) slots: Slots,
    /// The bit of its method.
    method: u16,
}

/// Whether an entry matches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Match {
    Holds,
    /// A deny that holds as far as it can be judged without HTTP.
    NeedsHttp,
    /// A deny that holds as far as it can be judged without a server name.
    NeedsName,
    Misses,
}

/// A condition of a rule, in the order in which they are checked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Condition {
    /// The rule's time is over.
    ValidUntil,
    /// The caller is none of its sources.
    From,
    /// The caller is one of its exceptions.
    Except,
    /// Another port.
    Port,
    /// Another protocol.
    Protocol,
    /// Another server name, or none.
    Sni,
    /// It can only be judged on HTTP.
    NeedsHttp,
    /// Another host.
    Host,
    /// Another method.
    Method,
    /// Another path.
    Path,
    /// Another gRPC method, or no gRPC.
    Grpc,
    /// The header condition with this place in the operation's list.
    Header(usize),
}

/// Follows the walk.
pub(super) trait Watch {
    /// Where failed conditions go.
    type Fails: Fails + Default;
    /// Whether it wants to see every rule, in order, and every failed condition.
    const EVERY_RULE: bool;
    /// An entry was checked.
    fn checked(&mut self, entry: u32, found: Match, fails: Self::Fails);
}

/// Where failed conditions go.
pub(super) trait Fails {
    /// Takes one; breaks when one is enough.
    fn failed(&mut self, condition: Condition) -> ControlFlow<()>;
    /// Whether there was none.
    fn is_empty(&self) -> bool;
}

/// Wants nothing but the decision.
struct Unwatched;

impl Watch for Unwatched {
    type Fails = Forgotten;
    const EVERY_RULE: bool = false;
    fn checked(&mut self, _: u32, _: Match, _: Forgotten) {}
}

/// Stops at the first condition that fails.
#[derive(Default)]
struct Forgotten;

impl Fails for Forgotten {
    fn failed(&mut self, _: Condition) -> ControlFlow<()> {
        ControlFlow::Break(())
    }

    fn is_empty(&self) -> bool {
        true
    }
}
