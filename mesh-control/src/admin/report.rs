//! Summing up: the mesh's status with its warnings, edges, decisions, identities.

use super::query::{hex, limit};
use super::{Control, ms};
use crate::clock;
use crate::discovery::fanout::ProxyState;
use crate::index::World;
use crate::local::registry::WorkloadKey;
use crate::store::Health;
use crate::traffic::Which;
use mesh_ca::authority::{IssuedRecord, ProxyTrust};
use mesh_proto::config::MtlsMode;
use mesh_proto::wire::v1;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};
use tonic::Status;

/// Security events that are this old are no longer in the warnings of `meshctl status`.
const EVENTS_SHOWN: Duration = Duration::from_secs(300);
/// Warnings in one answer; what is beyond is counted.
const WARNINGS_MAX: usize = 50;

/// What to say of a connected workload that should have renewed its certificate long ago. Renewal is due at a third of the
/// life, so that at three quarters it has failed many times.
///
/// An expired certificate has no record any more; then what was presented in the handshake counts.
fn overdue(
    workload: &WorkloadKey,
    (not_before, not_after): (SystemTime, SystemTime),
    now: SystemTime,
) -> Option<String> {
    let life = not_after.duration_since(not_before).unwrap_or_default();
    let left = not_after.duration_since(now).unwrap_or_default();
    if left >= life / 4 {
        return None;
    }
    let when =
        if left.is_zero() { "has expired".to_owned() } else { format!("expires in {} s", left.as_secs()) };
    Some(format!(
        "the certificate of {} {when} and has not been renewed; its log says why",
        workload.instance
    ))
}

/// What to say of pods that ask for a proxy and have none.
fn unmeshed(pods: &[String]) -> Option<String> {
    let verb = if pods.len() == 1 { "pod asks for a proxy and has" } else { "pods ask for a proxy and have" };
    let names = crate::advise::listed(pods.iter().cloned());
    (!pods.is_empty()).then(|| {
        format!(
            "{} {verb} none: {names}; restart what started them, for instance: kubectl rollout restart deployment -n NAMESPACE",
            pods.len()
        )
    })
}

impl Control {
    /// The whole at a glance.
    pub(super) fn status(&self) -> v1::StatusResponse {
        let now = clock::wall();
        let world = self.mesh.world();
        let proxies = self.mesh.fleet.all();
        let view = self.store.read();
        let store = match self.store.health() {
            Health::Ok => "ok".to_owned(),
            Health::WritesRefused { reason } => format!("writes refused: {reason}"),
        };
        v1::StatusResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            trust_domain: world.trust_domain.to_string(),
            revision: world.revision,
            uptime_ms: clock::millis(clock::monotonic().saturating_duration_since(self.started)),
            proxies: proxies.iter().map(|(key, state)| self.proxy(&world, key, state)).collect(),
            warnings: self.warnings(&world, &proxies, now),
            store,
            audit_sequence: view.audit_sequence(),
            ca: Some(self.authority_status()),
        }
    }

    fn proxy(&self, world: &World, key: &WorkloadKey, state: &ProxyState) -> v1::ProxyStatus {
        let now = clock::monotonic();
        let member = world.members.get(key);
        let is_draining = member.is_some_and(|member| member.registered.draining);
        let word = match state {
            _ if is_draining => "draining",
            ProxyState { refusal: Some(_), .. } => "refused",
            ProxyState { waiting_since: Some(_), .. } => "updating",
            _ => "in-sync",
        };
        let lag = state.waiting_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let expires = self.authority.newest(key).map_or(state.peer.not_after, |record| record.not_after);
        v1::ProxyStatus {
            instance: key.instance.to_string(),
            workload: member
                .map(|m| format!("{}/{}", m.registered.namespace, m.registered.workload))
                .unwrap_or_default(),
            identity: key.id.to_string(),
            address: member.map(|member| member.registered.address.to_string()).unwrap_or_default(),
            revision: state.confirmed.revision,
            lag_ms: clock::millis(lag),
            state: word.to_owned(),
            refusal: state.refusal.as_ref().map(|refusal| refusal.reason.clone()).unwrap_or_default(),
            svid_expires_ms: ms(expires),
            version: member.map(|member| member.registered.version.clone()).unwrap_or_default(),
            connected_ms: ms(state.connected_at),
        }
    }

    fn warnings(
        &self,
        world: &World,
        proxies: &BTreeMap<WorkloadKey, ProxyState>,
        now: SystemTime,
    ) -> Vec<String> {
        let mut warnings = self.authority.warnings(now);
        if let Health::WritesRefused { reason } = self.store.health() {
            warnings.push(format!("the store takes no writes: {reason}; what is in force stays in force"));
        }
        warnings.extend(self.unreadable.iter().cloned());
        let (_, awaited) = self.mesh.population();
        if awaited > 0 {
            warnings.push(format!(
                "{awaited} workloads of before the restart have not come back yet; their endpoints are kept"
            ));
        }
        if let MtlsMode::Permissive { until } = world.catalog.mesh_config().mtls {
            let left = until.saturating_sub(clock::unix_s(now));
            if left > 0 {
                warnings.push(format!(
                    "plaintext from outside the mesh is accepted for {} more hours (mTLS mode permissive)",
                    left / 3600
                ));
            }
        }
        if world.catalog.mesh_config().default_allow {
            warnings.push("what no rule allows passes all the same (default access allow)".to_owned());
        }
        warnings.extend(world.members.values().filter_map(|member| member.warning.clone()));
        warnings.extend(world.platform.as_ref().and_then(|platform| unmeshed(&platform.unmeshed)));
        for (key, state) in proxies {
            if let Some(refusal) = &state.refusal {
                warnings.push(format!(
                    "{} cannot use revision {}: {}",
                    key.instance, refusal.revision, refusal.reason
                ));
            }
        }
        warnings.extend(proxies.iter().filter_map(|(key, state)| {
            let newest = self.authority.newest(key);
            let life =
                newest.map_or((state.connected_at, state.peer.not_after), |r| (r.not_before, r.not_after));
            overdue(key, life, now)
        }));
        warnings.extend(self.event_warnings(now));
        let dropped = self.traffic.dropped();
        for (count, what) in [
            (dropped.edges, "edges for which there was no room"),
            (dropped.foreign, "entries in which a proxy spoke for somebody else"),
            (dropped.forged, "decisions under another proxy's id"),
        ] {
            if count > 0 {
                warnings.push(format!("traffic reports: {count} {what} were dropped"));
            }
        }
        let more = warnings.len().saturating_sub(WARNINGS_MAX);
        warnings.truncate(WARNINGS_MAX);
        if more > 0 {
            warnings.push(format!("and {more} more"));
        }
        warnings
    }

    /// The last minutes' security events, added up by reporter and kind.
    fn event_warnings(&self, now: SystemTime) -> Vec<String> {
        let since = now.checked_sub(EVENTS_SHOWN).map_or(0, clock::unix_ms);
        let mut sums: BTreeMap<(String, String), (u64, String)> = BTreeMap::new();
        for found in self.traffic.events_since(since) {
            let key = (found.reporter.clone(), found.event.kind.clone());
            let (count, last) = sums.entry(key).or_default();
            *count = count.saturating_add(found.event.count.max(1));
            last.clone_from(&found.event.peer);
        }
        let text = |((reporter, kind), (count, peer)): ((String, String), (u64, String))| {
            format!("{reporter}: {count} × {kind} in the last 5 minutes, last from {peer}")
        };
        sums.into_iter().map(text).collect()
    }

    /// All edges since the start.
    pub(super) fn edges(&self) -> v1::EdgesResponse {
        v1::EdgesResponse { edges: self.traffic.edges() }
    }

    /// The newest decisions first.
    pub(super) fn decisions(&self, request: &v1::DecisionsRequest) -> v1::DecisionsResponse {
        let which = if request.denied_only { Which::Refused } else { Which::All };
        v1::DecisionsResponse { decisions: self.traffic.decisions(limit(request.limit), which) }
    }

    /// Certificates that have not expired.
    pub(super) fn identities(
        &self,
        request: &v1::IdentitiesRequest,
    ) -> Result<v1::IdentitiesResponse, Status> {
        let name = request.name.trim();
        let world = self.mesh.world();
        let is_asked = |record: &IssuedRecord| {
            let key = WorkloadKey { id: record.id.clone(), instance: record.instance.clone() };
            let workload = world.members.get(&key).map(|member| &member.registered);
            name.is_empty()
                || record.id.as_str() == name
                || record.instance.as_str() == name
                || workload.is_some_and(|workload| {
                    workload.workload.as_str() == name
                        || format!("{}/{}", workload.namespace, workload.workload) == name
                })
                || record.id.workload().is_some_and(|(namespace, account)| {
                    account.as_str() == name || format!("{namespace}/{account}") == name
                })
        };
        let revocations = &world.trust.revocations;
        let info = |record: &IssuedRecord| v1::IdentityInfo {
            spiffe_id: record.id.to_string(),
            instance: record.instance.to_string(),
            serial: hex(&record.serial),
            not_before_ms: ms(record.not_before),
            not_after_ms: ms(record.not_after),
            issuer: hex(&record.issuer_serial),
            attestor: record.attestor.clone(),
            issued_ms: ms(record.issued_at),
            revoked: revocations.serials.binary_search(&record.serial).is_ok()
                || revocations.serials.binary_search(&record.issuer_serial).is_ok()
                || revocations.identities.binary_search(&record.id).is_ok(),
        };
        let records = self.authority.records();
        let identities: Vec<_> =
            records.iter().filter(|record| is_asked(record)).map(|record| info(record)).collect();
        if identities.is_empty() && !name.is_empty() {
            let known: std::collections::BTreeSet<String> =
                records.iter().map(|record| record.instance.to_string()).collect();
            return Err(Status::not_found(format!(
                "no certificate in use is called {:?}; there are certificates of {}",
                name.chars().take(120).collect::<String>(),
                crate::advise::listed(known.into_iter())
            )));
        }
        Ok(v1::IdentitiesResponse { identities })
    }

    /// The connected proxies, as the authority's rotation looks at them.
    pub(crate) fn fleet_trust(&self) -> Vec<ProxyTrust> {
        self.mesh.fleet.all().iter().map(|(key, state)| self.authority.proxy_trust(key, state)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_is_not_renewed_is_warned_of_before_it_expires() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let key = WorkloadKey {
            id: "spiffe://mesh.local/ns/default/sa/web".parse().unwrap(),
            instance: "web-1".parse().unwrap(),
        };
        let said = |now| overdue(&key, (at(0), at(1_000)), at(now));
        assert_eq!(said(700), None);
        assert!(said(800).unwrap().contains("expires in 200 s"));
        assert!(said(2_000).unwrap().contains("web-1 has expired"));
    }

    #[test]
    fn long_lists_are_cut() {
        let names = |count: u32| (0..count).map(|n| n.to_string());
        assert_eq!(crate::advise::listed(names(0)), "nobody");
        assert_eq!(crate::advise::listed(names(3)), "0, 1, 2");
        assert!(crate::advise::listed(names(15)).ends_with("11 and 3 more"));
    }
}
