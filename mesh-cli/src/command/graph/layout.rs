//! Where nodes are drawn: in layers from left to right, callers before those they call.
//!
//! # Why
//! The usual three steps (break cycles, longest path, order by the mean of the neighbours) in the smallest form that is
//! deterministic: the same graph gives the same drawing, so that two of them can be compared. It is no place for a layout
//! library: those that there are draw by chance, or would be larger than the command.

use std::collections::BTreeMap;

/// Passes over the layers that bring neighbours side by side; more changes nothing that one sees.
const PASSES: usize = 6;

/// The layers, each with its nodes from top to bottom. Each node stands in exactly one.
pub(super) fn layers(nodes: usize, edges: &[(usize, usize)]) -> Vec<Vec<usize>> {
    let ranks = ranks(nodes, edges);
    let mut layers: Vec<Vec<usize>> = Vec::new();
    for (node, rank) in ranks.iter().enumerate() {
        if layers.len() <= *rank {
            layers.resize(rank.saturating_add(1), Vec::new());
        }
        if let Some(layer) = layers.get_mut(*rank) {
            layer.push(node);
        }
    }
    let mut neighbours: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for &(from, to) in edges.iter().filter(|(from, to)| from != to) {
        neighbours.entry(from).or_default().push(to);
        neighbours.entry(to).or_default().push(from);
    }
    for pass in 0..PASSES {
        let places = places(&layers);
        let order = |layer: &mut Vec<usize>| {
            layer.sort_by_key(|node| {
                let near = neighbours.get(node).into_iter().flatten();
                let near: Vec<u64> = near.filter_map(|near| places.get(near).copied()).collect();
                let sum = near.iter().fold(0_u64, |sum, place| sum.saturating_add(*place));
                let own = places.get(node).copied().unwrap_or(0);
                let mean = sum.checked_div(u64::try_from(near.len()).unwrap_or(1)).unwrap_or(own);
                (mean, *node)
            });
        };
        // To and fro, since each layer is ordered by where the others were.
        if pass % 2 == 0 {
            layers.iter_mut().for_each(order);
        } else {
            layers.iter_mut().rev().for_each(order);
        }
    }
    layers
}

/// Where each node stands in its layer, in thousandths of the layer's height.
fn places(layers: &[Vec<usize>]) -> BTreeMap<usize, u64> {
    let mut places = BTreeMap::new();
    for layer in layers {
        let count = u64::try_from(layer.len()).unwrap_or(u64::MAX);
        for (at, node) in (0_u64..).zip(layer) {
            let place = at.saturating_mul(1_000).saturating_add(500).checked_div(count).unwrap_or(0);
            places.insert(*node, place);
        }
    }
    places
}

/// The layer of each node: one after the last of its callers. In a circle the node with the fewest callers left comes
/// first, and the calls that lead back to it do not count.
fn ranks(nodes: usize, edges: &[(usize, usize)]) -> Vec<usize> {
    let mut ranks = vec![0_usize; nodes];
    let mut callers = vec![0_usize; nodes];
    for (_, to) in edges.iter().filter(|(from, to)| from != to) {
        if let Some(count) = callers.get_mut(*to) {
            *count = count.saturating_add(1);
        }
    }
    let mut left: Vec<usize> = (0..nodes).collect();
    while let Some(at) =
        (0..left.len()).min_by_key(|at| left.get(*at).and_then(|node| callers.get(*node)).copied())
    {
        let node = left.remove(at);
        let next = ranks.get(node).copied().unwrap_or(0).saturating_add(1);
        for (_, to) in edges.iter().filter(|(from, to)| *from == node && from != to) {
            // Who has its place already keeps it: this call leads back.
            if left.binary_search(to).is_err() {
                continue;
            }
            if let Some(rank) = ranks.get_mut(*to) {
                *rank = next.max(*rank);
            }
            if let Some(count) = callers.get_mut(*to) {
                *count = count.saturating_sub(1);
            }
        }
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_stand_left_of_those_they_call() {
        assert_eq!(layers(4, &[(0, 1), (1, 2), (0, 2), (3, 2)]), [vec![0, 3], vec![1], vec![2]]);
        assert_eq!(layers(0, &[]), Vec::<Vec<usize>>::new());
    }

    #[test]
    fn circles_and_calls_to_oneself_end() {
        assert_eq!(layers(3, &[(0, 1), (1, 2), (2, 0), (1, 1)]), [vec![0], vec![1], vec![2]]);
    }

    #[test]
    fn each_node_has_one_place() {
        // A fixed generator: every graph of the thousand is the same on each run.
        let mut state = 1_u64;
        let mut next = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from((state >> 33) % below).unwrap()
        };
        for round in 0..1_000 {
            let edges: Vec<(usize, usize)> = (0..next(40)).map(|_| (next(12), next(12))).collect();
            let layers = layers(12, &edges);
            let mut all: Vec<usize> = layers.iter().flatten().copied().collect();
            all.sort_unstable();
            assert_eq!(all, (0..12).collect::<Vec<_>>(), "round {round}: {edges:?}");
            assert!(layers.iter().all(|layer| !layer.is_empty()), "round {round}: {layers:?}");
        }
    }
}
