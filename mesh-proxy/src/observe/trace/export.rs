//! Spans in OpenTelemetry's form, and their way to a collector by OTLP over gRPC.
//!
//! The reporter makes them of records; [`Exporter`] sends them from the control thread. A collector that is slow or down
//! costs spans, which are counted, and nothing else: the queue is bounded and nobody waits for it.
//!
//! Names of attributes are those of OpenTelemetry's semantic conventions for HTTP and RPC; what only a mesh knows begins
//! with `mesh.`. No values of fields, no query.

use crate::connections::Direction;
use crate::discovery::Applied;
use crate::facts::Facts;
use crate::observe::{Outcome, Record, Shard};
use mesh_ca::tls::outside::outside_channel;
use mesh_proto::config::Tracing;
use mesh_proto::policy::model::Protocol;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Spans sent at once: half a MiB, an eighth of what collectors take.
pub(crate) const BATCH_MAX: usize = 1_000;
/// Batches that wait: what two data threads make at most in four seconds.
pub(crate) const BATCHES_MAX: usize = 8;
/// How long the collector may take for one.
const DEADLINE: Duration = Duration::from_secs(3);
/// How long the last may take when the proxy ends.
const FAREWELL: Duration = Duration::from_millis(300);
/// Longest text of an attribute that came from outside, in bytes.
const TEXT_BYTES_MAX: usize = 1_024;
/// Methods that are named; all others are one (HTTP semantic conventions, `http.request.method`).
const METHODS: [&str; 9] = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "CONNECT"];

/// A collector's address, and the roots that vouch for it.
type Collector = (String, Option<String>);

/// Sends spans to wherever the mesh's settings say.
pub(crate) struct Exporter {
    applied: watch::Receiver<Option<Arc<Applied>>>,
    own: Arc<Shard>,
    resource: Resource,
    /// The collector in use, with its address and the roots that vouch for it.
    open: Option<(Collector, SpanExporter)>,
    /// Whether the last batch failed: a collector that is down is told once.
    is_failing: bool,
}

impl Exporter {
    /// `own` is the shard that losses are counted into.
    pub(crate) fn new(
        facts: &Facts,
        applied: watch::Receiver<Option<Arc<Applied>>>,
        own: Arc<Shard>,
    ) -> Self {
        let resource = Resource::builder_empty()
            .with_attributes([
                KeyValue::new("service.name", facts.service.name.to_string()),
                KeyValue::new("service.namespace", facts.service.namespace.to_string()),
                KeyValue::new("service.instance.id", facts.instance.to_string()),
                KeyValue::new("telemetry.sdk.name", "opentelemetry"),
                KeyValue::new("telemetry.sdk.language", "rust"),
            ])
            .build();
        Self { applied, own, resource, open: None, is_failing: false }
    }

    /// Sends what comes until nobody can send any more, or shortly after `ends`.
    pub(crate) async fn run(mut self, mut batches: mpsc::Receiver<Vec<SpanData>>, ends: CancellationToken) {
        loop {
            // Cancel safe: a batch that is not received stays in the queue.
            let batch = tokio::select! {
                () = ends.cancelled() => break,
                batch = batches.recv() => batch,
            };
            let Some(batch) = batch else { return };
            self.send(batch).await;
        }
        let rest = async {
            while let Some(batch) = batches.recv().await {
                self.send(batch).await;
            }
        };
        // What is not sent by then is lost; the process ends.
        let _ = tokio::time::timeout(FAREWELL, rest).await;
    }

    async fn send(&mut self, batch: Vec<SpanData>) {
        let count = batch.len();
        let problem = match self.exporter() {
            Some(exporter) => match tokio::time::timeout(DEADLINE, exporter.export(batch)).await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some(format!("no answer within {DEADLINE:?}")),
            },
            None => Some("no collector".to_owned()),
        };
        if problem.is_some() {
            (0..count).for_each(|_| self.own.dropped("traces"));
        }
        if let Some(problem) = problem.as_ref().filter(|_| !self.is_failing) {
            let endpoint = self.open.as_ref().map(|((endpoint, _), _)| endpoint.as_str());
            tracing::warn!(
                endpoint,
                problem,
                "traces are lost; check that a collector takes OTLP over gRPC there, or change tracing.endpoint of the MeshConfig"
            );
        }
        self.is_failing = problem.is_some();
    }

    /// The one that the settings name now.
    fn exporter(&mut self) -> Option<&SpanExporter> {
        let applied = self.applied.borrow().clone()?;
        let Tracing { endpoint, ca, .. } = applied.snapshot.mesh.tracing.as_deref()?;
        if self.open.as_ref().is_none_or(|((open, roots), _)| (open, roots) != (endpoint, ca)) {
            self.open = None;
            let mut exporter = match exporter_to(endpoint, ca.as_deref()) {
                Ok(exporter) => exporter,
                Err(problem) => {
                    tracing::warn!(endpoint, problem, "traces cannot be sent");
                    return None;
                }
            };
            exporter.set_resource(&self.resource);
            self.open = Some(((endpoint.clone(), ca.clone()), exporter));
        }
        self.open.as_ref().map(|(_, exporter)| exporter)
    }
}

fn exporter_to(endpoint: &str, ca: Option<&str>) -> Result<SpanExporter, String> {
    let channel = outside_channel(endpoint, ca).map_err(|error| error.to_string())?;
    let built = SpanExporter::builder().with_tonic().with_channel(channel).with_timeout(DEADLINE);
    built.build().map_err(|error| error.to_string())
}

/// The span of a record, if its request is traced.
pub(crate) fn span(record: &Record) -> Option<SpanData> {
    let span = record.span.as_deref()?;
    let kind = match record.direction {
        Direction::Outbound => SpanKind::Client,
        Direction::Inbound => SpanKind::Server,
    };
    let duration = Duration::from_micros(record.duration_us);
    Some(SpanData {
        span_context: SpanContext::new(
            TraceId::from(span.trace_id),
            SpanId::from(span.span_id),
            TraceFlags::SAMPLED,
            false,
            TraceState::NONE,
        ),
        parent_span_id: span.parent.map_or(SpanId::INVALID, SpanId::from),
        parent_span_is_remote: span.parent.is_some(),
        name: name(record),
        start_time: span.ended.checked_sub(duration).unwrap_or(span.ended),
        end_time: span.ended,
        attributes: attributes(record, span.grpc_status),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: status(record, &kind, span.grpc_status),
        span_kind: kind,
        instrumentation_scope: InstrumentationScope::builder("mesh-proxy")
            .with_version(env!("CARGO_PKG_VERSION"))
            .build(),
    })
}

/// Of few different values: paths are not among them (HTTP semantic conventions, "Name").
fn name(record: &Record) -> Cow<'static, str> {
    match record.protocol {
        Some(Protocol::Grpc) => cut(record.path.strip_prefix('/').unwrap_or(&record.path)).to_owned().into(),
        _ => known_method(record).unwrap_or("HTTP").into(),
    }
}

fn known_method(record: &Record) -> Option<&'static str> {
    METHODS.into_iter().find(|known| *known == record.method)
}

fn attributes(record: &Record, grpc_status: Option<u8>) -> Vec<KeyValue> {
    let text = |key: &'static str, value: &str| KeyValue::new(key, cut(value).to_owned());
    let mut all = vec![
        KeyValue::new("http.request.method", known_method(record).unwrap_or("_OTHER")),
        text("url.path", &record.path),
        KeyValue::new("url.scheme", "http"),
        text("server.address", &record.host),
        KeyValue::new("server.port", i64::from(record.port)),
        text("client.address", &record.source_ip),
        text("mesh.source", &record.source),
        text("mesh.source.instance", &record.source_instance),
        text("mesh.destination", &record.destination),
        text("mesh.destination.instance", &record.destination_instance),
        text("mesh.service", &record.service),
        KeyValue::new("mesh.outcome", record.outcome.as_str()),
        text("mesh.rule", &record.rule),
        text("mesh.decision.id", &record.id),
        KeyValue::new("mesh.revision", i64::try_from(record.revision).unwrap_or(i64::MAX)),
        KeyValue::new("http.request.body.size", i64::try_from(record.bytes_in).unwrap_or(i64::MAX)),
        KeyValue::new("http.response.body.size", i64::try_from(record.bytes_out).unwrap_or(i64::MAX)),
    ];
    let version = if record.protocol == Some(Protocol::Http1) { "1.1" } else { "2" };
    all.push(KeyValue::new("network.protocol.name", "http"));
    all.push(KeyValue::new("network.protocol.version", version));
    if known_method(record).is_none() {
        all.push(text("http.request.method_original", &record.method));
    }
    if record.status > 0 {
        all.push(KeyValue::new("http.response.status_code", i64::from(record.status)));
    }
    if !record.reason.is_empty() {
        all.push(KeyValue::new("mesh.refusal.reason", record.reason));
        all.push(KeyValue::new("error.type", record.reason));
    } else if record.status >= 500 {
        all.push(KeyValue::new("error.type", record.status.to_string()));
    }
    if record.protocol == Some(Protocol::Grpc) {
        let path = record.path.strip_prefix('/').unwrap_or(&record.path);
        let (service, method) = path.rsplit_once('/').unwrap_or((path, ""));
        all.push(KeyValue::new("rpc.system", "grpc"));
        all.push(text("rpc.service", service));
        all.push(text("rpc.method", method));
        if let Some(status) = grpc_status {
            all.push(KeyValue::new("rpc.grpc.status_code", i64::from(status)));
        }
    }
    all.retain(|attribute| attribute.value.as_str() != "");
    all
}

/// Errors as the conventions count them: 5xx, for a client 4xx as well, and of gRPC what blames the server (client: all
/// but OK).
fn status(record: &Record, kind: &SpanKind, grpc_status: Option<u8>) -> Status {
    let is_client = *kind == SpanKind::Client;
    let by_grpc = grpc_status.is_some_and(|status| match is_client {
        true => status != 0,
        // UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS.
        false => matches!(status, 2 | 4 | 12 | 13 | 14 | 15),
    });
    let by_http = record.status >= if is_client { 400 } else { 500 };
    if by_grpc || by_http || record.outcome == Outcome::Failed {
        Status::Error { description: record.reason.into() }
    } else {
        Status::Unset
    }
}

/// At most [`TEXT_BYTES_MAX`] bytes, at a character's border.
fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(TEXT_BYTES_MAX)).unwrap_or_default()
}
