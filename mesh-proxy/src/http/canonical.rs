//! The one canonical request: made once, judged, and forwarded.
//!
//! `inbound` and `outbound` make it from the head of an HTTP/1 or HTTP/2 request. Policies and limits see it through
//! [`Fields`]; [`super::exchange`] and [`super::h2pump`] write it out. What it does not show is not forwarded, and what it
//! shows is forwarded byte for byte. It never repairs a request that has two readings: it refuses it.
//!
//! # Why
//! Nearly every policy bypass of other meshes is one bug: two parties read the same request differently. There is
//! therefore no level of normalisation to choose, and no second copy of the path or the host anywhere.

use super::field::{self, Known};
use super::h1::{BodyLength, RequestHead, Version};
use crate::refusal::{Malformed, Refusal};
use mesh_proto::limit::{LimitKey, RateLimit};
use mesh_proto::matching::{CanonicalHost, Fields, canonical_host, canonical_path, split_target};
use mesh_proto::policy::model::{PolicyInputs, Protocol};
use std::borrow::Cow;
use std::sync::Arc;

/// What canonicalisation needs to know besides the request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Intake<'a> {
    /// Lower-case names of the fields that policies and limits of this port judge; see [`judged_fields`].
    pub judged: &'a [Arc<str>],
    /// The port that a host without a port means, left out of the authority; `None` keeps ports as they were sent.
    pub default_port: Option<u16>,
}

/// A request with a single reading. Borrows from the head it was made of.
#[derive(Debug)]
pub struct Canonical<'h> {
    /// An RFC 9110 token.
    pub method: &'h str,
    /// The canonical host, with [`CanonicalHost::authority`] as it is forwarded.
    pub host: CanonicalHost<'h>,
    /// Canonical path, or `*` of `OPTIONS *`.
    pub path: Cow<'h, str>,
    /// What follows `?`, as it was sent.
    pub query: Option<&'h [u8]>,
    /// HTTP/1, HTTP/2, or gRPC.
    pub protocol: Protocol,
    /// The protocol that the caller asks to upgrade to: one, never another version of HTTP.
    pub upgrade: Option<&'h str>,
    source: Source<'h>,
}

/// Where the fields are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source<'h> {
    H1(&'h RequestHead),
    H2(&'h http::request::Parts),
}

/// The names of the fields that access rules and limits depend on: those that must not be imitated or removed.
pub fn judged_fields(policy: &PolicyInputs, limits: &[Arc<RateLimit>]) -> Vec<Arc<str>> {
    let rules = policy.policies.iter().flat_map(|policy| &policy.rules).flat_map(|rule| &rule.to);
    let limited = limits.iter().flat_map(|limit| &limit.to);
    let conditions = rules.chain(limited).flat_map(|operation| &operation.headers);
    let mut names: Vec<Arc<str>> = conditions.map(|condition| condition.name().into()).collect();
    names.extend(limits.iter().filter_map(|limit| match &limit.key {
        LimitKey::Header(name) => Some(Arc::clone(name)),
        LimitKey::SourceIdentity | LimitKey::Address | LimitKey::Target => None,
    }));
    names.sort_unstable();
    names.dedup();
    names
}

impl<'h> Canonical<'h> {
    /// From an HTTP/1 head.
    ///
    /// # Errors
    /// What has no single reading ([`Refusal::BadRequest`], [`Refusal::BadPath`], [`Refusal::BadHost`]);
    /// [`Refusal::ConnectMethod`].
    pub fn from_h1(head: &'h RequestHead, intake: &Intake<'_>) -> Result<Self, Refusal> {
        let bad = Refusal::BadRequest;
        let method = std::str::from_utf8(head.method()).map_err(|_| bad(Malformed::StartLine))?;
        if method == "CONNECT" {
            return Err(Refusal::ConnectMethod);
        }
        if head.fields().any(|(name, _, _)| field::is_look_alike(name, intake.judged)) {
            return Err(bad(Malformed::LookAlike));
        }
        if head.nominates() {
            check_nominations(head, intake.judged)?;
        }
        let mut hosts = head.values(Known::Host);
        let host = hosts.next().ok_or(bad(Malformed::Host))?;
        let host = canonical_host(host, intake.default_port).map_err(Refusal::BadHost)?;
        let (path, query) = match split_form(head.target(), method)? {
            Form::Asterisk => (Cow::Borrowed("*"), None),
            Form::Origin(target) => path_and_query(target)?,
            Form::Absolute { authority, target } => {
                let named = canonical_host(authority, intake.default_port).map_err(Refusal::BadHost)?;
                if named.authority() != host.authority() {
                    return Err(bad(Malformed::HostMismatch));
                }
                path_and_query(target)?
            }
        };
        let (protocol, upgrade) = (Protocol::Http1, asked_upgrade(head));
        Ok(Self { method, host, path, query, protocol, upgrade, source: Source::H1(head) })
    }

    /// From the head of an HTTP/2 request.
    ///
    /// # Errors
    /// As [`Canonical::from_h1`].
    pub fn from_h2(head: &'h http::request::Parts, intake: &Intake<'_>) -> Result<Self, Refusal> {
        let bad = Refusal::BadRequest;
        let method = head.method.as_str();
        if method == "CONNECT" {
            return Err(Refusal::ConnectMethod);
        }
        check_h2_fields(&head.headers, intake.judged)?;
        let authority = head.uri.authority().map(|authority| authority.as_str().as_bytes());
        let field = head.headers.get(http::header::HOST).map(http::HeaderValue::as_bytes);
        let host = authority.or(field).ok_or(bad(Malformed::Host))?;
        let host = canonical_host(host, intake.default_port).map_err(Refusal::BadHost)?;
        if let Some(field) = field.filter(|_| authority.is_some()) {
            let named = canonical_host(field, intake.default_port).map_err(Refusal::BadHost)?;
            if named.authority() != host.authority() {
                return Err(bad(Malformed::HostMismatch));
            }
        }
        let target = head.uri.path_and_query().ok_or(bad(Malformed::PseudoField))?.as_str();
        let (path, query) = match split_form(target.as_bytes(), method)? {
            Form::Asterisk => (Cow::Borrowed("*"), None),
            Form::Origin(target) => path_and_query(target)?,
            Form::Absolute { .. } => return Err(bad(Malformed::Target)),
        };
        let protocol = if is_grpc(&head.headers) { Protocol::Grpc } else { Protocol::Http2 };
        Ok(Self { method, host, path, query, protocol, upgrade: None, source: Source::H2(head) })
    }

    /// How long its body is, as far as it says.
    pub(crate) fn body_bytes(&self) -> Option<u64> {
        match self.source {
            Source::H1(head) => match head.body() {
                BodyLength::None => Some(0),
                BodyLength::Exact(bytes) => Some(bytes),
                BodyLength::Chunked | BodyLength::UntilClose => None,
            },
            Source::H2(_) => None,
        }
    }

    /// Whether sending the request twice has the effect of sending it once (RFC 9110, section 9.2.2).
    pub fn is_idempotent(&self) -> bool {
        matches!(self.method, "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE" | "TRACE")
    }

    /// Shows names and values of the fields that say which trace it is part of.
    pub(crate) fn each_trace_field(&self, visit: &mut dyn FnMut(&[u8], &[u8])) {
        match self.source {
            Source::H1(head) => {
                let of_trace = head.fields().filter(|(_, _, known)| *known == Known::TraceContext);
                of_trace.for_each(|(name, value, _)| visit(name, value));
            }
            Source::H2(head) => {
                for name in field::TRACE_FIELDS {
                    for value in head.headers.get_all(name) {
                        visit(name.as_bytes(), value.as_bytes());
                    }
                }
            }
        }
    }

    /// The HTTP/1 head it was made of.
    pub(super) fn h1(&self) -> Option<&'h RequestHead> {
        match self.source {
            Source::H1(head) => Some(head),
            Source::H2(_) => None,
        }
    }

    /// The HTTP/2 head it was made of.
    pub(super) fn h2(&self) -> Option<&'h http::request::Parts> {
        match self.source {
            Source::H1(_) => None,
            Source::H2(head) => Some(head),
        }
    }
}

impl Fields for Canonical<'_> {
    /// `host` is the canonical authority; fields that are not forwarded have no values.
    fn each(&self, name: &str, visit: &mut dyn FnMut(&[u8])) {
        if name == "host" {
            visit(self.host.authority().as_bytes());
            return;
        }
        match self.source {
            Source::H1(head) => {
                let wanted = |field: &(&[u8], &[u8], Known)| {
                    field.0.eq_ignore_ascii_case(name.as_bytes()) && is_forwarded(head, field.0, field.2)
                };
                head.fields().filter(wanted).for_each(|(_, value, _)| visit(value));
            }
            Source::H2(head) if field::classify(name.as_bytes()).is_copied() => {
                for value in head.headers.get_all(name) {
                    visit(value.as_bytes());
                }
            }
            Source::H2(_) => {}
        }
    }
}

/// Whether a field of an HTTP/1 request goes on as it is: all but framing, hop-by-hop and reserved ones do.
pub(super) fn is_forwarded(head: &RequestHead, name: &[u8], known: Known) -> bool {
    match known {
        // Whoever speaks 1.0 cannot get the interim response it seems to ask for (RFC 9110, section 10.1.1).
        Known::Expect => head.version() == Version::Http11,
        known => {
            known.is_copied() && !(head.nominates() && is_nominated(head.values(Known::Connection), name))
        }
    }
}

/// Whether one of the `Connection` values names the field.
pub(super) fn is_nominated<'v>(connection: impl Iterator<Item = &'v [u8]>, name: &[u8]) -> bool {
    let mut connection = connection;
    connection.any(|value| super::h1::list(value).any(|option| option.eq_ignore_ascii_case(name)))
}

enum Form<'t> {
    Origin(&'t [u8]),
    Absolute { authority: &'t [u8], target: &'t [u8] },
    Asterisk,
}

/// Tells the forms of a request target apart (RFC 9112, section 3.2).
fn split_form<'t>(target: &'t [u8], method: &str) -> Result<Form<'t>, Refusal> {
    if target.first() == Some(&b'/') {
        return Ok(Form::Origin(target));
    }
    if target == b"*" && method == "OPTIONS" {
        return Ok(Form::Asterisk);
    }
    let rest = ["http://", "https://"].into_iter().find_map(|scheme| {
        let (head, rest) = target.split_at_checked(scheme.len())?;
        head.eq_ignore_ascii_case(scheme.as_bytes()).then_some(rest)
    });
    let Some(rest) = rest else {
        return Err(Refusal::BadRequest(Malformed::Target));
    };
    // An absolute target without a path has two spellings of "/", and one more with a query: refused.
    let Some(slash) = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')) else {
        return Ok(Form::Absolute { authority: rest, target: b"/" });
    };
    let (authority, target) = rest.split_at(slash);
    if target.first() == Some(&b'/') {
        Ok(Form::Absolute { authority, target })
    } else {
        Err(Refusal::BadRequest(Malformed::Target))
    }
}

fn path_and_query(target: &[u8]) -> Result<(Cow<'_, str>, Option<&[u8]>), Refusal> {
    let (path, query) = split_target(target).map_err(Refusal::BadPath)?;
    Ok((canonical_path(path).map_err(Refusal::BadPath)?, query))
}

/// Options of `Connection` that have a meaning of their own, or name fields that are removed anyway.
const HARMLESS_OPTIONS: &[&str] =
    &["close", "keep-alive", "upgrade", "te", "trailer", "http2-settings", "proxy-connection"];

/// `Connection` may remove a field, but none that a decision depends on.
fn check_nominations(head: &RequestHead, judged: &[Arc<str>]) -> Result<(), Refusal> {
    for option in head.values(Known::Connection).flat_map(super::h1::list) {
        let is_harmless = HARMLESS_OPTIONS.iter().any(|name| option.eq_ignore_ascii_case(name.as_bytes()));
        if !is_harmless && field::is_protected(option, judged) {
            return Err(Refusal::BadRequest(Malformed::ConnectionOption));
        }
    }
    Ok(())
}

/// The protocol to upgrade to, if the caller asks for exactly one that the mesh can carry.
///
/// Another version of HTTP would escape from judgement, so `h2c` is dropped and the request stays HTTP/1.1, as RFC 9110,
/// section 7.8, lets a server do with any upgrade; the same with a body, whose end and the tunnel's start would mix.
fn asked_upgrade(head: &RequestHead) -> Option<&str> {
    if !head.asks_upgrade() || head.version() != Version::Http11 || head.body() != BodyLength::None {
        return None;
    }
    let mut asked = head.values(Known::Upgrade).flat_map(super::h1::list).filter(|name| !is_http(name));
    let name = asked.next()?;
    if asked.next().is_some() {
        return None;
    }
    let is_token = name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._/+".contains(byte));
    std::str::from_utf8(name).ok().filter(|_| is_token)
}

fn is_http(protocol: &[u8]) -> bool {
    let is = |text: &str| protocol.eq_ignore_ascii_case(text.as_bytes());
    let starts = |text: &str| {
        protocol.get(..text.len()).is_some_and(|head| head.eq_ignore_ascii_case(text.as_bytes()))
    };
    is("h2c") || is("h2") || is("h3") || starts("http/") || starts("tls/")
}

/// What the `h2` crate leaves open: repetitions, connection fields, look-alikes, white space around values.
fn check_h2_fields(headers: &http::HeaderMap, judged: &[Arc<str>]) -> Result<(), Refusal> {
    let bad = Refusal::BadRequest;
    let mut seen = 0_u32;
    for (name, value) in headers {
        let name = name.as_str().as_bytes();
        let known = field::classify(name);
        if known.is_single() && seen & known.bit() != 0 {
            return Err(bad(if known == Known::Host { Malformed::Host } else { Malformed::RepeatedField }));
        }
        seen |= known.bit();
        match known {
            Known::Connection | Known::TransferEncoding | Known::Upgrade | Known::HopByHop => {
                return Err(bad(Malformed::Field));
            }
            Known::ContentLength if super::h1::decimal(value.as_bytes()).is_none() => {
                return Err(bad(Malformed::ContentLength));
            }
            _ => {}
        }
        if value.as_bytes().trim_ascii().len() != value.len() {
            return Err(bad(Malformed::Field));
        }
        if field::is_look_alike(name, judged) {
            return Err(bad(Malformed::LookAlike));
        }
    }
    Ok(())
}

/// gRPC is told by its content type (gRPC over HTTP/2, "Requests").
pub(super) fn is_grpc(headers: &http::HeaderMap) -> bool {
    let value = headers.get(http::header::CONTENT_TYPE).map(http::HeaderValue::as_bytes).unwrap_or_default();
    value.get(..16).is_some_and(|start| start.eq_ignore_ascii_case(b"application/grpc"))
        && matches!(value.get(16), None | Some(b'+' | b';'))
}
