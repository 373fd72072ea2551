//! From the name of a service to its endpoints, as far as this proxy has been told.
//!
//! A service that was never asked for is subscribed to on first use; the first connection waits for its arrival, bounded.

use super::pool::{Lane, LaneKey, Lanes};
use super::{Intent, Outbound};
use crate::discovery::Applied;
use crate::refusal::Refusal;
use mesh_proto::config::{Destination, DestinationPort, EndpointState};
use mesh_proto::name::{Port, ServiceRef};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

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

/// Routes by what was asked for; a route is made anew when the destination changes.
#[derive(Debug, Default)]
pub(crate) struct Routes(RefCell<HashMap<(ServiceRef, Option<Port>), Rc<Route>>>);

impl Routes {
    /// The route, if the configuration knows the service.
    ///
    /// # Errors
    /// The service has no such port.
    fn find(
        &self,
        lanes: &Rc<Lanes>,
        intent: &Intent,
        applied: &Applied,
    ) -> Result<Option<Rc<Route>>, Refusal> {
        let Some(destination) = applied.snapshot.destinations.get(&intent.service) else { return Ok(None) };
        let mut routes = self.0.borrow_mut();
        let key = (intent.service.clone(), intent.port);
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

/// The route of a connection; waits for a service that is asked for the first time.
///
/// # Errors
/// [`Refusal::UnknownDestination`] when nobody tells of it in time; [`Refusal::UnknownPort`].
pub(crate) async fn route(outbound: &Outbound, intent: &Intent) -> Result<Rc<Route>, Refusal> {
    let find = || outbound.routes.find(&outbound.lanes, intent, &outbound.worker.applied());
    if let Some(route) = find()? {
        return Ok(route);
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
