//! The peers, set up as their own documentation says, with what the mesh has on too: mutual TLS 1.3 with SPIFFE
//! certificates, the caller's identity checked, statistics, one thread, no access log.

use super::backend::Backend;
use super::contestant::Contestant;
use super::pki::Pki;
use super::process::{Process, free_port, loopback};
use crate::step::root;
use anyhow::{Result, ensure};
use std::path::Path;
use std::process::Command;

type Start = fn(&Path, &Backend) -> Result<Contestant>;

/// Each peer's name and how it is started.
pub(super) const ALL: [(&str, Start); 3] = [("envoy", envoy), ("haproxy", haproxy), ("nginx", nginx)];

/// Near and far ports for the three kinds of traffic.
struct Ports {
    near: [u16; 3],
    far: [u16; 3],
}

impl Ports {
    fn free() -> Result<Self> {
        let three = || -> Result<[u16; 3]> { Ok([free_port()?, free_port()?, free_port()?]) };
        Ok(Self { near: three()?, far: three()? })
    }

    fn of(&self, contestant: &mut Contestant) {
        let [http1, http2, tcp] = self.near.map(loopback);
        contestant.http1 = Some(http1);
        contestant.http2 = Some(http2);
        contestant.tcp = Some(tcp);
    }
}

fn own_folder(folder: &Path, name: &str) -> Result<(std::path::PathBuf, Pki)> {
    let folder = folder.join(name);
    std::fs::create_dir(&folder)?;
    let pki = Pki::create(&folder)?;
    Ok((folder, pki))
}

fn envoy(folder: &Path, backend: &Backend) -> Result<Contestant> {
    let program = root().join("target/test-python/lib");
    let program = std::fs::read_dir(&program)
        .into_iter()
        .flatten()
        .flatten()
        .map(|version| version.path().join("site-packages/envoy/_bin/envoy"))
        .find(|path| path.is_file());
    ensure!(program.is_some(), "envoy is missing; run: cargo xtask programs");
    let (folder, pki) = own_folder(folder, "envoy")?;
    let ports = Ports::free()?;
    let mut contestant = Contestant::new("envoy");
    for (side, listen, to) in
        [("client", ports.near, ports.far), ("server", ports.far, [backend.http, backend.http, backend.tcp])]
    {
        let config = folder.join(format!("{side}.yaml"));
        std::fs::write(&config, envoy_config(side, listen, to, &pki))?;
        let mut command = Command::new(program.as_deref().unwrap_or(Path::new("envoy")));
        command.arg("-c").arg(&config).args(["--concurrency", "1", "--disable-hot-restart", "-l", "warning"]);
        contestant.proxies.push(Process::start(&format!("envoy-{side}"), &folder, &mut command)?);
    }
    ports.of(&mut contestant);
    Ok(contestant)
}

fn envoy_config(side: &str, listen: [u16; 3], to: [u16; 3], pki: &Pki) -> String {
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
    let (near, far) = (
        if side == "server" {
            context("DownstreamTlsContext", "        require_client_certificate: true\n")
        } else {
            String::new()
        },
        if side == "client" { context("UpstreamTlsContext", "") } else { String::new() },
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
             {{socket_address: {{address: 127.0.0.1, port_value: {target}}}}}}}}}]}}]}}\n{options}{far}"
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

fn haproxy(folder: &Path, backend: &Backend) -> Result<Contestant> {
    let (folder, pki) = own_folder(folder, "haproxy")?;
    let ports = Ports::free()?;
    let mut contestant = Contestant::new("haproxy");
    let global = "global\n  nbthread 1\n  maxconn 6000\n  tune.ssl.default-dh-param 2048\ndefaults\n  mode http\n  timeout connect 5s\n  \
                  timeout client 60s\n  timeout server 60s\n  timeout http-keep-alive 60s\n  option http-keep-alive\n  http-reuse always\n";
    let root = pki.root.display();
    let upstream = format!(
        "ssl crt {} ca-file {root} verify required verifyhost server ssl-min-ver TLSv1.3",
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
    for (side, config) in [("client", near), ("server", far)] {
        let path = folder.join(format!("{side}.cfg"));
        std::fs::write(&path, config)?;
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(&path);
        contestant.proxies.push(Process::start(&format!("haproxy-{side}"), &folder, &mut command)?);
    }
    ports.of(&mut contestant);
    Ok(contestant)
}

fn nginx(folder: &Path, backend: &Backend) -> Result<Contestant> {
    let (folder, pki) = own_folder(folder, "nginx")?;
    let ports = Ports::free()?;
    let mut contestant = Contestant::new("nginx");
    let (root, client_cert, client_key) = (pki.root.display(), pki.certificate("client"), pki.key("client"));
    let (server_cert, server_key) = (pki.certificate("server"), pki.key("server"));
    let head = |side: &str| {
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("  {kind}_temp_path {}/{side}-{kind};\n", folder.display()))
            .concat();
        // One process, so that its CPU time is all of it.
        format!(
            "daemon off;\nmaster_process off;\npid {}/{side}.pid;\nerror_log stderr warn;\nevents {{ worker_connections 20000; }}\nhttp {{\n  \
             access_log off;\n  keepalive_requests 1000000000;\n  client_max_body_size 0;\n{temporary}",
            folder.display()
        )
    };
    let near = format!(
        "{}  upstream s {{ server 127.0.0.1:{}; keepalive 256; keepalive_requests 1000000000; }}\n  server {{\n    listen 127.0.0.1:{};\n    location / {{\n      proxy_pass \
         https://s;\n      proxy_http_version 1.1;\n      proxy_set_header Connection '';\n      proxy_ssl_protocols TLSv1.3;\n      \
         proxy_ssl_certificate {};\n      proxy_ssl_certificate_key {};\n      proxy_ssl_trusted_certificate {root};\n      proxy_ssl_verify \
         on;\n      proxy_ssl_name server;\n    }}\n  }}\n}}\n",
        head("client"),
        ports.far[0],
        ports.near[0],
        client_cert.display(),
        client_key.display()
    );
    let far = format!(
        "{}  upstream s {{ server 127.0.0.1:{}; keepalive 256; keepalive_requests 1000000000; }}\n  server {{\n    listen 127.0.0.1:{} ssl;\n    ssl_protocols TLSv1.3;\n    \
         ssl_certificate {};\n    ssl_certificate_key {};\n    ssl_client_certificate {root};\n    ssl_verify_client on;\n    location / {{\n      \
         proxy_pass http://s;\n      proxy_http_version 1.1;\n      proxy_set_header Connection '';\n    }}\n  }}\n}}\n",
        head("server"),
        backend.http,
        ports.far[0],
        server_cert.display(),
        server_key.display()
    );
    for (side, config) in [("client", near), ("server", far)] {
        let path = folder.join(format!("{side}.conf"));
        std::fs::write(&path, config)?;
        let mut command = Command::new("nginx");
        command.arg("-p").arg(&folder).arg("-c").arg(&path);
        contestant.proxies.push(Process::start(&format!("nginx-{side}"), &folder, &mut command)?);
    }
    contestant.http1 = Some(loopback(ports.near[0]));
    Ok(contestant)
}
