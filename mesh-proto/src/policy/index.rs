//! Finds the few rules that can match a request among all of them.
//!
//! [`Sources`] says which sets of sources a caller is in, [`Paths`] which path patterns a path fits, and a [`Stage`] which
//! rules of one stage of the evaluation have both. What an index hands out is a *candidate*: `evaluate` checks every
//! condition of it again, so an index can only ever be too generous.
//!
//! # Why
//! Rules are grouped by their whole set of sources, not by each source: a role with a thousand holders in a hundred rules is
//! one set, found by one look-up of the caller's identity. A bitset for each source was the alternative; at 10,000 rules
//! with as many callers it takes 12 MB for a workload, this 2 MB.

use super::evaluate::SourceFacts;
use super::hash::FoldMap;
use super::model::Source;
use crate::identity::SpiffeId;
use crate::identity::pattern::IdentityPattern;
use crate::matching::{PathPattern, Reach, Segment};
use crate::name::Port;
use crate::net::Cidr;
use smallvec::SmallVec;
use std::sync::Arc;

/// A set of sources, as rules share it.
pub(super) type SetId = u32;
/// A path pattern, or one of the two below.
pub(super) type SlotId = u32;
/// The place of rules that say nothing of the path.
pub(super) const NO_PATH: SlotId = 0;
/// A second place of every rule that says something of it, for connections that are not HTTP.
pub(super) const SOME_PATH: SlotId = 1;
/// Up to this many candidates are looked at one by one; a look-up costs about as much as checking four.
const SCAN_MAX: usize = 6;
/// A rule with more single ports than this is kept with those for any port.
pub(super) const PORTS_LISTED_MAX: usize = 16;

/// More sets than this are kept as bits.
const SETS_LISTED_MAX: usize = 16;
/// More slots than this are sorted and searched by halving.
const SLOTS_SCANNED_MAX: usize = 16;
/// A look-up of a set costs about as much as checking so many candidates that are not looked up.
const LOOKUP_COST: usize = 4;

/// The sets that a caller is in.
#[derive(Clone, Debug)]
pub(super) enum Sets {
    /// Ascending.
    Few(SmallVec<[SetId; SETS_LISTED_MAX]>),
    /// Bit N of word M: set 64 M + N. A caller in 10,000 sets takes 1.3 KiB, not 40.
    Many { bits: Box<[u64]>, count: usize },
}

impl Sets {
    fn new(mut sets: SmallVec<[SetId; SETS_LISTED_MAX]>) -> Self {
        if sets.len() > 1 {
            sets.sort_unstable();
            sets.dedup();
        }
        if sets.len() <= SETS_LISTED_MAX {
            return Self::Few(sets);
        }
        let words = sets.last().map_or(0, |last| *last as usize / 64 + 1);
        let mut bits = vec![0; words].into_boxed_slice();
        for set in &sets {
            if let Some(word) = bits.get_mut(*set as usize / 64) {
                *word |= 1 << (set % 64);
            }
        }
        Self::Many { bits, count: sets.len() }
    }

    /// Whether the set is one of them.
    pub(super) fn contains(&self, set: SetId) -> bool {
        match self {
            Self::Few(sets) => sets.contains(&set),
            Self::Many { bits, count: _ } => {
                bits.get(set as usize / 64).is_some_and(|word| word & (1 << (set % 64)) != 0)
            }
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Few(sets) => sets.len(),
            Self::Many { bits: _, count } => *count,
        }
    }

    fn each(&self, visit: &mut impl FnMut(SetId)) {
        match self {
            Self::Few(sets) => sets.iter().for_each(|set| visit(*set)),
            Self::Many { bits, count: _ } => {
                for (base, word) in (0..).step_by(64).zip(bits) {
                    let mut left = *word;
                    while left != 0 {
                        visit(base | left.trailing_zeros());
                        left &= left - 1;
                    }
                }
            }
        }
    }
}

/// The places of patterns that a path fits.
#[derive(Debug, Default)]
pub(super) struct Slots(SmallVec<[SlotId; 8]>);

impl Slots {
    /// Takes one more; before [`Self::finish`].
    pub(super) fn push(&mut self, slot: SlotId) {
        self.0.push(slot);
    }

    /// Ends the filling: a path may fit thousands of patterns, each of whose rules asks [`Self::contains`].
    pub(super) fn finish(mut self) -> Self {
        if self.0.len() > SLOTS_SCANNED_MAX {
            self.0.sort_unstable();
        }
        self
    }

    /// Whether the slot is one of them.
    pub(super) fn contains(&self, slot: SlotId) -> bool {
        if self.0.len() > SLOTS_SCANNED_MAX {
            return self.0.binary_search(&slot).is_ok();
        }
        self.0.contains(&slot)
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = SlotId> {
        self.0.iter().copied()
    }
}

/// Which sets of sources a caller is in.
#[derive(Debug, Default)]
pub(super) struct Sources {
    known: Vec<Vec<Source>>,
    exact: FoldMap<Arc<str>, Exact>,
    below: FoldMap<Arc<str>, Vec<SetId>>,
    /// Bit N: some prefix in `below` has N slashes; the top bit stands for all beyond.
    below_depths: u64,
    unmeshed: Vec<(Cidr, SetId)>,
    any_meshed: Vec<SetId>,
    anyone: Vec<SetId>,
}

/// What hangs on one identity.
#[derive(Debug, Default)]
struct Exact {
    is_quarantined: bool,
    sets: SmallVec<[SetId; 4]>,
    instances: Vec<(Arc<str>, SetId)>,
}

/// What is known of a caller.
pub(super) struct Membership {
    pub(super) is_quarantined: bool,
    pub(super) sets: Sets,
}

impl Sources {
    /// The set of exactly these sources, made when it is new. `names` finds sets that are there already.
    pub(super) fn intern(&mut self, sources: &[Source], names: &mut FoldMap<String, SetId>) -> SetId {
        // The derived text is unambiguous, and this is not on the request path.
        let key = format!("{sources:?}");
        if let Some(set) = names.get(&key) {
            return *set;
        }
        let set = SetId::try_from(self.known.len()).unwrap_or(SetId::MAX);
        for source in sources {
            self.add(source, set);
        }
        self.known.push(sources.to_vec());
        names.insert(key, set);
        set
    }

    /// Marks an identity as quarantined.
    pub(super) fn quarantine(&mut self, id: &SpiffeId) {
        self.exact.entry(id.as_str().into()).or_default().is_quarantined = true;
    }

    fn add(&mut self, source: &Source, set: SetId) {
        match source {
            Source::Identity(pattern) => self.add_pattern(pattern, set),
            Source::Group { kind: _, name: _, members } => {
                members.iter().for_each(|member| self.add_pattern(member, set));
            }
            Source::Instance { id, instance } => {
                let exact = self.exact.entry(id.as_str().into()).or_default();
                exact.instances.push((instance.as_str().into(), set));
            }
            Source::Unmeshed(cidr) => self.unmeshed.push((*cidr, set)),
            Source::AnyMeshed => self.any_meshed.push(set),
            Source::Anyone => self.anyone.push(set),
        }
    }

    fn add_pattern(&mut self, pattern: &IdentityPattern, set: SetId) {
        match pattern {
            IdentityPattern::Exact(id) => self.exact.entry(id.as_str().into()).or_default().sets.push(set),
            IdentityPattern::Below(prefix) => {
                let depth = prefix.bytes().filter(|byte| *byte == b'/').count();
                self.below_depths |= depth_bit(depth);
                self.below.entry(Arc::clone(prefix)).or_default().push(set);
            }
        }
    }

    /// What is known of this caller.
    pub(super) fn membership(&self, source: &SourceFacts<'_>) -> Membership {
        let mut sets = SmallVec::new();
        sets.extend_from_slice(&self.anyone);
        let mut is_quarantined = false;
        match source {
            SourceFacts::Meshed { id, instance } => {
                sets.extend_from_slice(&self.any_meshed);
                if let Some(exact) = self.exact.get(id.as_str()) {
                    is_quarantined = exact.is_quarantined;
                    sets.extend_from_slice(&exact.sets);
                    let is_same = |(own, _): &&(Arc<str>, SetId)| *instance == Some(&**own);
                    sets.extend(exact.instances.iter().filter(is_same).map(|(_, set)| *set));
                }
                self.add_prefixes(id.as_str(), &mut sets);
            }
            SourceFacts::Unmeshed { ip } => {
                sets.extend(self.unmeshed.iter().filter(|(cidr, _)| cidr.contains(*ip)).map(|(_, set)| *set));
            }
        }
        Membership { is_quarantined, sets: Sets::new(sets) }
    }

    fn add_prefixes(&self, id: &str, sets: &mut SmallVec<[SetId; SETS_LISTED_MAX]>) {
        if self.below_depths == 0 {
            return;
        }
        let slashes = id.bytes().enumerate().filter(|(_, byte)| *byte == b'/').map(|(at, _)| at);
        for (before, at) in slashes.enumerate() {
            if self.below_depths & depth_bit(before.saturating_add(1)) == 0 {
                continue;
            }
            let prefix = id.get(..=at).unwrap_or_default();
            if let Some(found) = self.below.get(prefix) {
                sets.extend_from_slice(found);
            }
        }
    }
}

fn depth_bit(slashes: usize) -> u64 {
    1_u64 << slashes.min(63)
}

/// Which path patterns a path fits: a table of those without an open part, a tree over segments for the others.
#[derive(Debug)]
pub(super) struct Paths {
    /// Patterns that mean one path only, in matching form: one look-up, however long the path.
    whole: FoldMap<Arc<str>, SlotId>,
    nodes: Vec<Node>,
    /// The slot to give out next.
    next: SlotId,
    /// The longest literal segment in the tree, in bytes: a longer one of a request is not worth hashing.
    literal_bytes_max: usize,
}

/// A place in the tree; 0 in `any`, `here` and `below` is none.
#[derive(Debug, Default)]
struct Node {
    any: u32,
    here: SlotId,
    below: SlotId,
    literals: Literals,
}

/// Where literal segments lead from a node. Most nodes have one at most, which is compared where it stands.
#[derive(Debug, Default)]
enum Literals {
    #[default]
    None,
    One(Arc<str>, u32),
    Many(FoldMap<Arc<str>, u32>),
}

impl Literals {
    fn find(&self, segment: &str, bytes_max: usize) -> Option<u32> {
        match self {
            Self::None => None,
            Self::One(own, child) => (**own == *segment).then_some(*child),
            Self::Many(children) if segment.len() <= bytes_max => children.get(segment).copied(),
            Self::Many(_) => None,
        }
    }

    fn insert(&mut self, segment: &Arc<str>, child: u32) {
        match self {
            Self::None => *self = Self::One(Arc::clone(segment), child),
            Self::One(own, known) => {
                let mut children = FoldMap::default();
                children.insert(Arc::clone(own), *known);
                children.insert(Arc::clone(segment), child);
                *self = Self::Many(children);
            }
            Self::Many(children) => {
                children.insert(Arc::clone(segment), child);
            }
        }
    }
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            whole: FoldMap::default(),
            nodes: vec![Node::default()],
            next: SOME_PATH.saturating_add(1),
            literal_bytes_max: 0,
        }
    }
}

impl Paths {
    /// The slot of a pattern; patterns that mean the same share it.
    pub(super) fn intern(&mut self, pattern: &PathPattern) -> SlotId {
        let next = self.next;
        let slot = match whole(pattern) {
            Some(form) => *self.whole.entry(form).or_insert(next),
            None => self.intern_open(pattern),
        };
        if slot == next {
            self.next = next.saturating_add(1);
        }
        slot
    }

    fn intern_open(&mut self, pattern: &PathPattern) -> SlotId {
        let mut at = 0;
        for segment in pattern.segments() {
            at = self.child(at, segment);
        }
        let next = self.next;
        let Some(node) = self.nodes.get_mut(at as usize) else {
            return NO_PATH;
        };
        let slot = match pattern.reach() {
            Reach::Here => &mut node.here,
            Reach::Below => &mut node.below,
        };
        if *slot == 0 {
            *slot = next;
        }
        *slot
    }

    fn child(&mut self, at: u32, segment: &Segment) -> u32 {
        let fresh = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        let Some(node) = self.nodes.get_mut(at as usize) else {
            return fresh;
        };
        match segment {
            Segment::Literal(text) => {
                if let Some(child) = node.literals.find(text, usize::MAX) {
                    return child;
                }
                node.literals.insert(text, fresh);
                self.literal_bytes_max = self.literal_bytes_max.max(text.len());
            }
            Segment::Any if node.any != 0 => return node.any,
            Segment::Any => node.any = fresh,
        }
        self.nodes.push(Node::default());
        fresh
    }

    /// Adds the patterns that fit; `form` is in matching form.
    pub(super) fn fitting(&self, form: &str, found: &mut Slots) {
        if let Some(slot) = self.whole.get(form) {
            found.push(*slot);
        }
        let rest = if form.is_empty() { None } else { Some(form) };
        self.descend(0, rest, found);
    }

    /// Follows the segments from a node on. Visits a node once at most. Calls itself only where a literal and an open
    /// segment both fit, so no deeper than a pattern has segments.
    fn descend(&self, mut at: u32, mut rest: Option<&str>, found: &mut Slots) {
        while let Some(node) = self.nodes.get(at as usize) {
            if node.below != 0 {
                found.push(node.below);
            }
            let Some(form) = rest else {
                if node.here != 0 {
                    found.push(node.here);
                }
                return;
            };
            if node.any == 0 && matches!(node.literals, Literals::None) {
                return;
            }
            let (segment, after) = first_segment(form);
            rest = after;
            // An open segment does not fit an empty one.
            let any = if segment.is_empty() { 0 } else { node.any };
            at = match node.literals.find(segment, self.literal_bytes_max) {
                Some(child) => {
                    if any != 0 {
                        self.descend(any, after, found);
                    }
                    child
                }
                None if any != 0 => any,
                None => return,
            };
        }
    }
}

/// The matching form of the one path that a pattern means; `None` when it means more than one.
fn whole(pattern: &PathPattern) -> Option<Arc<str>> {
    if pattern.reach() != Reach::Here {
        return None;
    }
    let mut form = String::new();
    for (at, segment) in pattern.segments().iter().enumerate() {
        let Segment::Literal(text) = segment else { return None };
        if at > 0 {
            form.push('/');
        }
        form.push_str(text);
    }
    Some(form.into())
}

/// The first segment of a path in matching form, and what follows it.
fn first_segment(form: &str) -> (&str, Option<&str>) {
    match slash(form.as_bytes()).and_then(|at| form.split_at_checked(at)) {
        Some((segment, after)) => (segment, after.get(1..)),
        None => (form, None),
    }
}

/// The place of the first `/`. Segments are short, so that eight bytes at once beat a searcher's set-up.
fn slash(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let (words, rest) = bytes.as_chunks::<8>();
    for (number, word) in words.iter().enumerate() {
        // A byte of `word` that is '/' is zero here, and the lowest zero byte is the lowest to borrow.
        let zero = u64::from_le_bytes(*word) ^ (ONES * 0x2f);
        let found = zero.wrapping_sub(ONES) & !zero & (ONES << 7);
        if found != 0 {
            return Some(number * 8 + (found.trailing_zeros() / 8) as usize);
        }
    }
    rest.iter().position(|byte| *byte == b'/').map(|at| words.len() * 8 + at)
}

/// A rule's place in a stage, while it is built.
#[derive(Clone, Debug)]
pub(super) struct Placement {
    pub(super) entry: u32,
    pub(super) slots: SmallVec<[SlotId; 2]>,
    pub(super) set: SetId,
    /// Empty: any port.
    pub(super) ports: SmallVec<[Port; 2]>,
}

/// The candidates of one stage.
#[derive(Debug, Default)]
pub(super) struct Stage {
    /// Every entry of the stage, in the order of evaluation.
    pub(super) entries: Vec<u32>,
    /// By slot, the place in `shelves` and one; 0: none.
    by_slot: Vec<u32>,
    shelves: Vec<Shelf>,
}

/// The candidates of one slot, ascending.
#[derive(Debug)]
enum Shelf {
    Few(SmallVec<[u32; SCAN_MAX]>),
    BySet {
        of: FoldMap<SetId, ByPort>,
        /// Every candidate, for callers who are in about as many sets.
        all: Vec<u32>,
    },
}

/// The candidates of one slot and set, ascending in each list.
#[derive(Debug, Default)]
struct ByPort {
    any: Vec<u32>,
    one: FoldMap<u16, Vec<u32>>,
}

impl Stage {
    /// Arranges placements, which come in the order of evaluation.
    pub(super) fn build(placements: &[Placement]) -> Self {
        let mut by_slot: FoldMap<SlotId, Vec<&Placement>> = FoldMap::default();
        for placement in placements {
            for slot in &placement.slots {
                by_slot.entry(*slot).or_default().push(placement);
            }
        }
        let mut stage =
            Self { entries: placements.iter().map(|placement| placement.entry).collect(), ..Self::default() };
        for (slot, placed) in by_slot {
            let slot = slot as usize;
            if stage.by_slot.len() <= slot {
                stage.by_slot.resize(slot.saturating_add(1), 0);
            }
            stage.shelves.push(Shelf::build(&placed));
            if let Some(place) = stage.by_slot.get_mut(slot) {
                *place = u32::try_from(stage.shelves.len()).unwrap_or(0);
            }
        }
        stage
    }

    /// Visits lists of candidates, each ascending, until `visit` has seen all.
    pub(super) fn candidates(&self, slot: SlotId, sets: &Sets, port: Port, visit: &mut impl FnMut(&[u32])) {
        let place = self.by_slot.get(slot as usize).and_then(|place| place.checked_sub(1));
        match place.and_then(|place| self.shelves.get(place as usize)) {
            None => {}
            Some(Shelf::Few(entries)) => visit(entries),
            Some(Shelf::BySet { of: _, all }) if sets.len().saturating_mul(LOOKUP_COST) >= all.len() => {
                visit(all)
            }
            Some(Shelf::BySet { of, all: _ }) => sets.each(&mut |set| {
                let Some(found) = of.get(&set) else { return };
                visit(&found.any);
                if let Some(entries) = found.one.get(&port.number()) {
                    visit(entries);
                }
            }),
        }
    }
}

impl Shelf {
    fn build(placed: &[&Placement]) -> Self {
        if placed.len() <= SCAN_MAX {
            return Self::Few(placed.iter().map(|placement| placement.entry).collect());
        }
        let mut by_set: FoldMap<SetId, ByPort> = FoldMap::default();
        for placement in placed {
            let shelf = by_set.entry(placement.set).or_default();
            if placement.ports.is_empty() {
                shelf.any.push(placement.entry);
            }
            for port in &placement.ports {
                shelf.one.entry(port.number()).or_default().push(placement.entry);
            }
        }
        Self::BySet { of: by_set, all: placed.iter().map(|placement| placement.entry).collect() }
    }
}
