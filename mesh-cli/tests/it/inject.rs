//! `meshctl inject`: manifests in, manifests with proxies out.

use crate::{fails, folder, meshctl};
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/inject").join(name)
}

/// Standard output and standard error of an injection.
fn inject(args: &[&str], input: &str) -> (String, String) {
    let state = folder();
    let output = meshctl(state.path()).arg("inject").args(args).write_stdin(input).assert().success();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.get_output().stdout), text(&output.get_output().stderr))
}

/// Rewritten by `UPDATE_GOLDEN=1 cargo test -p mesh-cli`, and reviewed as code.
#[test]
#[expect(clippy::disallowed_methods, reason = "the golden file is rewritten when the environment says so")]
fn manifests_are_injected_as_reviewed() {
    let shop = golden("shop.yaml").display().to_string();
    for (name, format) in [("shop.injected.yaml", "yaml"), ("shop.injected.json", "json")] {
        let (text, _) = inject(&["-f", &shop, "-o", format], "");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(golden(name), &text).expect("the golden file can be written");
        }
        let expected = std::fs::read_to_string(golden(name)).unwrap_or_default();
        assert!(text == expected, "{name} differs; look at it with UPDATE_GOLDEN=1\n{text}");
    }
}

#[test]
fn what_was_injected_stays_as_it_is() {
    let once = std::fs::read_to_string(golden("shop.injected.yaml")).expect("the golden file is there");
    let (twice, _) = inject(&["-f", "-"], &once);
    assert_eq!(once, twice);
}

#[test]
fn people_are_told_what_gets_no_proxy() {
    let (_, said) = inject(&["-f", &golden("shop.yaml").display().to_string()], "");
    assert!(said.contains("DaemonSet/agent gets no proxy") && said.contains("hostNetwork"), "{said}");
    let (text, said) = inject(&["-f", "-"], "apiVersion: v1\nkind: Service\nmetadata: {name: web} # kept\n");
    assert_eq!(text, "apiVersion: v1\nkind: Service\nmetadata: {name: web} # kept\n");
    assert!(said.contains("nothing in these manifests makes pods"), "{said}");
}

#[test]
fn the_values_of_an_installation_hold() {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a}]}\n";
    let (text, _) = inject(&["-f", "-", "--set", "image.tag=v2", "--set", "trustDomain=mesh.example"], pod);
    assert!(text.contains("image: \"mesh-proxy:v2\"") && text.contains("value: mesh.example"), "{text}");
}

#[test]
fn every_mistake_is_told_at_once_with_its_place() {
    let state = folder();
    let file = state.path().join("bad.yaml");
    let bad = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, annotations: {meshctl.io/proxy-cpu: lots}}\nspec: {containers: [{name: mesh-proxy}]}\n\
               ---\na: [\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\n";
    std::fs::write(&file, bad).expect("the file can be written");
    let name = file.display().to_string();
    let text = fails(state.path(), &["inject", "-f", &name], 1, &["4 problems found; nothing was printed"]);
    for part in [
        "bad.yaml:1: Pod/a: metadata.annotations[meshctl.io/proxy-cpu]: \"lots\"",
        "bad.yaml:1: Pod/a: spec.containers[0].name: \"mesh-proxy\"",
        "bad.yaml:6: the document is not YAML",
        "bad.yaml:8: Deployment/d: spec.template",
    ] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    fails(state.path(), &["inject", "-f", "/nowhere.yaml"], 1, &["/nowhere.yaml"]);
    fails(state.path(), &["inject", "-f", &name, "--set", "image.tga=1"], 2, &["image.tga"]);
}
