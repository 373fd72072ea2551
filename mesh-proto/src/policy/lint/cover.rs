//! Whether one rule matches wherever another does.

use super::Place;
use crate::identity::SpiffeId;
use crate::identity::pattern::IdentityPattern;
use crate::net::{Cidr, PortRange};
use crate::policy::compile::protocol_bits;
use crate::policy::model::{Action, Operation, Source};
use std::collections::HashMap;

/// A source without its group.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Atom<'a> {
    Pattern(&'a IdentityPattern),
    Instance(&'a SpiffeId, &'a str),
    Unmeshed(&'a Cidr),
    AnyMeshed,
    Anyone,
}

/// The sources without their groups.
pub(super) fn atoms(sources: &[Source]) -> Vec<Atom<'_>> {
    let mut atoms = Vec::new();
    for source in sources {
        match source {
            Source::Identity(pattern) => atoms.push(Atom::Pattern(pattern)),
            Source::Group { kind: _, name: _, members } => atoms.extend(members.iter().map(Atom::Pattern)),
            Source::Instance { id, instance } => atoms.push(Atom::Instance(id, instance.as_str())),
            Source::Unmeshed(cidr) => atoms.push(Atom::Unmeshed(cidr)),
            Source::AnyMeshed => atoms.push(Atom::AnyMeshed),
            Source::Anyone => atoms.push(Atom::Anyone),
        }
    }
    atoms
}

impl Atom<'_> {
    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Anyone, _) => true,
            (Self::AnyMeshed, other) => !matches!(other, Self::Anyone | Self::Unmeshed(_)),
            (Self::Pattern(own), Self::Pattern(other)) => own.covers(other),
            (Self::Pattern(own), Self::Instance(id, _)) => own.matches(id),
            (Self::Instance(own, name), Self::Instance(id, instance)) => own == id && name == instance,
            (Self::Unmeshed(own), Self::Unmeshed(other)) => own.covers(other),
            _ => false,
        }
    }

    /// Whether somebody can be both. Only `false` is certain.
    pub(super) fn meets(&self, other: &Self) -> bool {
        let is_meshed = |atom: &Self| !matches!(atom, Self::Unmeshed(_) | Self::Anyone);
        match (self, other) {
            (Self::Unmeshed(_), other) | (other, Self::Unmeshed(_)) if is_meshed(other) => false,
            (Self::Pattern(_) | Self::Instance(..), Self::Pattern(_) | Self::Instance(..))
            | (Self::Unmeshed(_), Self::Unmeshed(_)) => self.covers(other) || other.covers(self),
            _ => true,
        }
    }

    /// Under what a rule with this source is kept.
    fn key(&self) -> Key {
        match self {
            Self::Pattern(pattern) => Key::Meshed(pattern.to_string()),
            Self::Instance(id, instance) => Key::Meshed(format!("{id} {instance}")),
            Self::Unmeshed(_) => Key::Unmeshed,
            Self::AnyMeshed => Key::AnyMeshed,
            Self::Anyone => Key::Anyone,
        }
    }

    /// Where rules are kept that may cover this source.
    fn wider(&self) -> Vec<Key> {
        let mut keys = vec![self.key(), Key::Anyone];
        let text = match self {
            Self::Unmeshed(_) | Self::Anyone => return keys,
            Self::AnyMeshed => "",
            Self::Pattern(IdentityPattern::Exact(id)) => id.as_str(),
            Self::Pattern(IdentityPattern::Below(prefix)) => prefix,
            Self::Instance(id, _) => {
                keys.push(Key::Meshed(id.to_string()));
                id.as_str()
            }
        };
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'/').map(|(at, _)| at);
        keys.extend(ends.filter_map(|at| text.get(..=at)).map(|prefix| Key::Meshed(format!("{prefix}*"))));
        keys.push(Key::AnyMeshed);
        keys
    }
}

/// Whether one of `wide` covers each of `narrow`.
pub(super) fn all_covered(wide: &[Atom<'_>], narrow: &[Atom<'_>]) -> bool {
    narrow.iter().all(|atom| wide.iter().any(|own| own.covers(atom)))
}

#[derive(PartialEq, Eq, Hash)]
enum Key {
    Meshed(String),
    Unmeshed,
    AnyMeshed,
    Anyone,
}

/// Rules by their sources, so that not each is compared with each.
pub(super) struct Candidates(HashMap<Key, Vec<usize>>);

impl Candidates {
    pub(super) fn new(places: &[Place<'_>]) -> Self {
        let mut by_key: HashMap<Key, Vec<usize>> = HashMap::new();
        for place in places {
            for atom in &place.atoms {
                let kept = by_key.entry(atom.key()).or_default();
                if kept.last() != Some(&place.order) {
                    kept.push(place.order);
                }
            }
        }
        Self(by_key)
    }

    /// The rules that may cover this one, by its first source.
    pub(super) fn of(&self, place: &Place<'_>) -> Vec<usize> {
        let Some(first) = place.atoms.first() else { return Vec::new() };
        let mut found: Vec<usize> =
            first.wider().iter().filter_map(|key| self.0.get(key)).flatten().copied().collect();
        found.sort_unstable();
        found.dedup();
        found
    }
}

/// Whether `wide` matches every request that `narrow` matches. Only certain answers are `true`.
pub(super) fn covers(wide: &Place<'_>, narrow: &Place<'_>) -> bool {
    wide.rule.valid_until.unwrap_or(u64::MAX) >= narrow.rule.valid_until.unwrap_or(u64::MAX)
        && all_operations(wide, narrow)
        && all_covered(&wide.atoms, &narrow.atoms)
        // Whoever the wide rule leaves out must be left out by the narrow one.
        && all_covered(&narrow.except, &wide.except)
}

fn all_operations(wide: &Place<'_>, narrow: &Place<'_>) -> bool {
    let everything = [Operation::default()];
    let of = |place: &Place<'_>| {
        if place.rule.to.is_empty() { everything.to_vec() } else { place.rule.to.clone() }
    };
    if wide.rule.to.is_empty() {
        return true;
    }
    of(narrow).iter().all(|narrow_one| {
        wide.rule.to.iter().any(|wide_one| operation(wide_one, narrow_one, wide.rule.action))
    })
}

fn operation(wide: &Operation, narrow: &Operation, action: Action) -> bool {
    let protocols = |operation: &Operation| match protocol_bits(&operation.protocols) {
        0 => u8::MAX,
        bits => bits,
    };
    protocols(wide) & protocols(narrow) == protocols(narrow)
        && ports(&wide.ports, &narrow.ports)
        && list(&wide.methods, &narrow.methods, |a, b| a == b)
        && paths(wide, narrow, action)
        && list(&wide.hosts, &narrow.hosts, |a, b| a.covers(b))
        && list(&wide.sni, &narrow.sni, |a, b| a.covers(b))
        && wide.headers.iter().all(|own| narrow.headers.iter().any(|other| own.covers(other)))
}

/// An empty list means everything.
fn list<T>(wide: &[T], narrow: &[T], covers: impl Fn(&T, &T) -> bool) -> bool {
    wide.is_empty()
        || (!narrow.is_empty() && narrow.iter().all(|other| wide.iter().any(|own| covers(own, other))))
}

fn ports(wide: &[PortRange], narrow: &[PortRange]) -> bool {
    let contains =
        |own: &PortRange, other: &PortRange| own.contains(other.first()) && own.contains(other.last());
    if narrow.is_empty() {
        return wide.is_empty()
            || wide.iter().any(|own| own.first().number() == 1 && own.last().number() == u16::MAX);
    }
    list(wide, narrow, contains)
}

/// gRPC methods are paths; a path pattern may cover them, and a deny of a gRPC method covers its path.
fn paths(wide: &Operation, narrow: &Operation, action: Action) -> bool {
    let grpc: Vec<_> = narrow.grpc.iter().map(crate::matching::GrpcPattern::as_path).collect();
    let narrow_paths = if narrow.paths.is_empty() { &grpc } else { &narrow.paths };
    let by_path = list(&wide.paths, narrow_paths, |a, b| a.covers(b));
    let by_grpc = match action {
        Action::Allow => list(&wide.grpc, &narrow.grpc, |a, b| a.covers(b)),
        Action::Deny => {
            let wide: Vec<_> = wide.grpc.iter().map(crate::matching::GrpcPattern::as_path).collect();
            list(&wide, narrow_paths, |a, b| a.covers(b))
        }
    };
    by_path && by_grpc
}
