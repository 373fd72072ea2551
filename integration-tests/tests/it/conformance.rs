//! h2spec, the HTTP/2 conformance suite of others, against both sides of a proxy.

use integration_tests::insider::Insider;
use integration_tests::world::{World, allow, free_port, loopback};
use integration_tests::{programs, wait};
use mesh_ca::tls::Alpn;
use std::net::SocketAddr;
use std::process::Command;

/// Failures that the HTTP/2 library itself has; a proxy on top of it may have no other.
const LIBRARY_FAILURES_MAX: usize = 2;

/// nghttpd as workload `pages`; gives its own port and its mesh listener's.
fn pages(world: &mut World) -> (u16, SocketAddr) {
    let (app, mesh) = (free_port(), free_port());
    let folder = world.folder().join("root");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("index.html"), "fine\n").unwrap();
    world.apply(&allow("caller", "pages"));
    let (nghttpd, port) = (programs::system("nghttpd"), app.to_string());
    let listen = format!("127.0.0.1:{mesh}");
    let command =
        [&*nghttpd.to_string_lossy(), "--no-tls", "-a", "127.0.0.1", "-d", &folder.to_string_lossy(), &port];
    world.run("pages", &["--port", &port, "--listen", &listen], &command);
    wait::for_listener("nghttpd", loopback(app));
    (app, loopback(mesh))
}

/// Runs the suite; every failure beyond the library's own is shown with its section.
fn conforms(what: &str, address: SocketAddr) {
    let output = Command::new(programs::h2spec())
        .args([
            "-h",
            &address.ip().to_string(),
            "-p",
            &address.port().to_string(),
            "--timeout",
            "3",
            "--path",
            "/index.html",
        ])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let summary =
        said.lines().rev().find(|line| line.contains("tests,")).unwrap_or_else(|| panic!("{what}: {said}"));
    let count = |word: &str| -> usize {
        let part = summary.split(',').find(|part| part.contains(word)).unwrap_or("");
        part.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
    };
    assert!(count("tests") > 140, "{what}: {summary}");
    assert!(count("failed") <= LIBRARY_FAILURES_MAX, "{what}: {summary}\n{said}");
}

#[test]
fn the_inbound_side_speaks_http2_as_h2spec_demands() {
    let mut world = World::start();
    let (app, mesh) = pages(&mut world);
    let insider = Insider::new(&world.state(), "caller");
    conforms("inbound", insider.relay(mesh, "pages", app, Alpn::MeshH2));
}

#[test]
fn the_outbound_side_speaks_http2_as_h2spec_demands() {
    let mut world = World::start();
    pages(&mut world);
    let to = free_port();
    world.run("caller", &["--to", &format!("pages=127.0.0.1:{to}/http2")], &[]);
    conforms("outbound", loopback(to));
}
