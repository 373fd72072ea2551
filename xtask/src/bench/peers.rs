//! The peers, set up as their own documentation says, with what the mesh has on too: mutual TLS 1.3 with SPIFFE
//! certificates, the caller's identity checked where they can, metrics that are scraped where they have them, one thread,
//! no access log.

pub(super) mod adaptor;
mod envoy;
mod haproxy;
mod nginx;

use super::backend::Backend;
use super::contestant::Contestant;
use super::pki::Pki;
use super::process::{free_port, loopback};
use anyhow::Result;
use std::path::Path;

type Start = fn(&Path, &Backend) -> Result<Contestant>;

/// Each peer's name and how it is started.
pub(super) const ALL: [(&str, Start); 3] =
    [("envoy", envoy::start), ("haproxy", haproxy::start), ("nginx", nginx::start)];

/// Peers that do without resuming TLS sessions: whose other set-up, its name, how it is started.
pub(super) const UNRESUMED: [(&str, &str, Start); 2] = [
    ("envoy", "envoy-unresumed", |folder, backend| envoy::start_with(folder, backend, Resumption::Off)),
    ("haproxy", "haproxy-unresumed", |folder, backend| haproxy::start_with(folder, backend, Resumption::Off)),
];

/// Whether TLS sessions to the other proxy are resumed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Resumption {
    Usual,
    Off,
}

/// Near and far ports for the three kinds of traffic (HTTP/1, HTTP/2, TCP), and one for the metrics of each side.
struct Ports {
    near: [u16; 3],
    far: [u16; 3],
    metrics: [u16; 2],
}

impl Ports {
    fn free() -> Result<Self> {
        let three = || -> Result<[u16; 3]> { Ok([free_port()?, free_port()?, free_port()?]) };
        Ok(Self { near: three()?, far: three()?, metrics: [free_port()?, free_port()?] })
    }

    fn of(&self, contestant: &mut Contestant) {
        let [http1, http2, tcp] = self.near.map(loopback);
        contestant.http1 = Some(http1);
        contestant.http2 = Some(http2);
        contestant.tcp = Some(tcp);
    }
}

/// Certificates of its own for a contestant, in its folder.
fn pki(folder: &Path) -> Result<Pki> {
    Pki::create(folder)
}
