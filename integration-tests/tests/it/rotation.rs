//! Certificates that live for seconds, roots that change: not one request may fail.

use integration_tests::applications::{caller, curl, http_server, status};
use integration_tests::load::{Counts, Load};
use integration_tests::wait;
use integration_tests::world::{World, allow, free_port};

/// All of the load went right, and there was some of every kind.
fn assert_whole(counts: &Counts) {
    assert_eq!(counts.failures, Vec::<String>::new(), "of {:?}", counts.good);
    assert_eq!(counts.good.len(), 6, "every kind of client did something: {:?}", counts.good);
}

fn serials(world: &World) -> Vec<String> {
    let identities = world.json(&["identity"]);
    let all = identities["identities"].as_array().cloned().unwrap_or_default();
    all.iter().filter_map(|one| one["serial"].as_str().map(str::to_owned)).collect()
}

#[test]
fn short_certificates_rotate_under_load_without_a_failed_request() {
    let mut world = World::start_with(&["--svid-lifetime", "9s", "--intermediate-lifetime", "30s"]);
    let load = Load::start(&mut world);
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
    assert_whole(&load.finish());
    assert!(serials(&world).iter().all(|serial| !first.contains(serial)));
}

#[test]
fn the_root_rotates_under_load_without_a_failed_request() {
    let mut world = World::start();
    let load = Load::start(&mut world);
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
    // Some more of every kind below the new root.
    let before = load.counts();
    wait::until("every kind of client to go on", || {
        let now = load.counts();
        let goes_on = |(kind, good): (&&str, &u64)| now.good.get(*kind) > Some(good);
        (now.failed > 0 || before.good.iter().all(goes_on)).then_some(())
    });
    assert_whole(&load.finish());
}

#[test]
fn a_control_plane_that_was_away_longer_than_a_certificate_lives_is_no_reason_to_restart() {
    let mut world = World::start_with(&["--svid-lifetime", "10s"]);
    let (admin, folder) = (free_port(), world.folder().to_path_buf());
    world.apply(&allow("caller", "files"));
    http_server(&mut world, "files", &folder, &["--admin", &format!("127.0.0.1:{admin}")]);
    let to = caller(&mut world, "caller", "files");
    let is_ready = || curl("%{http_code}", &[&format!("http://127.0.0.1:{admin}/readyz")]) == "200";
    assert!(status(to) == "200" && is_ready());
    world.kill_control();
    // While the certificates last, nothing that worked stops working.
    let mut answers = Vec::new();
    wait::until("the certificate to expire", || {
        let answer = status(to);
        let still = is_ready();
        if still {
            answers.push(answer);
        }
        (!still).then_some(())
    });
    assert!(answers.len() > 5 && answers.iter().all(|answer| answer == "200"), "{answers:?}");
    world.start_control();
    wait::until("a new certificate, by itself", || is_ready().then_some(()));
    wait::until("calls to go through", || (status(to) == "200").then_some(()));
}
