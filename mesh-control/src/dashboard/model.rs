//! Services and the calls between them: the ledger's picture, put together with who is registered.
//!
//! A node is a service, or a workload that answers for none. Callers are known by their identity, callees by their service:
//! an identity that answers for services stands for the first of them (the one of its workload's name, if it is among
//! them), so that `a → b → c` is one line and not two.

use mesh_proto::flows::{Edge, EdgeKey, OTHERS, Picture, Tally, UNMESHED};
use mesh_proto::identity::SpiffeId;
use mesh_proto::wire::v1;
use std::collections::{BTreeMap, BTreeSet};

/// What the model is made from.
pub(crate) struct Parts<'a> {
    /// Who is registered.
    pub(crate) members: Vec<Member>,
    /// Names of all services, also of those for which nobody answers.
    pub(crate) services: Vec<String>,
    /// Who called whom since the control plane's start: which edges there are.
    pub(crate) ever: &'a [v1::Edge],
    /// Who called whom in the span that is asked for: the figures.
    pub(crate) picture: Picture,
    /// What burns.
    pub(crate) alarms: &'a [v1::Alarm],
}

/// A registered workload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Member {
    /// Its identity.
    pub(crate) identity: String,
    /// `namespace/workload`.
    pub(crate) workload: String,
    /// The services it answers for, `namespace/name`.
    pub(crate) services: Vec<String>,
    /// Whether its proxy enforces the newest revision.
    pub(crate) is_in_sync: bool,
}

/// What kind of node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Kind {
    /// A service.
    Service,
    /// Somebody with an identity who answers for no service.
    Workload,
    /// All peers without an identity.
    Unmeshed,
    /// All for whom there was no room.
    Others,
}

impl Kind {
    /// For the page.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Workload => "workload",
            Self::Unmeshed => "unmeshed",
            Self::Others => "others",
        }
    }
}

/// A service or workload.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// What it is.
    pub(crate) kind: Kind,
    /// Whose certificates it shows.
    pub(crate) identities: BTreeSet<String>,
    /// Workloads that run it.
    pub(crate) workloads: BTreeSet<String>,
    /// Its proxies, and how many of them are in sync.
    pub(crate) proxies: (usize, usize),
    /// What it was asked.
    pub(crate) received: Tally,
    /// What it asked.
    pub(crate) sent: Tally,
    /// Alarms about it.
    pub(crate) alarms: Vec<String>,
}

impl Node {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            identities: BTreeSet::new(),
            workloads: BTreeSet::new(),
            proxies: (0, 0),
            received: Tally::default(),
            sent: Tally::default(),
            alarms: Vec::new(),
        }
    }
}

/// All calls of one node's identity to a service.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// The caller's node.
    pub(crate) from: String,
    /// The callee's.
    pub(crate) to: String,
    /// The caller's identity, and what it called.
    pub(crate) key: EdgeKey,
    /// What was seen in the span that is asked for.
    pub(crate) now: Edge,
    /// What was seen since the start.
    pub(crate) ever: Edge,
    /// When it was last used; 0 when that is not known.
    pub(crate) last_seen_ms: u64,
    /// How keys were exchanged, why the last refusal, and by which rule.
    pub(crate) last: Last,
    /// Alarms about it.
    pub(crate) alarms: Vec<String>,
}

/// The last words about an edge.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Last {
    /// `X25519MLKEM768`.
    pub(crate) exchange: String,
    /// Of the last refusal.
    pub(crate) reason: String,
    /// That refused last.
    pub(crate) rule: String,
}

/// The whole.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    /// By id: `namespace/name` of a service, else an identity, `unmeshed` or `others`.
    pub(crate) nodes: BTreeMap<String, Node>,
    /// All edges.
    pub(crate) calls: Vec<Call>,
}

impl Model {
    /// Puts it together.
    pub(crate) fn of(parts: Parts<'_>) -> Self {
        let Parts { members, services, ever, picture, alarms } = parts;
        let flows: Vec<v1::Flow> = ever.iter().filter_map(|edge| edge.stats.as_ref()).map(flow_of).collect();
        let since_start = Picture::of(&flows);
        let lasts = lasts(ever);
        let names = Names::of(&members, [&since_start, &picture]);
        let mut model = Self::default();
        for service in services {
            model.nodes.entry(service).or_insert_with(|| Node::new(Kind::Service));
        }
        for member in &members {
            model.add_member(member, &names);
        }
        let keys: BTreeSet<&EdgeKey> = since_start.edges.keys().chain(picture.edges.keys()).collect();
        for key in keys {
            let now = picture.edges.get(key).cloned().unwrap_or_default();
            let ever = since_start.edges.get(key).cloned().unwrap_or_else(|| now.clone());
            let (last_seen_ms, last) = lasts.get(key).cloned().unwrap_or_default();
            let from = names.of_identity(&key.source);
            let to = if ever.is_service { key.target.clone() } else { names.of_identity(&key.target) };
            let alarms = alarms.iter().filter(|alarm| is_about(alarm, key, &ever));
            let alarms = alarms.map(|alarm| alarm.id.clone()).collect();
            let call = Call { from, to, key: key.clone(), now, ever, last_seen_ms, last, alarms };
            model.add_call(call);
        }
        for alarm in alarms {
            // Whose doing it is; the call itself shows whom it meets.
            let subject = match alarm {
                v1::Alarm { source, .. } if !source.is_empty() => names.of_identity(source),
                v1::Alarm { service, .. } if !service.is_empty() => service.clone(),
                v1::Alarm { destination, .. } => names.of_identity(destination),
            };
            if let Some(node) = model.nodes.get_mut(&subject) {
                node.alarms.push(alarm.id.clone());
            }
        }
        model
    }

    fn add_member(&mut self, member: &Member, names: &Names) {
        let own = names.of_identity(&member.identity);
        let ids = member.services.iter().chain([&own]).collect::<BTreeSet<_>>();
        for id in ids {
            let node = self.nodes.entry(id.clone()).or_insert_with(|| Node::new(kind_of(id)));
            node.identities.insert(member.identity.clone());
            node.workloads.insert(member.workload.clone());
            node.proxies.0 = node.proxies.0.saturating_add(1);
            node.proxies.1 = node.proxies.1.saturating_add(usize::from(member.is_in_sync));
        }
    }

    fn add_call(&mut self, call: Call) {
        let from = self.nodes.entry(call.from.clone()).or_insert_with(|| Node::new(kind_of(&call.from)));
        from.sent.merge(&call.now.tally);
        if from.kind == Kind::Workload {
            from.identities.insert(call.key.source.clone());
        }
        let to = self.nodes.entry(call.to.clone()).or_insert_with(|| Node::new(kind_of(&call.to)));
        to.received.merge(&call.now.tally);
        to.identities.extend(call.ever.destinations.iter().cloned());
        self.calls.push(call);
    }
}

/// Which node an identity stands for.
struct Names(BTreeMap<String, String>);

impl Names {
    fn of(members: &[Member], pictures: [&Picture; 2]) -> Self {
        let mut names = BTreeMap::new();
        for member in members {
            let own = member.services.iter().find(|service| **service == member.workload);
            if let Some(service) = own.or(member.services.first()) {
                names.entry(member.identity.clone()).or_insert_with(|| service.clone());
            }
        }
        // Who is gone answered for what it was called as.
        for (key, edge) in
            pictures.iter().flat_map(|picture| &picture.edges).filter(|(_, edge)| edge.is_service)
        {
            for identity in &edge.destinations {
                names.entry(identity.clone()).or_insert_with(|| key.target.clone());
            }
        }
        names.remove(OTHERS);
        names.remove(UNMESHED);
        Self(names)
    }

    fn of_identity(&self, identity: &str) -> String {
        self.0.get(identity).map_or(identity, String::as_str).to_owned()
    }
}

fn kind_of(id: &str) -> Kind {
    match id {
        UNMESHED => Kind::Unmeshed,
        OTHERS | "" => Kind::Others,
        id if id.parse::<SpiffeId>().is_ok() => Kind::Workload,
        _ => Kind::Service,
    }
}

/// `namespace` and `name` of a node, for people.
pub(crate) fn parts_of(id: &str) -> (String, String) {
    if let Some((namespace, account)) = id.parse::<SpiffeId>().ok().and_then(|id| id.workload()) {
        return (namespace.to_string(), account.to_string());
    }
    match id.split_once('/') {
        Some((namespace, name)) if !id.contains("://") => (namespace.to_owned(), name.to_owned()),
        _ => (String::new(), id.to_owned()),
    }
}

fn is_about(alarm: &v1::Alarm, key: &EdgeKey, edge: &Edge) -> bool {
    !alarm.source.is_empty()
        && alarm.source == key.source
        && (alarm.service == key.target || edge.destinations.contains(&alarm.destination))
}

fn flow_of(stats: &v1::EdgeStats) -> v1::Flow {
    v1::Flow {
        direction: stats.direction,
        source: stats.source.clone(),
        destination: stats.destination.clone(),
        service: stats.service.clone(),
        port: stats.port,
        protocol: stats.protocol.clone(),
        tls_version: stats.tls_version.clone(),
        allowed: stats.allowed,
        denied: stats.denied,
        limited: stats.limited,
        failed: stats.failed,
        errors: stats.errors,
        bytes_in: stats.bytes_in,
        bytes_out: stats.bytes_out,
        latency_us: Vec::new(),
    }
}

/// The last words about each edge, and when it was last used.
fn lasts(edges: &[v1::Edge]) -> BTreeMap<EdgeKey, (u64, Last)> {
    let mut lasts: BTreeMap<EdgeKey, (u64, Last)> = BTreeMap::new();
    for edge in edges {
        let Some(stats) = &edge.stats else { continue };
        let target = if stats.service.is_empty() { &stats.destination } else { &stats.service };
        let key = EdgeKey { source: stats.source.clone(), target: target.clone() };
        let (seen, last) = lasts.entry(key).or_default();
        let is_later = edge.last_seen_ms >= *seen;
        *seen = edge.last_seen_ms.max(*seen);
        for (own, new) in [
            (&mut last.exchange, &stats.key_exchange),
            (&mut last.reason, &stats.last_reason),
            (&mut last.rule, &stats.last_rule),
        ] {
            if !new.is_empty() && (is_later || own.is_empty()) {
                own.clone_from(new);
            }
        }
    }
    lasts
}

#[cfg(test)]
mod tests;
