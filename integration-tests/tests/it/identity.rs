//! Who gets in between the proxies: only mesh TLS with an identity that the mesh vouches for.

use integration_tests::applications::{caller, http_server, status};
use integration_tests::insider::Insider;
use integration_tests::world::{World, allow, free_port};
use integration_tests::{programs, wait};
use std::io::Write;
use std::process::{Command, Stdio};

/// A workload `target` (http.server); gives its own port and that of its mesh listener.
fn target(world: &mut World) -> (u16, u16) {
    let (mesh, folder) = (free_port(), world.folder().to_path_buf());
    let (_, app) = http_server(world, "target", &folder, &["--listen", &format!("127.0.0.1:{mesh}")]);
    (app, mesh)
}

/// What `openssl s_client` says of a handshake with the mesh listener.
fn s_client((app, mesh): (u16, u16), args: &[&str]) -> (bool, String) {
    let mut child = Command::new(programs::system("openssl"))
        .args(["s_client", "-connect", &format!("127.0.0.1:{mesh}"), "-alpn", "mesh-h1"])
        .args(["-servername", &format!("{app}.target.default.mesh.local")])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // In TLS 1.3 a client learns of a refused certificate with its first read.
    drop(stdin.write_all(b"GET / HTTP/1.1\r\nhost: target\r\n\r\n"));
    wait::until("s_client to end", || child.try_wait().ok().flatten().map(drop));
    let output = child.wait_with_output().unwrap();
    drop(stdin);
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (text.contains("HTTP/1.1 "), text)
}

#[test]
fn a_meshed_impostor_answering_for_another_service_is_refused_by_the_caller() {
    let mut world = World::start();
    let insider = Insider::new(&world.state(), "impostor");
    let impostor = insider.serve("I am the bank");
    world.apply(&format!(
        "apiVersion: meshctl.io/v1alpha1\nkind: Service\nmetadata:\n  name: bank\n  namespace: default\nspec:\n  ports:\n  - \
         port: 80\n  endpoints:\n  - address: {impostor}\n    identity: spiffe://mesh.local/ns/default/sa/bank\n"
    ));
    let to = caller(&mut world, "customer", "bank");
    let output = Command::new(programs::system("curl"))
        .args(["-s", "--max-time", "20", "-w", " %{http_code} %header{x-mesh-reason}"])
        .arg(format!("http://127.0.0.1:{to}/"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.ends_with(" 502 wrong_peer"), "{said}");
    assert!(!said.contains("I am the bank"), "{said}");
}

#[test]
fn certificates_are_what_spiffe_demands_by_openssls_word() {
    let mut world = World::start();
    let target = target(&mut world);
    let (_, text) = s_client(target, &["-showcerts"]);
    let chain: Vec<&str> = text.split("-----BEGIN CERTIFICATE-----").skip(1).collect();
    assert!(chain.len() >= 2, "leaf and intermediate: {text}");
    let pem = |part: &str| {
        let body = part.split("-----END CERTIFICATE-----").next().unwrap_or_default();
        format!("-----BEGIN CERTIFICATE-----{body}-----END CERTIFICATE-----\n")
    };
    let leaf = world.folder().join("leaf.pem");
    std::fs::write(&leaf, pem(chain[0])).unwrap();
    let shown = Command::new(programs::system("openssl"))
        .args(["x509", "-noout", "-text", "-in"])
        .arg(&leaf)
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout);
    assert_eq!(shown.matches("URI:").count(), 1, "{shown}");
    assert!(shown.contains("URI:spiffe://mesh.local/ns/default/sa/target"), "{shown}");
    assert!(shown.contains("CA:FALSE") && shown.contains("Digital Signature"), "{shown}");
    assert!(shown.contains("TLS Web Server Authentication, TLS Web Client Authentication"), "{shown}");
    assert!(text.contains("TLSv1.3"), "{text}");
}

#[test]
fn a_revoked_identity_is_refused_and_its_connections_are_cut() {
    let mut world = World::start();
    world.apply(&allow("web", "target"));
    target(&mut world);
    let to = caller(&mut world, "web", "target");
    let get = || status(to);
    assert_eq!(get(), "200");
    world.told(&["ca", "revoke", "spiffe://mesh.local/ns/default/sa/web"]);
    wait::until("the revoked identity to be refused", || (get() != "200").then_some(()));
    world.told(&["ca", "revoke", "--undo", "spiffe://mesh.local/ns/default/sa/web"]);
    wait::until("the identity to be accepted again", || (get() == "200").then_some(()));
}
