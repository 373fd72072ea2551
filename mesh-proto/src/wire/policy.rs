//! Policies, isolation and limits: messages of `policy.proto`.

use super::discovery::port;
use super::{WireError, each, rendered, required, text, texts, v1};
use crate::limit::{LimitKey, Rate, RateLimit, Unit};
use crate::matching::{HeaderCondition, HeaderTest};
use crate::net::PortRange;
use crate::policy::model::{
    Action, GroupKind, Isolation, Mode, Operation, Policy, PolicyName, ProtocolMatch, Rule, Scope, Source,
};
use std::sync::Arc;
use std::time::Duration;

/// The most rules of one policy. An author who needs more has several policies; a table of this size still compiles in
/// milliseconds.
pub const RULES_MAX: usize = 10_000;

/// Namespace (empty: mesh-wide) and name.
fn policy_name(namespace: &str, name: &str) -> Result<PolicyName, WireError> {
    Ok(PolicyName { namespace: super::optional_text("namespace", namespace)?, name: text("name", name)? })
}

fn namespace_text(name: &PolicyName) -> String {
    name.namespace.as_ref().map(ToString::to_string).unwrap_or_default()
}

impl From<&Policy> for v1::Policy {
    fn from(policy: &Policy) -> Self {
        let Policy { name, scope, mode, rules, file } = policy;
        let scope = match scope {
            Scope::Guardrail => v1::PolicyScope::Guardrail,
            Scope::Ordinary => v1::PolicyScope::Ordinary,
        };
        Self {
            namespace: namespace_text(name),
            name: name.name.to_string(),
            scope: scope.into(),
            mode: mode_message(*mode).into(),
            rules: rules.iter().map(Into::into).collect(),
            file: file.to_string(),
        }
    }
}

impl TryFrom<v1::Policy> for Policy {
    type Error = WireError;

    fn try_from(message: v1::Policy) -> Result<Self, WireError> {
        let v1::Policy { namespace, name, scope, mode, rules, file } = message;
        let scope = match v1::PolicyScope::try_from(scope) {
            Ok(v1::PolicyScope::Guardrail) => Scope::Guardrail,
            Ok(v1::PolicyScope::Ordinary) => Scope::Ordinary,
            Err(error) => return Err(WireError::new("scope", error)),
        };
        if rules.len() > RULES_MAX {
            return Err(WireError::new("rules", format_args!("are more than {RULES_MAX}")));
        }
        Ok(Self {
            name: policy_name(&namespace, &name)?,
            scope,
            mode: mode_of(mode)?,
            rules: each("rules", rules, TryInto::try_into)?,
            file: file.into(),
        })
    }
}

fn mode_message(mode: Mode) -> v1::PolicyMode {
    match mode {
        Mode::Enforce => v1::PolicyMode::Enforce,
        Mode::Audit => v1::PolicyMode::Audit,
    }
}

fn mode_of(mode: i32) -> Result<Mode, WireError> {
    match v1::PolicyMode::try_from(mode) {
        Ok(v1::PolicyMode::Enforce) => Ok(Mode::Enforce),
        Ok(v1::PolicyMode::Audit) => Ok(Mode::Audit),
        Err(error) => Err(WireError::new("mode", error)),
    }
}

impl From<&Rule> for v1::Rule {
    fn from(rule: &Rule) -> Self {
        let Rule { name, line, action, from, except, to, valid_until } = rule;
        let action = match action {
            Action::Allow => v1::RuleAction::Allow,
            Action::Deny => v1::RuleAction::Deny,
        };
        Self {
            name: name.to_string(),
            line: *line,
            action: action.into(),
            from: from.iter().map(Into::into).collect(),
            except: except.iter().map(Into::into).collect(),
            to: to.iter().map(Into::into).collect(),
            valid_until: valid_until.unwrap_or(0),
            conditions: count([!from.is_empty(), !except.is_empty(), !to.is_empty(), valid_until.is_some()]),
        }
    }
}

impl TryFrom<v1::Rule> for Rule {
    type Error = WireError;

    fn try_from(message: v1::Rule) -> Result<Self, WireError> {
        let v1::Rule { name, line, action, from, except, to, valid_until, conditions } = message;
        let action = match v1::RuleAction::try_from(action) {
            Ok(v1::RuleAction::Allow) => Action::Allow,
            Ok(v1::RuleAction::Deny) => Action::Deny,
            Err(error) => return Err(WireError::new("action", error)),
        };
        if from.is_empty() {
            return Err(WireError::new("from", "is empty"));
        }
        refuse_unknown(
            conditions,
            count([!from.is_empty(), !except.is_empty(), !to.is_empty(), valid_until != 0]),
        )?;
        Ok(Self {
            name: name.into(),
            line,
            action,
            from: each("from", from, TryInto::try_into)?,
            except: each("except", except, TryInto::try_into)?,
            to: each("to", to, TryInto::try_into)?,
            valid_until: (valid_until != 0).then_some(valid_until),
        })
    }
}

impl From<&Source> for v1::Source {
    fn from(source: &Source) -> Self {
        use v1::source::Kind;
        let kind = match source {
            Source::Identity(pattern) => Kind::Identity(pattern.to_string()),
            Source::Group { kind, name, members } => {
                let group = v1::Group { name: name.to_string(), members: rendered(members) };
                match kind {
                    GroupKind::Segment => Kind::Segment(group),
                    GroupKind::Role => Kind::Role(group),
                }
            }
            Source::Instance { id, instance } => Kind::Instance(v1::InstanceSource {
                identity: id.to_string(),
                instance: instance.to_string(),
            }),
            Source::Unmeshed(cidr) => Kind::UnmeshedCidr(cidr.to_string()),
            Source::AnyMeshed => Kind::AnyMeshed(true),
            Source::Anyone => Kind::Anyone(true),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<v1::Source> for Source {
    type Error = WireError;

    fn try_from(message: v1::Source) -> Result<Self, WireError> {
        use v1::source::Kind;
        let v1::Source { kind } = message;
        let group = |kind, field, v1::Group { name, members }| -> Result<Self, WireError> {
            let members = texts("members", &members).map_err(|error| error.within(field))?;
            Ok(Self::Group { kind, name: name.into(), members })
        };
        Ok(match required("kind", kind)? {
            Kind::Identity(pattern) => Self::Identity(text("identity", &pattern)?),
            Kind::Segment(message) => group(GroupKind::Segment, "segment", message)?,
            Kind::Role(message) => group(GroupKind::Role, "role", message)?,
            Kind::Instance(v1::InstanceSource { identity, instance }) => Self::Instance {
                id: text("instance.identity", &identity)?,
                instance: text("instance.instance", &instance)?,
            },
            Kind::UnmeshedCidr(cidr) => Self::Unmeshed(text("unmeshed_cidr", &cidr)?),
            Kind::AnyMeshed(true) => Self::AnyMeshed,
            Kind::Anyone(true) => Self::Anyone,
            Kind::AnyMeshed(false) => return Err(WireError::new("any_meshed", "is false")),
            Kind::Anyone(false) => return Err(WireError::new("anyone", "is false")),
        })
    }
}

impl From<&Operation> for v1::Operation {
    fn from(operation: &Operation) -> Self {
        let Operation { ports, protocols, sni, hosts, methods, paths, headers, grpc } = operation;
        Self {
            ports: ports.iter().map(|range| (*range).into()).collect(),
            protocols: protocols.iter().map(|protocol| protocol.as_str().to_owned()).collect(),
            sni: rendered(sni),
            hosts: rendered(hosts),
            methods: rendered(methods),
            paths: rendered(paths),
            headers: headers.iter().map(Into::into).collect(),
            grpc: rendered(grpc),
            conditions: operation_conditions(operation),
        }
    }
}

/// How many of the lists of an operation are not empty.
fn operation_conditions(operation: &Operation) -> u32 {
    let Operation { ports, protocols, sni, hosts, methods, paths, headers, grpc } = operation;
    count([
        !ports.is_empty(),
        !protocols.is_empty(),
        !sni.is_empty(),
        !hosts.is_empty(),
        !methods.is_empty(),
        !paths.is_empty(),
        !headers.is_empty(),
        !grpc.is_empty(),
    ])
}

fn count<const N: usize>(present: [bool; N]) -> u32 {
    present.into_iter().map(u32::from).sum()
}

/// A sender of a newer release may state conditions that are skipped here; without them the rule would be a wider one.
fn refuse_unknown(stated: u32, known: u32) -> Result<(), WireError> {
    if stated == known {
        return Ok(());
    }
    let problem = format!("states {stated} conditions of which {known} are known here; upgrade this program");
    Err(WireError::new("conditions", problem))
}

impl TryFrom<v1::Operation> for Operation {
    type Error = WireError;

    fn try_from(message: v1::Operation) -> Result<Self, WireError> {
        let v1::Operation { ports, protocols, sni, hosts, methods, paths, headers, grpc, conditions } =
            message;
        let protocol = |word: String| {
            ProtocolMatch::from_word(&word).ok_or_else(|| WireError::new("", "is not a protocol"))
        };
        let operation = Self {
            ports: each("ports", ports, TryInto::try_into)?,
            protocols: each("protocols", protocols, protocol)?,
            sni: texts("sni", &sni)?,
            hosts: texts("hosts", &hosts)?,
            methods: texts("methods", &methods)?,
            paths: texts("paths", &paths)?,
            headers: each("headers", headers, TryInto::try_into)?,
            grpc: texts("grpc", &grpc)?,
        };
        refuse_unknown(conditions, operation_conditions(&operation))?;
        Ok(operation)
    }
}

impl From<PortRange> for v1::PortRange {
    fn from(range: PortRange) -> Self {
        Self { first: range.first().number().into(), last: range.last().number().into() }
    }
}

impl TryFrom<v1::PortRange> for PortRange {
    type Error = WireError;

    fn try_from(message: v1::PortRange) -> Result<Self, WireError> {
        let v1::PortRange { first, last } = message;
        let range = Self::new(port("first", first)?, port("last", last)?);
        range.ok_or_else(|| WireError::new("last", "is below first"))
    }
}

impl From<&HeaderCondition> for v1::HeaderCondition {
    fn from(condition: &HeaderCondition) -> Self {
        use v1::header_condition::Test;
        let test = match condition.test() {
            HeaderTest::Exact(value) => Test::Exact(value.to_string()),
            HeaderTest::Prefix(value) => Test::Prefix(value.to_string()),
            HeaderTest::Present => Test::Present(true),
        };
        Self { name: condition.name().to_owned(), test: Some(test) }
    }
}

impl TryFrom<v1::HeaderCondition> for HeaderCondition {
    type Error = WireError;

    fn try_from(message: v1::HeaderCondition) -> Result<Self, WireError> {
        use v1::header_condition::Test;
        let v1::HeaderCondition { name, test } = message;
        let test = match required("test", test)? {
            Test::Exact(value) => HeaderTest::Exact(value.into()),
            Test::Prefix(value) => HeaderTest::Prefix(value.into()),
            Test::Present(true) => HeaderTest::Present,
            Test::Present(false) => return Err(WireError::new("present", "is false")),
        };
        Self::new(&name, test).map_err(|error| WireError::new("name", error))
    }
}

impl From<&Isolation> for v1::Isolation {
    fn from(isolation: &Isolation) -> Self {
        let Isolation { segment, accepts, file, line } = isolation;
        let group = |(name, members): &(Arc<str>, Vec<_>)| v1::Group {
            name: name.to_string(),
            members: rendered(members),
        };
        Self {
            segment: segment.to_string(),
            accepts: accepts.iter().map(group).collect(),
            file: file.to_string(),
            line: *line,
        }
    }
}

impl TryFrom<v1::Isolation> for Isolation {
    type Error = WireError;

    fn try_from(message: v1::Isolation) -> Result<Self, WireError> {
        let v1::Isolation { segment, accepts, file, line } = message;
        let group = |v1::Group { name, members }| Ok((Arc::from(name), texts("members", &members)?));
        Ok(Self {
            segment: segment.into(),
            accepts: each("accepts", accepts, group)?,
            file: file.into(),
            line,
        })
    }
}

impl From<&RateLimit> for v1::RateLimit {
    fn from(limit: &RateLimit) -> Self {
        let RateLimit { name, mode, key, to, rate, concurrent, body_bytes_max } = limit;
        let (key, header) = match key {
            LimitKey::SourceIdentity => (v1::LimitKey::SourceIdentity, String::new()),
            LimitKey::Address => (v1::LimitKey::Address, String::new()),
            LimitKey::Header(header) => (v1::LimitKey::Header, header.to_string()),
            LimitKey::Target => (v1::LimitKey::Target, String::new()),
        };
        let Rate { unit, amount, per, burst } =
            rate.unwrap_or(Rate { unit: Unit::Requests, amount: 0, per: Duration::ZERO, burst: 0 });
        let unit = match unit {
            Unit::Requests => v1::LimitUnit::Requests,
            Unit::Connections => v1::LimitUnit::Connections,
            Unit::Bytes => v1::LimitUnit::Bytes,
        };
        Self {
            namespace: namespace_text(name),
            name: name.name.to_string(),
            mode: mode_message(*mode).into(),
            key: key.into(),
            header,
            to: to.iter().map(Into::into).collect(),
            unit: unit.into(),
            amount,
            per_milliseconds: u64::try_from(per.as_millis()).unwrap_or(u64::MAX),
            burst,
            concurrent: concurrent.unwrap_or(0),
            body_bytes_max: body_bytes_max.unwrap_or(0),
        }
    }
}

impl TryFrom<v1::RateLimit> for RateLimit {
    type Error = WireError;

    fn try_from(message: v1::RateLimit) -> Result<Self, WireError> {
        let v1::RateLimit {
            namespace,
            name,
            mode,
            key,
            header,
            to,
            unit,
            amount,
            per_milliseconds,
            burst,
            concurrent,
            body_bytes_max,
        } = message;
        let unit = match v1::LimitUnit::try_from(unit) {
            Ok(v1::LimitUnit::Requests) => Unit::Requests,
            Ok(v1::LimitUnit::Connections) => Unit::Connections,
            Ok(v1::LimitUnit::Bytes) => Unit::Bytes,
            Err(error) => return Err(WireError::new("unit", error)),
        };
        let rate = match (amount, per_milliseconds, burst) {
            (0, 0, 0) => None,
            (0, _, _) => return Err(WireError::new("amount", "is 0, but there is a time or a burst")),
            (_, 0, _) => return Err(WireError::new("per_milliseconds", "is 0")),
            (_, _, 0) => return Err(WireError::new("burst", "is 0")),
            (amount, per, burst) => Some(Rate { unit, amount, per: Duration::from_millis(per), burst }),
        };
        Ok(Self {
            name: policy_name(&namespace, &name)?,
            mode: mode_of(mode)?,
            key: limit_key(key, &header)?,
            to: each("to", to, TryInto::try_into)?,
            rate,
            concurrent: (concurrent != 0).then_some(concurrent),
            body_bytes_max: (body_bytes_max != 0).then_some(body_bytes_max),
        })
    }
}

fn limit_key(key: i32, header: &str) -> Result<LimitKey, WireError> {
    let key = match v1::LimitKey::try_from(key) {
        Ok(v1::LimitKey::Header) => {
            // The same rules as for a header in a condition.
            let checked = HeaderCondition::new(header, HeaderTest::Present);
            let checked = checked.map_err(|error| WireError::new("header", error))?;
            return Ok(LimitKey::Header(checked.name().into()));
        }
        Ok(v1::LimitKey::SourceIdentity) => LimitKey::SourceIdentity,
        Ok(v1::LimitKey::Address) => LimitKey::Address,
        Ok(v1::LimitKey::Target) => LimitKey::Target,
        Err(error) => return Err(WireError::new("key", error)),
    };
    if header.is_empty() { Ok(key) } else { Err(WireError::new("header", "has no meaning with this key")) }
}
