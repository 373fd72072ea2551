//! What is valid and hardly meant: names that only nearly exist, notations of other systems, entries that add nothing.
//!
//! `check` asks; all it gets are warnings. A name that nobody has is no doubt by itself, since workloads may start later.

use super::super::service::Service;
use super::super::subject::Subject;
use super::super::suggest::nearest;
use super::{Catalog, Kind, Resource, Target};
use crate::identity::pattern::IdentityPattern;
use crate::matching::PathPattern;
use crate::name::{Namespace, ServiceAccount};
use crate::policy::model::{Operation, Protocol};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

/// One doubt: the field, and what to say of it.
pub(super) type Doubt = (String, String);

/// Methods that are in use, of RFC 9110, WebDAV and others: not to be taken for misspelt ones.
const METHODS: [&str; 31] = [
    "ACL",
    "BAN",
    "BIND",
    "CHECKIN",
    "CHECKOUT",
    "CONNECT",
    "COPY",
    "DELETE",
    "GET",
    "HEAD",
    "LINK",
    "LIST",
    "LOCK",
    "MERGE",
    "MKCALENDAR",
    "MKCOL",
    "MOVE",
    "NOTIFY",
    "OPTIONS",
    "PATCH",
    "POST",
    "PROPFIND",
    "PROPPATCH",
    "PURGE",
    "PUT",
    "QUERY",
    "REPORT",
    "SEARCH",
    "TRACE",
    "UNLINK",
    "UNLOCK",
];

/// Words compared with mistyped ones in one check: a fraction of a second. Behind that, mistakes are told without a guess.
const COMPARISONS_MAX: usize = 300_000;

/// The accounts that run or are declared, by namespace.
pub(super) struct Known {
    accounts: BTreeMap<Namespace, BTreeSet<ServiceAccount>>,
    comparisons_left: Cell<usize>,
}

impl Known {
    /// Of the fleet and of `Workload` objects.
    pub(super) fn of(catalog: &Catalog, fleet: &[Target<'_>]) -> Self {
        let mut known: BTreeMap<Namespace, BTreeSet<ServiceAccount>> = BTreeMap::new();
        let running = fleet.iter().filter_map(|target| target.identity.workload());
        let declared = catalog.of_kind(Kind::Workload).filter_map(|resource| match &**resource {
            Resource::Workload(workload) => Some((workload.namespace(), workload.account.clone())),
            _ => None,
        });
        for (namespace, account) in running.chain(declared) {
            known.entry(namespace).or_default().insert(account);
        }
        Self { accounts: known, comparisons_left: Cell::new(COMPARISONS_MAX) }
    }

    /// Those who are named like somebody who exists, but not quite.
    pub(super) fn misspelt<'s>(&self, list: &str, subjects: impl Iterator<Item = &'s Subject>) -> Vec<Doubt> {
        let doubt = |(at, subject): (usize, &Subject)| {
            let (word, said) = match subject {
                Subject::ServiceAccount { namespace, account } => {
                    ("serviceAccount", self.account(namespace, account))
                }
                Subject::Instance { namespace, account, instance: _ } => {
                    ("instance.serviceAccount", self.account(namespace, account))
                }
                Subject::Namespace(namespace) => ("namespace", self.namespace(namespace)),
                Subject::Identity(IdentityPattern::Exact(id)) => {
                    let (namespace, account) = id.workload()?;
                    ("identity", self.account(&namespace, &account))
                }
                Subject::Identity(IdentityPattern::Below(prefix)) => {
                    let (_, rest) = prefix.split_once("/ns/")?;
                    let namespace = rest.split('/').next()?.parse().ok()?;
                    ("identity", self.namespace(&namespace))
                }
                Subject::Segment(_)
                | Subject::Role(_)
                | Subject::Cidr(_)
                | Subject::AnyMeshed
                | Subject::Anyone => return None,
            };
            Some((format!("{list}[{at}].{word}"), said?))
        };
        subjects.enumerate().filter_map(doubt).collect()
    }

    /// Whether there is time for another guess.
    pub(super) fn may_compare(&self) -> bool {
        self.comparisons_left.get() > 0
    }

    /// The word that a mistyped one may mean.
    pub(super) fn nearest<'c>(
        &self,
        word: &str,
        candidates: impl IntoIterator<Item = &'c str>,
    ) -> Option<&'c str> {
        let left = &self.comparisons_left;
        let counted = |_: &&str| left.get().checked_sub(1).map(|less| left.set(less)).is_some();
        let near = nearest(word, candidates.into_iter().take_while(counted));
        // Of a part of the words the nearest need not be the nearest of all.
        near.filter(|_| self.may_compare())
    }

    fn namespace(&self, namespace: &Namespace) -> Option<String> {
        if self.accounts.contains_key(namespace) {
            return None;
        }
        let near = self.nearest_namespace(namespace)?;
        Some(format!("no workload runs in namespace {namespace}; did you mean {near}?"))
    }

    /// The namespace that a mistyped one may mean.
    pub(super) fn nearest_namespace(&self, namespace: &Namespace) -> Option<String> {
        let near = self.nearest(namespace.as_str(), self.accounts.keys().map(Namespace::as_str))?;
        Some(near.to_owned())
    }

    fn account(&self, namespace: &Namespace, account: &ServiceAccount) -> Option<String> {
        let Some(accounts) = self.accounts.get(namespace) else { return self.namespace(namespace) };
        if accounts.contains(account) {
            return None;
        }
        let near = self.nearest(account.as_str(), accounts.iter().map(ServiceAccount::as_str))?;
        Some(format!("no workload runs as {namespace}/{account}; did you mean {namespace}/{near}?"))
    }
}

/// What is hardly meant in a list of operations.
pub(super) fn of_operations(list: &str, operations: &[Operation]) -> Vec<Doubt> {
    let mut doubts = Vec::new();
    for (at, operation) in operations.iter().enumerate() {
        let field = |word: &str, index: usize| format!("{list}[{at}].{word}[{index}]");
        for (index, method) in operation.methods.iter().enumerate() {
            let near =
                (!METHODS.contains(&method.as_str())).then(|| nearest(method.as_str(), METHODS)).flatten();
            let said =
                near.map(|near| format!("{method} is no method that HTTP knows; did you mean {near}?"));
            doubts.extend(said.map(|said| (field("methods", index), said)));
        }
        for (index, path) in operation.paths.iter().enumerate() {
            doubts.extend(notation(path).map(|said| (field("paths", index), said)));
        }
        let idle = [
            ("paths", idle(&operation.paths, PathPattern::covers)),
            ("hosts", idle(&operation.hosts, |a, b| a.covers(b))),
            ("grpc", idle(&operation.grpc, |a, b| a.covers(b))),
        ];
        for (word, found) in idle {
            doubts.extend(found.into_iter().map(|(index, said)| (field(word, index), said)));
        }
    }
    doubts
}

/// Words of other systems that are read letter by letter here.
fn notation(path: &PathPattern) -> Option<String> {
    let text = path.to_string();
    let is_expression = text.contains(['[', ']', '^', '|']) || text.ends_with('$');
    if is_expression || [".*", ".+", "(?"].iter().any(|sign| text.contains(sign)) {
        return Some(format!(
            "{text} is read letter by letter, not as a regular expression; write {{name}} for one open segment, /* at the \
             end for all that follows"
        ));
    }
    let name =
        text.split('/').find_map(|segment| segment.strip_prefix(':').filter(|name| !name.is_empty()))?;
    Some(format!("{text} is read letter by letter; write {{{name}}} for one open segment, not :{name}"))
}

/// Entries that another one of the list covers; of two that mean the same, the later.
fn idle<T: Display>(entries: &[T], covers: impl Fn(&T, &T) -> bool) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, entry) in entries.iter().enumerate() {
        let is_wider = |(index, other): &(usize, &T)| {
            *index != at && covers(other, entry) && (*index < at || !covers(entry, other))
        };
        if let Some((_, wider)) = entries.iter().enumerate().find(is_wider) {
            found.push((at, format!("{entry} adds nothing, since {wider} covers it; remove one of them")));
        }
    }
    found
}

/// Ports that callers use, where those of the workloads behind these services are meant.
pub(super) fn of_ports(services: &[Service], operations: &[Operation]) -> Vec<Doubt> {
    let ports = || services.iter().flat_map(|service| service.ports.iter().map(move |port| (service, port)));
    let doubt = |(at, operation): (usize, &Operation)| {
        let has = |port| operation.ports.iter().any(|range| range.contains(port));
        if ports().any(|(_, port)| has(port.target_port)) {
            return None;
        }
        let (service, port) = ports().find(|(_, port)| has(port.port))?;
        let said = format!(
            "{} is what callers of service {} use; the workload gets their calls on {}, and rules judge that one",
            port.port,
            service.service_ref(),
            port.target_port
        );
        Some((format!("to[{at}].ports"), said))
    };
    operations.iter().enumerate().filter_map(doubt).collect()
}

/// gRPC calls that do not arrive at the workloads behind these services.
pub(super) fn of_calls(services: &[Service], operations: &[Operation]) -> Vec<Doubt> {
    let ports = || services.iter().flat_map(|service| &service.ports);
    let doubt = |(at, operation): (usize, &Operation)| {
        let has = |port| operation.ports.iter().any(|range| range.contains(port));
        let mut meant = ports().filter(|port| operation.ports.is_empty() || has(port.target_port)).peekable();
        meant.peek()?;
        let said =
            "no gRPC call arrives there, since the ports are declared http1; declare them grpc or http2";
        (!operation.grpc.is_empty() && meant.all(|port| port.protocol == Some(Protocol::Http1)))
            .then(|| (format!("to[{at}].grpc"), said.to_owned()))
    };
    operations.iter().enumerate().filter_map(doubt).collect()
}
