//! Workloads in namespaces of their own: unmodified programs call by name, and nothing leaves past the sidecar.
//! Needs root, as `meshctl run --transparent` does.

use integration_tests::programs;
use integration_tests::wait;
use integration_tests::world::{World, allow};
use std::process::Command;

/// `web` is http.server on port 8080 in a namespace of its own; gives its number among the workloads.
fn web(world: &mut World) -> usize {
    let python = programs::python();
    let command = [&*python.to_string_lossy(), "-m", "http.server", "8080"];
    let number = world.run("web", &["--transparent", "--port", "8080"], &command);
    wait::until("http.server to listen", || {
        world.workload(number).output().contains("Serving HTTP").then_some(())
    });
    number
}

/// Runs a shell script as workload `client` in a namespace of its own, and gives what it prints.
fn client(world: &World, script: &str) -> String {
    world.told(&["run", "--name", "client", "--transparent", "--log", "error", "--", "sh", "-c", script])
}

#[test]
fn programs_call_services_by_name_over_both_families() {
    let mut world = World::start();
    world.apply(&allow("client", "web"));
    web(&mut world);
    let curl = "curl -s -o /dev/null --max-time 10 -w '%{http_code} '";
    let said = client(
        &world,
        &format!(
            "{curl} http://web:8080/; {curl} -4 http://web.default:8080/; {curl} -6 http://web.default.svc:8080/"
        ),
    );
    assert_eq!(said.trim(), "200 200 200");
    world.told(&["delete", "accesspolicy/default/web-allows-client"]);
    assert_eq!(
        client(&world, &format!("{curl} http://web:8080/")).trim(),
        "403",
        "default deny holds here too"
    );
}

#[test]
fn nothing_leaves_past_the_sidecar() {
    let mut world = World::start();
    world.apply(&allow("client", "web"));
    web(&mut world);
    // Addresses outside, names outside, the machine's own loopback, datagrams, raw IPv6: each must fail, and at once.
    let tries = "\
        for url in http://1.1.1.1/ http://[2001:db8::1]/ http://10.0.0.1:22/ http://example.com/ http://127.0.0.1:22/; do \
          curl -s -g --max-time 8 -o /dev/null $url && echo reached $url; done; \
        python3 -c 'import socket\n\
for family, host in ((socket.AF_INET, \"8.8.8.8\"), (socket.AF_INET6, \"2001:db8::1\")):\n\
    try:\n        socket.socket(family, socket.SOCK_DGRAM).sendto(b\"x\", (host, 443)); print(\"sent to\", host)\n\
    except OSError: pass' ; echo done";
    let (said, took) = wait::timed(|| client(&world, tries));
    assert_eq!(said.trim(), "done");
    assert!(took.as_secs() < 20, "refusals took {took:?}");
}

#[test]
fn a_killed_sidecar_leaves_nothing_after_the_next_start() {
    let mut world = World::start();
    let number = web(&mut world);
    let id = world.workload(number).id().to_string();
    let ours = || {
        let listed = Command::new(programs::system("ip")).args(["netns", "list"]).output().unwrap();
        String::from_utf8_lossy(&listed.stdout)
            .lines()
            .filter(|line| line.contains(&format!("-{id}")))
            .count()
    };
    assert_eq!(ours(), 1);
    world.workload(number).kill();
    assert_eq!(ours(), 1, "a killed process cannot clean up");
    client(&world, "true");
    assert_eq!(ours(), 0, "the next start did");
}
