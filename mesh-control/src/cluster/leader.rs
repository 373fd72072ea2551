//! Which replica writes what only one should write: the status of objects. A Lease says it.
//!
//! Nothing depends on there being exactly one: two that write for a moment write the same.

use super::Cluster;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::PostParams;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;

/// The Lease's name.
const NAME: &str = "mesh-control";
/// How long it holds without being renewed, and how often it is.
const HOLDS: Duration = Duration::from_secs(15);
const RENEWED: Duration = Duration::from_secs(5);

/// Takes and keeps the Lease whenever it is free; says whether this replica has it.
pub(super) async fn elect(cluster: Cluster, leads: watch::Sender<bool>, clock: fn() -> SystemTime) {
    let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), cluster.namespace.as_str());
    loop {
        let holds = attempt(&leases, cluster.pod.as_str(), clock()).await.unwrap_or_else(|error| {
            tracing::debug!(%error, "the lease could not be asked for");
            false
        });
        if leads.send_replace(holds) != holds {
            tracing::info!(holds, "the lease for writing the status of objects");
        }
        tokio::time::sleep(RENEWED).await;
    }
}

async fn attempt(leases: &Api<Lease>, pod: &str, now: SystemTime) -> kube::Result<bool> {
    let found = leases.get_opt(NAME).await?;
    let time = Timestamp::try_from(now).unwrap_or(Timestamp::UNIX_EPOCH);
    let spec = found.as_ref().and_then(|lease| lease.spec.clone()).unwrap_or_default();
    let is_ours = spec.holder_identity.as_deref() == Some(pod);
    let renewed = spec.renew_time.map(|at| SystemTime::from(at.0));
    let is_held = renewed.is_some_and(|at| now.duration_since(at).is_ok_and(|past| past < HOLDS));
    if is_held && !is_ours {
        return Ok(false);
    }
    let mut lease = found.clone().unwrap_or_default();
    lease.metadata.name = Some(NAME.to_owned());
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(pod.to_owned()),
        lease_duration_seconds: i32::try_from(HOLDS.as_secs()).ok(),
        acquire_time: if is_ours { spec.acquire_time } else { Some(MicroTime(time)) },
        renew_time: Some(MicroTime(time)),
        ..LeaseSpec::default()
    });
    let how = PostParams::default();
    let done = match found {
        // The version in it is what another may have replaced meanwhile.
        Some(_) => leases.replace(NAME, &how, &lease).await,
        None => leases.create(&how, &lease).await,
    };
    match done {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}
