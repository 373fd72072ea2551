//! `meshctl events`: security events that are kept, and those that come.

use super::server::Answers;
use super::{Control, ms};
use crate::clock;
use crate::events::Event;
use futures_util::StreamExt as _;
use mesh_proto::ops::metrics::{EventKind, Severity};
use mesh_proto::wire::v1;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// Which events somebody wants.
struct Wanted {
    /// Empty: all.
    kinds: Vec<EventKind>,
    severity: Severity,
    source: String,
    destination: String,
    since: SystemTime,
}

impl Wanted {
    fn read(request: &v1::EventsRequest) -> Result<Self, Status> {
        let unknown = |what: &str, word: &str, known: String| {
            let word: String = word.chars().take(80).collect();
            Status::invalid_argument(format!("unknown {what} {word:?}; there are {known}"))
        };
        let kinds = request.kinds.iter().map(|word| {
            let known = || EventKind::ALL.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(", ");
            EventKind::from_word(word).ok_or_else(|| unknown("kind", word, known()))
        });
        let severity = match request.severity.as_str() {
            "" => Severity::Info,
            word => Severity::from_word(word).ok_or_else(|| {
                let known = Severity::ALL.iter().map(|severity| severity.as_str()).collect::<Vec<_>>();
                unknown("severity", word, known.join(", "))
            })?,
        };
        Ok(Self {
            kinds: kinds.collect::<Result<_, _>>()?,
            severity,
            source: request.source.clone(),
            destination: request.destination.clone(),
            since: clock::of_unix_ms(request.since_ms),
        })
    }

    fn wants(&self, event: &Event) -> bool {
        (self.kinds.is_empty() || self.kinds.contains(&event.kind))
            && event.severity >= self.severity
            && event.at >= self.since
            && event.source.contains(&self.source)
            && event.destination.contains(&self.destination)
    }
}

/// Somebody who follows.
struct Following {
    wanted: Wanted,
    news: broadcast::Receiver<Arc<Event>>,
    shutdown: CancellationToken,
    /// What it was too slow for since the last event it got.
    missed: u64,
}

impl Following {
    async fn step(mut self) -> Option<(Result<v1::MeshEvent, Status>, Self)> {
        loop {
            // Cancel safe: `recv` loses no event.
            let next = tokio::select! {
                () = self.shutdown.cancelled() => Err(RecvError::Closed),
                next = self.news.recv() => next,
            };
            match next {
                Ok(event) if self.wanted.wants(&event) => {
                    let missed = std::mem::take(&mut self.missed);
                    return Some((Ok(message(&event, missed)), self));
                }
                Ok(_) => {}
                Err(RecvError::Lagged(missed)) => self.missed = self.missed.saturating_add(missed),
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

impl Control {
    /// Events that are kept, and with `follow` those that come.
    pub(super) fn events(&self, request: v1::EventsRequest) -> Result<Answers<v1::MeshEvent>, Status> {
        let wanted = Wanted::read(&request)?;
        let (kept, news) = self.events.follow();
        let kept: Vec<_> =
            kept.iter().filter(|event| wanted.wants(event)).map(|event| Ok(message(event, 0))).collect();
        let kept = futures_util::stream::iter(kept);
        if !request.follow {
            return Ok(Box::pin(kept));
        }
        let following = Following { wanted, news, shutdown: self.shutdown.clone(), missed: 0 };
        Ok(Box::pin(kept.chain(futures_util::stream::unfold(following, Following::step))))
    }
}

fn message(event: &Event, missed: u64) -> v1::MeshEvent {
    let Event { at, kind, severity, source, destination, reason, count, detail } = event;
    v1::MeshEvent {
        time_ms: ms(*at),
        kind: kind.as_str().to_owned(),
        severity: severity.as_str().to_owned(),
        source: source.clone(),
        destination: destination.clone(),
        reason: reason.clone(),
        count: *count,
        detail: detail.clone(),
        missed,
    }
}
