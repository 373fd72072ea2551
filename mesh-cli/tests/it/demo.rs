//! The demo, which is the first thing people type: it must be as it says, and leave nothing behind.

use crate::{folder, meshctl};

#[test]
fn the_demo_is_as_it_must_be() {
    let temporary = folder();
    let output = meshctl(temporary.path())
        .env_remove("MESHCTL_STATE_DIR")
        .env("TMPDIR", temporary.path())
        .arg("demo")
        .output()
        .expect("meshctl runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text}\n{told}");
    assert!(text.matches("PASS").count() >= 15 && !text.contains("FAIL"), "{text}");
    for part in ["X25519MLKEM768", "shop/keep-out", "429", "grpc", "tcp", "http1", "meshctl up"] {
        assert!(text.contains(part), "the demo does not show {part}:\n{text}");
    }
    assert!(!text.contains('\u{1b}'), "the demo colours a pipe:\n{text:?}");
    let left: Vec<_> = std::fs::read_dir(temporary.path()).expect("the directory").collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

#[test]
fn the_demo_refuses_the_directory_of_a_mesh() {
    let state = folder();
    std::fs::create_dir(state.path().join("store")).expect("a directory");
    crate::fails(state.path(), &["demo"], 1, &["holds a mesh already"]);
}
