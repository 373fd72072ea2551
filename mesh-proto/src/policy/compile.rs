//! Arranges policies for evaluation.
//!
//! The proxy compiles each snapshot's policies once, the control plane those it explains or compares. Compiling cannot
//! fail: what is wrong with a policy was refused when it was parsed, or is reported by `lint`. Nothing here decides.
//!
//! Every operation of every rule becomes one `Entry`, and entries are numbered in the order of evaluation, so that "the
//! first rule that matches" is "the lowest number that matches", wherever an index finds it.

use super::evaluate::RuleRef;
use super::hash::FoldMap;
use super::index::{NO_PATH, PORTS_LISTED_MAX, Paths, Placement, SOME_PATH, SetId, SlotId, Sources, Stage};
use super::model::{
    Action, GroupKind, Mode, Operation, Policy, PolicyInputs, PolicyName, Protocol, ProtocolMatch, Rule,
    Scope, Source,
};
use super::standing::Stamp;
use crate::name::Port;
use crate::net::PortRange;
use smallvec::SmallVec;
use std::sync::Arc;

/// Everything that decides who may call one workload, arranged for evaluation. Immutable; compiled anew for each change.
#[derive(Debug)]
pub struct PolicySet {
    pub(super) stamp: Stamp,
    pub(super) inputs: PolicyInputs,
    pub(super) entries: Vec<Entry>,
    pub(super) sources: Sources,
    pub(super) paths: Paths,
    /// The callers that the target's segment accepts.
    pub(super) accepted: Option<SetId>,
    pub(super) enforced: Program,
    pub(super) audited: Program,
    /// Ports on which an enforced rule needs HTTP; merged and ascending.
    http_ports: Vec<PortRange>,
}

/// The stages of the policies of one mode.
#[derive(Debug, Default)]
pub(super) struct Program {
    /// Deny rules, guard-rails first.
    pub(super) deny: Stage,
    /// Guard-rails that have allow rules: one of each must match.
    pub(super) guards: Vec<Guard>,
    /// Allow rules of ordinary policies.
    pub(super) allow: Stage,
}

/// The allow rules of one guard-rail.
#[derive(Debug)]
pub(super) struct Guard {
    pub(super) first: RuleRef,
    pub(super) allow: Stage,
}

/// One operation of one rule, with what a check needs close together.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) rule: RuleRef,
    /// Its place in the rule's `to`; 0 when that is empty.
    pub(super) operation: u32,
    pub(super) action: Action,
    pub(super) from: SetId,
    pub(super) except: Option<SetId>,
    /// [`u64::MAX`]: for ever.
    pub(super) valid_until: u64,
    /// Empty: any.
    pub(super) ports: SmallVec<[PortRange; 2]>,
    /// Bits of [`protocol_bit`]; 0: any.
    pub(super) protocols: u8,
    /// Bits of [`method_bit`]; 0: any.
    pub(super) methods: u16,
    /// Empty: any.
    pub(super) paths: SmallVec<[SlotId; 2]>,
    /// Empty: any.
    pub(super) grpc: SmallVec<[SlotId; 2]>,
    pub(super) needs_http: bool,
    /// Whether the operation has conditions beyond those above.
    pub(super) has_more: bool,
}

impl Entry {
    /// Whether it has no condition but caller, port and time.
    pub(super) fn asks_nothing(&self) -> bool {
        self.protocols == 0 && !self.needs_http && !self.has_more
    }
}

/// The bit that stands for a protocol.
pub(super) fn protocol_bit(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Http1 => 1,
        Protocol::Http2 => 2,
        Protocol::Grpc => 4,
        Protocol::Tls => 8,
        Protocol::Tcp => 16,
    }
}

/// The bit of every method that has none of its own.
pub(super) const OTHER_METHOD: u16 = 1 << 15;

/// The bit that stands for a method, so that the common ones are compared without touching their text.
pub(super) fn method_bit(method: &str) -> u16 {
    match method {
        "GET" => 1,
        "HEAD" => 2,
        "POST" => 4,
        "PUT" => 8,
        "DELETE" => 16,
        "CONNECT" => 32,
        "OPTIONS" => 64,
        "TRACE" => 128,
        "PATCH" => 256,
        _ => OTHER_METHOD,
    }
}

/// Every protocol, for the bits.
pub(super) const PROTOCOLS: [Protocol; 5] =
    [Protocol::Http1, Protocol::Http2, Protocol::Grpc, Protocol::Tls, Protocol::Tcp];

/// The bits of all protocols that one of the words means.
pub(super) fn protocol_bits(words: &[ProtocolMatch]) -> u8 {
    let meant = PROTOCOLS.into_iter().filter(|protocol| words.iter().any(|word| word.matches(*protocol)));
    meant.map(protocol_bit).fold(0, |bits, bit| bits | bit)
}

/// The protocols under which an operation is judged.
///
/// A deny that looks into HTTP requests also meets opaque bytes, which may be HTTP that its sender calls something else;
/// it cannot be judged there and fails closed. One that names gRPC methods means them under every content type: servers
/// answer the same paths to Connect and gRPC-Web, over HTTP/1 too.
fn judged_protocols(operation: &Operation, action: Action) -> u8 {
    let mut named = protocol_bits(&operation.protocols);
    let http = protocol_bits(&[ProtocolMatch::Http]);
    if action == Action::Deny && !operation.grpc.is_empty() && named & protocol_bit(Protocol::Grpc) != 0 {
        named |= http;
    }
    if action == Action::Deny && operation.needs_http() && named & http != 0 {
        return named | protocol_bit(Protocol::Tcp);
    }
    named
}

/// Which rule a [`RuleRef`] means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RuleDescription<'a> {
    /// Its policy.
    pub policy: &'a PolicyName,
    /// Its name, or `rule N`.
    pub rule: &'a str,
    /// Allow or deny.
    pub action: Action,
    /// Whether its policy is enforced.
    pub mode: Mode,
    /// Whether its policy is a guard-rail.
    pub scope: Scope,
    /// The file of its policy; empty when unknown.
    pub file: &'a str,
    /// Its line there, from 1; 0 when unknown.
    pub line: u32,
}

impl PolicySet {
    /// Arranges the policies.
    pub fn compile(inputs: &PolicyInputs) -> Self {
        let mut sources = Sources::default();
        let mut names = FoldMap::default();
        inputs.quarantined.iter().for_each(|id| sources.quarantine(id));
        let accepted = inputs.isolation.as_ref().map(|isolation| {
            let group = |(name, members): &(Arc<str>, Vec<_>)| Source::Group {
                kind: GroupKind::Segment,
                name: Arc::clone(name),
                members: members.clone(),
            };
            sources.intern(&isolation.accepts.iter().map(group).collect::<Vec<_>>(), &mut names)
        });
        let mut builder = Builder { entries: Vec::new(), sources, names, paths: Paths::default() };
        let enforced = builder.program(&inputs.policies, Mode::Enforce);
        let audited = builder.program(&inputs.policies, Mode::Audit);
        Self {
            stamp: Stamp::default(),
            inputs: inputs.clone(),
            entries: builder.entries,
            sources: builder.sources,
            paths: builder.paths,
            accepted,
            enforced,
            audited,
            http_ports: http_ports(&inputs.policies),
        }
    }

    /// Which rule it is; `None` when it is a rule of another set.
    pub fn describe(&self, rule: RuleRef) -> Option<RuleDescription<'_>> {
        let policy = self.inputs.policies.get(rule.policy as usize)?;
        let of = policy.rules.get(rule.rule as usize)?;
        Some(RuleDescription {
            policy: &policy.name,
            rule: &of.name,
            action: of.action,
            mode: policy.mode,
            scope: policy.scope,
            file: &policy.file,
            line: of.line,
        })
    }

    /// Whether a rule that could decide on this port can only be judged on HTTP.
    ///
    /// Rules in audit mode do not count, since they never decide; rules whose time is over do, since time is no argument.
    pub fn needs_http(&self, port: Port) -> bool {
        let next = self.http_ports.partition_point(|range| range.last() < port);
        self.http_ports.get(next).is_some_and(|range| range.contains(port))
    }

    /// The policies it was compiled from.
    pub fn inputs(&self) -> &PolicyInputs {
        &self.inputs
    }

    pub(super) fn rule(&self, rule: RuleRef) -> Option<&Rule> {
        self.inputs.policies.get(rule.policy as usize)?.rules.get(rule.rule as usize)
    }

    pub(super) fn operation(&self, entry: &Entry) -> Option<&Operation> {
        self.rule(entry.rule)?.to.get(entry.operation as usize)
    }
}

/// What grows while a set is compiled.
struct Builder {
    entries: Vec<Entry>,
    sources: Sources,
    names: FoldMap<String, SetId>,
    paths: Paths,
}

impl Builder {
    fn program(&mut self, policies: &[Arc<Policy>], mode: Mode) -> Program {
        let of = |scope: Scope| {
            let own = move |(_, policy): &(usize, &Arc<Policy>)| policy.mode == mode && policy.scope == scope;
            policies.iter().enumerate().filter(own)
        };
        let deny = of(Scope::Guardrail).chain(of(Scope::Ordinary));
        let deny: Vec<_> = deny.flat_map(|(at, policy)| self.rules(at, policy, Action::Deny)).collect();
        let mut guards = Vec::new();
        for (at, policy) in of(Scope::Guardrail) {
            let allow = self.rules(at, policy, Action::Allow);
            let first = allow.first().and_then(|placement| self.entries.get(placement.entry as usize));
            if let Some(first) = first {
                guards.push(Guard { first: first.rule, allow: Stage::build(&allow) });
            }
        }
        let allow: Vec<_> =
            of(Scope::Ordinary).flat_map(|(at, policy)| self.rules(at, policy, Action::Allow)).collect();
        Program { deny: Stage::build(&deny), guards, allow: Stage::build(&allow) }
    }

    /// Places the rules of one policy that have this action.
    fn rules(&mut self, policy: usize, of: &Policy, action: Action) -> Vec<Placement> {
        let mut placements = Vec::new();
        for (at, rule) in of.rules.iter().enumerate().filter(|(_, rule)| rule.action == action) {
            let reference = RuleRef { policy: index(policy), rule: index(at) };
            let from = self.sources.intern(&rule.from, &mut self.names);
            let except =
                (!rule.except.is_empty()).then(|| self.sources.intern(&rule.except, &mut self.names));
            let everything = [Operation::default()];
            let operations = if rule.to.is_empty() { &everything[..] } else { &rule.to };
            for (number, operation) in operations.iter().enumerate() {
                let entry = Entry {
                    rule: reference,
                    operation: index(number),
                    action,
                    from,
                    except,
                    valid_until: rule.valid_until.unwrap_or(u64::MAX),
                    ports: operation.ports.iter().copied().collect(),
                    protocols: judged_protocols(operation, rule.action),
                    methods: operation
                        .methods
                        .iter()
                        .fold(0, |bits, method| bits | method_bit(method.as_str())),
                    paths: operation.paths.iter().map(|path| self.paths.intern(path)).collect(),
                    grpc: operation.grpc.iter().map(|grpc| self.paths.intern(&grpc.as_path())).collect(),
                    needs_http: operation.needs_http(),
                    has_more: !(operation.sni.is_empty()
                        && operation.hosts.is_empty()
                        && operation.headers.is_empty()),
                };
                placements.push(place(index(self.entries.len()), &entry));
                self.entries.push(entry);
            }
        }
        placements
    }
}

/// Where the index keeps an entry: by its paths, or else by its gRPC methods, which are paths too.
fn place(number: u32, entry: &Entry) -> Placement {
    let mut slots: SmallVec<[SlotId; 2]> =
        if entry.paths.is_empty() { entry.grpc.clone() } else { entry.paths.clone() };
    slots.sort_unstable();
    slots.dedup();
    slots.push(if slots.is_empty() { NO_PATH } else { SOME_PATH });
    Placement { entry: number, slots, set: entry.from, ports: listed_ports(&entry.ports) }
}

/// The ports of the ranges one by one, or none when there are too many.
fn listed_ports(ranges: &[PortRange]) -> SmallVec<[Port; 2]> {
    let numbers = ranges.iter().flat_map(|range| range.first().number()..=range.last().number());
    let listed: SmallVec<[Port; 2]> =
        numbers.take(PORTS_LISTED_MAX.saturating_add(1)).filter_map(Port::new).collect();
    if listed.len() > PORTS_LISTED_MAX { SmallVec::new() } else { listed }
}

/// Rules and entries are bounded by what fits into a message, far below `u32::MAX`.
fn index(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

/// The ports on which an enforced rule can only be judged on HTTP, merged and ascending.
fn http_ports(policies: &[Arc<Policy>]) -> Vec<PortRange> {
    let enforced = policies.iter().filter(|policy| policy.mode == Mode::Enforce);
    let operations = enforced.flat_map(|policy| &policy.rules).flat_map(|rule| &rule.to);
    let mut ranges: Vec<PortRange> = Vec::new();
    for operation in operations.filter(|operation| operation.needs_http()) {
        if operation.ports.is_empty() {
            ranges.extend("1-65535".parse::<PortRange>());
        }
        ranges.extend_from_slice(&operation.ports);
    }
    ranges.sort_unstable_by_key(|range| range.first());
    let mut merged: Vec<PortRange> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.first() <= last.last() => {
                let end = last.last().max(range.last());
                *last = PortRange::new(last.first(), end).unwrap_or(*last);
            }
            _ => merged.push(range),
        }
    }
    merged
}
