//! How much each caller may ask of the workload: rates, requests in flight, body sizes.
//!
//! Called by `inbound` after authorization, so that nobody spends the tokens of an identity that is not his. Decides
//! and counts; refusing is the caller's part. Never reads a clock.
//!
//! # Why
//! What a limit applies to is judged by the access evaluator itself (each limit's operations are compiled as one deny
//! rule), so that a path or a header means the same in a limit as in a policy, and what is in doubt counts: gRPC methods
//! under any content type, a header if any of its values fits, opaque bytes that may be requests. All workers of the process share one
//! table for each limit behind a mutex that is held for a hash look-up: with one worker it is never contended, and with
//! several a rate is the rate, not the rate times workers.

mod table;

use mesh_proto::limit::{Gcra, LimitKey, RateLimit, Unit};
use mesh_proto::policy::compile::PolicySet;
use mesh_proto::policy::evaluate::{DenyReason, Outcome, Request, SourceFacts};
use mesh_proto::policy::model::{Action, Mode, Policy, PolicyInputs, Rule, Scope, Source};
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use table::{Key, Table};

/// All limits on the workload.
#[derive(Debug)]
pub(crate) struct Limits {
    entries: Vec<Arc<Limit>>,
    /// Where the buckets' clock begins.
    started: Instant,
    hashers: [RandomState; 2],
}

/// One limit with its buckets.
#[derive(Debug)]
struct Limit {
    rule: Arc<RateLimit>,
    /// `None`: everything on the workload.
    covers: Option<PolicySet>,
    gcra: Option<(Unit, Gcra)>,
    table: Mutex<Table>,
}

/// What a limit is applied to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Subject {
    /// An HTTP request.
    Request,
    /// A connection that carries HTTP requests: only limits that count connections have a say.
    HttpConnection,
    /// An opaque connection.
    Tunnel(Bytes),
}

/// What is known of the bytes of an opaque connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Bytes {
    /// The workload declared the port as tcp or tls: it takes no requests, so that each connection counts as one.
    Declared,
    /// They may be requests that their sender gave another look. Where requests are limited, they cannot be let pass.
    Undeclared,
}

/// Whether a limit is about what is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Coverage {
    No,
    Yes,
    /// It depends on a request, and there is none to look at.
    NeedsHttp,
}

/// Why a request or connection is over a limit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Limited {
    /// The limit's name.
    pub(crate) limit: String,
    /// What about it.
    pub(crate) why: Why,
}

/// What about a limit refuses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Why {
    /// Its rate is used up until then.
    Rate(Duration),
    /// Too many are in flight.
    InFlight,
    /// It counts requests, and these bytes may be requests that cannot be counted.
    NeedsHttp,
}

/// What one admitted request or connection holds: its places among those in flight, and the buckets that its bytes are
/// charged to. Gives the places back when dropped.
#[derive(Debug, Default)]
pub(crate) struct Grant {
    held: Vec<Held>,
    body_bytes_max: Option<u64>,
    started: Option<Instant>,
    /// Names of limits in audit mode that would have refused.
    pub(crate) audited: Vec<String>,
}

/// What is held of one limit.
#[derive(Debug)]
struct Held {
    limit: Arc<Limit>,
    key: Key,
    /// Whether it is counted among those in flight.
    has_place: bool,
    /// Where its bytes are charged.
    bytes: Option<(Gcra, Arc<AtomicU64>)>,
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.has_place {
            self.limit.release(self.key);
        }
    }
}

impl Limits {
    /// Compiles limits; those that did not change keep their buckets from `before`.
    pub(crate) fn compile(rules: &[Arc<RateLimit>], before: Option<&Self>, now: Instant) -> Self {
        let kept =
            |rule: &Arc<RateLimit>| before?.entries.iter().find(|limit| limit.rule == *rule).map(Arc::clone);
        let entries =
            rules.iter().map(|rule| kept(rule).unwrap_or_else(|| Arc::new(Limit::new(rule)))).collect();
        Self {
            entries,
            started: before.map_or(now, |limits| limits.started),
            hashers: before.map_or_else(|| [RandomState::new(), RandomState::new()], |b| b.hashers.clone()),
        }
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Admits a request or a connection of `ip`, or says which limit it is over.
    ///
    /// # Errors
    /// The first enforced limit, in the order of names, that has no room. What earlier ones took is not given back: a
    /// caller over one limit spends the others too, which is what a bucket for each attempt means.
    pub(crate) fn admit(
        &self,
        request: &Request<'_>,
        subject: Subject,
        ip: IpAddr,
        now: Instant,
    ) -> Result<Grant, Limited> {
        let mut grant = Grant { started: Some(self.started), ..Grant::default() };
        self.admit_more(request, subject, (ip, now), &mut grant)?;
        Ok(grant)
    }

    /// What was admitted has turned out to be something else (TLS, not plain TCP): admits it to the limits that it was not
    /// counted by yet, and gives back its places in those that are not about it.
    ///
    /// # Errors
    /// As [`Limits::admit`].
    pub(crate) fn admit_more(
        &self,
        request: &Request<'_>,
        subject: Subject,
        (ip, now): (IpAddr, Instant),
        grant: &mut Grant,
    ) -> Result<(), Limited> {
        let now_ns = nanos(now.saturating_duration_since(self.started));
        grant.held.retain(|held| held.limit.covers(request) != Coverage::No);
        for limit in self.entries.iter().filter(|limit| limit.is_about(subject)) {
            let result = match (limit.covers(request), subject) {
                _ if grant.held.iter().any(|held| Arc::ptr_eq(&held.limit, limit)) => continue,
                (Coverage::No, _) | (Coverage::NeedsHttp, Subject::Tunnel(Bytes::Declared)) => continue,
                (Coverage::NeedsHttp, Subject::Tunnel(Bytes::Undeclared)) => Err(Why::NeedsHttp),
                (Coverage::Yes, Subject::Tunnel(Bytes::Undeclared)) if limit.counts_requests() => {
                    Err(Why::NeedsHttp)
                }
                _ => limit.admit(self.key(limit, request, ip), subject, now_ns, grant),
            };
            let name = || limit.rule.name.to_string();
            match (result, limit.rule.mode) {
                (Ok(()), _) => {}
                (Err(why), Mode::Enforce) => return Err(Limited { limit: name(), why }),
                (Err(_), Mode::Audit) => grant.audited.push(name()),
            }
        }
        Ok(())
    }

    fn key(&self, limit: &Limit, request: &Request<'_>, ip: IpAddr) -> Key {
        let hash = |bytes: &dyn Fn(&RandomState) -> u64| {
            let [a, b] = &self.hashers;
            Key([bytes(a), bytes(b)])
        };
        match &limit.rule.key {
            LimitKey::Target => Key([0, 0]),
            LimitKey::Address => hash(&|h| h.hash_one(ip.to_canonical())),
            LimitKey::SourceIdentity => match request.source {
                SourceFacts::Meshed { id, .. } => hash(&|h| h.hash_one((1u8, id.as_str()))),
                SourceFacts::Unmeshed { ip } => hash(&|h| h.hash_one((2u8, ip.to_canonical()))),
            },
            LimitKey::Header(name) => {
                let mut values: Vec<Vec<u8>> = Vec::new();
                if let Some(http) = &request.http {
                    http.headers.each(name, &mut |value| values.push(value.to_vec()));
                }
                hash(&|h| h.hash_one(&values))
            }
        }
    }
}

impl Limit {
    fn new(rule: &Arc<RateLimit>) -> Self {
        let gcra = rule.rate.map(|rate| (rate.unit, rate.gcra()));
        Self { rule: Arc::clone(rule), covers: coverage(rule), gcra, table: Mutex::new(Table::new()) }
    }

    fn is_about(&self, subject: Subject) -> bool {
        let counts_connections = matches!(self.gcra, Some((Unit::Connections, _)));
        match subject {
            Subject::Request => !counts_connections,
            Subject::HttpConnection => counts_connections,
            Subject::Tunnel(_) => true,
        }
    }

    fn covers(&self, request: &Request<'_>) -> Coverage {
        let Some(covers) = &self.covers else { return Coverage::Yes };
        match covers.authorize(request).outcome {
            Outcome::Allowed { .. } => Coverage::No,
            Outcome::Denied(denial) if denial.reason == DenyReason::NeedsHttp => Coverage::NeedsHttp,
            Outcome::Denied(_) => Coverage::Yes,
        }
    }

    /// Whether it holds for requests, whatever carries them.
    fn counts_requests(&self) -> bool {
        matches!(self.gcra, Some((Unit::Requests, _))) || self.rule.body_bytes_max.is_some()
    }

    fn admit(
        self: &Arc<Self>,
        key: Key,
        subject: Subject,
        now_ns: u64,
        grant: &mut Grant,
    ) -> Result<(), Why> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let is_idle = |bucket: &AtomicU64| self.gcra.is_none_or(|(_, gcra)| gcra.is_full(bucket, now_ns));
        let Some(slot) = table.slot(key, is_idle) else { return Err(Why::InFlight) };
        if let Some(most) = self.rule.concurrent
            && slot.in_flight >= most
        {
            return Err(Why::InFlight);
        }
        let mut bytes = None;
        match (self.gcra, subject) {
            (Some((Unit::Requests, gcra)), Subject::Request | Subject::Tunnel(_))
            | (Some((Unit::Connections, gcra)), Subject::HttpConnection | Subject::Tunnel(_)) => {
                gcra.take(&slot.bucket, now_ns, 1).map_err(Why::Rate)?;
            }
            (Some((Unit::Bytes, gcra)), _) => {
                // Admitted while the bucket has anything; what is carried is charged as it is carried.
                gcra.take(&slot.bucket, now_ns, 1).map_err(Why::Rate)?;
                bytes = Some((gcra, Arc::clone(&slot.bucket)));
            }
            _ => {}
        }
        let has_place = self.rule.concurrent.is_some();
        if has_place {
            slot.in_flight = slot.in_flight.saturating_add(1);
        }
        if has_place || bytes.is_some() || matches!(subject, Subject::Tunnel(_)) {
            grant.held.push(Held { limit: Arc::clone(self), key, has_place, bytes });
        }
        if let (Some(most), Mode::Enforce) = (self.rule.body_bytes_max, self.rule.mode) {
            grant.body_bytes_max = Some(grant.body_bytes_max.map_or(most, |other| other.min(most)));
        }
        Ok(())
    }

    fn release(&self, key: Key) {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).release(key);
    }
}

impl Grant {
    /// The largest request body, in bytes.
    pub(crate) fn body_bytes_max(&self) -> Option<u64> {
        self.body_bytes_max
    }

    /// Whether bytes are counted at all.
    pub(crate) fn counts_bytes(&self) -> bool {
        self.held.iter().any(|held| held.bytes.is_some())
    }

    /// Charges bytes that were carried; the answer is how long to wait before carrying more, zero mostly.
    pub(crate) fn charge(&self, bytes: u64, now: Instant) -> Duration {
        let started = self.started.unwrap_or(now);
        let now_ns = nanos(now.saturating_duration_since(started));
        let buckets = self.held.iter().filter_map(|held| held.bytes.as_ref());
        buckets.map(|(gcra, bucket)| gcra.charge(bucket, now_ns, bytes)).max().unwrap_or_default()
    }
}

/// The operations of a limit as an access policy that denies exactly them.
fn coverage(rule: &RateLimit) -> Option<PolicySet> {
    if rule.to.is_empty() {
        return None;
    }
    let name = rule.name.clone();
    let rule = Rule {
        name: "covered".into(),
        line: 0,
        action: Action::Deny,
        from: vec![Source::Anyone],
        except: Vec::new(),
        to: rule.to.clone(),
        valid_until: None,
    };
    let policy =
        Policy { name, scope: Scope::Ordinary, mode: Mode::Enforce, rules: vec![rule], file: "".into() };
    let inputs =
        PolicyInputs { policies: vec![Arc::new(policy)], default_allow: true, ..PolicyInputs::default() };
    Some(PolicySet::compile(&inputs))
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
