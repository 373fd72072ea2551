//! What is wrong with a rule by itself.

use super::cover::{Atom, all_covered, atoms};
use super::{FindingKind, Place};
use crate::matching::HeaderTest;
use crate::policy::compile::protocol_bits;
use crate::policy::model::{Action, GroupKind, Operation, ProtocolMatch, Scope, Source};

/// Whether the rule can match nothing at `now`, so that it neither shadows nor is shadowed.
pub(super) fn is_without_effect(place: &Place<'_>, now: u64) -> bool {
    place.rule.valid_until.is_some_and(|end| end <= now) || has_no_source(place)
}

fn has_no_source(place: &Place<'_>) -> bool {
    place.atoms.is_empty() || (!place.except.is_empty() && all_covered(&place.except, &place.atoms))
}

/// Everything wrong with one rule.
pub(super) fn check(place: &Place<'_>, now: u64) -> Vec<(FindingKind, String)> {
    let rule = place.rule;
    let mut found = Vec::new();
    if let Some(end) = rule.valid_until.filter(|end| *end <= now) {
        let stamp = i64::try_from(end).ok().and_then(|end| jiff::Timestamp::from_second(end).ok());
        let end = stamp.map_or_else(|| end.to_string(), |stamp| stamp.to_string());
        found.push((
            FindingKind::Expired,
            format!("has no effect since {end}; remove it, or set a later validUntil"),
        ));
    }
    if has_no_source(place) {
        let why = if place.atoms.is_empty() {
            "its groups have no members"
        } else {
            "its exceptions cover all its sources"
        };
        found.push((FindingKind::NoSource, format!("matches nobody: {why}")));
    } else {
        for source in rule.from.iter().chain(&rule.except) {
            if let Source::Group { kind, name, members } = source
                && members.is_empty()
            {
                let word = match kind {
                    GroupKind::Segment => "segment",
                    GroupKind::Role => "role",
                };
                found.push((FindingKind::EmptyGroup, format!("names {word} {name}, which has no members")));
            }
        }
    }
    found.extend(idle_exceptions(place).map(|at| {
        let message =
            format!("except[{at}] leaves nobody out: it is none of those in from; remove it, or correct it");
        (FindingKind::IdleException, message)
    }));
    for (at, operation) in rule.to.iter().enumerate() {
        if let Some(why) = impossible(operation, rule.action) {
            found.push((FindingKind::Impossible, format!("to[{at}] can never match: {why}")));
        }
    }
    let everything = rule.to.is_empty() || rule.to.iter().any(|operation| *operation == Operation::default());
    let everybody = rule.except.is_empty() && place.atoms.contains(&Atom::Anyone);
    if rule.action == Action::Allow && place.policy.scope == Scope::Ordinary && everything && everybody {
        let message = "allows everything to everyone, with or without an identity; say who (anyMeshed: true at least) or what";
        found.push((FindingKind::OpenDoor, message.to_owned()));
    }
    found
}

/// Exceptions that are none of the sources.
fn idle_exceptions(place: &Place<'_>) -> impl Iterator<Item = usize> {
    let is_idle = |source: &Source| {
        let atoms = atoms(std::slice::from_ref(source));
        !atoms.is_empty()
            && !place.atoms.is_empty()
            && !atoms.iter().any(|atom| place.atoms.iter().any(|own| own.meets(atom)))
    };
    place.rule.except.iter().enumerate().filter(move |(_, source)| is_idle(source)).map(|(at, _)| at)
}

/// Why the conditions of an operation exclude each other.
fn impossible(operation: &Operation, action: Action) -> Option<String> {
    let protocols = protocol_bits(&operation.protocols);
    let has = |word: ProtocolMatch| protocols == 0 || protocols & protocol_bits(&[word]) != 0;
    let words = operation.protocols.iter().map(|word| word.as_str()).collect::<Vec<_>>().join(", ");
    if operation.needs_http() && !has(ProtocolMatch::Http) {
        return Some(format!("hosts, methods, paths, headers and grpc need HTTP, and protocols are {words}"));
    }
    if !operation.grpc.is_empty() && !has(ProtocolMatch::Grpc) && action == Action::Allow {
        return Some(format!("grpc needs protocol grpc, and protocols are {words}"));
    }
    if !operation.grpc.is_empty()
        && !operation.methods.is_empty()
        && !operation.methods.iter().any(|method| method.as_str() == "POST")
    {
        return Some("gRPC calls use method POST, which methods leave out".to_owned());
    }
    if !operation.grpc.is_empty() && !operation.paths.is_empty() {
        let overlaps = |grpc: &crate::matching::GrpcPattern| {
            let grpc = grpc.as_path();
            operation.paths.iter().any(|path| path.covers(&grpc) || grpc.covers(path))
        };
        if !operation.grpc.iter().any(overlaps) {
            return Some("no path of paths is a method of grpc; write one of the two".to_owned());
        }
    }
    if !operation.sni.is_empty() && !has(ProtocolMatch::Tls) {
        return Some(format!("sni is only seen in TLS that is passed through, and protocols are {words}"));
    }
    if !operation.sni.is_empty() && operation.needs_http() {
        return Some(
            "sni is only seen in TLS that is passed through, where HTTP cannot be; write two operations"
                .to_owned(),
        );
    }
    if action == Action::Allow {
        let exact = |test: &HeaderTest| match test {
            HeaderTest::Exact(value) => Some(value.clone()),
            HeaderTest::Prefix(_) | HeaderTest::Present => None,
        };
        for (at, header) in operation.headers.iter().enumerate() {
            let other = |other: &&crate::matching::HeaderCondition| {
                other.name() == header.name()
                    && exact(header.test()).zip(exact(other.test())).is_some_and(|(a, b)| a != b)
            };
            if operation.headers.iter().skip(at).any(|one| other(&one)) {
                return Some(format!(
                    "header {} cannot have two values at once; write two operations",
                    header.name()
                ));
            }
        }
    }
    None
}
