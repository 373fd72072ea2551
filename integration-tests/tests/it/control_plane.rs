//! The control plane killed at any moment: nothing acknowledged is lost, nothing that works stops.

use integration_tests::applications::{caller, http_server, status};
use integration_tests::world::{World, allow, free_port};
use integration_tests::{programs, wait};
use std::process::Command;

/// How often the control plane is killed here; a longer run raises it.
const KILLS: usize = 15;

fn names(world: &World) -> Vec<String> {
    let objects = world.json(&["get", "accesspolicy"]);
    let all = objects["objects"].as_array().cloned().unwrap_or_default();
    all.iter().filter_map(|object| object["name"].as_str().map(str::to_owned)).collect()
}

#[test]
fn a_kill_at_any_moment_loses_no_acknowledged_change() {
    let mut world = World::start();
    let mut acknowledged: Vec<String> = Vec::new();
    for round in 0..KILLS {
        // Writers go on while the control plane is killed in their midst.
        let state = world.state();
        let folder = world.folder().to_path_buf();
        let writer = std::thread::spawn(move || {
            let mut done = Vec::new();
            for number in 0..40 {
                let name = format!("r{round}-n{number}");
                let file = folder.join(format!("{name}.yaml"));
                std::fs::write(&file, allow("x", &name)).unwrap();
                let output = Command::new(programs::built("meshctl"))
                    .arg("--state-dir")
                    .arg(&state)
                    .args(["apply", "-f", &file.to_string_lossy()])
                    .output()
                    .unwrap();
                if !output.status.success() {
                    break;
                }
                done.push(format!("{name}-allows-x"));
            }
            done
        });
        let target = acknowledged.len() + round % 7 + 1;
        wait::until("some writes to be made", || {
            (names(&world).len() >= target || writer.is_finished()).then_some(())
        });
        world.kill_control();
        acknowledged.extend(writer.join().unwrap());
        world.start_control();
        let there = names(&world);
        let lost: Vec<&String> = acknowledged.iter().filter(|name| !there.contains(name)).collect();
        assert!(lost.is_empty(), "round {round}: acknowledged and lost: {lost:?}");
    }
    assert!(acknowledged.len() > KILLS, "only {} writes were acknowledged", acknowledged.len());
    let audit = world.told(&["check"]);
    assert!(!audit.contains("broken"), "{audit}");
}

#[test]
fn without_a_control_plane_traffic_goes_on_and_a_restart_empties_no_endpoints() {
    let mut world = World::start();
    world.apply(&allow("caller", "files"));
    let folder = world.folder().to_path_buf();
    http_server(&mut world, "files", &folder, &[]);
    let to = caller(&mut world, "caller", "files");
    let get = || status(to);
    assert_eq!(get(), "200");
    for _ in 0..3 {
        world.kill_control();
        assert!((0..10).all(|_| get() == "200"), "a request failed while the control plane was down");
        world.start_control();
        let mut answers = Vec::new();
        wait::until("both proxies to be back in sync", || {
            answers.push(get());
            let status = world.json(&["status"]);
            let all = status["proxies"].as_array().cloned().unwrap_or_default();
            (all.iter().filter(|proxy| proxy["state"] == "in-sync").count() == 2).then_some(())
        });
        assert!(answers.iter().all(|answer| answer == "200"), "after the restart: {answers:?}");
    }
}

#[test]
fn a_workload_that_dies_leaves_every_proxys_endpoints_within_a_second() {
    let mut world = World::start();
    world.apply(&allow("caller", "files"));
    let folder = world.folder().to_path_buf();
    let (number, _) = http_server(&mut world, "files", &folder, &[]);
    let to = caller(&mut world, "caller", "files");
    assert_eq!(status(to), "200", "before the workload dies");
    world.workload(number).kill();
    let (_, took) = wait::timed(|| {
        wait::until("the endpoint to be gone", || status(to).ends_with(" no_endpoints").then_some(()))
    });
    assert!(took.as_secs_f64() < 1.5, "it took {took:?}");
}

#[test]
fn the_last_calls_of_a_short_life_are_reported() {
    let mut world = World::start();
    let folder = world.folder().join("files");
    std::fs::create_dir(&folder).unwrap();
    world.apply(&allow("batch", "files"));
    http_server(&mut world, "files", &folder, &[]);
    let to = free_port();
    let mut line = Command::new(programs::built("meshctl"));
    line.arg("--state-dir").arg(world.state()).args(["run", "--name", "batch"]);
    line.args(["--to", &format!("files=127.0.0.1:{to}"), "--"]);
    // Its only call is its last deed.
    line.args(["curl", "-sf", "--max-time", "20", &format!("http://127.0.0.1:{to}/")]);
    let done = line.output().unwrap();
    assert!(done.status.success(), "{done:?}");
    wait::until("its call to be known from itself", || {
        let edges = world.json(&["edges"]);
        let all = edges["edges"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|edge| {
            let source = edge["source"].as_str().unwrap_or_default();
            edge["direction"] == "outbound" && source.ends_with("/sa/batch")
        })
    });
}
