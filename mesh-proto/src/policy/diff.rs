//! Which requests two policy sets decide differently.
//!
//! `meshctl apply --dry-run` and `meshctl diff` ask it about recorded decisions before a change takes effect. It decides by
//! the evaluator's own walk and changes nothing.

use super::compile::PolicySet;
use super::evaluate::{Decision, Request};

/// A request whose outcome changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Difference {
    /// Its place in the list given.
    pub request: usize,
    /// What the set before decides.
    pub before: Decision,
    /// What the set after decides.
    pub after: Decision,
}

/// The requests that are allowed by one set and refused by the other, in the order given.
pub fn diff(before: &PolicySet, after: &PolicySet, requests: &[Request<'_>]) -> Vec<Difference> {
    let decide = |set: &PolicySet, request| Decision::from(&set.authorize(request).outcome);
    requests
        .iter()
        .enumerate()
        .filter_map(|(index, request)| {
            let (before, after) = (decide(before, request), decide(after, request));
            let allowed = |decision: &Decision| matches!(decision, Decision::Allowed(_));
            (allowed(&before) != allowed(&after)).then_some(Difference { request: index, before, after })
        })
        .collect()
}
