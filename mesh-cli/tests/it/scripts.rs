//! What scripts rely on: JSON from every command, and an orderly end where the output or the user goes away.

use crate::up::{Control, until};
use crate::{fails, folder, meshctl};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};

const POLICY: &str = "apiVersion: meshctl.io/v1alpha1\nkind: AccessPolicy\nmetadata: {name: payments}\nspec:\n  target: {workload: payments}\n  rules:\n    - from: [{serviceAccount: web}]\n";

fn policy(state: &Path) -> String {
    let path = state.join("policy.yaml");
    std::fs::write(&path, POLICY).expect("the file can be written");
    path.display().to_string()
}

#[test]
fn every_command_speaks_json() {
    let state = folder();
    let _control = Control::start(state.path());
    let policy = policy(state.path());
    let backup = state.path().join("mesh.backup").display().to_string();
    let made = ["revision", "dry_run", "affected_proxies", "changes", "findings"];
    for (args, code, fields) in [
        (&["apply", "-f", &policy, "--dry-run"][..], 0, &made[..]),
        (&["diff", "-f", &policy], 3, &["changes"]),
        (&["apply", "-f", &policy], 0, &made),
        (&["get"], 0, &["revision", "objects"]),
        (&["history"], 0, &["entries"]),
        (&["audit"], 0, &["records"]),
        (&["audit", "--verify"], 0, &["records", "verified"]),
        (&["status"], 0, &["healthy", "problems", "version", "trust_domain", "revision"]),
        (&["edges"], 0, &["edges"]),
        (&["identity"], 0, &["identities"]),
        (&["ca", "status"], 0, &["roots", "issuing", "rotation"]),
        (&["ca", "token", "--service-account", "x"], 0, &["token", "expires", "root_sha256", "address"]),
        (&["diff", "0", "1"], 3, &["changes"]),
        (&["version"], 0, &["meshctl", "control"]),
        (&["delete", "accesspolicy/payments"], 0, &made),
        (&["rollback", "1"], 0, &made),
        (&["backup", &backup], 0, &["file", "bytes", "seal_key"]),
    ] {
        let output = meshctl(state.path()).args(args).args(["-o", "json"]).output().expect("meshctl runs");
        let said = String::from_utf8_lossy(&output.stderr);
        let value: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("meshctl {args:?} prints no JSON: {error}\n{said}"));
        for field in fields {
            assert!(value.get(field).is_some(), "meshctl {args:?} has no field {field}: {value}");
        }
        assert_eq!(output.status.code(), Some(code), "meshctl {args:?}: {said}");
    }
}

#[test]
fn where_the_output_cannot_go_a_command_ends_in_order() {
    let state = folder();
    let _control = Control::start(state.path());
    for args in [&["get"][..], &["status"], &["history", "-o", "json"], &["completion", "bash"], &["version"]]
    {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let run = |stdout: Stdio| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_meshctl"));
            command.args(args).env("MESHCTL_STATE_DIR", state.path()).stdout(stdout);
            let output = command.stderr(Stdio::piped()).output().expect("meshctl runs");
            (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        assert_eq!(run(writer.into()), (Some(0), String::new()), "meshctl {args:?} | head");
        let full = std::fs::File::options().write(true).open("/dev/full").expect("a full device");
        let (code, said) = run(full.into());
        assert_eq!(code, Some(1), "meshctl {args:?} > /dev/full: {said}");
        assert!(said.starts_with("error: cannot write the output: No space left"), "{args:?}: {said}");
    }
}

#[test]
fn a_backup_says_where_it_cannot_be_written() {
    let state = folder();
    let _control = Control::start(state.path());
    let path = |name: &str| state.path().join(name).display().to_string();
    let there = path("");
    for (file, contains) in [
        (path("missing/mesh.backup"), "there is no directory"),
        (there, "is a directory; name the file"),
        ("/proc/mesh.backup".to_owned(), "cannot write /proc/mesh.backup"),
    ] {
        let said = fails(state.path(), &["backup", &file], 1, &[contains]);
        assert!(!said.contains(".backup-"), "a name that nobody chose: {said}");
    }
}

#[test]
fn a_relative_state_directory_is_meant_from_here() {
    let state = folder();
    let _control = Control::start(state.path());
    let name = state.path().file_name().expect("a name");
    let mut command = meshctl(Path::new(name));
    command.current_dir(state.path().parent().expect("a parent")).arg("status").assert().success();
    let said = fails(Path::new("./nowhere"), &["status"], 4, &["nowhere/control.sock", "next: meshctl up"]);
    assert!(!said.contains("./nowhere"), "a path that is none elsewhere: {said}");
}

#[test]
fn more_than_one_apply_takes_is_refused_before_it_is_sent() {
    let state = folder();
    let many = state.path().join("many.yaml");
    std::fs::write(&many, "---\na: b\n".repeat(20_001)).expect("the file can be written");
    let args = ["apply", "-f", &many.display().to_string()];
    fails(state.path(), &args, 1, &["20001 documents at once; at most 20000 are taken", "several parts"]);
    std::fs::write(&many, "---\na: b\n".repeat(20_000)).expect("the file can be written");
    let said =
        fails(state.path(), &args, 1, &["problems found; nothing was changed", "more; they are shown"]);
    assert!(said.lines().count() < 1000, "nobody reads {} lines", said.lines().count());
}

#[test]
fn who_interrupts_the_waiting_is_told_that_the_change_stands() {
    let state = folder();
    let _control = Control::start(state.path());
    let mut sidecar = Command::new(env!("CARGO_BIN_EXE_meshctl"))
        .args(["run", "--name", "payments", "--log", "warn", "--", "sleep", "600"])
        .env("MESHCTL_STATE_DIR", state.path())
        .stderr(Stdio::null())
        .spawn()
        .expect("meshctl starts");
    let identities = || {
        let output = meshctl(state.path()).args(["identity", "-o", "json"]).output().expect("meshctl runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    until("the sidecar has its certificate", || identities().contains("/sa/payments"));
    let proxies = || {
        let output = meshctl(state.path()).args(["status", "-o", "json"]).output().expect("meshctl runs");
        let value: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        value.get("proxies").and_then(Value::as_array).is_some_and(|all| !all.is_empty())
    };
    until("the sidecar is connected", proxies);
    signal("STOP", sidecar.id());
    let apply = Command::new(env!("CARGO_BIN_EXE_meshctl"))
        .args(["apply", "-f", &policy(state.path()), "--wait=10m"])
        .env("MESHCTL_STATE_DIR", state.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("meshctl starts");
    until("the change waits and hears signals", || catches_interrupt(apply.id()));
    signal("INT", apply.id());
    let output = apply.wait_with_output().expect("meshctl ends");
    signal("CONT", sidecar.id());
    signal("TERM", sidecar.id());
    let _ = sidecar.wait();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(
        said.contains("revision 1 is accepted all the same") && said.contains("meshctl rollback 0"),
        "{said}"
    );
}

fn signal(name: &str, pid: u32) {
    let status = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status();
    assert!(status.expect("kill runs").success());
}

/// Whether the process has a handler for SIGINT, the second of the mask.
fn catches_interrupt(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 2 != 0)
}
