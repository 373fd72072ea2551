//! The short notation in which the golden tables state policies and requests.
//!
//! ```text
//! policy shop/pay                         an ordinary, enforced policy (`audit` after the name: audit mode)
//! guardrail no-legacy                     a mesh-wide guard-rail
//!   allow checkout: from shop/web to POST :8080 /charge | GET /healthz
//!   deny  old: from anyone except shop/* to host=old.example until 2027-01-01T00:00:00Z
//! segment pay = shop/pay, shop/ledger     a named set; `role auditor = …` likewise
//! isolation pay accepts pay, web          the target's segment and the segments it accepts
//! quarantine shop/evil
//! default allow
//!
//! shop/web -> POST pay.shop:8080/charge {x-tier: gold} => allow shop/pay checkout
//! ```

use mesh_proto::identity::{SpiffeId, pattern::IdentityPattern};
use mesh_proto::matching::{Fields, canonical_host, canonical_path, split_target};
use mesh_proto::name::Port;
use mesh_proto::policy::evaluate::{HttpFacts, Request, SourceFacts};
use mesh_proto::policy::model::{
    Action, GroupKind, Isolation, Mode, Operation, Policy, PolicyInputs, PolicyName, Protocol, ProtocolMatch,
    Rule, Scope, Source,
};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Noon of the day on which all cases without another time happen.
pub(crate) const NOW: &str = "2026-11-24T12:00:00Z";

/// Policies under construction.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) inputs: PolicyInputs,
    groups: BTreeMap<(&'static str, String), Vec<IdentityPattern>>,
}

/// A header list.
#[derive(Clone, Debug, Default)]
pub(crate) struct Headers(pub(crate) Vec<(String, String)>);

impl Fields for Headers {
    fn each(&self, name: &str, visit: &mut dyn FnMut(&[u8])) {
        self.0.iter().filter(|(own, _)| own == name).for_each(|(_, value)| visit(value.as_bytes()));
    }
}

/// A request that owns its parts.
#[derive(Clone, Debug)]
pub(crate) struct OwnedRequest {
    pub(crate) source: OwnedSource,
    pub(crate) port: Port,
    pub(crate) protocol: Protocol,
    pub(crate) sni: Option<String>,
    pub(crate) http: Option<OwnedHttp>,
    pub(crate) now: u64,
}

#[derive(Clone, Debug)]
pub(crate) enum OwnedSource {
    Meshed(SpiffeId, Option<String>),
    Unmeshed(IpAddr),
}

#[derive(Clone, Debug)]
pub(crate) struct OwnedHttp {
    pub(crate) host: String,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: Headers,
}

impl OwnedRequest {
    pub(crate) fn facts(&self) -> Request<'_> {
        Request {
            source: match &self.source {
                OwnedSource::Meshed(id, instance) => {
                    SourceFacts::Meshed { id, instance: instance.as_deref() }
                }
                OwnedSource::Unmeshed(ip) => SourceFacts::Unmeshed { ip: *ip },
            },
            port: self.port,
            protocol: self.protocol,
            sni: self.sni.as_deref(),
            http: self.http.as_ref().map(|http| HttpFacts {
                host: &http.host,
                method: &http.method,
                path: &http.path,
                headers: &http.headers,
            }),
            now: self.now,
        }
    }
}

/// `shop/web`, or a whole SPIFFE ID.
pub(crate) fn identity(text: &str) -> SpiffeId {
    if text.starts_with("spiffe://") {
        return text.parse().unwrap();
    }
    let (namespace, account) =
        text.split_once('/').unwrap_or_else(|| panic!("{text:?} is no namespace/account"));
    format!("spiffe://mesh.local/ns/{namespace}/sa/{account}").parse().unwrap()
}

/// `shop/web`, `shop/*`, or a whole pattern.
pub(crate) fn pattern(text: &str) -> IdentityPattern {
    match text.strip_suffix("/*") {
        Some(namespace) if !text.starts_with("spiffe://") => {
            format!("spiffe://mesh.local/ns/{namespace}/*").parse().unwrap()
        }
        _ if text.starts_with("spiffe://") => text.parse().unwrap(),
        _ => IdentityPattern::Exact(identity(text)),
    }
}

pub(crate) fn seconds(text: &str) -> u64 {
    u64::try_from(text.parse::<jiff::Timestamp>().unwrap_or_else(|e| panic!("{text}: {e}")).as_second())
        .unwrap()
}

impl World {
    /// Takes one line of policy; `false` when it is none. `number` becomes the rule's line.
    pub(crate) fn line(&mut self, line: &str, file: &str, number: u32) -> bool {
        let text = line.trim();
        let Some((word, rest)) = text.split_once(' ') else { return false };
        let rest = rest.trim();
        match word {
            "policy" | "guardrail" => {
                let scope = if word == "policy" { Scope::Ordinary } else { Scope::Guardrail };
                self.policy(rest, scope, file);
            }
            "allow" if line.starts_with(' ') => self.rule(Action::Allow, rest, number),
            "deny" if line.starts_with(' ') => self.rule(Action::Deny, rest, number),
            "segment" | "role" => {
                let (name, members) = rest.split_once('=').unwrap();
                let kind = if word == "segment" { "segment" } else { "role" };
                self.groups.insert((kind, name.trim().to_owned()), list(members).map(pattern).collect());
            }
            "isolation" => {
                let (segment, accepts) = rest.split_once(" accepts ").unwrap();
                let member = |name: &str| (name.into(), self.groups[&("segment", name.to_owned())].clone());
                let accepts = list(accepts).map(member).collect();
                let isolation =
                    Isolation { segment: segment.into(), accepts, file: file.into(), line: number };
                self.inputs.isolation = Some(Arc::new(isolation));
            }
            "quarantine" => self.inputs.quarantined.extend(list(rest).map(identity)),
            "default" => self.inputs.default_allow = rest == "allow",
            _ => return false,
        }
        true
    }

    fn policy(&mut self, rest: &str, scope: Scope, file: &str) {
        let (name, mode) = match rest.strip_suffix(" audit") {
            Some(name) => (name.trim(), Mode::Audit),
            None => (rest, Mode::Enforce),
        };
        let name = match name.split_once('/') {
            Some((namespace, name)) => {
                PolicyName { namespace: Some(namespace.parse().unwrap()), name: name.parse().unwrap() }
            }
            None => PolicyName { namespace: None, name: name.parse().unwrap() },
        };
        self.inputs.policies.push(Arc::new(Policy {
            name,
            scope,
            mode,
            rules: Vec::new(),
            file: file.into(),
        }));
    }

    fn rule(&mut self, action: Action, text: &str, line: u32) {
        let (name, rest) = text.split_once(':').unwrap();
        let mut rest = rest.trim();
        let valid_until = rest.rsplit_once(" until ").map(|(before, time)| {
            rest = before;
            seconds(time)
        });
        let (who, what) = match rest.split_once(" to ") {
            Some((who, what)) => (who, what),
            None => (rest, ""),
        };
        let who = who.strip_prefix("from ").unwrap_or_else(|| panic!("no from in {text}"));
        let (from, except) = who.split_once(" except ").unwrap_or((who, ""));
        let rule = Rule {
            name: name.trim().into(),
            line,
            action,
            from: list(from).map(|source| self.source(source)).collect(),
            except: list(except).map(|source| self.source(source)).collect(),
            to: what.split(" | ").filter(|text| !text.is_empty()).map(operation).collect(),
            valid_until,
        };
        Arc::make_mut(self.inputs.policies.last_mut().unwrap()).rules.push(rule);
    }

    fn source(&self, text: &str) -> Source {
        let group = |kind, word, name: &str| Source::Group {
            kind,
            name: name.into(),
            members: self
                .groups
                .get(&(word, name.to_owned()))
                .unwrap_or_else(|| panic!("{word} {name}?"))
                .clone(),
        };
        match text {
            "anyone" => Source::Anyone,
            "meshed" => Source::AnyMeshed,
            _ => match text.split_once(':') {
                Some(("segment", name)) => group(GroupKind::Segment, "segment", name),
                Some(("role", name)) => group(GroupKind::Role, "role", name),
                _ if text.contains('@') => {
                    let (id, instance) = text.split_once('@').unwrap();
                    Source::Instance { id: identity(id), instance: instance.parse().unwrap() }
                }
                _ => text.parse().map_or_else(|_| Source::Identity(pattern(text)), Source::Unmeshed),
            },
        }
    }
}

fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// Words separated by spaces; `header="…"` may hold spaces.
fn words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            ' ' if !quoted => words.extend((!word.is_empty()).then(|| std::mem::take(&mut word))),
            _ => word.push(c),
        }
    }
    words.extend((!word.is_empty()).then_some(word));
    words
}

pub(crate) fn operation(text: &str) -> Operation {
    let mut operation = Operation::default();
    for word in words(text) {
        if let Some(ports) = word.strip_prefix(':') {
            operation
                .ports
                .extend(list(ports).map(|port| port.parse::<mesh_proto::net::PortRange>().unwrap()));
        } else if word.starts_with('/') {
            operation.paths.push(word.parse().unwrap_or_else(|e| panic!("{e}")));
        } else if let Some(protocol) = ProtocolMatch::from_word(&word) {
            operation.protocols.push(protocol);
        } else {
            match word.split_once('=') {
                Some(("host", host)) => operation.hosts.push(host.parse().unwrap()),
                Some(("sni", host)) => operation.sni.push(host.parse().unwrap()),
                Some(("grpc", grpc)) => operation.grpc.push(grpc.parse().unwrap()),
                Some(("header", header)) => operation.headers.push(header.parse().unwrap()),
                _ => operation.methods.extend(list(&word).map(|method| method.parse().unwrap())),
            }
        }
    }
    operation
}

/// Reads `SOURCE -> WHAT`; the error is the code with which the codec would refuse it.
pub(crate) fn request(text: &str) -> Result<OwnedRequest, &'static str> {
    let (source, what) = text.split_once("->").unwrap_or_else(|| panic!("no -> in {text:?}"));
    let source = source.trim();
    let (what, now) = what.rsplit_once(" at ").map_or((what, NOW), |(what, time)| (what, time.trim()));
    let (what, headers) = match what.split_once(" {") {
        Some((what, headers)) => (what, headers.trim_end().trim_end_matches('}')),
        None => (what, ""),
    };
    let pair = |line: &str| {
        let (name, value) = line.split_once(':').unwrap();
        (name.trim().to_owned(), value.trim().to_owned())
    };
    let headers = Headers(headers.split(';').filter(|line| !line.trim().is_empty()).map(pair).collect());
    let (mut protocol, mut method, mut sni, mut target) = (None, None, None, None);
    for word in words(what) {
        match word.as_str() {
            "http1" => protocol = Some(Protocol::Http1),
            "http2" => protocol = Some(Protocol::Http2),
            "grpc" => protocol = Some(Protocol::Grpc),
            "tls" => protocol = Some(Protocol::Tls),
            "tcp" => protocol = Some(Protocol::Tcp),
            _ => match word.strip_prefix("sni=") {
                Some(name) => sni = Some(name.to_owned()),
                None if word.contains(':') => target = Some(word),
                None => method = Some(word),
            },
        }
    }
    let target = target.unwrap_or_else(|| panic!("no host:port in {text:?}"));
    let (host, rest) = target.split_once(':').unwrap();
    let at = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (port, target) = rest.split_at(at);
    let http = if matches!(protocol, Some(Protocol::Tls | Protocol::Tcp)) {
        None
    } else {
        let (path, _) = split_target(target.as_bytes()).map_err(|problem| problem.code())?;
        let host = if host.is_empty() { "pay.shop" } else { host };
        Some(OwnedHttp {
            host: canonical_host(host.as_bytes(), Some(80))
                .map_err(|problem| problem.code())?
                .host()
                .to_owned(),
            method: method
                .unwrap_or_else(|| if protocol == Some(Protocol::Grpc) { "POST" } else { "GET" }.to_owned()),
            path: canonical_path(path).map_err(|problem| problem.code())?.into_owned(),
            headers,
        })
    };
    let source = match source.parse() {
        Ok(ip) => OwnedSource::Unmeshed(ip),
        Err(_) => match source.split_once('@') {
            Some((id, instance)) => OwnedSource::Meshed(identity(id), Some(instance.to_owned())),
            None => OwnedSource::Meshed(identity(source), None),
        },
    };
    let protocol = protocol.unwrap_or(Protocol::Http1);
    Ok(OwnedRequest { source, port: port.parse().unwrap(), protocol, sni, http, now: seconds(now) })
}
