//! A control plane and programs under their sidecars, as processes.

use crate::{fails, folder, meshctl};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Generous: a machine that builds at the same time is slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// A control plane that ends with the test.
pub(crate) struct Control(Child);

impl Drop for Control {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Control {
    pub(crate) fn start(state: &Path) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_meshctl"))
            .args(["up", "--listen", "127.0.0.1:0", "--log", "warn"])
            .env("MESHCTL_STATE_DIR", state)
            .stderr(Stdio::null())
            .spawn()
            .expect("meshctl starts");
        let control = Self(child);
        until("the control plane answers", || {
            meshctl(state).arg("status").output().is_ok_and(|o| o.status.success())
        });
        control
    }
}

/// Looks until a state is there.
#[track_caller]
#[expect(clippy::disallowed_methods, reason = "a deadline for a state of another process")]
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_second_control_plane_is_told_of_the_first() {
    let state = folder();
    let _control = Control::start(state.path());
    fails(state.path(), &["up", "--listen", "127.0.0.1:0"], 1, &["already runs", "meshctl status"]);
    fails(state.path(), &["restore", "/no/backup"], 1, &["stop it first"]);
    fails(state.path(), &["check", "--repair-store"], 1, &["stop it first"]);
}

#[test]
fn the_exit_code_is_the_programs_own() {
    let state = folder();
    let _control = Control::start(state.path());
    let run = |program: &[&str]| {
        let output = meshctl(state.path())
            .args(["run", "--name", "web", "--drain", "1s", "--"])
            .args(program)
            .output()
            .expect("meshctl runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(run(&["true"]).0, Some(0));
    assert_eq!(run(&["sh", "-c", "exit 7"]).0, Some(7));
    assert_eq!(run(&["sh", "-c", "kill -9 $$"]).0, Some(137));
    let (code, text) = run(&["no-such-program-here"]);
    assert_eq!(code, Some(127), "{text}");
    assert!(text.contains("there is no program"), "{text}");
    let (code, text) = run(&["/"]);
    assert_eq!(code, Some(126), "{text}");
}

#[test]
fn signals_reach_the_program_and_it_dies_with_its_sidecar() {
    let state = folder();
    let _control = Control::start(state.path());
    let file = |name: &str| state.path().join(name);
    let script = |name: &str| {
        let (ready, told) = (file(&format!("{name}.ready")), file(&format!("{name}.told")));
        format!(
            "trap 'echo term > {told}; exit 3' TERM; trap 'echo hup > {told}' HUP; echo $$ > {ready}; \
             while :; do read -r _ < /dev/tty || sleep 0.05; done 2> /dev/null",
            told = told.display(),
            ready = ready.display(),
        )
    };
    let start = |name: &str| {
        let child = Command::new(env!("CARGO_BIN_EXE_meshctl"))
            .args(["run", "--name", name, "--drain", "1s", "--", "sh", "-c", &script(name)])
            .env("MESHCTL_STATE_DIR", state.path())
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("meshctl starts");
        until("the program runs", || file(&format!("{name}.ready")).exists());
        child
    };
    let kill = |signal: &str, pid: &str| {
        Command::new("kill").args([signal, pid]).status().expect("kill runs");
    };
    let holds =
        |name: &str, text: &str| std::fs::read_to_string(file(name)).is_ok_and(|found| found.trim() == text);

    let mut child = start("a");
    kill("-HUP", &child.id().to_string());
    until("the program is told of SIGHUP", || holds("a.told", "hup"));
    kill("-TERM", &child.id().to_string());
    until("the program is told of SIGTERM", || holds("a.told", "term"));
    assert_eq!(child.wait().expect("it ends").code(), Some(3));

    let mut child = start("b");
    child.kill().expect("the sidecar is killed");
    assert_eq!(child.wait().expect("it ends").signal(), Some(9));
    until("the program is ended with its killed sidecar", || holds("b.told", "term"));
}

#[test]
fn the_program_finds_the_services_it_calls() {
    let state = folder();
    let _control = Control::start(state.path());
    let output = meshctl(state.path())
        .args(["run", "--name", "web", "--drain", "1s", "--to", "shop/pay-ments=0", "--"])
        .args(["sh", "-c", "echo $MESHCTL_TO_SHOP_PAY_MENTS"])
        .assert()
        .success();
    let text = String::from_utf8_lossy(&output.get_output().stdout).into_owned();
    let address: std::net::SocketAddr =
        text.trim().parse().unwrap_or_else(|_| panic!("{text:?} is not an address"));
    assert!(address.port() != 0 && address.ip().is_loopback(), "{address}");
}

fn told(state: &Path, args: &[&str]) -> String {
    let output = meshctl(state).args(args).assert().success();
    String::from_utf8_lossy(&output.get_output().stdout).into_owned()
}

#[test]
fn a_backup_brings_the_resources_back() {
    let (folder, state, other) = (folder(), folder(), folder());
    let policy = folder.path().join("a.yaml");
    let yaml = "apiVersion: meshctl.io/v1alpha1\nkind: AccessPolicy\nmetadata: {name: a-to-b}\nspec:\n  target: {workload: b}\n  rules:\n    - from: [{serviceAccount: a}]\n";
    std::fs::write(&policy, yaml).expect("a file");
    let (policy, backup) = (policy.display().to_string(), folder.path().join("b").display().to_string());
    {
        let _control = Control::start(state.path());
        let applied = told(state.path(), &["apply", "-f", &policy, "--wait"]);
        assert!(applied.contains("accesspolicy/default/a-to-b created"), "{applied}");
        assert!(told(state.path(), &["diff", "-f", &policy]).contains("no differences"));
        assert!(told(state.path(), &["audit", "--verify"]).contains("intact"));
        told(state.path(), &["backup", &backup]);
        fails(state.path(), &["backup", &backup], 1, &["exists already", "--force"]);
        fails(state.path(), &["get", "accesspolicy/nobody"], 1, &["nobody", "meshctl get"]);
        fails(state.path(), &["rollback", "99"], 1, &["99", "meshctl history"]);
    }
    let key = state.path().join("seal.key").display().to_string();
    fails(other.path(), &["restore", &policy, "--seal-key", &key], 1, &["backup"]);
    let restored = told(other.path(), &["restore", &backup, "--seal-key", &key]);
    assert!(restored.contains("restored revision 1"), "{restored}");
    let _control = Control::start(other.path());
    assert!(told(other.path(), &["get", "ap", "-o", "json"]).contains("a-to-b"));
}

#[test]
fn a_token_brings_one_workload_in_and_no_second_one() {
    let (state, elsewhere) = (folder(), folder());
    let _control = Control::start(state.path());
    let token = told(state.path(), &["ca", "token", "--service-account", "reports", "-o", "json"]);
    let of = |field: &str| {
        let (_, rest) = token.split_once(&format!("\"{field}\": \"")).expect(field);
        rest.split('"').next().unwrap_or_default().to_owned()
    };
    let (address, secret, pin) = (of("address"), of("token"), of("root_sha256"));
    let join = |pin: &str, code: i32| {
        let output = meshctl(elsewhere.path())
            .env("MESHCTL_JOIN_TOKEN", &secret)
            .args(["join", &address, "--root-sha256", pin, "--name", "reports", "--drain", "1s"])
            .args(["--ready-timeout", "20s", "--", "sh", "-c", "exit 7"])
            .output()
            .expect("meshctl runs");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(!text.contains(&secret), "the token is shown: {text}");
    };
    join(&"0".repeat(64), 125);
    join(&pin, 7);
    let identity = told(state.path(), &["identity", "reports"]);
    assert!(identity.contains("/sa/reports") && identity.contains("join_token"), "{identity}");
    join(&pin, 125);
}

#[test]
fn a_revocation_is_enforced_and_taken_back() {
    let state = folder();
    let _control = Control::start(state.path());
    let id = "spiffe://mesh.local/ns/default/sa/web";
    assert!(told(state.path(), &["ca", "revoke", id, "--reason", "lost"]).contains("enforced"));
    assert!(told(state.path(), &["ca", "revoke", id, "--undo"]).contains("taken back"));
    fails(state.path(), &["ca", "revoke", id, "--undo"], 1, &["is not revoked"]);
    // What a table shows can be pasted back; what is nobody's is refused.
    let table = told(state.path(), &["identity"]);
    let serial = table
        .lines()
        .find(|line| line.contains("mesh-control"))
        .and_then(|line| line.split_whitespace().nth(2));
    let serial = serial.expect("the control plane's own certificate");
    let revoked = told(state.path(), &["ca", "revoke", serial]);
    assert!(revoked.contains(serial) && revoked.contains("sa/mesh-control"), "{revoked}");
    fails(
        state.path(),
        &["ca", "revoke", "0f0f0f0f"],
        1,
        &["no certificate in use", "meshctl identity --all"],
    );
    let rotated = told(state.path(), &["ca", "rotate", "-o", "json"]);
    assert!(rotated.contains("\"rotation\": \"idle\""), "{rotated}");
    fails(state.path(), &["ca", "rotate", "--pause"], 1, &["no rotation", "meshctl ca rotate"]);
}
