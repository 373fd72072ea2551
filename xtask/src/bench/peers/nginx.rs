//! nginx from Debian: mutual TLS, HTTP/1 only (it speaks no HTTP/2 to an upstream, and Debian's light package carries no
//! TCP). It checks that the caller's certificate is of the mesh, not whose it is, and has no metrics to scrape.

use super::super::backend::Backend;
use super::super::contestant::Contestant;
use super::super::process::{Process, loopback};
use super::Ports;
use anyhow::Result;
use std::path::Path;
use std::process::Command;

/// Starts a pair of them.
pub(super) fn start(folder: &Path, backend: &Backend) -> Result<Contestant> {
    let pki = super::pki(folder)?;
    let ports = Ports::free()?;
    let mut contestant = Contestant::new("nginx", folder);
    let (root, client_cert, client_key) = (pki.root.display(), pki.certificate("client"), pki.key("client"));
    let (server_cert, server_key) = (pki.certificate("server"), pki.key("server"));
    let head = |side: &str| {
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("  {kind}_temp_path {}/{side}-{kind};\n", folder.display()))
            .concat();
        // One process, so that its CPU time is all of it.
        format!(
            "daemon off;\nmaster_process off;\npid {}/{side}.pid;\nerror_log stderr warn;\nevents {{ worker_connections 12000; }}\nhttp {{\n  \
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
        command.arg("-p").arg(folder).arg("-c").arg(&path);
        contestant.proxies.push(Process::start(&format!("nginx-{side}"), folder, &mut command)?);
    }
    contestant.http1 = Some(loopback(ports.near[0]));
    Ok(contestant)
}
