//! What every object has: where it lives, what it is called, and where it was read from.

use crate::name::{Namespace, ObjectName};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Labels of an object: at most 64, keys and values bounded as in Kubernetes.
pub type Labels = BTreeMap<String, String>;

/// An object's name and origin.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Meta {
    /// Where it lives; `None`: mesh-wide.
    pub namespace: Option<Namespace>,
    /// What it is called there.
    pub name: ObjectName,
    /// The user's labels.
    pub labels: Labels,
    /// Where it was read from.
    pub origin: Origin,
}

/// The place in a file where an object begins. Two objects that differ only in this are the same object.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The file as the user named it; empty when there is none.
    pub file: Arc<str>,
    /// The line of the document's first line, from 1; 0 when unknown.
    pub line: u32,
}

impl PartialEq for Origin {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Origin {}
