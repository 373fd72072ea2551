//! Decides requests.

use super::compile::PolicySet;
use super::model::{Action, Protocol};
use crate::identity::SpiffeId;
use crate::matching::Fields;
use crate::name::Port;
use std::net::IpAddr;

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
    /// The server name of the application's own TLS, lower-case.
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
    /// Nothing allows it.
    NoRuleAllows,
}

impl DenyReason {
    /// All of them, in the order of evaluation.
    pub const ALL: [Self; 6] = [
        Self::Quarantined,
        Self::Isolated,
        Self::DeniedByRule,
        Self::NeedsHttp,
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
            Self::NoRuleAllows => "no_rule_allows",
        }
    }
}

impl PolicySet {
    /// Decides a request.
    pub fn authorize(&self, _request: &Request<'_>) -> Verdict {
        let outcome = if self.inputs.default_allow {
            Outcome::Allowed { permit: Permit(()), by: None }
        } else {
            Outcome::Denied(Denial { reason: DenyReason::NoRuleAllows, rule: None })
        };
        Verdict { outcome, audited: None }
    }
}
