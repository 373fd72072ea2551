//! Sends what is queued: one task for each `AlertSink`, which begins and ends with the resource.
//!
//! A sink that fails is tried again after [`PAUSES`], for ever; its queue keeps what comes meanwhile. A message that the
//! sink itself calls wrong is given up after [`ATTEMPTS_MAX`] and counted as lost, so that it does not keep back the rest.

use super::Alarms;
use super::queue::Fate;
use super::send;
use crate::clock;
use crate::index::World;
use mesh_proto::name::ObjectName;
use mesh_proto::resource::alert_sink::{AlertSink, Delivery};
use mesh_proto::resource::outside::Tls;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

/// Between attempts; the last one from then on. A sink that comes back waits at most that long.
const PAUSES: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(15),
    Duration::from_secs(30),
];
/// After so many answers that the message itself is wrong it is given up.
const ATTEMPTS_MAX: usize = 3;

/// How a sink is spoken to.
type Way = (Delivery, Option<Tls>);

/// Keeps a task for each sink until `shutdown`.
pub(crate) async fn run(
    alarms: Arc<Alarms>,
    mut world: watch::Receiver<Arc<World>>,
    shutdown: CancellationToken,
) {
    let mut running: BTreeMap<ObjectName, (Way, AbortHandle)> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    loop {
        let catalog = world.borrow_and_update().catalog.clone();
        let sinks: BTreeMap<ObjectName, Way> = catalog
            .alert_sinks()
            .map(|AlertSink { meta, delivery, tls }| (meta.name.clone(), (delivery.clone(), tls.clone())))
            .collect();
        let old = running.extract_if(.., |name, (way, _)| sinks.get(name) != Some(way));
        for (name, (_, task)) in old.collect::<Vec<_>>() {
            // A message under way is sent again by the next task.
            task.abort();
            if !sinks.contains_key(&name) {
                alarms.removed(&name);
            }
        }
        for (name, way) in sinks {
            if let Entry::Vacant(vacant) = running.entry(name) {
                let name = vacant.key().clone();
                alarms.known(&name, way.0.kind(), way.0.endpoint().to_string());
                let task = tasks.spawn(deliver(alarms.clone(), name, way.clone()));
                vacant.insert((way, task));
            }
        }
        // Cancel safe: a token stays cancelled, `changed` loses no version, a task that ended was aborted.
        tokio::select! {
            () = shutdown.cancelled() => return,
            Some(_) = tasks.join_next() => {}
            changed = world.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

async fn deliver(alarms: Arc<Alarms>, name: ObjectName, way: Way) {
    let mut pauses = PAUSES.iter().copied();
    let mut attempts = 0_usize;
    loop {
        match once(&alarms, &name, &way, attempts).await {
            Ok(()) => {
                pauses = PAUSES.iter().copied();
                attempts = 0;
            }
            Err(problem) => {
                attempts = attempts.saturating_add(1);
                tracing::debug!(sink = %name, %problem, "an alarm was not taken");
                alarms.attempted(&name, 0, Err(problem), clock::unix_ms(clock::wall()));
                tokio::time::sleep(pauses.next().unwrap_or(Duration::from_secs(30))).await;
            }
        }
    }
}

/// Waits for the next message and sends it.
async fn once(
    alarms: &Alarms,
    name: &ObjectName,
    (delivery, tls): &Way,
    attempts: usize,
) -> Result<(), String> {
    let told = |error: std::io::Error| format!("its queue cannot be used: {error}");
    let queue = alarms.queue(name).map_err(told)?;
    let Some((message, size)) = queue.next().map_err(told)? else {
        queue.added().await;
        return Ok(());
    };
    let secret = match delivery {
        Delivery::Webhook { secret: Some(secret), .. } => Some(alarms.secret(secret)),
        _ => None,
    };
    let now = clock::wall();
    let count = message.notices.len();
    // Made anew each time: a certificate that was replaced on the disk counts from the next message on.
    let tls = send::secure(tls.as_ref(), |name| alarms.secret(name)).await;
    let tls = tls.map_err(|refused| refused.problem)?;
    let way = (delivery, tls.as_ref());
    match send::send(way, &message, secret.as_deref(), clock::unix_s(now)).await {
        Ok(()) => {
            queue.done(size, count, Fate::Taken).map_err(told)?;
            alarms.attempted(name, count, Ok(()), clock::unix_ms(now));
            Ok(())
        }
        Err(refused) if refused.fate == Fate::GivenUp && attempts.saturating_add(1) >= ATTEMPTS_MAX => {
            tracing::error!(sink = %name, problem = refused.problem, "a sink refuses an alarm, which is given up");
            queue.done(size, count, Fate::GivenUp).map_err(told)?;
            Err(refused.problem)
        }
        Err(refused) => Err(refused.problem),
    }
}
