//! What all replicas of a cluster's control plane know, as one answer.
//!
//! Any replica serves any proxy, so what proxies have told (how far they are, flows, decisions, events, alarms) is known to the
//! one they are connected to. Commands ask each through its own port-forward and put the answers together here; on one
//! machine there is one answer, and it stays as it is.
//!
//! What is a replica's own count stays with one: `history`, `diff` and `get --revision` ask the oldest pod, which remembers
//! the most, and revisions of proxies elsewhere are shown in its count.
//!
//! # Why
//! Here rather than by replicas that ask each other: nobody gets a right that the user at the terminal does not have, no new
//! port is open between control planes, and a replica that hangs costs its own part of the answer. Two port-forwards take
//! as long as one.

use crate::admin_client::{AdminClient, Answer};
use crate::failure::{Failure, Kind};
use futures_util::StreamExt as _;
use futures_util::stream::{SelectAll, select_all};
use mesh_proto::ops::histogram;
use mesh_proto::wire::v1;
use serde::Serialize;
use std::collections::BTreeMap;
use tonic::codegen::BoxStream;
use tonic::{Response, Status};

/// One replica of the control plane.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
pub(crate) struct Replica {
    /// Its pod; empty on one machine.
    pub(crate) pod: String,
    pub(crate) version: String,
    /// The last revision, in its own count.
    pub(crate) revision: u64,
    pub(crate) uptime_ms: u64,
    /// `ok`, or why writes are refused.
    pub(crate) store: String,
    /// How many proxies it serves.
    pub(crate) proxies: usize,
}

/// The status of all replicas together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Whole {
    /// With the proxies of all.
    pub(crate) status: v1::StatusResponse,
    /// Each replica, the one that `status` is in the count of first.
    pub(crate) replicas: Vec<Replica>,
    /// Which replica serves a proxy, by the proxy's instance.
    pub(crate) served_by: BTreeMap<String, String>,
}

/// The status of the mesh.
///
/// # Errors
/// No replica answers.
pub(crate) async fn status(client: &AdminClient) -> Result<Whole, Failure> {
    let ask = async |mut api: crate::admin_client::Api| inner(api.status(v1::StatusRequest {}).await);
    Ok(whole(client.everywhere(ask).await?))
}

/// Who calls whom.
///
/// # Errors
/// No replica answers.
pub(crate) async fn edges(client: &AdminClient) -> Result<Vec<v1::Edge>, Failure> {
    let ask = async |mut api: crate::admin_client::Api| inner(api.edges(v1::EdgesRequest {}).await);
    let answers = client.everywhere(ask).await?;
    Ok(sum_edges(answers.into_iter().flat_map(|answer| answer.value.edges)))
}

/// Who called whom in a span of time: the ledgers of all replicas, added up.
///
/// # Errors
/// No replica answers.
pub(crate) async fn flows(
    client: &AdminClient,
    request: v1::FlowsRequest,
) -> Result<v1::FlowsResponse, Failure> {
    let ask = async |mut api: crate::admin_client::Api| inner(api.flows(request).await);
    let answers = client.everywhere(ask).await?;
    Ok(sum_flows(answers.into_iter().map(|answer| answer.value)))
}

/// The latest decisions, the newest first.
///
/// # Errors
/// No replica answers.
pub(crate) async fn decisions(
    client: &AdminClient,
    request: v1::DecisionsRequest,
) -> Result<Vec<v1::Decision>, Failure> {
    let ask = async |mut api: crate::admin_client::Api| inner(api.decisions(request).await);
    let answers = client.everywhere(ask).await?;
    let all: Vec<v1::Decision> = answers.into_iter().flat_map(|answer| answer.value.decisions).collect();
    let mut by_id: BTreeMap<String, v1::Decision> = BTreeMap::new();
    for decision in all {
        by_id.entry(decision.id.clone()).or_insert(decision);
    }
    let mut all: Vec<v1::Decision> = by_id.into_values().collect();
    all.sort_by(|a, b| b.time_ms.cmp(&a.time_ms).then_with(|| a.id.cmp(&b.id)));
    all.truncate(usize::try_from(request.limit).unwrap_or(usize::MAX));
    Ok(all)
}

/// Why a call was allowed or refused: of a decision that was made, whoever remembers it.
///
/// # Errors
/// Nobody remembers it; or the names mean nothing.
pub(crate) async fn explain(
    client: &AdminClient,
    request: v1::ExplainRequest,
) -> Result<v1::ExplainResponse, Failure> {
    if request.decision_id.is_empty() {
        return client.answer(client.api().explain(request).await);
    }
    any(client, async |mut api: crate::admin_client::Api| inner(api.explain(request.clone()).await)).await
}

/// Certificates, each once.
///
/// # Errors
/// No replica answers.
pub(crate) async fn identities(
    client: &AdminClient,
    request: v1::IdentitiesRequest,
) -> Result<Vec<v1::IdentityInfo>, Failure> {
    let ask = async |mut api: crate::admin_client::Api| inner(api.identities(request.clone()).await);
    let mut all: Vec<v1::IdentityInfo> = Vec::new();
    for identity in client.everywhere(ask).await?.into_iter().flat_map(|answer| answer.value.identities) {
        match all.iter_mut().find(|known| known.serial == identity.serial) {
            Some(known) => known.revoked |= identity.revoked,
            None => all.push(identity),
        }
    }
    Ok(all)
}

/// Does something at whichever replica can: an alarm is known to one.
///
/// # Errors
/// None can: the first one's refusal.
pub(crate) async fn any<T>(
    client: &AdminClient,
    ask: impl AsyncFn(crate::admin_client::Api) -> Result<T, Status>,
) -> Result<T, Failure> {
    let mut refused = None;
    for answer in client.each(ask).await {
        match answer.value {
            Ok(value) => return Ok(value),
            Err(failure) => refused = refused.or(Some(failure)),
        }
    }
    Err(refused.unwrap_or_else(|| Failure::new(Kind::Unreachable, "no control plane answers")))
}

/// Events of all replicas: without `follow` in the order of their times, with it as they come.
///
/// # Errors
/// No replica answers, or a filter names what there is not.
pub(crate) async fn events(
    client: &AdminClient,
    request: v1::EventsRequest,
) -> Result<BoxStream<v1::MeshEvent>, Failure> {
    let ask = async |mut api: crate::admin_client::Api| inner(api.events(request.clone()).await);
    let streams = client.everywhere(ask).await?.into_iter().map(|answer| answer.value);
    let mut all = select_all(streams);
    if request.follow {
        return Ok(Box::pin(all));
    }
    let mut events = Vec::new();
    while let Some(event) = all.next().await {
        events.push(event.map_err(|status| client.refused(&status))?);
    }
    events.sort_by_key(|event| event.time_ms);
    events.dedup();
    Ok(Box::pin(futures_util::stream::iter(events.into_iter().map(Ok))))
}

/// Alarms, silences and sinks of all replicas, again at each change of one.
pub(crate) struct Alarms {
    streams: SelectAll<BoxStream<(usize, v1::AlarmsResponse)>>,
    latest: Vec<Option<v1::AlarmsResponse>>,
}

impl Alarms {
    /// Begins.
    ///
    /// # Errors
    /// No replica answers.
    pub(crate) async fn begin(client: &AdminClient, request: v1::AlarmsRequest) -> Result<Self, Failure> {
        let ask = async |mut api: crate::admin_client::Api| inner(api.alarms(request).await);
        let answers = client.everywhere(ask).await?;
        let latest = answers.iter().map(|_| None).collect();
        let streams = answers.into_iter().enumerate().map(|(index, answer)| {
            let numbered = answer.value.map(move |message| message.map(|message| (index, message)));
            Box::pin(numbered) as BoxStream<_>
        });
        Ok(Self { streams: select_all(streams), latest })
    }

    /// What all know, as soon as each has told; `None` at the end. Cancel safe.
    ///
    /// # Errors
    /// A stream broke.
    pub(crate) async fn next(&mut self) -> Option<Result<v1::AlarmsResponse, Status>> {
        loop {
            match self.streams.next().await? {
                Err(status) => return Some(Err(status)),
                Ok((index, message)) => {
                    if let Some(latest) = self.latest.get_mut(index) {
                        *latest = Some(message);
                    }
                }
            }
            if self.latest.iter().all(Option::is_some) {
                return Some(Ok(join_alarms(self.latest.iter().flatten().cloned())));
            }
        }
    }
}

fn inner<T>(answer: Result<Response<T>, Status>) -> Result<T, Status> {
    answer.map(Response::into_inner)
}

/// Puts the status of replicas together; the first one's counts.
fn whole(answers: Vec<Answer<v1::StatusResponse>>) -> Whole {
    let mut whole = Whole::default();
    let mut proxies: BTreeMap<String, (String, v1::ProxyStatus)> = BTreeMap::new();
    for (index, Answer { replica, value: mut status }) in answers.into_iter().enumerate() {
        whole.replicas.push(Replica {
            pod: replica.clone(),
            version: status.version.clone(),
            revision: status.revision,
            uptime_ms: status.uptime_ms,
            store: status.store.clone(),
            proxies: status.proxies.len(),
        });
        let theirs = std::mem::take(&mut status.proxies);
        let (revision, store, warnings) = (status.revision, status.store.clone(), status.warnings.clone());
        if index == 0 {
            whole.status = status;
        } else {
            if whole.status.store == "ok" && store != "ok" {
                whole.status.store = format!("{store} (at {replica})");
            }
            for warning in warnings {
                if !whole.status.warnings.contains(&warning) {
                    whole.status.warnings.push(warning);
                }
            }
        }
        for mut proxy in theirs {
            // As far behind as it is there.
            let behind = revision.saturating_sub(proxy.revision);
            proxy.revision = whole.status.revision.saturating_sub(behind);
            let is_newer =
                proxies.get(&proxy.instance).is_none_or(|(_, known)| known.connected_ms < proxy.connected_ms);
            if is_newer {
                proxies.insert(proxy.instance.clone(), (replica.clone(), proxy));
            }
        }
    }
    for (instance, (replica, proxy)) in proxies {
        whole.status.proxies.push(proxy);
        whole.served_by.insert(instance, replica);
    }
    whole
}

/// What makes an edge the same edge.
type EdgeKey = (i32, String, String, String, u32, String, String, String);

/// Adds up the edges that are the same.
fn sum_edges(edges: impl Iterator<Item = v1::Edge>) -> Vec<v1::Edge> {
    let mut sums: BTreeMap<EdgeKey, v1::Edge> = BTreeMap::new();
    for edge in edges {
        let Some(stats) = &edge.stats else { continue };
        let key = (
            stats.direction,
            stats.source.clone(),
            stats.destination.clone(),
            stats.service.clone(),
            stats.port,
            stats.protocol.clone(),
            stats.tls_version.clone(),
            stats.key_exchange.clone(),
        );
        match sums.get_mut(&key) {
            None => {
                sums.insert(key, edge);
            }
            Some(sum) => add_edge(sum, edge),
        }
    }
    sums.into_values().collect()
}

fn add_edge(sum: &mut v1::Edge, edge: v1::Edge) {
    let v1::Edge { stats, last_seen_ms, p50_us, p99_us } = edge;
    let (Some(of), Some(more)) = (sum.stats.as_mut(), stats) else { return };
    for (total, count) in [
        (&mut of.allowed, more.allowed),
        (&mut of.denied, more.denied),
        (&mut of.limited, more.limited),
        (&mut of.failed, more.failed),
        (&mut of.errors, more.errors),
        (&mut of.bytes_in, more.bytes_in),
        (&mut of.bytes_out, more.bytes_out),
    ] {
        *total = total.saturating_add(count);
    }
    add_latency(&mut of.latency_us, &more.latency_us);
    let buckets: Vec<(u32, u64)> = of.latency_us.iter().map(|bucket| (bucket.index, bucket.count)).collect();
    if last_seen_ms > sum.last_seen_ms && !more.last_reason.is_empty() || of.last_reason.is_empty() {
        (of.last_reason, of.last_rule) = (more.last_reason, more.last_rule);
    }
    sum.last_seen_ms = sum.last_seen_ms.max(last_seen_ms);
    (sum.p50_us, sum.p99_us) = match buckets.is_empty() {
        // Of old releases that send no histogram: the worse of the two.
        true => (sum.p50_us.max(p50_us), sum.p99_us.max(p99_us)),
        false => (histogram::quantile(&buckets, 0.5), histogram::quantile(&buckets, 0.99)),
    };
}

fn add_latency(to: &mut Vec<v1::Bucket>, more: &[v1::Bucket]) {
    let mut buckets: BTreeMap<u32, u64> = BTreeMap::new();
    for bucket in to.iter().chain(more) {
        let count = buckets.entry(bucket.index).or_default();
        *count = count.saturating_add(bucket.count);
    }
    *to = buckets.into_iter().map(|(index, count)| v1::Bucket { index, count }).collect();
}

/// Adds up rows that are about the same; the span is the one from the first replica's beginning to the last one's end.
fn sum_flows(answers: impl Iterator<Item = v1::FlowsResponse>) -> v1::FlowsResponse {
    let mut all: Option<v1::FlowsResponse> = None;
    for answer in answers {
        let Some(sum) = &mut all else {
            all = Some(answer);
            continue;
        };
        let v1::FlowsResponse { from_ms, to_ms, flows, paths, gaps } = answer;
        (sum.from_ms, sum.to_ms) = (sum.from_ms.min(from_ms), sum.to_ms.max(to_ms));
        sum.flows.extend(flows);
        sum.paths.extend(paths);
        for gap in gaps {
            if !sum.gaps.contains(&gap) {
                sum.gaps.push(gap);
            }
        }
    }
    let mut all = all.unwrap_or_default();
    all.gaps.sort_by_key(|gap| gap.from_ms);
    let mut flows: BTreeMap<_, v1::Flow> = BTreeMap::new();
    for flow in all.flows.drain(..) {
        let texts = [&flow.source, &flow.destination, &flow.service, &flow.protocol, &flow.tls_version];
        let key = (flow.direction, flow.port, texts.map(String::clone));
        match flows.get_mut(&key) {
            Some(sum) => add_flow(sum, &flow),
            None => {
                flows.insert(key, flow);
            }
        }
    }
    all.flows = flows.into_values().collect();
    let mut paths: BTreeMap<[String; 4], v1::FlowPath> = BTreeMap::new();
    for path in all.paths.drain(..) {
        let key = [&path.source, &path.destination, &path.method, &path.template].map(String::clone);
        match paths.get_mut(&key) {
            Some(sum) => {
                sum.seen = sum.seen.saturating_add(path.seen);
                sum.refused = sum.refused.saturating_add(path.refused);
            }
            None => {
                paths.insert(key, path);
            }
        }
    }
    all.paths = paths.into_values().collect();
    all
}

fn add_flow(sum: &mut v1::Flow, more: &v1::Flow) {
    for (total, count) in [
        (&mut sum.allowed, more.allowed),
        (&mut sum.denied, more.denied),
        (&mut sum.limited, more.limited),
        (&mut sum.failed, more.failed),
        (&mut sum.errors, more.errors),
        (&mut sum.bytes_in, more.bytes_in),
        (&mut sum.bytes_out, more.bytes_out),
    ] {
        *total = total.saturating_add(count);
    }
    add_latency(&mut sum.latency_us, &more.latency_us);
}

/// Puts what replicas say of alarms together.
fn join_alarms(told: impl Iterator<Item = v1::AlarmsResponse>) -> v1::AlarmsResponse {
    let mut all = v1::AlarmsResponse::default();
    for v1::AlarmsResponse { alarms, silences, sinks } in told {
        all.alarms.extend(alarms);
        for silence in silences {
            // One command makes it everywhere, each time under another name.
            let is_known = all.silences.iter().any(|known| {
                (&known.detector, &known.source, &known.destination, &known.by, &known.comment)
                    == (
                        &silence.detector,
                        &silence.source,
                        &silence.destination,
                        &silence.by,
                        &silence.comment,
                    )
            });
            if !is_known {
                all.silences.push(silence);
            }
        }
        for sink in sinks {
            match all.sinks.iter_mut().find(|known| known.name == sink.name) {
                None => all.sinks.push(sink),
                Some(known) => {
                    known.delivered = known.delivered.saturating_add(sink.delivered);
                    known.waiting = known.waiting.saturating_add(sink.waiting);
                    known.lost = known.lost.saturating_add(sink.lost);
                    if known.problem.is_empty() {
                        known.problem = sink.problem;
                        known.failing_since_ms = sink.failing_since_ms;
                    }
                }
            }
        }
    }
    all.alarms.sort_by_key(|alarm| (alarm.state != "firing", std::cmp::Reverse(alarm.raised_ms)));
    all
}

#[cfg(test)]
mod tests;
