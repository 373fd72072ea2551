//! From the name of a service to its endpoints, as far as this proxy has been told.
//!
//! A service that was never asked for is subscribed to on first use; the first connection waits for its arrival, bounded.

use super::pool::{Lane, LaneKey, Lanes};
use super::{Client, Intent, Outbound};
use crate::clock;
use crate::discovery::Applied;
use crate::refusal::Refusal;
use mesh_proto::config::{
    AddressOwner, Destination, DestinationPort, Endpoint, EndpointState, Owner, Subject,
};
use mesh_proto::name::{Port, ServiceRef};
use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the first connection to a service waits until the control plane has told of it. One round trip and one
/// snapshot take some milliseconds; a service that is not known by then does not exist, or nobody can say.
const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(2);
/// The same of an address, to which the control plane always has an answer. On a node of two cores that started thirty pods at
/// once, one of thirty answers took longer than two seconds; a program's first call must not fail for that.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(8);
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
    source: Source,
}

/// What a route was made of; it is made anew when this changes.
#[derive(Clone, Debug)]
enum Source {
    Service(Arc<Destination>),
    Address(Arc<AddressOwner>),
}

impl Source {
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Service(one), Self::Service(other)) => Arc::ptr_eq(one, other),
            (Self::Address(one), Self::Address(other)) => Arc::ptr_eq(one, other),
            (Self::Service(_), Self::Address(_)) | (Self::Address(_), Self::Service(_)) => false,
        }
    }
}

/// A service and, where it was named, its port.
type Asked = (ServiceRef, Option<Port>);

/// Routes by what was asked for; a route is made anew when the destination changes.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    by_name: RefCell<HashMap<Asked, Rc<Route>>>,
    /// Workloads that are dialled directly.
    by_address: RefCell<HashMap<SocketAddr, Rc<Route>>>,
    /// When something that is not known was first asked for.
    asked: RefCell<HashMap<Subject, Instant>>,
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
        if let Some(address) = intent.direct {
            return Ok(self.find_direct(lanes, address, applied));
        }
        let mut routes = self.by_name.borrow_mut();
        let key = (intent.service.clone(), intent.port);
        let Some(destination) = applied.snapshot.destinations.get(&intent.service) else {
            // It was there and is gone: nobody answers for it, and waiting would only say so later.
            return if routes.contains_key(&key) { Err(Refusal::NoEndpoints) } else { Ok(None) };
        };
        let source = Source::Service(Arc::clone(destination));
        if let Some(route) = routes.get(&key).filter(|route| route.source.is_same(&source)) {
            return Ok(Some(Rc::clone(route)));
        }
        let port = destination.ports.iter().find(|port| intent.port.is_none_or(|wanted| wanted == port.port));
        let Some(port) = port else { return Err(Refusal::UnknownPort) };
        if routes.len() >= ROUTES_MAX {
            routes.clear();
        }
        let route =
            Rc::new(Route::new(lanes, (&destination.service, &destination.endpoints), port.clone(), source));
        routes.insert(key, Rc::clone(&route));
        Ok(Some(route))
    }

    /// The route to one workload. Addresses that are no longer told of keep the route they had: whoever has the address
    /// now must prove the identity that was promised then.
    fn find_direct(&self, lanes: &Rc<Lanes>, address: SocketAddr, applied: &Applied) -> Option<Rc<Route>> {
        let mut routes = self.by_address.borrow_mut();
        let known = routes.get(&address);
        let Some(owner) = applied.snapshot.addresses.get(&address.ip()) else { return known.cloned() };
        let source = Source::Address(Arc::clone(owner));
        if let Some(route) = known.filter(|route| route.source.is_same(&source)) {
            return Some(Rc::clone(route));
        }
        let Owner::Workload { workload, endpoint } = &owner.owner else { return known.cloned() };
        let port = Port::new(address.port())?;
        let port = DestinationPort { port, name: None, protocol: None, target_port: port };
        if routes.len() >= ROUTES_MAX {
            routes.clear();
        }
        let route = Rc::new(Route::new(lanes, (workload, std::slice::from_ref(endpoint)), port, source));
        routes.insert(address, Rc::clone(&route));
        Some(route)
    }

    /// Whether it was asked for so long ago that the control plane would have told of it by now.
    fn asked_before(&self, subject: &Subject, now: Instant) -> bool {
        let mut asked = self.asked.borrow_mut();
        if asked.len() >= ROUTES_MAX {
            asked.clear();
        }
        let first = *asked.entry(subject.clone()).or_insert(now);
        now.saturating_duration_since(first) >= patience(subject)
    }
}

impl Route {
    fn new(
        lanes: &Rc<Lanes>,
        (service, endpoints): (&ServiceRef, &[Endpoint]),
        port: DestinationPort,
        source: Source,
    ) -> Self {
        let (mut ready, mut draining) = (Vec::new(), Vec::new());
        for endpoint in endpoints {
            let other = endpoint.ports.get(&port.port).copied();
            let address = match (&endpoint.identity, other) {
                // The application itself, where this port of it lies.
                (None, Some(target)) => SocketAddr::new(endpoint.address.ip(), target.number()),
                _ => endpoint.address,
            };
            let lane = lanes.lane(LaneKey {
                address,
                identity: endpoint.identity.clone(),
                name: Some((service.clone(), other.unwrap_or(port.target_port))),
                instance: Some(endpoint.instance.clone()),
                caller: None,
            });
            match endpoint.state {
                EndpointState::Ready => ready.push(lane),
                EndpointState::Draining => draining.push(lane),
            }
        }
        Self { service: service.clone(), port, ready, draining, source }
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
    arrival(outbound, Subject::Service(intent.service.clone()), find).await
}

/// Whose the address is that a connection of the pod was dialled to; waits for the answer when it is dialled for the first
/// time.
///
/// # Errors
/// [`Refusal::UnknownDestination`] when nobody tells in time.
pub(crate) async fn owner(outbound: &Outbound, address: IpAddr) -> Result<Arc<AddressOwner>, Refusal> {
    let find = || Ok(outbound.worker.applied().snapshot.addresses.get(&address).cloned());
    if let Some(owner) = find()? {
        return Ok(owner);
    }
    let owner = arrival(outbound, Subject::Address(address), find).await?;
    if let Owner::Service(service) = &owner.owner {
        // By name, too: addresses that were not dialled for long are given up, and their services are still in use.
        let _ = outbound.worker.wanted.try_send(Subject::Service(service.clone()));
    }
    Ok(owner)
}

/// How long the first connection waits to be told of something.
fn patience(subject: &Subject) -> Duration {
    match subject {
        Subject::Service(_) => DISCOVERY_TIMEOUT,
        Subject::Address(_) => ADDRESS_TIMEOUT,
    }
}

/// Asks for something and waits until `find` finds it, bounded.
async fn arrival<T>(
    outbound: &Outbound,
    subject: Subject,
    find: impl Fn() -> Result<Option<T>, Refusal>,
) -> Result<T, Refusal> {
    let now = clock::now();
    if outbound.routes.asked_before(&subject, now) {
        return Err(Refusal::UnknownDestination);
    }
    // Full: it is being asked for very much; this is asked for again by the next connection.
    let _ = outbound.worker.wanted.try_send(subject.clone());
    let watch = outbound.worker.connections.register_part();
    let arrives = async {
        loop {
            if let Some(route) = find()? {
                return Ok(route);
            }
            watch.changed().await;
        }
    };
    let arrived = tokio::time::timeout(patience(&subject), arrives).await;
    if matches!(arrived, Ok(Ok(_))) {
        // An address may be given up and asked for again.
        outbound.routes.asked.borrow_mut().remove(&subject);
    }
    arrived.unwrap_or(Err(Refusal::UnknownDestination))
}
