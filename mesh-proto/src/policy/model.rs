//! What a policy says, after roles and segments have been resolved to identities.
//!
//! `resource` makes these from YAML, `wire` carries them, `compile` arranges them for evaluation. Nothing here decides.

use crate::identity::SpiffeId;
use crate::identity::pattern::IdentityPattern;
use crate::matching::{GrpcPattern, HeaderCondition, HostPattern, Method, PathPattern};
use crate::name::{InstanceName, Namespace, ObjectName};
use crate::net::{Cidr, PortRange};
use std::fmt;
use std::sync::Arc;

/// Where a policy object lives; mesh-wide ones have no namespace.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PolicyName {
    /// `None` is mesh-wide.
    pub namespace: Option<Namespace>,
    /// Its name there.
    pub name: ObjectName,
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
            None => self.name.fmt(f),
        }
    }
}

/// One access policy that applies to a workload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    /// Its name.
    pub name: PolicyName,
    /// Whether a namespace can override it.
    pub scope: Scope,
    /// Whether it is enforced.
    pub mode: Mode,
    /// Its rules, in the order of the file.
    pub rules: Vec<Rule>,
    /// The file it was applied from; empty when it did not come from one.
    pub file: Arc<str>,
}

/// Whether a policy binds the namespaces below it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Scope {
    /// A mesh-wide guard-rail. Its deny rules come first. If it has allow rules, a request must satisfy one of them *and*
    /// be allowed by an ordinary policy: a guard-rail narrows, it never opens.
    Guardrail,
    /// Belongs to its target.
    Ordinary,
}

/// Whether a policy's outcome takes effect.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Mode {
    /// It decides.
    Enforce,
    /// It is evaluated and recorded, never decisive.
    Audit,
}

/// What a rule does with a request that it matches.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Action {
    /// Lets it pass unless a deny rule matches.
    Allow,
    /// Refuses it, whatever allows it elsewhere.
    Deny,
}

/// One rule: matches when a source in `from` and none in `except` matches, and an operation in `to` matches.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// The user's name for it, or `rule N`, counted from 1.
    pub name: Arc<str>,
    /// Line in the policy's file, from 1; 0 when unknown.
    pub line: u32,
    /// Allow or deny.
    pub action: Action,
    /// Any of these; never empty ([`Source::Anyone`] says everybody).
    pub from: Vec<Source>,
    /// None of these.
    pub except: Vec<Source>,
    /// Any of these; empty means everything on the target.
    pub to: Vec<Operation>,
    /// Unix seconds from which on the rule no longer matches.
    pub valid_until: Option<u64>,
}

/// Who may call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// Meshed peers of these identities.
    Identity(IdentityPattern),
    /// Meshed peers of a named set.
    Group {
        /// Segment or role.
        kind: GroupKind,
        /// Its name, for explanations.
        name: Arc<str>,
        /// Who is in it; empty: nobody.
        members: Vec<IdentityPattern>,
    },
    /// One running instance of an identity.
    Instance {
        /// The identity.
        id: SpiffeId,
        /// The certificate's DNS SAN.
        instance: InstanceName,
    },
    /// Peers without a mesh identity, by address. Never matches a meshed peer.
    Unmeshed(Cidr),
    /// Every peer with a mesh identity.
    AnyMeshed,
    /// Every peer, meshed or not.
    Anyone,
}

/// What a [`Source::Group`] stands for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum GroupKind {
    /// The members of a `Segment`.
    Segment,
    /// The holders of a `Role`.
    Role,
}

/// What may be done. Every list that is not empty must hold; a list holds if any of its entries does, `headers` if all do.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Operation {
    /// Ports of the target workload.
    pub ports: Vec<PortRange>,
    /// What the connection must speak.
    pub protocols: Vec<ProtocolMatch>,
    /// Server names of an application's own TLS.
    pub sni: Vec<HostPattern>,
    /// Canonical hosts.
    pub hosts: Vec<HostPattern>,
    /// HTTP methods.
    pub methods: Vec<Method>,
    /// Canonical paths.
    pub paths: Vec<PathPattern>,
    /// Header conditions, all of which must hold.
    pub headers: Vec<HeaderCondition>,
    /// gRPC services and methods.
    pub grpc: Vec<GrpcPattern>,
}

impl Operation {
    /// Whether it can only be judged on an HTTP request.
    pub fn needs_http(&self) -> bool {
        !(self.hosts.is_empty()
            && self.methods.is_empty()
            && self.paths.is_empty()
            && self.headers.is_empty()
            && self.grpc.is_empty())
    }
}

/// What a connection was found or declared to speak.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Protocol {
    /// HTTP/1.0 or 1.1.
    Http1,
    /// HTTP/2 without gRPC.
    Http2,
    /// gRPC: HTTP/2 with `content-type: application/grpc…`.
    Grpc,
    /// The application's own TLS, passed through.
    Tls,
    /// Anything else.
    Tcp,
}

impl Protocol {
    /// The word for it in resources, metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Tls => "tls",
            Self::Tcp => "tcp",
        }
    }
}

/// What a rule says of the protocol.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ProtocolMatch {
    /// HTTP/1, HTTP/2 or gRPC.
    Http,
    /// HTTP/1 only.
    Http1,
    /// HTTP/2, gRPC included.
    Http2,
    /// gRPC only.
    Grpc,
    /// The application's own TLS only.
    Tls,
    /// Opaque bytes that are neither HTTP nor TLS.
    Tcp,
}

impl ProtocolMatch {
    /// All of them, in the order shown to users.
    pub const ALL: [Self; 6] = [Self::Http, Self::Http1, Self::Http2, Self::Grpc, Self::Tls, Self::Tcp];

    /// The word for it in resources.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Tls => "tls",
            Self::Tcp => "tcp",
        }
    }

    /// The one that a word means.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.as_str() == word)
    }

    /// Whether the protocol found is meant.
    pub fn matches(self, protocol: Protocol) -> bool {
        match self {
            Self::Http => matches!(protocol, Protocol::Http1 | Protocol::Http2 | Protocol::Grpc),
            Self::Http1 => protocol == Protocol::Http1,
            Self::Http2 => matches!(protocol, Protocol::Http2 | Protocol::Grpc),
            Self::Grpc => protocol == Protocol::Grpc,
            Self::Tls => protocol == Protocol::Tls,
            Self::Tcp => protocol == Protocol::Tcp,
        }
    }
}

/// The segment of the target workload and whom it accepts. Stands before every rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Isolation {
    /// The target's segment.
    pub segment: Arc<str>,
    /// Identities of the segment itself and of every segment that may talk to it, with the segment's name.
    pub accepts: Vec<(Arc<str>, Vec<IdentityPattern>)>,
    /// The file of the `Segment`.
    pub file: Arc<str>,
    /// Its line there.
    pub line: u32,
}

/// Everything that decides who may call one workload.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PolicyInputs {
    /// Policies whose target is this workload, in the order of their names.
    pub policies: Vec<Arc<Policy>>,
    /// Set when the workload belongs to a segment.
    pub isolation: Option<Arc<Isolation>>,
    /// Identities that are quarantined or revoked as a whole.
    pub quarantined: Vec<SpiffeId>,
    /// What happens when no rule matches; `false` denies, and is the default.
    pub default_allow: bool,
}
