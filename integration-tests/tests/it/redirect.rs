//! The packet rules of a pod, in the kernel: what is led into the proxy, what is not, and who gets nowhere.
//! Needs root: two network namespaces with a link between them stand for a pod and the rest of the world.

use integration_tests::process::Process;
use integration_tests::{programs, wait};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// The users of the application, and of the proxy.
const APP: &str = "1000";
const PROXY: &str = "1774";
/// The addresses of the pod, and of the world.
const POD: [&str; 2] = ["10.250.0.2", "fd00:250::2"];
const WORLD: [&str; 2] = ["10.250.0.1", "fd00:250::1"];

/// A pod and a world, linked; both go with it.
struct Pair {
    pod: String,
    world: String,
    folder: tempfile::TempDir,
}

fn ip(args: &[&str]) {
    let output = Command::new(programs::system("ip")).args(args).output().unwrap();
    assert!(output.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn peer(script: &str) -> PathBuf {
    PathBuf::from(format!("{}/tests/it/peers/{script}", env!("CARGO_MANIFEST_DIR")))
}

impl Pair {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("mr{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let pair =
            Self { pod: format!("{name}p"), world: format!("{name}w"), folder: tempfile::tempdir().unwrap() };
        for (namespace, addresses, other) in [(&pair.world, WORLD, None), (&pair.pod, POD, Some(&pair.world))]
        {
            ip(&["netns", "add", namespace]);
            ip(&["-n", namespace, "link", "set", "lo", "up"]);
            if let Some(other) = other {
                ip(&[
                    "-n", namespace, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns",
                    other,
                ]);
                for (namespace, addresses) in [(other, WORLD), (namespace, addresses)] {
                    ip(&["-n", namespace, "addr", "add", &format!("{}/24", addresses[0]), "dev", "eth0"]);
                    ip(&[
                        "-n",
                        namespace,
                        "addr",
                        "add",
                        &format!("{}/64", addresses[1]),
                        "dev",
                        "eth0",
                        "nodad",
                    ]);
                    ip(&["-n", namespace, "link", "set", "eth0", "up"]);
                }
            }
        }
        pair
    }

    fn inside(namespace: &str, program: PathBuf) -> Command {
        let mut command = Command::new(programs::system("ip"));
        command.args(["netns", "exec", namespace]).arg(program);
        command
    }

    /// Puts the rules in force in the pod.
    fn redirect(&self, args: &[&str]) {
        let output = Self::inside(&self.pod, programs::built("mesh-proxy"))
            .arg("redirect")
            .args(args)
            .output()
            .unwrap();
        assert!(output.status.success(), "redirect {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// A program that listens on these ports.
    fn listen(&self, namespace: &str, user: &str, ports: &[&str]) -> Process {
        let mut command = Self::inside(namespace, programs::python());
        command.arg(peer("where_to.py")).arg(user).args(ports);
        let process = Process::start(&format!("listen-{namespace}-{user}"), self.folder.path(), &mut command);
        wait::until("it to listen", || process.output().contains("listening").then_some(()));
        process
    }

    /// What a user gets from each of these.
    fn dial(&self, namespace: &str, user: &str, targets: &[String]) -> Vec<String> {
        let mut command = Self::inside(namespace, programs::python());
        let output = command.arg(peer("dial.py")).arg(user).args(targets).output().unwrap();
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for namespace in [&self.pod, &self.world] {
            let _ = Command::new(programs::system("ip")).args(["netns", "delete", namespace]).output();
        }
    }
}

fn both(addresses: [&str; 2], ports: &[u16]) -> Vec<String> {
    addresses.iter().flat_map(|ip| ports.iter().map(move |port| format!("{ip}|{port}"))).collect()
}

#[test]
fn every_connection_of_a_pod_goes_through_its_proxy_over_both_families() {
    let pair = Pair::new();
    pair.redirect(&[]);
    let _proxy = pair.listen(&pair.pod, PROXY, &["15000", "15001", "15006", "15008", "15020"]);
    let _app = pair.listen(&pair.pod, APP, &["8080"]);
    let _world = pair.listen(&pair.world, APP, &["80", "443", "15008"]);

    // To the pod: its ports lead to 15006, whether anything listens or not; the proxy's own are its own.
    let said = pair.dial(&pair.world, APP, &both(POD, &[8080, 9, 15008, 15020]));
    let expected: Vec<String> = POD
        .iter()
        .flat_map(|ip| [format!("15006 {ip}|8080"), format!("15006 {ip}|9"), "15008".into(), "15020".into()])
        .collect();
    let trimmed: Vec<String> =
        said.iter()
            .map(|line| line.strip_suffix(" itself").unwrap_or(line).to_owned())
            .map(|line| {
                if line.starts_with("15008") || line.starts_with("15020") {
                    line[..5].to_owned()
                } else {
                    line
                }
            })
            .collect();
    assert_eq!(trimmed, expected, "{said:?}");

    // From the pod: every user but the proxy's, every port, the mesh's among them.
    for user in [APP, "0", "65534"] {
        let said = pair.dial(&pair.pod, user, &both(WORLD, &[80, 443, 15008, 9]));
        let expected: Vec<String> =
            both(WORLD, &[80, 443, 15008, 9]).iter().map(|to| format!("15001 {to}")).collect();
        assert_eq!(said, expected, "user {user}");
    }
    let said = pair.dial(&pair.pod, PROXY, &both(WORLD, &[80, 9]));
    assert!(said[0].starts_with("80 ") && said[2].starts_with("80 "), "{said:?}");
    assert_eq!((&*said[1], &*said[3]), ("ConnectionRefusedError", "ConnectionRefusedError"));

    // Its own addresses are the pod's own.
    let said = pair.dial(&pair.pod, APP, &both(["127.0.0.1", "::1"], &[8080]));
    assert!(said.iter().all(|line| line.starts_with("8080 ")), "{said:?}");
    let said = pair.dial(&pair.pod, APP, &both(POD, &[8080]));
    assert!(said.iter().all(|line| line.starts_with("8080 ")), "{said:?}");
}

#[test]
fn nobody_dials_the_redirected_ports_themselves() {
    let pair = Pair::new();
    pair.redirect(&[]);
    let _proxy = pair.listen(&pair.pod, PROXY, &["15000", "15001", "15006"]);
    let outside = pair.dial(&pair.world, APP, &both(POD, &[15000, 15001, 15006]));
    // From outside they are ports like any other: redirected, where nobody serves them. The admin port is refused.
    for line in &outside {
        assert!(!line.contains("itself"), "{outside:?}");
    }
    for user in [APP, PROXY, "0"] {
        for target in
            both(["127.0.0.1", "::1"], &[15001, 15006]).into_iter().chain(both(POD, &[15001, 15006]))
        {
            let said = pair.dial(&pair.pod, user, std::slice::from_ref(&target));
            assert_eq!(said, ["ConnectionRefusedError"], "{user} dials {target}");
        }
    }
}

#[test]
fn what_is_exempt_goes_as_before_and_a_second_run_changes_nothing() {
    let pair = Pair::new();
    for _ in 0..2 {
        pair.redirect(&[
            "--skip-inbound-ports=9090,9091",
            "--skip-outbound-ports=25",
            "--skip-outbound-cidrs=10.250.0.0/30,fd00:250::/126",
        ]);
    }
    let _proxy = pair.listen(&pair.pod, PROXY, &["15001", "15006"]);
    let _app = pair.listen(&pair.pod, APP, &["9090"]);
    let _world = pair.listen(&pair.world, APP, &["80", "25"]);
    let said = pair.dial(&pair.world, APP, &both(POD, &[9090, 8080]));
    assert!(said[0].starts_with("9090 ") && said[1].starts_with("15006 "), "{said:?}");
    assert!(said[2].starts_with("9090 ") && said[3].starts_with("15006 "), "{said:?}");
    let said = pair.dial(&pair.pod, APP, &both(WORLD, &[80, 25]));
    assert_eq!(
        said.iter().filter(|line| line.starts_with("80 ") || line.starts_with("25 ")).count(),
        4,
        "{said:?}"
    );
}
