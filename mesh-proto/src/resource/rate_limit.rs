//! `RateLimit`: how much callers may ask of some workloads.

use super::meta::Meta;
use super::selector::Selector;
use crate::limit;
use std::sync::Arc;

/// A limit and the workloads it protects.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RateLimit {
    /// Name and origin.
    pub meta: Meta,
    /// Whose callers it is about.
    pub target: Selector,
    /// The limit as proxies need it.
    pub limit: Arc<limit::RateLimit>,
}
