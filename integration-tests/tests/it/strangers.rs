//! Everything that a proxy must refuse in the handshake, through whole real proxies, in both directions.
//!
//! Each kind is refused before a byte of a request moves, is named by a reason of its own in the proxy's log, and counted
//! under that reason where Prometheus reads it.

use integration_tests::applications::{body, http_server, status};
use integration_tests::forge::{Heard, Offer, Presenter, Role, Workshop};
use integration_tests::wait;
use integration_tests::world::{World, allow, free_port, loopback};
use std::fmt::Write as _;
use std::path::PathBuf;
use tempfile::TempDir;

/// A mesh below the workshop's root in which the account `gone` is revoked.
fn world(workshop: &Workshop) -> World {
    let args = workshop.up_args();
    let world = World::start_with(&args.each_ref().map(String::as_str));
    world.told(&["ca", "revoke", "spiffe://mesh.local/ns/default/sa/gone"]);
    world
}

/// What one proxy has logged and counted.
struct Witness {
    admin: u16,
    folder: PathBuf,
    direction: &'static str,
    log: String,
}

impl Witness {
    fn counted(&self, family: &str, reason: &str) -> u64 {
        let name = format!("{family}{{direction=\"{}\",reason=\"{reason}\"}} ", self.direction);
        let metrics = body(&format!("http://127.0.0.1:{}/metrics", self.admin));
        let value = metrics.lines().find_map(|line| line.strip_prefix(&name));
        value.map_or(0, |value| value.parse().unwrap())
    }

    /// Lines of the log, all JSON from the proxy's first on, with this reason.
    fn logged(&self, reason: &str) -> usize {
        let text = std::fs::read_to_string(self.folder.join(&self.log)).unwrap();
        let lines = text.lines().filter(|line| line.starts_with('{'));
        lines
            .map(|line| {
                serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|e| panic!("{e}: {line}"))
            })
            .filter(|line| line["reason"] == reason)
            .count()
    }

    /// Runs one case, after which the reason must have been logged and counted once more than before.
    fn sees(&self, what: &str, (family, reason): (&str, &str), case: impl FnOnce()) {
        let before = (self.counted(family, reason), self.logged(reason));
        case();
        wait::until(&format!("{what} to be counted as {reason} in {family} and logged"), || {
            (self.counted(family, reason) > before.0 && self.logged(reason) > before.1).then_some(())
        });
    }
}

const FAILURES: &str = "mesh_tls_handshake_failures_total";
const REFUSALS: &str = "mesh_refusals_total";

#[test]
fn clients_of_every_wrong_kind_are_refused_in_the_handshake_each_with_its_reason() {
    let shelf = TempDir::new().unwrap();
    let workshop = Workshop::open(shelf.path());
    let mut world = world(&workshop);
    world.apply(&allow("web", "target"));
    let (mesh, admin, folder) = (free_port(), free_port(), world.folder().to_path_buf());
    let (listen, admin_address) = (format!("127.0.0.1:{mesh}"), format!("127.0.0.1:{admin}"));
    let args = ["--listen", &listen, "--admin", &admin_address, "--log-format", "json"];
    let (_, app) = http_server(&mut world, "target", &folder, &args);
    let witness = Witness { admin, folder, direction: "inbound", log: "target-0.log".to_owned() };
    let (presenter, mesh) = (Presenter::default(), loopback(mesh));
    let name = format!("{app}.target.default.mesh.local");
    let good = workshop.good("web");
    let answer = presenter.ask(mesh, &name, &Offer::of(&good));
    assert_eq!(answer, Heard::Answer("HTTP/1.1 200 OK".to_owned()), "the workshop can do it right");

    let refused = |what: &str, at: (&str, &str), name: &str, offer: &Offer| {
        witness.sees(what, at, || assert_eq!(presenter.ask(mesh, name, offer), Heard::Nothing, "{what}"));
    };
    for forgery in workshop.all("web", "gone", Role::Client) {
        refused(forgery.what, (FAILURES, forgery.reason), &name, &Offer::of(&forgery));
    }
    let nothing = Offer { shown: None, ..Offer::of(&good) };
    refused("no certificate", (FAILURES, "no_certificate"), &name, &nothing);
    let old = Offer { version: &rustls::version::TLS12, ..Offer::of(&good) };
    refused("TLS 1.2", (FAILURES, "no_common_tls"), &name, &old);
    let other = Offer { alpn: b"http/1.1", ..Offer::of(&good) };
    refused("another protocol", (FAILURES, "no_mesh_protocol"), &name, &other);
    let elsewhere = "1.target.default.mesh.local";
    refused("a port that is not declared", (REFUSALS, "unknown_port"), elsewhere, &Offer::of(&good));
    refused("another mesh's name", (REFUSALS, "unknown_port"), "example.org", &Offer::of(&good));
    witness.sees("plaintext", (REFUSALS, "plaintext_refused"), || {
        assert_eq!(presenter.ask_plainly(mesh), b"", "plaintext got an answer");
    });
    let answer = presenter.ask(mesh, &name, &Offer::of(&good));
    assert_eq!(answer, Heard::Answer("HTTP/1.1 200 OK".to_owned()), "after all that");
}

/// A service `NAME` whose one endpoint, discovery says, is `bank`.
fn service(name: &str, address: std::net::SocketAddr) -> String {
    format!(
        "apiVersion: meshctl.io/v1alpha1\nkind: Service\nmetadata:\n  name: {name}\n  namespace: default\nspec:\n  ports:\n  - \
         port: 80\n  endpoints:\n  - address: {address}\n    identity: spiffe://mesh.local/ns/default/sa/bank\n---\n"
    )
}

#[test]
fn servers_of_every_wrong_kind_are_refused_by_the_caller_each_with_its_reason() {
    let shelf = TempDir::new().unwrap();
    let workshop = Workshop::open(shelf.path());
    let mut world = world(&workshop);
    let presenter = Presenter::default();
    let good = workshop.good("bank");
    let forged = workshop.all("bank", "gone", Role::Server);
    let mut impostor = workshop.good("thief");
    (impostor.what, impostor.reason) = ("an honest impostor", "wrong_peer");
    let mut cases: Vec<(&str, &str, Option<Offer>)> =
        forged.iter().chain([&impostor]).map(|f| (f.what, f.reason, Some(Offer::of(f)))).collect();
    cases.extend([
        ("TLS 1.2", "no_common_tls", Some(Offer { version: &rustls::version::TLS12, ..Offer::of(&good) })),
        ("another protocol", "no_mesh_protocol", Some(Offer { alpn: b"http/1.1", ..Offer::of(&good) })),
        ("plaintext", "misbehaved", None),
    ]);
    let honest = presenter.listen(Some(&Offer::of(&good)));
    let mut resources = service("good", honest);
    let good_port = free_port();
    let mut listeners = vec![format!("good=127.0.0.1:{good_port}")];
    let mut ports = Vec::new();
    for (number, (_, _, offer)) in cases.iter().enumerate() {
        let (name, port) = (format!("s{number}"), free_port());
        write!(resources, "{}", service(&name, presenter.listen(offer.as_ref()))).unwrap();
        listeners.push(format!("{name}=127.0.0.1:{port}"));
        ports.push(port);
    }
    world.apply(&resources);
    let (admin, folder) = (free_port(), world.folder().to_path_buf());
    let admin_address = format!("127.0.0.1:{admin}");
    let mut args = vec!["--admin", &admin_address, "--log-format", "json"];
    args.extend(listeners.iter().flat_map(|listener| ["--to", listener]));
    world.run("customer", &args, &[]);
    let witness = Witness { admin, folder, direction: "outbound", log: "customer-0.log".to_owned() };
    for ((what, reason, _), port) in cases.iter().zip(ports) {
        witness.sees(what, (FAILURES, reason), || {
            let said = status(port);
            let expected = if *reason == "wrong_peer" { "502 wrong_peer" } else { "502 upstream_tls" };
            assert_eq!(said, expected, "{what}");
        });
    }
    assert_eq!(presenter.heard_bytes(), 0, "a byte of a request reached a refused server");
    assert_eq!(status(good_port), "200", "the workshop can do it right");
    assert!(presenter.heard_bytes() > 0);
}
