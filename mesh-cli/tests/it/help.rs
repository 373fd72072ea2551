//! Help texts and completion scripts.

use crate::{folder, meshctl};
use std::path::Path;

/// Every command that people see, with its parents.
const COMMANDS: &[&[&str]] = &[
    &[],
    &["demo"],
    &["up"],
    &["run"],
    &["join"],
    &["apply"],
    &["install"],
    &["upgrade"],
    &["uninstall"],
    &["get"],
    &["inject"],
    &["delete"],
    &["diff"],
    &["history"],
    &["rollback"],
    &["explain"],
    &["status"],
    &["edges"],
    &["stat"],
    &["top"],
    &["graph"],
    &["posture"],
    &["logs"],
    &["alerts"],
    &["alerts", "ack"],
    &["alerts", "silence"],
    &["alerts", "unsilence"],
    &["alerts", "sinks"],
    &["alerts", "silences"],
    &["dashboard"],
    &["identity"],
    &["ca"],
    &["ca", "status"],
    &["ca", "rotate"],
    &["ca", "revoke"],
    &["ca", "token"],
    &["events"],
    &["audit"],
    &["audit", "list"],
    &["audit", "verify"],
    &["audit", "export"],
    &["audit", "key"],
    &["backup"],
    &["restore"],
    &["check"],
    &["completion"],
    &["version"],
];

/// Rewritten by `UPDATE_GOLDEN=1 cargo test -p mesh-cli`, and reviewed as code.
#[test]
#[expect(clippy::disallowed_methods, reason = "the golden file is rewritten when the environment says so")]
fn help_texts_are_as_reviewed() {
    let state = folder();
    let mut text = String::new();
    for command in COMMANDS {
        let output = meshctl(state.path()).args(*command).arg("--help").assert().success();
        let help = String::from_utf8_lossy(&output.get_output().stdout).into_owned();
        text.push_str(&format!("=== meshctl {} --help\n{help}\n", command.join(" ")));
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/help.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).expect("the golden file can be written");
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        text == golden,
        "the help texts differ from {}; look at them with UPDATE_GOLDEN=1",
        path.display()
    );
}

#[test]
fn every_command_shows_examples() {
    let state = folder();
    for command in COMMANDS.iter().filter(|command| !command.is_empty() && **command != ["ca", "status"]) {
        let output = meshctl(state.path()).args(*command).arg("--help").assert().success();
        let help = String::from_utf8_lossy(&output.get_output().stdout).into_owned();
        assert!(help.contains("Examples:\n"), "meshctl {command:?} --help has no examples");
    }
}

#[test]
fn the_golden_file_misses_no_command() {
    let state = folder();
    let output = meshctl(state.path()).arg("--help").assert().success();
    let help = String::from_utf8_lossy(&output.get_output().stdout).into_owned();
    let listed =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    for line in listed.filter(|line| line.starts_with("  ") && !line.starts_with("   ")) {
        let name = line.split_whitespace().next().unwrap_or_default();
        assert!(COMMANDS.contains(&&[name][..]), "{name} is not in the golden file");
    }
}

#[test]
fn completion_scripts_know_the_commands() {
    let state = folder();
    for shell in ["bash", "zsh", "fish"] {
        let output = meshctl(state.path()).args(["completion", shell]).assert().success();
        let script = String::from_utf8_lossy(&output.get_output().stdout).into_owned();
        for word in ["meshctl", "explain", "rollback", "rotate"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
}

#[test]
fn completion_and_version_need_no_home() {
    let state = folder();
    meshctl(state.path()).env_clear().args(["completion", "bash"]).assert().success();
    let output = meshctl(state.path()).args(["version", "-o", "json"]).assert().success();
    let text = String::from_utf8_lossy(&output.get_output().stdout).into_owned();
    assert!(text.contains(&format!("\"meshctl\": {:?}", env!("CARGO_PKG_VERSION"))), "{text}");
}
