//! `AccessPolicy`: who may call whom, and how.

use super::meta::Meta;
use super::selector::Selector;
use super::subject::Subject;
use crate::policy::model::{Action, Mode, Operation, Scope};
use std::sync::Arc;

/// Rules for the callers of some workloads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AccessPolicy {
    /// Name and origin.
    pub meta: Meta,
    /// Whether it binds all namespaces.
    pub scope: Scope,
    /// Whose callers it is about.
    pub target: Selector,
    /// Whether it is enforced or only recorded.
    pub mode: Mode,
    /// At least one, in the order of the file.
    pub rules: Vec<AccessRule>,
}

/// One rule as written, with roles and segments by name.
#[derive(Clone, Debug)]
pub struct AccessRule {
    /// The user's name for it, if given.
    pub name: Option<Arc<str>>,
    /// Its line in the file, from 1; 0 when unknown. Not compared.
    pub line: u32,
    /// Allow or deny.
    pub action: Action,
    /// Any of these; never empty.
    pub from: Vec<Subject>,
    /// None of these.
    pub except: Vec<Subject>,
    /// Any of these; empty: everything on the target.
    pub to: Vec<Operation>,
    /// Unix seconds from which on it no longer matches.
    pub valid_until: Option<u64>,
}

impl PartialEq for AccessRule {
    fn eq(&self, other: &Self) -> bool {
        let Self { name, line: _, action, from, except, to, valid_until } = self;
        *name == other.name
            && *action == other.action
            && *from == other.from
            && *except == other.except
            && *to == other.to
            && *valid_until == other.valid_until
    }
}

impl Eq for AccessRule {}
