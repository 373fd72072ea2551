//! Peers made of other people's libraries: grpcio and websockets.

use integration_tests::process::Process;
use integration_tests::world::{World, allow, free_port, loopback};
use integration_tests::{programs, wait};
use std::process::Command;

fn peer(script: &str) -> String {
    format!("{}/tests/it/peers/{script}", env!("CARGO_MANIFEST_DIR"))
}

/// Runs a client script against a port; it must succeed.
fn client(script: &str, port: u16) -> String {
    let output = Command::new(programs::python()).arg(peer(script)).arg(port.to_string()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{script}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn server(world: &mut World, name: &str, script: &str) -> u16 {
    let (app, to) = (free_port(), free_port());
    let python = programs::python();
    let port = app.to_string();
    world.run(name, &["--port", &port], &[&python.to_string_lossy(), &peer(script), &port]);
    wait::for_listener(script, loopback(app));
    to
}

#[test]
fn grpcio_calls_grpcio_unary_and_streaming_under_method_rules() {
    let mut world = World::start();
    world.apply(
        "apiVersion: meshctl.io/v1alpha1\nkind: AccessPolicy\nmetadata:\n  name: peer\n  namespace: default\nspec:\n  target:\n    \
         workload: peer\n  rules:\n  - name: three-methods\n    from:\n    - serviceAccount: caller\n    to:\n    - grpc: \
         [test.Peer/Reverse, test.Peer/Count, test.Peer/Chat]\n",
    );
    let to = server(&mut world, "peer", "grpc_server.py");
    world.run("caller", &["--to", &format!("peer=127.0.0.1:{to}")], &[]);
    let said = client("grpc_client.py", to);
    let expected = [
        "reverse desserts yes",
        "big True",
        "fail FAILED_PRECONDITION as you asked",
        "count 1000",
        "chat ['echo a', 'echo b', 'echo c']",
        "forbidden PERMISSION_DENIED no_rule_allows",
    ];
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
}

/// A client that watches, until it has said what is expected.
fn watcher(world: &World, name: &str, port: u16) -> Process {
    let mut command = Command::new(programs::python());
    command.arg(peer("grpc_watch.py")).args([&port.to_string(), "watch"]);
    Process::start(&format!("watch-{name}"), world.folder(), &mut command)
}

fn said(watcher: &Process, what: &str) -> String {
    wait::until(&format!("a watcher to say {what}"), || {
        Some(watcher.output()).filter(|text| text.contains(what))
    })
}

#[test]
fn an_open_grpc_stream_that_is_no_longer_allowed_is_ended_with_its_reason_and_others_live_on() {
    let mut world = World::start();
    let to = server(&mut world, "peer", "grpc_server.py");
    let other = free_port();
    world.run("kept", &["--to", &format!("peer=127.0.0.1:{to}")], &[]);
    world.run("cut", &["--to", &format!("peer=127.0.0.1:{other}")], &[]);
    world.apply(&format!("{}{}", allow("kept", "peer"), allow("cut", "peer")));
    let kept = watcher(&world, "kept", to);
    let cut = watcher(&world, "cut", other);
    said(&kept, "first");
    said(&cut, "first");
    world.told(&["delete", "accesspolicy/default/peer-allows-cut"]);
    let end = said(&cut, "PERMISSION_DENIED no_rule_allows ");
    let decision = end.split_whitespace().last().unwrap_or_default().to_owned();
    let explained = wait::until("the decision to be known", || {
        let output = world.meshctl(&["explain", &decision]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Some(text).filter(|text| text.contains("test.Peer/Watch"))
    });
    assert!(explained.contains("cut"), "{explained}");
    assert_eq!(kept.output(), "first\n", "the other caller's stream goes on");
    let mut release = Command::new(programs::python());
    release.arg(peer("grpc_watch.py")).args([&to.to_string(), "release"]);
    assert!(release.output().unwrap().status.success());
    said(&kept, "second\ncomplete\n");
}

#[test]
fn websockets_pass_as_an_upgrade() {
    let mut world = World::start();
    world.apply(&allow("caller", "chat"));
    let to = server(&mut world, "chat", "websocket_server.py");
    world.run("caller", &["--to", &format!("chat=127.0.0.1:{to}")], &[]);
    assert_eq!(client("websocket_client.py", to).trim(), "echoed");
}
