//! Bad input of every kind: one clear message, the next command, and an exit code that scripts can rely on.

use crate::{fails, folder, meshctl};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

fn write(path: &Path, text: &str) -> String {
    std::fs::write(path, text).expect("the file can be written");
    path.display().to_string()
}

#[test]
fn without_a_control_plane_every_command_says_how_to_start_one() {
    let state = folder();
    let good = write(
        &state.path().join("good.yaml"),
        "apiVersion: meshctl.io/v1alpha1\nkind: AccessPolicy\nmetadata: {name: a-to-b}\nspec:\n  target: {workload: b}\n  rules:\n    - from: [{serviceAccount: a}]\n",
    );
    let next = format!("meshctl up --state-dir {}", state.path().display());
    for args in [
        &["status"][..],
        &["edges"],
        &["get"],
        &["history"],
        &["explain", "web", "payments", "POST", "/charge"],
        &["apply", "-f", &good],
        &["diff", "-f", &good],
        &["delete", "accesspolicy/a-to-b"],
        &["rollback", "3"],
        &["dashboard", "--no-open"],
        &["identity"],
        &["stat"],
        &["top"],
        &["posture"],
        &["graph", "-o", "svg"],
        &["ca", "status"],
        &["ca", "rotate"],
        &["ca", "token", "--service-account", "x"],
        &["audit"],
        &["backup", "/tmp/never-written.backup"],
    ] {
        fails(state.path(), args, 4, &["no control plane answers at", "control.sock", "next:", &next]);
    }
}

#[test]
fn wrong_usage_names_what_is_allowed() {
    let state = folder();
    for (args, contains) in [
        (&["run", "--port", "8080"][..], "--name"),
        (&["run", "--name", "Web"], "a-z"),
        (&["run", "--name", "web", "--port", "0"], "1 to 65535"),
        (&["run", "--name", "web", "--port", "8080=ftp"], "http1, http2, grpc, tls, tcp"),
        (&["run", "--name", "web", "--to", "payments"], "SERVICE[:PORT]=ADDRESS"),
        (&["run", "--name", "web", "--port", "80", "--port", "80"], "given twice"),
        (&["run", "--name", "web", "--port", "8080", "--to", "x=8080"], "program itself listens"),
        (&["run", "--name", "web", "--drain", "soon"], "span of time"),
        (&["run", "--name", "web", "--log", "mesh_proxy=loud"], "not understood"),
        (&["join", "nowhere", "--token", "t", "--root-sha256", "00", "--name", "x"], "HOST:PORT"),
        (&["join", "host:1", "--token", "t", "--root-sha256", "00", "--name", "x"], "64 hexadecimal digits"),
        (&["up", "--trust-domain", "UPPER"], "trust domain"),
        (&["up", "--listen", "15012"], "--listen"),
        (&["up", "--root-cert", "x.pem"], "--root-key"),
        (&["up", "--svid-lifetime", "1s"], "too short"),
        (&["up", "--svid-lifetime", "30d"], "cannot outlive its issuer"),
        (&["get", "policys"], "unknown kind"),
        (&["delete", "web"], "KIND/NAME"),
        (&["apply"], "--filename"),
        (&["diff"], "REVISION"),
        (&["rollback", "latest"], "REVISION"),
        (&["explain"], "DECISION"),
        (&["explain", "web", "payments", "--protocol", "smtp"], "http1"),
        (&["ca", "revoke", "not hex"], "hexadecimal"),
        (&["ca", "revoke"], "SERIAL"),
        (&["ca", "rotate", "--pause", "--abort"], "cannot be used with"),
        (&["completion", "powershell"], "bash"),
        (&["status", "-o", "xml"], "json"),
        (&["status", "-o", "svg"], "allowed here are table, json and yaml"),
        (&["stat", "--window", "8d"], "1s to 7d"),
        (&["posture", "--fail-on", "cert<99%"], "1% to 50%"),
        (&["posture", "--fail-on", "plaintxt"], "allowed are plaintext, unmeshed"),
        (&["stat", "pods"], "service, workload, edge"),
        (&["graph", "--limit", "0"], "1..=5000"),
        (&["demo", "-o", "json"], "for people"),
        (&["frobnicate"], "frobnicate"),
    ] {
        fails(state.path(), args, 2, &[contains]);
    }
}

#[test]
fn files_that_cannot_be_applied() {
    let state = folder();
    let dir = state.path();
    let file = |name: &str, text: &str| write(&dir.join(name), text);
    let broken = file("broken.yaml", "kind: [unclosed\n");
    let unknown_kind =
        file("kind.yaml", "apiVersion: meshctl.io/v1alpha1\nkind: Pod\nmetadata: {name: x}\nspec: {}\n");
    let unknown_field = file(
        "field.yaml",
        "apiVersion: meshctl.io/v1alpha1\nkind: AccessPolicy\nmetadata: {name: a-to-b}\nspec:\n  target: {workload: b}\n  ruels: []\n",
    );
    let empty = file("empty.yaml", "# nothing\n---\n");
    std::fs::write(dir.join("binary.yaml"), b"\xff\xfe\x00kind").expect("the file can be written");
    let binary = dir.join("binary.yaml").display().to_string();
    std::fs::create_dir(dir.join("nothing")).expect("a directory");
    let nothing = dir.join("nothing").display().to_string();
    for (path, contains) in [
        ("/does/not/exist.yaml", "there is no file or directory"),
        (broken.as_str(), "broken.yaml:"),
        (unknown_kind.as_str(), "kind.yaml:2"),
        (unknown_field.as_str(), "field.yaml:6"),
        (empty.as_str(), "no document"),
        (binary.as_str(), "not UTF-8"),
        (nothing.as_str(), "no .yaml"),
    ] {
        fails(dir, &["apply", "-f", path], 1, &[contains]);
    }
}

#[test]
fn what_is_too_large_or_never_ends_is_refused_whole() {
    let state = folder();
    let sparse = state.path().join("large.yaml");
    std::fs::File::create(&sparse).and_then(|file| file.set_len(1 << 30)).expect("a sparse file");
    for path in [&*sparse.display().to_string(), "/dev/zero"] {
        fails(state.path(), &["apply", "-f", path], 1, &[path, "more than 67108864 bytes", "split it"]);
    }
    let mut text = "apiVersion: meshctl.io/v1alpha1\nkind: Service\nmetadata: {name: x}\n---\n".to_owned();
    text.push_str(&"#".repeat(64 << 20));
    let output =
        meshctl(state.path()).args(["apply", "-f", "-"]).write_stdin(text).output().expect("meshctl runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("standard input has more than"), "the first part was taken for the whole: {said}");
}

#[test]
fn all_problems_of_all_files_are_told_at_once() {
    let state = folder();
    let dir = state.path().join("policies");
    std::fs::create_dir(&dir).expect("a directory");
    write(&dir.join("a.yaml"), "apiVersion: meshctl.io/v1alpha1\nkind: Pod\nmetadata: {name: x}\n");
    write(&dir.join("b.yaml"), "apiVersion: meshctl.io/v1alpha1\nkind: Deployment\nmetadata: {name: x}\n");
    write(&dir.join("notes.txt"), "not a policy");
    let text =
        fails(state.path(), &["apply", "-f", &dir.display().to_string()], 1, &["a.yaml:2", "b.yaml:2"]);
    assert!(text.contains("nothing was changed"), "{text}");
}

#[test]
fn standard_input_is_named_in_its_problems() {
    let state = folder();
    let output = meshctl(state.path())
        .args(["apply", "-f", "-"])
        .write_stdin("apiVersion: meshctl.io/v1alpha1\nkind: Pod\nmetadata: {name: x}\n")
        .output()
        .expect("meshctl runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("<stdin>:2"), "{text}");
}

#[test]
fn a_busy_port_is_named_with_its_flag() {
    let state = folder();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address").to_string();
    fails(state.path(), &["up", "--listen", &address], 1, &[&address, "--listen", "in use", "127.0.0.1:0"]);
}

#[test]
fn a_state_directory_that_cannot_be() {
    let state = folder();
    let file = state.path().join("file");
    write(&file, "");
    for dir in [file.join("below"), file.clone(), "/proc/meshctl".into()] {
        fails(&dir, &["up", "--listen", "127.0.0.1:0"], 1, &["state directory", "cannot be"]);
    }
}

#[test]
fn a_socket_path_that_is_too_long() {
    let state = folder();
    let deep = state.path().join("x".repeat(120));
    fails(&deep, &["up", "--listen", "127.0.0.1:0"], 1, &["--state-dir"]);
}

#[test]
fn a_missing_root_is_named_with_its_flag() {
    let state = folder();
    let args = ["up", "--listen", "127.0.0.1:0", "--root-cert", "no-root.pem", "--root-key", "no-root.key"];
    fails(state.path(), &args, 1, &["--root-cert no-root.pem"]);
}

#[test]
fn without_a_home_the_state_directory_must_be_named() {
    let state = folder();
    let output = meshctl(state.path()).env_clear().arg("status").output().expect("meshctl runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("HOME") && text.contains("--state-dir"), "{text}");
}

#[test]
fn restoring_needs_a_backup_and_its_key() {
    let state = folder();
    fails(state.path(), &["restore", "/no/backup"], 1, &["seal.key", "--seal-key"]);
    fails(state.path(), &["check", "--repair-store"], 1, &["there is no store"]);
}

#[test]
fn an_open_directory_is_found_by_check() {
    let state = folder();
    meshctl(state.path()).arg("check").assert().success();
    std::fs::set_permissions(state.path(), std::fs::Permissions::from_mode(0o777)).expect("a mode");
    let output = meshctl(state.path()).args(["check", "-o", "json"]).assert().code(3);
    let text = String::from_utf8_lossy(&output.get_output().stdout).into_owned();
    assert!(text.contains("\"healthy\": false") && text.contains("chmod go-w"), "{text}");
}

#[test]
fn a_sidecar_does_not_wait_for_ever_unless_told() {
    let state = folder();
    let args = ["run", "--name", "web", "--ready-timeout", "200ms", "--", "true"];
    let output = meshctl(state.path()).args(args).output().expect("meshctl runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(125), "{text}");
    assert!(text.contains("no control plane answers") && text.contains("within 200 ms"), "{text}");
}
