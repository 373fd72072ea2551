//! Certificates that live for seconds, roots that change: not one request may fail.

use integration_tests::world::{World, allow, free_port, loopback};
use integration_tests::{programs, wait};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

/// A world with `files` (http.server) and `caller` that reaches it at the given port.
fn world(args: &[&str]) -> (World, u16) {
    let mut world = World::start_with(args);
    let (app, to) = (free_port(), free_port());
    let python = programs::python();
    let port = app.to_string();
    world.apply(&allow("caller", "files"));
    world.run(
        "files",
        &["--port", &port],
        &[&python.to_string_lossy(), "-m", "http.server", &port, "--bind", "127.0.0.1"],
    );
    wait::for_listener("http.server", loopback(app));
    world.run("caller", &["--to", &format!("files=127.0.0.1:{to}")], &[]);
    (world, to)
}

fn get(to: u16) -> String {
    let output = Command::new(programs::system("curl"))
        .args(["-s", "-o", "/dev/null", "--max-time", "10", "-w", "%{http_code} %header{x-mesh-reason}"])
        .arg(format!("http://127.0.0.1:{to}/"))
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Requests in a loop until told to stop: some over one kept connection, some over new ones.
struct Load {
    stop: Arc<AtomicBool>,
    good: Arc<AtomicU64>,
    thread: JoinHandle<Vec<String>>,
}

impl Load {
    fn start(to: u16) -> Self {
        let (stop, good) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = std::thread::spawn({
            let (stop, good) = (Arc::clone(&stop), Arc::clone(&good));
            move || {
                let mut bad = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match get(to).as_str() {
                        "200" => drop(good.fetch_add(1, Ordering::Relaxed)),
                        other => bad.push(other.to_owned()),
                    }
                }
                bad
            }
        });
        Self { stop, good, thread }
    }

    fn finish(self) -> (u64, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let bad = self.thread.join().unwrap();
        (self.good.load(Ordering::Relaxed), bad)
    }
}

fn serials(world: &World) -> Vec<String> {
    let identities = world.json(&["identity"]);
    let all = identities["identities"].as_array().cloned().unwrap_or_default();
    all.iter().filter_map(|one| one["serial"].as_str().map(str::to_owned)).collect()
}

#[test]
fn short_certificates_rotate_under_load_without_a_failed_request() {
    let (world, to) = world(&["--svid-lifetime", "9s", "--intermediate-lifetime", "30s"]);
    let load = Load::start(to);
    let first = serials(&world);
    // Three generations of leaves and one of the intermediate.
    let issuer = |world: &World| {
        world.json(&["ca", "status"])["issuing"]["serial"].as_str().unwrap_or_default().to_owned()
    };
    let issuing = issuer(&world);
    for _ in 0..3 {
        let before = serials(&world);
        wait::until("every certificate to be renewed", || {
            serials(&world).iter().all(|s| !before.contains(s)).then_some(())
        });
    }
    wait::until("the intermediate to be renewed", || (issuer(&world) != issuing).then_some(()));
    let (good, bad) = load.finish();
    assert!(bad.is_empty(), "{} failed of {good}: {bad:?}", bad.len());
    assert!(good > 20, "only {good} requests were made");
    assert!(serials(&world).iter().all(|serial| !first.contains(serial)));
}

#[test]
fn the_root_rotates_under_load_without_a_failed_request() {
    let (world, to) = world(&[]);
    let load = Load::start(to);
    let roots = |world: &World| -> Vec<String> {
        let status = world.json(&["ca", "status"]);
        let all = status["roots"].as_array().cloned().unwrap_or_default();
        all.iter().filter_map(|root| root["sha256"].as_str().map(str::to_owned)).collect()
    };
    let before = roots(&world);
    assert_eq!(before.len(), 1);
    world.told(&["ca", "rotate"]);
    wait::until("the old root to be retired", || {
        let now = roots(&world);
        (now.len() == 1 && now != before).then_some(())
    });
    let (good, bad) = load.finish();
    assert!(bad.is_empty(), "{} failed of {good}: {bad:?}", bad.len());
    assert_eq!(get(to), "200");
}

#[test]
fn a_control_plane_that_was_away_longer_than_a_certificate_lives_is_no_reason_to_restart() {
    let mut world = World::start_with(&["--svid-lifetime", "10s"]);
    let (app, to, admin) = (free_port(), free_port(), free_port());
    world.apply(&allow("caller", "files"));
    let (python, port) = (programs::python(), app.to_string());
    let command = [&*python.to_string_lossy(), "-m", "http.server", &port, "--bind", "127.0.0.1"];
    world.run("files", &["--port", &port, "--admin", &format!("127.0.0.1:{admin}")], &command);
    wait::for_listener("http.server", loopback(app));
    world.run("caller", &["--to", &format!("files=127.0.0.1:{to}")], &[]);
    let is_ready = || {
        let url = format!("http://127.0.0.1:{admin}/readyz");
        let output = Command::new(programs::system("curl"))
            .args(["-s", "-f", "--max-time", "10", &url])
            .output()
            .unwrap();
        output.status.success()
    };
    assert!(get(to) == "200" && is_ready());
    world.kill_control();
    // While the certificates last, nothing that worked stops working.
    let mut answers = Vec::new();
    wait::until("the certificate to expire", || {
        let answer = get(to);
        let still = is_ready();
        if still {
            answers.push(answer);
        }
        (!still).then_some(())
    });
    assert!(answers.len() > 5 && answers.iter().all(|answer| answer == "200"), "{answers:?}");
    world.start_control();
    wait::until("a new certificate, by itself", || is_ready().then_some(()));
    wait::until("calls to go through", || (get(to) == "200").then_some(()));
}
