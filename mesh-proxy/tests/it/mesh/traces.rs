//! Traces through real proxies, received by a collector that speaks OTLP over gRPC.

use super::apps;
use super::control::Control;
use super::requests::ask;
use super::world::{Pair, Plan, Proxy, allow, calls, serves, soon};
use mesh_proto::config::Tracing;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// What the collector has received: each span with the name of the workload that sent it.
struct Collector {
    endpoint: String,
    spans: watch::Receiver<Vec<(String, Span)>>,
}

struct Receiving(watch::Sender<Vec<(String, Span)>>);

#[tonic::async_trait]
impl TraceService for Receiving {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.unwrap().attributes;
            let name = attributes.iter().find(|attribute| attribute.key == "service.name").unwrap();
            let Some(Value::StringValue(name)) = name.value.clone().unwrap().value else {
                panic!("{name:?}")
            };
            let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            let named: Vec<_> = spans.map(|span| (name.clone(), span)).collect();
            self.0.send_modify(|all| all.extend(named));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (send, spans) = watch::channel(Vec::new());
        let server =
            tonic::transport::Server::builder().add_service(TraceServiceServer::new(Receiving(send)));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Self { endpoint, spans }
    }

    /// Waits until there are so many spans.
    async fn spans(&self, count: usize) -> Vec<(String, Span)> {
        let mut spans = self.spans.clone();
        let enough = soon("spans", spans.wait_for(|spans| spans.len() >= count)).await;
        enough.unwrap().clone()
    }
}

fn attribute(span: &Span, key: &str) -> String {
    let found = span.attributes.iter().find(|attribute| attribute.key == key);
    match found.and_then(|attribute| attribute.value.clone()?.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{key} is {other:?} in {span:?}"),
    }
}

/// An application that calls the next one for each request, and hands on the trace context as it came; answers with the
/// heads of all requests.
async fn relay(next: Arc<OnceLock<SocketAddr>>) -> SocketAddr {
    apps::tcp(move |mut stream| {
        let next = Arc::clone(&next);
        async move {
            while let Some(head) = apps::head(&mut stream).await {
                let is_trace = |line: &&str| {
                    ["traceparent:", "tracestate:", "b3:", "x-b3-"].iter().any(|name| line.starts_with(name))
                };
                let context: String =
                    head.lines().filter(is_trace).map(|line| format!("{line}\r\n")).collect();
                let mut body = head.clone();
                if let Some(next) = next.get() {
                    let request =
                        format!("GET /next HTTP/1.1\r\nhost: next\r\nconnection: close\r\n{context}\r\n");
                    body.push_str(&ask(*next, &request).await.body);
                }
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    })
    .await
}

/// `web` calls `a`, which calls `b`, which calls `c`.
struct Chain {
    _control: Control,
    web: Proxy,
    _others: Vec<Proxy>,
}

impl Chain {
    async fn start(tracing: Option<Tracing>) -> Self {
        let control = Control::start();
        control.change(|state| {
            state.tracing = tracing;
            for (service, caller) in [("a", "web"), ("b", "a"), ("c", "b")] {
                state.policies.insert(service.to_owned(), vec![allow(caller)]);
            }
        });
        let mut others = Vec::new();
        for (name, calls) in [("a", Some("b")), ("b", Some("c")), ("c", None)] {
            let next = Arc::new(OnceLock::new());
            let app = relay(Arc::clone(&next)).await;
            let proxy = Plan { calls, ..serves(name, app) }.start(&control).await;
            if calls.is_some() {
                next.set(proxy.to()).unwrap();
            }
            others.push(proxy);
        }
        let web = calls("web", "a").start(&control).await;
        control.settled().await;
        Self { _control: control, web, _others: others }
    }

    async fn get(&self, fields: &str) -> String {
        let request = format!("GET /shop?secret=1 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{fields}\r\n");
        let answer = ask(self.web.to(), &request).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body
    }
}

fn sampling(collector: &Collector, sampling: u32) -> Option<Tracing> {
    Some(Tracing { endpoint: collector.endpoint.clone(), ca: None, sampling })
}

/// The spans of a chain in the order of the path, each the child of the one before; fails unless all are one trace.
fn in_order(spans: Vec<(String, Span)>, root: &[u8]) -> Vec<(String, Span)> {
    let traces: BTreeSet<_> = spans.iter().map(|(_, span)| span.trace_id.clone()).collect();
    assert_eq!(traces.len(), 1, "{spans:?}");
    let mut by_parent: BTreeMap<Vec<u8>, (String, Span)> = BTreeMap::new();
    let count = spans.len();
    for (name, span) in spans {
        assert!(by_parent.insert(span.parent_span_id.clone(), (name, span)).is_none(), "two children of one");
    }
    let mut path: Vec<(String, Span)> = Vec::new();
    let mut parent = root.to_vec();
    while let Some((name, span)) = by_parent.remove(&parent) {
        parent.clone_from(&span.span_id);
        path.push((name, span));
    }
    assert_eq!(path.len(), count, "{by_parent:?}");
    path
}

#[tokio::test]
async fn a_path_of_three_hops_is_one_trace_with_one_root() {
    let collector = Collector::start().await;
    let chain = Chain::start(sampling(&collector, 10_000)).await;
    chain.get("").await;
    let path = in_order(collector.spans(6).await, &[]);
    let shown: Vec<_> = path.iter().map(|(name, span)| (name.as_str(), span.kind)).collect();
    // 2 is a server's span, 3 a client's.
    assert_eq!(shown, [("web", 3), ("a", 2), ("a", 3), ("b", 2), ("b", 3), ("c", 2)]);
    for (_, span) in &path {
        assert_eq!(span.name, "GET");
        assert!(span.end_time_unix_nano >= span.start_time_unix_nano);
        assert_eq!(attribute(span, "http.response.status_code"), "200");
        assert_eq!(attribute(span, "mesh.decision.id").len(), 16);
        assert!(!format!("{span:?}").contains("secret"), "{span:?}");
    }
    let (_, served) = &path[1];
    assert_eq!(attribute(served, "mesh.source"), "spiffe://mesh.test/ns/default/sa/web");
    assert_eq!(attribute(served, "mesh.destination"), "spiffe://mesh.test/ns/default/sa/a");
    assert_eq!(attribute(served, "url.path"), "/shop");
    assert!(attribute(served, "mesh.rule").contains("allow-web"), "{served:?}");
}

#[tokio::test]
async fn the_callers_own_trace_goes_on_in_both_forms() {
    let collector = Collector::start().await;
    // Nothing begins here; what comes sampled is continued.
    let chain = Chain::start(sampling(&collector, 0)).await;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let fields = format!(
        "traceparent: 00-{trace}-b7ad6b7169203331-01\r\ntracestate: vendor=opaque\r\nb3: {trace}-b7ad6b7169203331-1\r\n"
    );
    let heads = chain.get(&fields).await;
    let path = in_order(collector.spans(6).await, &0xb7ad_6b71_6920_3331_u64.to_be_bytes());
    assert_eq!(path[0].1.trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes());
    assert_eq!(heads.matches("tracestate: vendor=opaque").count(), 3, "{heads}");
    for served in [1, 3, 5] {
        let hex: String = path[served].1.span_id.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(heads.contains(&format!("traceparent: 00-{trace}-{hex}-01")), "{heads}");
        assert!(heads.contains(&format!("b3: {trace}-{hex}-1-")), "{heads}");
    }
    assert_eq!(heads.matches("traceparent").count(), 3, "none is left beside ours: {heads}");
}

#[tokio::test]
async fn what_is_not_sampled_is_passed_on_untouched() {
    let collector = Collector::start().await;
    for (tracing, fields) in [
        (
            sampling(&collector, 10_000),
            "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00\r\n",
        ),
        (sampling(&collector, 10_000), "b3: 0\r\n"),
        (None, "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n"),
    ] {
        let chain = Chain::start(tracing).await;
        let heads = chain.get(fields).await;
        assert_eq!(heads.matches(fields).count(), 3, "{heads}");
        // The proxies' last round is over when they have stopped.
        let Chain { web, _others: others, _control: _ } = chain;
        web.stop().await;
        for proxy in others {
            proxy.stop().await;
        }
        assert!(collector.spans.borrow().is_empty(), "{fields}");
    }
}

#[tokio::test]
async fn a_refused_request_says_why_in_its_span_and_its_line() {
    let collector = Collector::start().await;
    let pair = Pair::start(apps::http1().await, Vec::new()).await;
    pair.control.change(|state| state.tracing = sampling(&collector, 10_000));
    pair.control.settled().await;
    let request = "GET /closed HTTP/1.1\r\nhost: api\r\nconnection: close\r\n\r\n";
    assert_eq!(ask(pair.web.to(), request).await.status, 403);
    let spans = collector.spans(2).await;
    let path = in_order(spans, &[]);
    let served = &path[1].1;
    assert_eq!(attribute(served, "mesh.refusal.reason"), "no_rule_allows");
    assert_eq!(attribute(served, "mesh.outcome"), "denied");
    let log = std::fs::read_to_string(&pair.api.log).unwrap();
    let line: serde_json::Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    let hex: String = served.trace_id.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        (line["trace_id"].as_str(), line["status"].as_u64()),
        (Some(hex.as_str()), Some(403)),
        "{log}"
    );
    assert_eq!(line["decision"].as_str(), Some(attribute(served, "mesh.decision.id").as_str()));
}

#[tokio::test]
async fn a_call_over_http2_is_traced_with_its_grpc_status() {
    let collector = Collector::start().await;
    let control = Control::start();
    control.change(|state| {
        state.tracing = sampling(&collector, 10_000);
        state.policies.insert("api".to_owned(), vec![allow("web")]);
    });
    let _api = serves("api", apps::grpc().await).start(&control).await;
    let web = calls("web", "api").start(&control).await;
    control.settled().await;
    let stream = tokio::net::TcpStream::connect(web.to()).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    let driver = tokio::spawn(connection);
    let request = http::Request::builder()
        .method("POST")
        .uri("http://api/pkg.App/Call")
        .header("content-type", "application/grpc")
        .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    let mut client = client.ready().await.unwrap();
    let (answer, _) = client.send_request(request.body(()).unwrap(), true).unwrap();
    let mut body = soon("an answer", answer).await.unwrap().into_body();
    while body.data().await.is_some() {}
    assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
    let path = in_order(collector.spans(2).await, &0xb7ad_6b71_6920_3331_u64.to_be_bytes());
    for (_, span) in &path {
        assert_eq!(span.name, "pkg.App/Call");
        assert_eq!(attribute(span, "rpc.service"), "pkg.App");
        assert_eq!(attribute(span, "rpc.grpc.status_code"), "0");
    }
    driver.abort();
}

#[tokio::test]
async fn a_collector_that_never_answers_costs_nothing_but_spans() {
    // It takes connections and says nothing.
    let silent = apps::tcp(|mut stream| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let chain =
        Chain::start(Some(Tracing { endpoint: format!("http://{silent}"), ca: None, sampling: 10_000 }))
            .await;
    for _ in 0..20 {
        chain.get("").await;
    }
    chain.web.metric("mesh_dropped_total{queue=\"traces\"} 20").await;
    chain.get("").await;
}
