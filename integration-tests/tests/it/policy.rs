//! Access decisions as users meet them: default deny, a two-line policy, explanations, receipts, limits.

use integration_tests::applications::{curl, http_server};
use integration_tests::world::{World, allow, free_port, loopback};
use integration_tests::{programs, wait};
use std::process::Command;
use std::time::Duration;

/// Starts Python's http.server as a workload.
fn files(world: &mut World, name: &str) {
    let folder = world.folder().to_path_buf();
    http_server(world, name, &folder, &[]);
}

/// Status, `x-mesh-reason` and `x-mesh-decision` of a GET.
fn get(port: u16, path: &str) -> (u16, String, String) {
    request(port, path, &[])
}

fn request(port: u16, path: &str, args: &[&str]) -> (u16, String, String) {
    let url = format!("http://127.0.0.1:{port}{path}");
    let mut all = vec!["--path-as-is", &url];
    all.extend(args);
    let text = curl("%{http_code} %header{x-mesh-reason} %header{x-mesh-decision}", &all);
    let mut parts = text.split(' ');
    let code = parts.next().and_then(|code| code.parse().ok()).unwrap_or(0);
    let mut next = || parts.next().unwrap_or_default().to_owned();
    (code, next(), next())
}

#[test]
fn without_a_policy_nothing_passes_and_with_one_only_what_it_says() {
    let mut world = World::start();
    files(&mut world, "b");
    files(&mut world, "c");
    let (to_b, to_c) = (free_port(), free_port());
    let args = [format!("b=127.0.0.1:{to_b}"), format!("c=127.0.0.1:{to_c}")];
    world.run("a", &["--to", &args[0], "--to", &args[1]], &[]);
    let (code, reason, decision) = get(to_b, "/");
    assert_eq!((code, reason.as_str()), (403, "no_rule_allows"), "default deny; decision {decision}");

    world.apply(&allow("a", "b"));
    assert_eq!(get(to_b, "/").0, 200, "A to B is allowed");
    let (code, reason, decision) = get(to_c, "/");
    assert_eq!((code, reason.as_str()), (403, "no_rule_allows"), "A to C is not");

    let explained = wait::until("the decision to be known", || {
        let output = world.meshctl(&["explain", &decision]);
        output
            .stdout
            .starts_with(b"")
            .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
            .filter(|t| t.contains("no rule"))
    });
    assert!(explained.contains("a") && explained.contains("c"), "{explained}");
    let hypothetical = world.meshctl(&["explain", "a", "b", "GET", "/"]);
    let text = String::from_utf8_lossy(&hypothetical.stdout).into_owned();
    assert!(text.contains("allow") && text.contains("applied.yaml"), "names the rule and its file: {text}");
}

#[test]
fn a_refusal_names_rule_file_and_line_and_the_nearest_miss() {
    let mut world = World::start();
    files(&mut world, "b");
    let to = free_port();
    world.run("a", &["--to", &format!("b=127.0.0.1:{to}")], &[]);
    world.apply(
        "apiVersion: meshctl.io/v1alpha1\nkind: AccessPolicy\nmetadata:\n  name: b\n  namespace: default\nspec:\n  target:\n    \
         workload: b\n  rules:\n  - name: read-public\n    from:\n    - serviceAccount: a\n    to:\n    - methods: [GET]\n      \
         paths: [/public/*]\n  - name: never-secret\n    action: deny\n    from:\n    - anyone: true\n    to:\n    - paths: \
         [/secret, /secret/*]\n",
    );
    assert_eq!(get(to, "/public/x").0, 404, "allowed, and not there");
    let (code, reason, decision) = get(to, "/secret/x");
    assert_eq!((code, reason.as_str()), (403, "denied_by_rule"));
    let explained = |decision: &str| {
        wait::until("the decision to be known", || {
            let output = world.meshctl(&["explain", decision]);
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.contains("applied.yaml").then_some(text)
        })
    };
    let text = explained(&decision);
    assert!(text.contains("never-secret") && text.contains("applied.yaml:"), "{text}");
    let (code, _, decision) = request(to, "/public/x", &["-X", "DELETE"]);
    assert_eq!(code, 403);
    let text = explained(&decision);
    assert!(text.contains("read-public") && text.contains("method"), "the nearest miss: {text}");
    // Spellings that two programs could read differently never reach the application.
    for odd in [
        "/public/../secret/x",
        "/public/%2e%2e/secret/x",
        "/public/..;x/secret",
        "/%73ecret/x",
        "//secret/x",
        "/secret%2Fx",
    ] {
        let (code, reason, _) = get(to, odd);
        assert!(code == 400 || (code == 403 && reason == "denied_by_rule"), "{odd}: {code} {reason}");
    }
}

#[test]
fn a_caller_that_is_too_fast_gets_429_and_others_are_untouched() {
    let mut world = World::start();
    files(&mut world, "b");
    let (fast, calm) = (free_port(), free_port());
    world.run("fast", &["--to", &format!("b=127.0.0.1:{fast}")], &[]);
    world.run("calm", &["--to", &format!("b=127.0.0.1:{calm}")], &[]);
    world.apply(&format!(
        "{}{}apiVersion: meshctl.io/v1alpha1\nkind: RateLimit\nmetadata:\n  name: b\n  namespace: default\nspec:\n  target:\n    \
         workload: b\n  key: sourceIdentity\n  requests: 5\n  per: 60s\n  burst: 5\n",
        allow("fast", "b"),
        allow("calm", "b")
    ));
    let codes: Vec<u16> = (0..12).map(|_| get(fast, "/").0).collect();
    assert_eq!(codes.iter().filter(|code| **code == 200).count(), 5, "{codes:?}");
    assert_eq!(codes.iter().filter(|code| **code == 429).count(), 7, "{codes:?}");
    let output = Command::new(programs::system("curl"))
        .args(["-s", "-o", "/dev/null", "-w", "%header{retry-after}", &format!("http://127.0.0.1:{fast}/")])
        .output()
        .unwrap();
    let after: u64 = String::from_utf8_lossy(&output.stdout).parse().unwrap_or(0);
    assert!((1..=60).contains(&after), "retry-after says when: {output:?}");
    assert_eq!(get(calm, "/").0, 200, "another identity has its own bucket");
}

#[test]
fn a_policy_change_cuts_streams_that_are_no_longer_allowed_and_leaves_the_others() {
    let mut world = World::start();
    let app = free_port();
    let python = programs::python();
    let port = app.to_string();
    let echo = "import socketserver,sys\n\
        class H(socketserver.BaseRequestHandler):\n  def handle(self):\n    \
        while (d:=self.request.recv(4096)): self.request.sendall(d)\n\
        socketserver.ThreadingTCPServer(('127.0.0.1',int(sys.argv[1])),H).serve_forever()\n";
    world.run("echo", &["--port", &format!("{port}=tcp")], &[&python.to_string_lossy(), "-c", echo, &port]);
    wait::for_listener("the echo server", loopback(app));
    let (kept, cut) = (free_port(), free_port());
    world.run("kept", &["--to", &format!("echo=127.0.0.1:{kept}/tcp")], &[]);
    world.run("cut", &["--to", &format!("echo=127.0.0.1:{cut}/tcp")], &[]);
    world.apply(&format!("{}{}", allow("kept", "echo"), allow("cut", "echo")));
    let mut kept = Stream::open(kept);
    let mut cut = Stream::open(cut);
    assert!(kept.echoes(b"one") && cut.echoes(b"one"));
    world.told(&["delete", "accesspolicy/default/echo-allows-cut"]);
    let (ended, took) = wait::timed(|| cut.ends());
    assert!(ended, "the stream that is no longer allowed stays open");
    assert!(took < Duration::from_secs(3), "it was cut only after {took:?}");
    assert!(kept.echoes(b"two"), "the stream that is still allowed was touched");
}

/// A TCP connection through the mesh.
struct Stream(std::net::TcpStream);

impl Stream {
    fn open(port: u16) -> Self {
        let stream = std::net::TcpStream::connect(loopback(port)).unwrap();
        stream.set_read_timeout(Some(wait::DEADLINE)).unwrap();
        Self(stream)
    }

    fn echoes(&mut self, bytes: &[u8]) -> bool {
        use std::io::{Read, Write};
        let mut back = vec![0; bytes.len()];
        self.0.write_all(bytes).is_ok() && self.0.read_exact(&mut back).is_ok() && back == bytes
    }

    /// Waits for the other side to end it.
    fn ends(&mut self) -> bool {
        use std::io::Read;
        match self.0.read(&mut [0; 16]) {
            Ok(0) => true,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
            Ok(_) => false,
        }
    }
}

#[test]
fn a_change_is_enforced_by_fifty_proxies_within_a_second() {
    let mut world = World::start();
    for number in 0..50 {
        world.run(&format!("w{number}"), &[], &[]);
    }
    let mut slowest = 0;
    for round in 0..10 {
        let policy = format!(
            "apiVersion: meshctl.io/v1alpha1\nkind: AccessPolicy\nmetadata:\n  name: all\n  namespace: default\nspec:\n  target:\n    \
             namespace: true\n  rules:\n  - from:\n    - serviceAccount: w{round}\n"
        );
        let file = world.folder().join("all.yaml");
        std::fs::write(&file, policy).unwrap();
        let receipt = world.json(&["apply", "-f", &file.to_string_lossy(), "--wait"]);
        let receipt = &receipt["receipt"];
        assert_eq!(
            (receipt["enforced"].as_u64(), receipt["affected"].as_u64()),
            (Some(50), Some(50)),
            "{receipt}"
        );
        slowest = slowest.max(receipt["elapsed_us"].as_u64().unwrap());
    }
    assert!(slowest < 1_000_000, "the slowest of ten changes took {slowest} µs to reach the last proxy");
}
