//! `MeshConfig`: what holds for the whole mesh. There is one, named `mesh`.

use super::meta::{Labels, Meta, Origin};
use super::outside;
use super::problem::{Code, Problem};
use super::quantity;
use super::reader::{At, Reader};
use super::yaml::{Map, Yaml};
use crate::config::{MtlsMode, Tracing};
use crate::identity::{IdentityError, TrustDomain};
use std::sync::Arc;

/// Mesh-wide settings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MeshConfig {
    /// Name and origin; always named `mesh`.
    pub meta: Meta,
    /// The mesh's trust domain; `None`: the one the control plane was started with. It cannot be changed later.
    pub trust_domain: Option<TrustDomain>,
    /// What happens when no rule matches; `false` denies, and is the default.
    pub default_allow: bool,
    /// Whether plaintext is accepted inbound.
    pub mtls: MtlsMode,
    /// Share of allowed requests written to the access log, in 1/10,000.
    pub access_log_sample: u32,
    /// Where traces go; `None`: none are made.
    pub tracing: Option<Arc<Tracing>>,
}

/// 1 %: enough to see what goes on, little enough not to cost.
pub const ACCESS_LOG_SAMPLE_DEFAULT: u32 = 100;

impl MeshConfig {
    /// What holds when nobody applied a `MeshConfig`: deny, strict, 1 % of allowed requests in the log.
    pub fn defaults() -> Self {
        let meta = Meta {
            namespace: None,
            name: singleton_name(),
            labels: Labels::new(),
            origin: Origin::new("", 0),
        };
        Self {
            meta,
            trust_domain: None,
            default_allow: false,
            mtls: MtlsMode::Strict,
            access_log_sample: ACCESS_LOG_SAMPLE_DEFAULT,
            tracing: None,
        }
    }

    pub(super) fn read(reader: &mut Reader, meta: Meta, name: Option<&At<'_>>, spec: At<'_>) -> Option<Self> {
        let fields =
            reader.fields(spec, &["trustDomain", "defaultAccess", "mtls", "accessLog", "tracing"])?;
        if let Some(name) = name.filter(|_| meta.name != singleton_name()) {
            let message = format!("{:?} is not allowed; there is one MeshConfig, named mesh", meta.name);
            reader.error(name, Code::InvalidValue, message);
        }
        let trust_domain = match fields.optional("trustDomain") {
            Some(at) => read_trust_domain(reader, &at).map(Some),
            None => Some(None),
        };
        let default_allow = match fields.optional("defaultAccess") {
            Some(at) => reader.word(&at, &[("deny", false), ("allow", true)]),
            None => Some(false),
        };
        let mtls = match fields.optional("mtls") {
            Some(at) => read_mtls(reader, at),
            None => Some(MtlsMode::Strict),
        };
        let sample = match fields.optional("accessLog") {
            Some(at) => read_access_log(reader, at),
            None => Some(ACCESS_LOG_SAMPLE_DEFAULT),
        };
        let tracing = match fields.optional("tracing") {
            Some(at) => read_tracing(reader, at).map(Some),
            None => Some(None),
        };
        Some(Self {
            meta,
            trust_domain: trust_domain?,
            default_allow: default_allow?,
            mtls: mtls?,
            access_log_sample: sample?,
            tracing: tracing?,
        })
    }

    pub(super) fn write(&self) -> Map {
        let Self { meta: _, trust_domain, default_allow, mtls, access_log_sample, tracing } = self;
        let mtls = match *mtls {
            MtlsMode::Strict => Map::new().with("mode", "strict"),
            MtlsMode::Permissive { until } => {
                Map::new().with("mode", "permissive").with("until", quantity::time_text(until))
            }
        };
        let sample = Yaml::bare(quantity::share_text(*access_log_sample));
        let spec = Map::new()
            .with_some("trustDomain", trust_domain.as_ref().map(TrustDomain::as_str))
            .with("defaultAccess", if *default_allow { "allow" } else { "deny" })
            .with("mtls", mtls)
            .with("accessLog", Map::new().with("sample", sample));
        let Some(Tracing { endpoint, ca, sampling }) = tracing.as_deref() else { return spec };
        let sampling = Yaml::bare(quantity::share_text(*sampling));
        let tracing = Map::new().with("endpoint", endpoint.as_str()).with_some("ca", ca.as_deref());
        spec.with("tracing", tracing.with("sampling", sampling))
    }
}

fn read_trust_domain(reader: &mut Reader, at: &At<'_>) -> Option<TrustDomain> {
    let text = reader.text(at)?;
    match text.parse() {
        Ok(domain) => Some(domain),
        Err(IdentityError { problem, .. }) => {
            let shown = Problem::shown(text);
            let message = format!("{shown:?} is not allowed: {problem}; write for instance mesh.example");
            reader.error(at, Code::InvalidValue, message);
            None
        }
    }
}

fn read_mtls(reader: &mut Reader, at: At<'_>) -> Option<MtlsMode> {
    let fields = reader.fields(at, &["mode", "until"])?;
    let mode = fields.required(reader, "mode", "write strict or permissive");
    let is_permissive = mode.and_then(|at| reader.word(&at, &[("strict", false), ("permissive", true)]));
    let until = fields.optional("until");
    match (is_permissive?, until) {
        (false, None) => Some(MtlsMode::Strict),
        (false, Some(at)) => {
            reader.error(&at, Code::Conflict, "has no meaning with strict; remove it");
            None
        }
        (true, Some(at)) => quantity::read_time(reader, &at).map(|until| MtlsMode::Permissive { until }),
        (true, None) => {
            let hint = "permissive mode needs its end, for instance until: 2027-01-31T18:00:00Z";
            fields.required(reader, "until", hint);
            None
        }
    }
}

fn read_access_log(reader: &mut Reader, at: At<'_>) -> Option<u32> {
    let fields = reader.fields(at, &["sample"])?;
    let sample =
        fields.required(reader, "sample", "write the share of allowed requests to log, for instance 0.01");
    quantity::read_share(reader, &sample?)
}

fn read_tracing(reader: &mut Reader, at: At<'_>) -> Option<Arc<Tracing>> {
    let fields = reader.fields(at, &["endpoint", "ca", "sampling"])?;
    let hint = "write the collector's OTLP/gRPC address, for instance http://127.0.0.1:4317";
    let endpoint = fields.required(reader, "endpoint", hint).and_then(|at| read_endpoint(reader, &at));
    let hint = "write the share of requests without a trace that begin one, for instance 0.01";
    let sampling = fields.required(reader, "sampling", hint).and_then(|at| quantity::read_share(reader, &at));
    let ca = outside::read_ca(reader, &fields);
    let (endpoint, ca) = (endpoint?, ca?);
    if let Some(at) = fields.optional("ca").filter(|_| endpoint.starts_with("http://")) {
        reader.error(&at, Code::Conflict, "has no meaning with http://; write the endpoint with https://");
        return None;
    }
    Some(Arc::new(Tracing { endpoint, ca, sampling: sampling? }))
}

/// `http://HOST:PORT` or `https://HOST:PORT`, and nothing behind it.
fn read_endpoint(reader: &mut Reader, at: &At<'_>) -> Option<String> {
    let text = reader.text(at)?;
    let is_host = |host: &str| {
        !host.is_empty()
            && host
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'[' | b']' | b':'))
    };
    let named = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"))
        .filter(|_| text.len() <= ENDPOINT_BYTES_MAX)
        .and_then(|rest| rest.rsplit_once(':'))
        .filter(|(host, port)| is_host(host) && port.parse::<u16>().is_ok_and(|port| port > 0));
    if named.is_none() {
        let shown = Problem::shown(text);
        let message = format!(
            "{shown:?} is not an address of OTLP over gRPC; write https://HOST:PORT (or http://), for instance \
             http://127.0.0.1:4317"
        );
        reader.error(at, Code::InvalidValue, message);
        return None;
    }
    Some(text.to_owned())
}

/// The longest address of a collector: a DNS name has 253 bytes.
const ENDPOINT_BYTES_MAX: usize = 300;

/// The only name a `MeshConfig` may have.
#[expect(clippy::expect_used, reason = "a literal that is a DNS label")]
fn singleton_name() -> crate::name::ObjectName {
    "mesh".parse().expect("a DNS label")
}
