//! From the name of a service to its endpoints, as far as this proxy has been told.
//!
//! A service that was never asked for is subscribed to on first use; the first connection waits for its arrival, bounded.

use super::pool::{Lane, LaneKey, Lanes};
use super::{Client, Intent, Outbound};
use crate::clock;
use crate::discovery::Applied;
use crate::refusal::Refusal;
use mesh_proto::config::{Destination, DestinationPort, EndpointState};
use mesh_proto::name::{Port, ServiceRef};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the first connection to a service waits until the control plane has told of it. One round trip and one
/// snapshot take some milliseconds; a service that is not known by then does not exist, or nobody can say.
const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(2);
/// Most services one worker keeps routes of.
const ROUTES_MAX: usize = 4_096;

/// A port of a service with its endpoints.
#[derive(Debug)]
pub(crate) struct Route {
    /// The service.
    pub(crate) service: ServiceRef,
    /// Its port.
    pub(crate) port: DestinationPort,
    /// Endpoints that take new requests.
    pub(crate) ready: Vec<Rc<Lane>>,
    /// Endpoints that are going away: for when there are no others.
    pub(crate) draining: Vec<Rc<Lane>>,
    source: Arc<Destination>,
}

/// A service and, where it was named, its port.
type Asked = (ServiceRef, Option<Port>);

/// Routes by what was asked for; a route is made anew when the destination changes.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    by_name: RefCell<HashMap<Asked, Rc<Route>>>,
    /// When a service that is not known was first asked for.
    asked: RefCell<HashMap<ServiceRef, Instant>>,
}

impl Routes {
    /// The route, if the configuration knows the service.
    ///
    /// # Errors
    /// The service has no such port, or was there and is gone.
    fn find(
        &self,
        lanes: &Rc<Lanes>,
        intent: &Intent,
        applied: &Applied,
    ) -> Result<Option<Rc<Route>>, Refusal> {
        let mut routes = self.by_name.borrow_mut();
        let key = (intent.service.clone(), intent.port);
        let Some(destination) = applied.snapshot.destinations.get(&intent.service) else {
            // It was there and is gone: nobody answers for it, and waiting would only say so later.
            return if routes.contains_key(&key) { Err(Refusal::NoEndpoints) } else { Ok(None) };
        };
        if let Some(route) = routes.get(&key).filter(|route| Arc::ptr_eq(&route.source, destination)) {
            return Ok(Some(Rc::clone(route)));
        }
        let port = destination.ports.iter().find(|port| intent.port.is_none_or(|wanted| wanted == port.port));
        let Some(port) = port else { return Err(Refusal::UnknownPort) };
        if routes.len() >= ROUTES_MAX {
            routes.clear();
        }
        let route = Rc::new(Route::new(lanes, destination, port.clone()));
        routes.insert(key, Rc::clone(&route));
        Ok(Some(route))
    }

    /// Whether the service was asked for so long ago that the control plane would have told of it by now.
    fn asked_before(&self, service: &ServiceRef, now: Instant) -> bool {
        let mut asked = self.asked.borrow_mut();
        if asked.len() >= ROUTES_MAX {
            asked.clear();
        }
        let first = *asked.entry(service.clone()).or_insert(now);
        now.saturating_duration_since(first) >= DISCOVERY_TIMEOUT
    }
}

impl Route {
    fn new(lanes: &Rc<Lanes>, destination: &Arc<Destination>, port: DestinationPort) -> Self {
        let (mut ready, mut draining) = (Vec::new(), Vec::new());
        for endpoint in &destination.endpoints {
            let lane = lanes.lane(LaneKey {
                address: endpoint.address,
                identity: endpoint.identity.clone(),
                name: Some((destination.service.clone(), port.target_port)),
                instance: Some(endpoint.instance.clone()),
                caller: None,
            });
            match endpoint.state {
                EndpointState::Ready => ready.push(lane),
                EndpointState::Draining => draining.push(lane),
            }
        }
        let service = destination.service.clone();
        Self { service, port, ready, draining, source: Arc::clone(destination) }
    }
}

/// The route that a connection has found last, so that its next request need not look it up again.
#[derive(Debug, Default)]
pub(crate) struct Found(RefCell<Option<(u64, Rc<Route>)>>);

/// The route of a connection; waits for a service that is asked for the first time.
///
/// # Errors
/// [`Refusal::UnknownDestination`] when nobody tells of it in time; [`Refusal::UnknownPort`].
pub(crate) async fn route(outbound: &Outbound, client: &Client) -> Result<Rc<Route>, Refusal> {
    let found = &client.found;
    let applied = outbound.worker.applied();
    if let Some((_, route)) = found.0.borrow().as_ref().filter(|(of, _)| *of == applied.generation) {
        return Ok(Rc::clone(route));
    }
    let route = look_up(outbound, &client.intent).await?;
    // Of a newer generation perhaps, if it was waited for: then it is looked up once more.
    *found.0.borrow_mut() = Some((applied.generation, Rc::clone(&route)));
    Ok(route)
}

async fn look_up(outbound: &Outbound, intent: &Intent) -> Result<Rc<Route>, Refusal> {
    let find = || outbound.routes.find(&outbound.lanes, intent, &outbound.worker.applied());
    if let Some(route) = find()? {
        return Ok(route);
    }
    let now = clock::now();
    if outbound.routes.asked_before(&intent.service, now) {
        return Err(Refusal::UnknownDestination);
    }
    // Full: it is being asked for very many services; this one is asked for again by the next connection.
    let _ = outbound.worker.wanted.try_send(intent.service.clone());
    let watch = outbound.worker.connections.register_part();
    let arrives = async {
        loop {
            if let Some(route) = find()? {
                return Ok(route);
            }
            watch.changed().await;
        }
    };
    tokio::time::timeout(DISCOVERY_TIMEOUT, arrives).await.unwrap_or(Err(Refusal::UnknownDestination))
}
