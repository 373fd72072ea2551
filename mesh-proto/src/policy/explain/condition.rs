//! One failed condition in words: what is, what the rule wants, what would have to be otherwise, and the change to write.

use super::caller;
use crate::identity::pattern::IdentityPattern;
use crate::matching::{HeaderCondition, HeaderTest};
use crate::name::{Namespace, ServiceAccount};
use crate::policy::compile::{Entry, PolicySet};
use crate::policy::evaluate::{Condition, HttpFacts, Request, SourceFacts};
use crate::policy::model::{GroupKind, Operation, Rule, Source};
use std::fmt::Display;

/// How many alternatives a sentence names; the rest is counted.
const SHOWN_MAX: usize = 4;
/// Fields whose values are secrets.
const CREDENTIALS: [&str; 4] = ["authorization", "cookie", "proxy-authorization", "x-api-key"];

impl PolicySet {
    /// What is, and what the rule wants: "method is GET, not POST".
    pub(super) fn clause(&self, failed: Condition, entry: &Entry, request: &Request<'_>) -> String {
        let Some(rule) = self.rule(entry.rule) else { return String::new() };
        let nothing = Operation::default();
        let operation = self.operation(entry).unwrap_or(&nothing);
        let http = request.http.as_ref();
        match failed {
            Condition::ValidUntil => format!("its time ended at {}", time(rule.valid_until)),
            Condition::From => format!("the caller is not {}", listed(rule.from.iter().map(source))),
            Condition::Except => format!("the caller is excepted by {}", excepting(rule, request)),
            Condition::Port => format!("port is {}, not {}", request.port, listed(&operation.ports)),
            Condition::Protocol => {
                let wanted = operation.protocols.iter().map(|word| word.as_str());
                format!("protocol is {}, not {}", request.protocol.as_str(), listed(wanted))
            }
            Condition::Sni => {
                format!("server name is {}, not {}", request.sni.unwrap_or("absent"), listed(&operation.sni))
            }
            Condition::NeedsHttp => {
                format!(
                    "it can only be judged on HTTP, and the connection speaks {}",
                    request.protocol.as_str()
                )
            }
            Condition::Host => {
                format!("host is {}, not {}", of(http, |http| http.host), listed(&operation.hosts))
            }
            Condition::Method => {
                format!("method is {}, not {}", of(http, |http| http.method), listed(&operation.methods))
            }
            Condition::Path => {
                format!("path is {}, not {}", of(http, |http| http.path), listed(&operation.paths))
            }
            Condition::Grpc if is_other_protocol(operation, http) => {
                format!("protocol is {}, not grpc", request.protocol.as_str())
            }
            Condition::Grpc => {
                let called = of(http, |http| http.path.strip_prefix('/').unwrap_or(http.path));
                format!("gRPC method is {called}, not {}", listed(&operation.grpc))
            }
            Condition::Header(at) => match operation.headers.get(at) {
                Some(header) => {
                    format!("header {} is {}, not {}", header.name(), values(header, http), wanted(header))
                }
                None => String::new(),
            },
        }
    }

    /// What would have to be otherwise, after "would match if": "method were POST (it is GET)".
    pub(super) fn wish(&self, failed: Condition, entry: &Entry, request: &Request<'_>) -> String {
        let Some(rule) = self.rule(entry.rule) else { return String::new() };
        let nothing = Operation::default();
        let operation = self.operation(entry).unwrap_or(&nothing);
        let http = request.http.as_ref();
        match failed {
            Condition::ValidUntil => format!("its time had not ended at {}", time(rule.valid_until)),
            Condition::From => format!("the caller were {}", listed(rule.from.iter().map(source))),
            Condition::Except => {
                format!("{} were not excepted by {}", caller(&request.source), excepting(rule, request))
            }
            Condition::Port => format!("the port were {} (it is {})", listed(&operation.ports), request.port),
            Condition::Protocol => {
                let wanted = operation.protocols.iter().map(|word| word.as_str());
                format!("the protocol were {} (it is {})", listed(wanted), request.protocol.as_str())
            }
            Condition::Sni => format!(
                "the server name were {} (it is {})",
                listed(&operation.sni),
                request.sni.unwrap_or("absent")
            ),
            Condition::NeedsHttp => {
                format!("the connection were HTTP (it speaks {})", request.protocol.as_str())
            }
            Condition::Host => {
                format!("the host were {} (it is {})", listed(&operation.hosts), of(http, |http| http.host))
            }
            Condition::Method => {
                format!(
                    "the method were {} (it is {})",
                    listed(&operation.methods),
                    of(http, |http| http.method)
                )
            }
            Condition::Path => {
                format!("the path were {} (it is {})", listed(&operation.paths), of(http, |http| http.path))
            }
            Condition::Grpc if is_other_protocol(operation, http) => {
                format!("the call were gRPC (it is {})", request.protocol.as_str())
            }
            Condition::Grpc => format!(
                "the gRPC method were {} (it is {})",
                listed(&operation.grpc),
                of(http, |http| http.path.strip_prefix('/').unwrap_or(http.path))
            ),
            Condition::Header(at) => match operation.headers.get(at) {
                Some(header) => {
                    format!(
                        "header {} were {} (it is {})",
                        header.name(),
                        wanted(header),
                        values(header, http)
                    )
                }
                None => String::new(),
            },
        }
    }

    /// The change of the rule that makes this condition hold, as YAML under the rule or its operation.
    pub(super) fn change(&self, failed: Condition, entry: &Entry, request: &Request<'_>) -> String {
        let Some(rule) = self.rule(entry.rule) else { return String::new() };
        let nothing = Operation::default();
        let operation = self.operation(entry).unwrap_or(&nothing);
        let (at, http) = (format!("to[{}]", entry.operation), request.http.as_ref());
        match failed {
            Condition::ValidUntil => "set validUntil to a later time, or remove it".to_owned(),
            Condition::From => format!("add to from: - {}", nearest_source_yaml(rule, &request.source)),
            Condition::Except => format!("take {} out of except", excepting(rule, request)),
            Condition::Port => longer(&at, "ports", &operation.ports, request.port),
            Condition::Protocol => {
                let words = operation.protocols.iter().map(|word| word.as_str());
                longer(&at, "protocols", words, request.protocol.as_str())
            }
            Condition::Sni => match request.sni {
                Some(sni) => longer(&at, "sni", &operation.sni, sni),
                None => format!("remove sni from {at}"),
            },
            Condition::NeedsHttp => {
                format!("add an operation without HTTP conditions: - {{ports: [{}]}}", request.port)
            }
            Condition::Host => longer(&at, "hosts", &operation.hosts, of(http, |http| http.host)),
            Condition::Method => longer(&at, "methods", &operation.methods, of(http, |http| http.method)),
            Condition::Path => longer(&at, "paths", &operation.paths, as_pattern(of(http, |http| http.path))),
            Condition::Grpc if is_other_protocol(operation, http) => {
                format!("replace grpc in {at} by paths: [{}]", of(http, |http| http.path))
            }
            Condition::Grpc => {
                let called = of(http, |http| http.path.strip_prefix('/').unwrap_or(http.path));
                longer(&at, "grpc", &operation.grpc, called)
            }
            Condition::Header(number) => match operation.headers.get(number) {
                Some(header) => format!("remove the condition on header {} from {at}", header.name()),
                None => String::new(),
            },
        }
    }
}

/// A list written anew with one entry more: `in to[0], methods: [POST, GET]`.
fn longer<T: Display>(
    at: &str,
    field: &str,
    have: impl IntoIterator<Item = T>,
    more: impl Display,
) -> String {
    let mut entries: Vec<String> = have.into_iter().map(|entry| entry.to_string()).collect();
    entries.push(more.to_string());
    format!("in {at}, {field}: [{}]", entries.join(", "))
}

/// The pattern that means exactly this path, in its canonical spelling where it has one.
pub(super) fn as_pattern(path: &str) -> String {
    let form = crate::matching::matching_form(path);
    let escaped = form
        .replace('*', "%2A")
        .replace('{', "%7B")
        .replace('}', "%7D")
        .replace('?', "%3F")
        .replace('#', "%23");
    format!("/{escaped}")
}

/// Whether the path is right and only the protocol is not.
fn is_other_protocol(operation: &Operation, http: Option<&HttpFacts<'_>>) -> bool {
    http.is_some_and(|http| operation.grpc.iter().any(|grpc| grpc.matches(http.path)))
}

fn of<'a>(http: Option<&HttpFacts<'a>>, part: impl Fn(&HttpFacts<'a>) -> &'a str) -> &'a str {
    http.map_or("", part)
}

/// `a, b or c`; of a long list the first few, and how many more.
pub(super) fn listed<T: Display>(entries: impl IntoIterator<Item = T>) -> String {
    let entries: Vec<String> = entries.into_iter().map(|entry| entry.to_string()).collect();
    let more = entries.len().saturating_sub(SHOWN_MAX);
    match entries.split_last() {
        Some((last, rest)) if more == 0 && !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        Some((last, _)) if more == 0 => last.clone(),
        Some(_) => {
            let shown: Vec<_> = entries.into_iter().take(SHOWN_MAX).collect();
            format!("{} or one of {more} more", shown.join(", "))
        }
        None => "anything".to_owned(),
    }
}

/// A source as a phrase.
pub(super) fn source(source: &Source) -> String {
    match source {
        Source::Identity(pattern @ IdentityPattern::Exact(_)) => pattern.to_string(),
        Source::Identity(pattern @ IdentityPattern::Below(_)) => format!("one of {pattern}"),
        Source::Group { kind, name, members } => {
            let phrase = match kind {
                GroupKind::Segment => format!("in segment {name}"),
                GroupKind::Role => format!("a holder of role {name}"),
            };
            if members.is_empty() { format!("{phrase} (which has no members)") } else { phrase }
        }
        Source::Instance { id, instance } => format!("instance {instance} of {id}"),
        Source::Unmeshed(cidr) => format!("an unmeshed peer from {cidr}"),
        Source::AnyMeshed => "a peer with a mesh identity".to_owned(),
        Source::Anyone => "anyone".to_owned(),
    }
}

/// The entries of `except` that mean the caller.
fn excepting(rule: &Rule, request: &Request<'_>) -> String {
    let means = |source: &&Source| match (source, &request.source) {
        (Source::Identity(pattern), SourceFacts::Meshed { id, .. }) => pattern.matches(id),
        (Source::Group { members, .. }, SourceFacts::Meshed { id, .. }) => {
            members.iter().any(|member| member.matches(id))
        }
        (Source::Instance { id: own, instance: name }, SourceFacts::Meshed { id, instance }) => {
            own == *id && *instance == Some(name.as_str())
        }
        (Source::Unmeshed(cidr), SourceFacts::Unmeshed { ip }) => cidr.contains(*ip),
        (Source::AnyMeshed, SourceFacts::Meshed { .. }) | (Source::Anyone, _) => true,
        _ => false,
    };
    listed(rule.except.iter().filter(means).map(|entry| match entry {
        Source::Group { kind: GroupKind::Segment, name, .. } => format!("segment {name}"),
        Source::Group { kind: GroupKind::Role, name, .. } => format!("role {name}"),
        other => source(other),
    }))
}

/// The caller as an entry of `from`.
pub(super) fn source_yaml(source: &SourceFacts<'_>) -> String {
    match source {
        SourceFacts::Meshed { id, .. } => match id.workload() {
            Some((namespace, account)) => account_yaml(&namespace, &account),
            None => format!("identity: {id}"),
        },
        SourceFacts::Unmeshed { ip } => {
            let ip = ip.to_canonical();
            format!("cidr: {ip}/{}", if ip.is_ipv4() { 32 } else { 128 })
        }
    }
}

/// The caller as an entry of `from`; only its instance, where the rule speaks of instances of the same identity.
fn nearest_source_yaml(rule: &Rule, caller: &SourceFacts<'_>) -> String {
    let SourceFacts::Meshed { id, instance: Some(instance) } = caller else { return source_yaml(caller) };
    let speaks_of_instances =
        rule.from.iter().any(|source| matches!(source, Source::Instance { id: own, .. } if own == *id));
    match id.workload() {
        Some((namespace, account)) if speaks_of_instances => {
            format!("instance: {{name: {instance}, {}}}", account_yaml(&namespace, &account))
        }
        _ => source_yaml(caller),
    }
}

fn account_yaml(namespace: &Namespace, account: &ServiceAccount) -> String {
    format!("serviceAccount: {namespace}/{account}")
}

/// What a header condition wants, as a phrase.
fn wanted(header: &HeaderCondition) -> String {
    match header.test() {
        HeaderTest::Exact(_) | HeaderTest::Prefix(_) if is_secret(header) => {
            "what the rule wants (not shown)".to_owned()
        }
        HeaderTest::Exact(value) => format!("{value:?}"),
        HeaderTest::Prefix(value) => format!("{:?}", format!("{value}*")),
        HeaderTest::Present => "present".to_owned(),
    }
}

/// The values of a header, as a phrase.
fn values(header: &HeaderCondition, http: Option<&HttpFacts<'_>>) -> String {
    let mut values = Vec::new();
    if let Some(http) = http {
        http.headers.each(header.name(), &mut |value| {
            let text: String = String::from_utf8_lossy(value).chars().take(80).collect();
            values.push(format!("{text:?}"));
        });
    }
    match values.len() {
        0 => "absent".to_owned(),
        _ if is_secret(header) => "another one (not shown)".to_owned(),
        1 => values.concat(),
        _ => format!("{} (all must hold)", values.join(" and ")),
    }
}

fn is_secret(header: &HeaderCondition) -> bool {
    CREDENTIALS.contains(&header.name())
}

fn time(seconds: Option<u64>) -> String {
    let stamp = seconds.and_then(|seconds| jiff::Timestamp::from_second(i64::try_from(seconds).ok()?).ok());
    stamp.map_or_else(|| "an unknown time".to_owned(), |stamp| stamp.to_string())
}
