//! What policies mean, written as slowly and as plainly as possible, from the documentation of `policy::model` alone. It shares
//! no code with the evaluator but the model's own matchers, and paths and headers it reads by itself.

use crate::notation::{OwnedHttp, OwnedRequest, OwnedSource};
use mesh_proto::matching::{GrpcPattern, HeaderCondition, HeaderTest, PathPattern};
use mesh_proto::policy::evaluate::DenyReason;
use mesh_proto::policy::model::{
    Action, Mode, Operation, Policy, PolicyInputs, Protocol, ProtocolMatch, Rule, Scope, Source,
};

/// Policy and rule by their places.
pub(crate) type Place = (usize, usize);

/// What the evaluator should say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Expected {
    Allowed(Option<Place>),
    Denied(DenyReason, Option<Place>),
}

#[derive(Clone, Copy, PartialEq)]
enum Fit {
    Yes,
    No,
    Unknown,
    /// It is TLS and shows no server name, which the rule asks for.
    Nameless,
}

pub(crate) fn decide(inputs: &PolicyInputs, request: &OwnedRequest) -> (Expected, Option<(Action, Place)>) {
    if matches!(&request.source, OwnedSource::Meshed(id, _) if inputs.quarantined.contains(id)) {
        return (Expected::Denied(DenyReason::Quarantined, None), None);
    }
    if let Some(isolation) = &inputs.isolation {
        let accepted = match &request.source {
            OwnedSource::Meshed(id, _) => {
                isolation.accepts.iter().any(|(_, members)| members.iter().any(|member| member.matches(id)))
            }
            OwnedSource::Unmeshed(_) => false,
        };
        if !accepted {
            return (Expected::Denied(DenyReason::Isolated, None), None);
        }
    }
    let enforced = match staged(inputs, Mode::Enforce, request) {
        Some(expected) => expected,
        None if inputs.default_allow => Expected::Allowed(None),
        None => Expected::Denied(DenyReason::NoRuleAllows, None),
    };
    let audited = match staged(inputs, Mode::Audit, request) {
        Some(Expected::Allowed(Some(place))) => Some((Action::Allow, place)),
        Some(Expected::Denied(_, Some(place))) => Some((Action::Deny, place)),
        _ => None,
    };
    (enforced, audited)
}

fn staged(inputs: &PolicyInputs, mode: Mode, request: &OwnedRequest) -> Option<Expected> {
    let policies: Vec<(usize, &Policy)> = inputs
        .policies
        .iter()
        .enumerate()
        .map(|(at, p)| (at, &**p))
        .filter(|(_, p)| p.mode == mode)
        .collect();
    for scope in [Scope::Guardrail, Scope::Ordinary] {
        for (at, policy) in policies.iter().filter(|(_, policy)| policy.scope == scope) {
            for (number, rule) in
                policy.rules.iter().enumerate().filter(|(_, rule)| rule.action == Action::Deny)
            {
                match fits(rule, request) {
                    Fit::Yes => return Some(Expected::Denied(DenyReason::DeniedByRule, Some((*at, number)))),
                    Fit::Unknown => {
                        return Some(Expected::Denied(DenyReason::NeedsHttp, Some((*at, number))));
                    }
                    Fit::Nameless => {
                        return Some(Expected::Denied(DenyReason::NameUnreadable, Some((*at, number))));
                    }
                    Fit::No => {}
                }
            }
        }
    }
    for (at, policy) in policies.iter().filter(|(_, policy)| policy.scope == Scope::Guardrail) {
        let allows: Vec<_> =
            policy.rules.iter().enumerate().filter(|(_, rule)| rule.action == Action::Allow).collect();
        if !allows.is_empty() && !allows.iter().any(|(_, rule)| fits(rule, request) == Fit::Yes) {
            return Some(Expected::Denied(DenyReason::GuardrailNotMet, Some((*at, allows[0].0))));
        }
    }
    for (at, policy) in policies.iter().filter(|(_, policy)| policy.scope == Scope::Ordinary) {
        for (number, rule) in policy.rules.iter().enumerate().filter(|(_, rule)| rule.action == Action::Allow)
        {
            if fits(rule, request) == Fit::Yes {
                return Some(Expected::Allowed(Some((*at, number))));
            }
        }
    }
    None
}

fn fits(rule: &Rule, request: &OwnedRequest) -> Fit {
    let expired = rule.valid_until.is_some_and(|end| end <= request.now);
    let from = rule.from.iter().any(|source| is_from(source, request));
    let except = rule.except.iter().any(|source| is_from(source, request));
    if expired || !from || except {
        return Fit::No;
    }
    if rule.to.is_empty() {
        return Fit::Yes;
    }
    let fits =
        rule.to.iter().map(|operation| does(operation, rule.action, request)).find(|fit| *fit != Fit::No);
    match fits {
        Some(Fit::Unknown) if rule.action == Action::Allow => {
            // What cannot be judged allows nothing; another operation of the rule may.
            let yes = rule.to.iter().any(|operation| does(operation, rule.action, request) == Fit::Yes);
            if yes { Fit::Yes } else { Fit::No }
        }
        Some(fit) => fit,
        None => Fit::No,
    }
}

fn is_from(source: &Source, request: &OwnedRequest) -> bool {
    match (source, &request.source) {
        (Source::Anyone, _) | (Source::AnyMeshed, OwnedSource::Meshed(..)) => true,
        (Source::Identity(pattern), OwnedSource::Meshed(id, _)) => pattern.matches(id),
        (Source::Group { members, .. }, OwnedSource::Meshed(id, _)) => {
            members.iter().any(|member| member.matches(id))
        }
        (Source::Instance { id, instance }, OwnedSource::Meshed(own, name)) => {
            id == own && name.as_deref() == Some(instance.as_str())
        }
        (Source::Unmeshed(cidr), OwnedSource::Unmeshed(ip)) => cidr.contains(*ip),
        _ => false,
    }
}

fn does(operation: &Operation, action: Action, request: &OwnedRequest) -> Fit {
    fn any<T>(list: &[T], holds: impl Fn(&T) -> bool) -> bool {
        list.is_empty() || list.iter().any(holds)
    }
    let connection = any(&operation.ports, |range| range.contains(request.port))
        && any(&operation.protocols, |word| {
            // Opaque bytes may be HTTP under another name: a deny that looks into HTTP cannot let them pass unseen.
            let hidden = action == Action::Deny
                && operation.needs_http()
                && request.protocol == Protocol::Tcp
                && matches!(
                    word,
                    ProtocolMatch::Http | ProtocolMatch::Http1 | ProtocolMatch::Http2 | ProtocolMatch::Grpc
                );
            // The same paths are answered to other content types.
            let transcoded = action == Action::Deny
                && !operation.grpc.is_empty()
                && matches!(request.protocol, Protocol::Http1 | Protocol::Http2)
                && matches!(word, ProtocolMatch::Http | ProtocolMatch::Http2 | ProtocolMatch::Grpc);
            hidden || transcoded || word.matches(request.protocol)
        })
        && any(&operation.sni, |host| match request.sni.as_deref() {
            Some(name) => host.matches(name),
            None => action == Action::Deny && request.protocol == Protocol::Tls,
        });
    if !connection {
        return Fit::No;
    }
    if !operation.needs_http() {
        let nameless = request.protocol == Protocol::Tls && request.sni.is_none();
        return if nameless && !operation.sni.is_empty() { Fit::Nameless } else { Fit::Yes };
    }
    let Some(http) = &request.http else { return Fit::Unknown };
    let holds = any(&operation.hosts, |host| host.matches(&http.host))
        && any(&operation.methods, |method| method.as_str() == http.method)
        && any(&operation.paths, |pattern| path(pattern, &http.path))
        && any(&operation.grpc, |pattern| grpc(pattern, action, request.protocol, &http.path))
        && operation.headers.iter().all(|condition| header(condition, action, http));
    if holds { Fit::Yes } else { Fit::No }
}

/// A path in the form in which rules see it: segments without parameters, printable escapes decoded, no final slash.
fn seen(path: &str) -> Vec<String> {
    let mut segments: Vec<String> = path.split('/').skip(1).map(one_seen).collect();
    if segments.last().is_some_and(String::is_empty) {
        segments.pop();
    }
    segments
}

fn one_seen(segment: &str) -> String {
    let (mut out, bytes, mut at) = (String::new(), segment.as_bytes(), 0);
    while at < bytes.len() {
        let (c, width) = match bytes[at] {
            b'%' => (u8::from_str_radix(&segment[at + 1..at + 3], 16).unwrap(), 3),
            byte => (byte, 1),
        };
        if c == b';' {
            break;
        }
        if width == 1 || (c.is_ascii_graphic() && c != b'%') {
            out.push(char::from(c));
        } else {
            out.push_str(&segment[at..at + 3]);
        }
        at += width;
    }
    out
}

fn path(pattern: &PathPattern, path: &str) -> bool {
    if !path.starts_with('/') {
        return false;
    }
    let given = seen(path);
    let text = pattern.to_string();
    let (stem, below) = text.strip_suffix("/*").map_or((text.as_str(), false), |stem| (stem, true));
    let wanted: Vec<&str> = stem.split('/').skip(1).filter(|segment| !segment.is_empty()).collect();
    let long_enough = if below { given.len() >= wanted.len() } else { given.len() == wanted.len() };
    long_enough
        && wanted.iter().zip(&given).all(|(want, have)| {
            if want.starts_with('{') { !have.is_empty() } else { one_seen(want) == *have }
        })
}

fn grpc(pattern: &GrpcPattern, action: Action, protocol: Protocol, path: &str) -> bool {
    let given = seen(path);
    (action == Action::Deny || protocol == Protocol::Grpc)
        && given.len() == 2
        && given[0] == pattern.service()
        && pattern.method().map_or(!given[1].is_empty(), |method| given[1] == method)
}

fn header(condition: &HeaderCondition, action: Action, http: &OwnedHttp) -> bool {
    let lines: Vec<&str> = http
        .headers
        .0
        .iter()
        .filter(|(name, _)| name == condition.name())
        .map(|(_, value)| value.trim())
        .collect();
    let (value, prefix) = match condition.test() {
        HeaderTest::Present => return !lines.is_empty(),
        HeaderTest::Exact(value) => (&**value, false),
        HeaderTest::Prefix(value) => (&**value, true),
    };
    let holds = |given: &str| if prefix { given.starts_with(value) } else { given == value };
    let whole = value.contains(',') || ["authorization", "cookie", "user-agent"].contains(&condition.name());
    let mut values: Vec<&str> = Vec::new();
    for line in &lines {
        let members: Vec<&str> = line.split(',').map(str::trim).filter(|member| !member.is_empty()).collect();
        if whole || members.is_empty() { values.push(line) } else { values.extend(members) }
    }
    match action {
        Action::Allow => !values.is_empty() && values.into_iter().all(holds),
        Action::Deny => values.into_iter().any(holds) || lines.into_iter().any(holds),
    }
}
