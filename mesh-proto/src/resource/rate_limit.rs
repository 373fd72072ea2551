//! `RateLimit`: how much callers may ask of some workloads.

use super::access_policy::{read_mode, write_mode};
use super::meta::Meta;
use super::operation;
use super::problem::Code;
use super::quantity::{duration_text, read_duration, read_size, size_text};
use super::reader::{At, Fields, Reader, listed};
use super::selector::Selector;
use super::yaml::{Map, Yaml};
use crate::limit::{self, LimitKey, Rate, Unit};
use crate::policy::model::{Operation, PolicyName, ProtocolMatch, Scope};
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

/// The largest count in one rate: more than a machine serves in a day.
const COUNT_MAX: u64 = 1_000_000_000;
/// The largest number of bytes in a rate or a body: 1 TiB.
const BYTES_MAX: u64 = 1 << 40;
/// The largest bound on what is in flight.
const CONCURRENT_MAX: u64 = 1_000_000;

/// The units, by their words.
const UNITS: [(&str, Unit); 3] =
    [("requests", Unit::Requests), ("connections", Unit::Connections), ("bytes", Unit::Bytes)];

impl RateLimit {
    pub(super) fn read(reader: &mut Reader, meta: Meta, spec: At<'_>) -> Option<Self> {
        let words = [
            "target",
            "key",
            "requests",
            "connections",
            "bytes",
            "per",
            "burst",
            "concurrent",
            "bodyBytesMax",
            "mode",
            "to",
        ];
        let fields = reader.fields(spec, &words)?;
        let target = Selector::read(reader, fields.optional("target"), meta.namespace.as_ref());
        let mode = read_mode(reader, &fields);
        let key = match fields.optional("key") {
            Some(at) => read_key(reader, &at),
            None => Some(LimitKey::SourceIdentity),
        };
        let rate = read_rate(reader, &fields);
        let concurrent = match fields.optional("concurrent") {
            Some(at) => reader.number(&at, 1..=CONCURRENT_MAX).and_then(|n| u32::try_from(n).ok()).map(Some),
            None => Some(None),
        };
        let body_bytes_max = match fields.optional("bodyBytesMax") {
            Some(at) => read_size(reader, &at, 1..=BYTES_MAX).map(Some),
            None => Some(None),
        };
        let to = operation::read_list(reader, fields.optional("to"));
        let name = PolicyName { namespace: meta.namespace.clone(), name: meta.name.clone() };
        let (rate, concurrent, body_bytes_max) = (rate?, concurrent?, body_bytes_max?);
        let limit =
            limit::RateLimit { name, mode: mode?, key: key?, to: to?, rate, concurrent, body_bytes_max };
        refuse_without_effect(reader, &fields, &limit);
        Some(Self { meta, target: target?, limit: Arc::new(limit) })
    }

    pub(super) fn write(&self) -> Map {
        let Self { meta, target, limit } = self;
        let limit::RateLimit { name: _, mode, key, to, rate, concurrent, body_bytes_max } = &**limit;
        let key = match key {
            LimitKey::SourceIdentity => Yaml::text("sourceIdentity"),
            LimitKey::Address => Yaml::text("address"),
            LimitKey::Target => Yaml::text("target"),
            LimitKey::Header(name) => Map::new().with("header", &**name).into(),
        };
        let mut map = Map::new()
            .with_some("target", target.write(meta.namespace.as_ref(), Scope::Ordinary))
            .with("key", key);
        if let Some(Rate { unit, amount, per, burst }) = rate {
            let word = UNITS.iter().find(|(_, other)| other == unit).map_or("requests", |(word, _)| word);
            map = map
                .with(word, Yaml::bare(amount_text(*unit, *amount)))
                .with("per", Yaml::bare(duration_text(*per)))
                .with_some("burst", (burst != amount).then(|| Yaml::bare(amount_text(*unit, *burst))));
        }
        map.with_some("concurrent", concurrent.map(Yaml::bare))
            .with_some("bodyBytesMax", body_bytes_max.map(|bytes| Yaml::bare(size_text(bytes))))
            .with_some("mode", write_mode(*mode))
            .with_list("to", to.iter().map(operation::write))
    }
}

fn amount_text(unit: Unit, amount: u64) -> String {
    match unit {
        Unit::Bytes => size_text(amount),
        Unit::Requests | Unit::Connections => amount.to_string(),
    }
}

fn read_key(reader: &mut Reader, at: &At<'_>) -> Option<LimitKey> {
    let words = [("sourceIdentity", 0), ("address", 1), ("target", 2)];
    if at.node.scalar().is_none() {
        let fields = reader.fields(at.clone(), &["header"])?;
        let hint = "write header: NAME, or one of the words sourceIdentity, address and target";
        let header = fields.required(reader, "header", hint)?;
        return operation::read_header_name(reader, &header).map(LimitKey::Header);
    }
    if at.node.scalar() == Some("header") {
        let message = "\"header\" does not say which; write key: {header: x-api-key}";
        reader.error(at, Code::InvalidValue, message);
        return None;
    }
    Some(match reader.word(at, &words)? {
        0 => LimitKey::SourceIdentity,
        1 => LimitKey::Address,
        _ => LimitKey::Target,
    })
}

fn read_rate(reader: &mut Reader, fields: &Fields<'_>) -> Option<Option<Rate>> {
    let words = UNITS.map(|(word, _)| word);
    let present = fields.present(&words);
    let [word] = present[..] else {
        if !present.is_empty() {
            let message =
                format!("has {}, but may have one of them; make two limits", listed(&present, "and"));
            reader.error(fields.whole(), Code::Conflict, message);
            return None;
        }
        for key in ["per", "burst"] {
            if let Some(at) = fields.optional(key) {
                let message = "has no meaning without requests, connections or bytes";
                reader.error(&at, Code::Conflict, message);
                return None;
            }
        }
        return Some(None);
    };
    let unit = UNITS.iter().find(|(other, _)| *other == word).map(|(_, unit)| *unit)?;
    let amount = read_amount(reader, &fields.optional(word)?, unit);
    let per = fields.required(reader, "per", "write the time that the amount is for, for instance 1s");
    let per = per.and_then(|at| read_duration(reader, &at));
    let burst = match fields.optional("burst") {
        Some(at) => read_amount(reader, &at, unit),
        None => amount,
    };
    Some(Some(Rate { unit, amount: amount?, per: per?, burst: burst? }))
}

fn read_amount(reader: &mut Reader, at: &At<'_>, unit: Unit) -> Option<u64> {
    match unit {
        Unit::Bytes => read_size(reader, at, 1..=BYTES_MAX),
        Unit::Requests | Unit::Connections => reader.number(at, 1..=COUNT_MAX),
    }
}

/// Reports a limit that limits nothing, or that no proxy can tell.
fn refuse_without_effect(reader: &mut Reader, fields: &Fields<'_>, limit: &limit::RateLimit) {
    if limit.rate.is_none() && limit.concurrent.is_none() && limit.body_bytes_max.is_none() {
        let message =
            "limits nothing; write requests, connections or bytes with per, or concurrent, or bodyBytesMax";
        reader.error(fields.whole(), Code::NotEnforceable, message);
    }
    let counts_requests = limit.rate.is_some_and(|rate| rate.unit == Unit::Requests);
    let is_opaque = |operation: &Operation| {
        // One that excludes itself is told elsewhere.
        if operation.needs_http() {
            return false;
        }
        let opaque = |word: &ProtocolMatch| matches!(word, ProtocolMatch::Tcp | ProtocolMatch::Tls);
        !operation.sni.is_empty()
            || (!operation.protocols.is_empty() && operation.protocols.iter().all(opaque))
    };
    if let Some(at) = fields.optional("to").filter(|_| limit.to.iter().any(is_opaque)) {
        let because = "tcp and tls carry bytes that no request is told apart in";
        if counts_requests {
            let message = format!("requests cannot be counted here: {because}; write connections or bytes");
            reader.error(&at, Code::NotEnforceable, message);
        }
        if limit.body_bytes_max.is_some() {
            let message = format!("bodyBytesMax does not hold here: {because}; write bytes with per");
            reader.error(&at, Code::NotEnforceable, message);
        }
        if let (LimitKey::Header(_), Some(at)) = (&limit.key, fields.optional("key")) {
            let message = format!("there are no headers here: {because}; write another key");
            reader.error(&at, Code::NotEnforceable, message);
        }
    }
    if limit.rate.is_some_and(|rate| rate.unit == Unit::Connections) {
        let because = "connections are counted before anything is asked on them";
        operation::refuse_http(reader, fields.optional("to").as_ref(), &limit.to, because);
        if let (LimitKey::Header(_), Some(at)) = (&limit.key, fields.optional("key")) {
            let message = format!("a connection has no headers: {because}; write another key");
            reader.error(&at, Code::NotEnforceable, message);
        }
    }
}
