//! HAProxy from Debian: mutual TLS, one thread, upstream connections reused, its Prometheus exporter on. It checks that the
//! caller's certificate is of the mesh, not whose it is: it cannot read a URI name.

use super::super::backend::Backend;
use super::super::contestant::Contestant;
use super::super::process::{Process, loopback};
use super::{Ports, Resumption};
use anyhow::Result;
use std::path::Path;
use std::process::Command;

/// Starts a pair of them.
pub(super) fn start(folder: &Path, backend: &Backend) -> Result<Contestant> {
    start_with(folder, backend, Resumption::Usual)
}

/// Starts a pair that may do without resuming sessions.
pub(super) fn start_with(folder: &Path, backend: &Backend, resumption: Resumption) -> Result<Contestant> {
    let pki = super::pki(folder)?;
    let ports = Ports::free()?;
    let mut contestant = Contestant::new("haproxy", folder);
    let global = "global\n  nbthread 1\n  maxconn 9000\n  tune.ssl.default-dh-param 2048\ndefaults\n  mode http\n  timeout connect 5s\n  \
                  timeout client 60s\n  timeout server 60s\n  timeout http-keep-alive 60s\n  option http-keep-alive\n  http-reuse always\n";
    let root = pki.root.display();
    let kept = if resumption == Resumption::Off { " no-ssl-reuse" } else { "" };
    let upstream = format!(
        "ssl crt {} ca-file {root} verify required verifyhost server ssl-min-ver TLSv1.3{kept}",
        pki.both("client").display()
    );
    let near = format!(
        "{global}frontend h1\n  bind 127.0.0.1:{}\n  default_backend h1\nbackend h1\n  server s 127.0.0.1:{} {upstream}\n\
         frontend h2\n  bind 127.0.0.1:{} proto h2\n  default_backend h2\nbackend h2\n  server s 127.0.0.1:{} {upstream} alpn h2\n\
         frontend t\n  mode tcp\n  bind 127.0.0.1:{}\n  default_backend t\nbackend t\n  mode tcp\n  server s 127.0.0.1:{} {upstream}\n",
        ports.near[0], ports.far[0], ports.near[1], ports.far[1], ports.near[2], ports.far[2]
    );
    let bind = format!(
        "ssl crt {} ca-file {root} verify required ssl-min-ver TLSv1.3",
        pki.both("server").display()
    );
    let far = format!(
        "{global}frontend h1\n  bind 127.0.0.1:{} {bind}\n  default_backend h1\nbackend h1\n  server s 127.0.0.1:{}\n\
         frontend h2\n  bind 127.0.0.1:{} {bind} alpn h2\n  default_backend h2\nbackend h2\n  server s 127.0.0.1:{} proto h2\n\
         frontend t\n  mode tcp\n  bind 127.0.0.1:{} {bind}\n  default_backend t\nbackend t\n  mode tcp\n  server s 127.0.0.1:{}\n",
        ports.far[0], backend.http, ports.far[1], backend.http, ports.far[2], backend.tcp
    );
    let [near_metrics, far_metrics] = ports.metrics;
    for (side, config, port) in [("client", near, near_metrics), ("server", far, far_metrics)] {
        let path = folder.join(format!("{side}.cfg"));
        let metrics = metrics(port);
        std::fs::write(&path, config + &metrics)?;
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(&path);
        contestant.proxies.push(Process::start(&format!("haproxy-{side}"), folder, &mut command)?);
    }
    ports.of(&mut contestant);
    contestant.metrics = ports.metrics.map(|port| (loopback(port), "/metrics")).to_vec();
    Ok(contestant)
}

/// Its own exporter, built into Debian's package.
fn metrics(port: u16) -> String {
    format!(
        "frontend metrics\n  bind 127.0.0.1:{port}\n  http-request use-service prometheus-exporter if {{ path /metrics }}\n"
    )
}
