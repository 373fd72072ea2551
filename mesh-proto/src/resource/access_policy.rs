//! `AccessPolicy`: who may call whom, and how.

use super::meta::Meta;
use super::problem::{Code, Problem};
use super::reader::{At, Fields, Reader};
use super::selector::Selector;
use super::subject::{self, Subject};
use super::yaml::{Map, Yaml};
use super::{operation, quantity};
use crate::name::Namespace;
use crate::policy::model::{Action, Mode, Operation, Scope};
use std::collections::BTreeMap;
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

/// The most rules of one object; more are several objects.
pub const RULES_MAX: usize = 1000;
/// The most sources of one rule.
const SOURCES_MAX: usize = 1000;
/// The longest name of a rule, in bytes: it is shown in every refusal.
const RULE_NAME_BYTES_MAX: usize = 63;

impl AccessPolicy {
    pub(super) fn read(reader: &mut Reader, meta: Meta, spec: At<'_>) -> Option<Self> {
        let fields = reader.fields(spec, &["target", "guardrail", "mode", "rules"])?;
        let home = meta.namespace.as_ref();
        let scope = match fields.optional("guardrail") {
            Some(at) => reader.boolean(&at).map(|is| if is { Scope::Guardrail } else { Scope::Ordinary }),
            None => Some(Scope::Ordinary),
        };
        let target = Selector::read(reader, fields.optional("target"), home);
        let mode = read_mode(reader, &fields);
        let rules = fields.required(reader, "rules", "write at least one");
        let rules = rules.and_then(|at| {
            let rules = reader.each(&at, RULES_MAX, |reader, at| AccessRule::read(reader, at, home))?;
            refuse_same_names(reader, &at, &rules);
            Some(rules)
        });
        Some(Self { scope: scope?, target: target?, mode: mode?, rules: rules?, meta })
    }

    pub(super) fn write(&self) -> Map {
        let Self { meta, scope, target, mode, rules } = self;
        let is_guardrail = *scope == Scope::Guardrail;
        Map::new()
            .with_some("target", target.write(meta.namespace.as_ref(), *scope))
            .with_some("guardrail", is_guardrail.then(|| Yaml::bare(true)))
            .with_some("mode", write_mode(*mode))
            .with_list("rules", rules.iter().map(AccessRule::write))
    }
}

impl AccessRule {
    fn read(reader: &mut Reader, at: At<'_>, home: Option<&Namespace>) -> Option<Self> {
        let line = at.line();
        let fields = reader.fields(at, &["name", "action", "from", "except", "to", "validUntil"])?;
        let name = match fields.optional("name") {
            Some(at) => read_rule_name(reader, &at).map(Some),
            None => Some(None),
        };
        let action = match fields.optional("action") {
            Some(at) => reader.word(&at, &[("allow", Action::Allow), ("deny", Action::Deny)]),
            None => Some(Action::Allow),
        };
        let hint = "say who: serviceAccount, namespace, … or anyMeshed: true for every workload of the mesh";
        let from = fields.required(reader, "from", hint);
        let from = from.and_then(|at| {
            reader.each(&at, SOURCES_MAX, |reader, at| subject::read(reader, at, home, &subject::SOURCES))
        });
        let except = match fields.optional("except") {
            Some(at) => reader
                .each(&at, SOURCES_MAX, |reader, at| subject::read(reader, at, home, &subject::EXCEPTIONS)),
            None => Some(Vec::new()),
        };
        let to = operation::read_list(reader, fields.optional("to"));
        let valid_until = match fields.optional("validUntil") {
            Some(at) => quantity::read_time(reader, &at).map(Some),
            None => Some(None),
        };
        Some(Self {
            name: name?,
            line,
            action: action?,
            from: from?,
            except: except?,
            to: to?,
            valid_until: valid_until?,
        })
    }

    fn write(&self) -> Yaml {
        let Self { name, line: _, action, from, except, to, valid_until } = self;
        Map::new()
            .with_some("name", name.as_deref())
            .with_some("action", (*action == Action::Deny).then_some("deny"))
            .with_list("from", from.iter().map(|source| source.write().into()))
            .with_list("except", except.iter().map(|source| source.write().into()))
            .with_list("to", to.iter().map(operation::write))
            .with_some("validUntil", valid_until.map(quantity::time_text))
            .into()
    }
}

/// Reads `mode`; enforce unless given.
pub(super) fn read_mode(reader: &mut Reader, fields: &Fields<'_>) -> Option<Mode> {
    match fields.optional("mode") {
        Some(at) => reader.word(&at, &[("enforce", Mode::Enforce), ("audit", Mode::Audit)]),
        None => Some(Mode::Enforce),
    }
}

/// `mode` as canonical YAML; none when it is the default.
pub(super) fn write_mode(mode: Mode) -> Option<&'static str> {
    (mode == Mode::Audit).then_some("audit")
}

fn read_rule_name(reader: &mut Reader, at: &At<'_>) -> Option<Arc<str>> {
    let name = reader.text(at)?;
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b" -_./".contains(&byte);
    if !name.is_empty() && name.len() <= RULE_NAME_BYTES_MAX && name.bytes().all(good) && name.trim() == name
    {
        return Some(name.into());
    }
    let shown = Problem::shown(name);
    let message = format!("{shown:?} is not a rule's name; allowed are 1 to 63 of a-z A-Z 0-9 space - _ . /");
    reader.error(at, Code::InvalidValue, message);
    None
}

/// A refusal names its rule, so a name must mean one.
fn refuse_same_names(reader: &mut Reader, at: &At<'_>, rules: &[AccessRule]) {
    let entries = reader.list(at, RULES_MAX).unwrap_or_default();
    let mut seen = BTreeMap::new();
    for (rule, entry) in rules.iter().zip(&entries) {
        let Some(name) = &rule.name else { continue };
        if let Some(first) = seen.insert(name, rule.line) {
            let message = format!("a rule of the name {name:?} stands on line {first} already");
            reader.error(entry, Code::Duplicate, message);
        }
    }
}
