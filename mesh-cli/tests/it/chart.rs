//! The chart in `deploy/chart`: what the program writes, and what real Helm makes of it.

use crate::{folder, meshctl};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

fn helm(args: &[&str]) -> Output {
    let program = root().join("target/test-go/helm");
    assert!(program.is_file(), "{} is missing; run: cargo xtask programs", program.display());
    let home = folder();
    let mut command = Command::new(program);
    // Neither a cluster nor a registry nor this user's own settings have a say.
    command.env("HOME", home.path()).env("KUBECONFIG", home.path().join("none"));
    command.args(["template", "mesh"]).arg(root().join("deploy/chart")).args(args);
    command.output().expect("helm runs")
}

/// Objects by their kind and name.
fn named(objects: Vec<Value>) -> BTreeMap<String, Value> {
    let name = |object: &Value| {
        format!("{} {} {}", object["kind"], object["metadata"]["namespace"], object["metadata"]["name"])
    };
    let count = objects.len();
    let named: BTreeMap<String, Value> = objects.into_iter().map(|object| (name(&object), object)).collect();
    assert_eq!(named.len(), count, "two objects have the same name");
    named
}

/// What Helm renders.
fn rendered(args: &[&str]) -> BTreeMap<String, Value> {
    let output = helm(args);
    assert!(output.status.success(), "helm {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    let documents = text.split("\n---\n").map(|document| document.trim_start_matches("---\n"));
    let objects =
        documents.map(|yaml| serde_saphyr::from_str::<Value>(yaml).unwrap_or_else(|e| panic!("{e}: {yaml}")));
    named(objects.filter(|object| !object.is_null()).collect())
}

/// What `meshctl install` would make.
fn made(args: &[&str]) -> BTreeMap<String, Value> {
    let state = folder();
    let output =
        meshctl(state.path()).args(["install", "--dry-run", "-o", "json"]).args(args).assert().success();
    let list: Value = serde_json::from_slice(&output.get_output().stdout).expect("JSON");
    named(list["items"].as_array().expect("a list").clone())
}

#[test]
fn the_committed_chart_is_the_one_that_the_program_writes() {
    let state = folder();
    let written = state.path().join("chart");
    meshctl(state.path()).arg("chart").arg(&written).assert().success();
    let (written, committed) = (files(&written), files(&root().join("deploy/chart")));
    assert!(written == committed, "deploy/chart is not current; write it anew with: cargo xtask chart");
    assert!(written.len() > 10, "{:?}", written.keys());
}

fn files(folder: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).expect("a folder of the chart").flatten() {
        let name = PathBuf::from(entry.file_name());
        match entry.path().is_dir() {
            true => {
                found.extend(files(&entry.path()).into_iter().map(|(path, text)| (name.join(path), text)))
            }
            false => {
                found.insert(name, std::fs::read_to_string(entry.path()).expect("text"));
            }
        }
    }
    found
}

#[test]
fn helm_renders_the_objects_of_an_installation() {
    let file = folder();
    let values = file.path().join("values.yaml");
    std::fs::write(
        &values,
        "image: {registry: 'r.example:5000/mesh', tag: v1}\ncontrol: {replicas: 3, memory: 134217728, cpu: 2}\n\
         certificates: {svidLifetime: 2592000, intermediateLifetime: 31000000}\n",
    )
    .expect("the file can be written");
    let values = values.display().to_string();
    for args in [
        &[][..],
        &["--values", &values],
        &["--values", &values, "--set", "image.tag=v2", "--set", "certificates.svidLifetime="],
        &["--set", "trustDomain=mesh.example", "--set", "control.replicas=9", "--set", "log.format=text"],
        &["--set", "log.level=info\\,mesh_control::cluster=debug", "--set", "image.pullPolicy=Never"],
        &["--set", "certificates.svidLifetime=60", "--set", "certificates.rootLifetime=946080000"],
        &[
            "--set",
            "control.cpu=1",
            "--set",
            "control.memoryLimit=2000000000",
            "--set",
            "control.memory=256Mi",
        ],
    ] {
        let by_helm = rendered(&[args, &["--kube-version", "1.34.1"]].concat());
        // A comma in Helm's --set begins another pair; in meshctl's it is part of the value.
        let typed: Vec<String> = args.iter().map(|arg| arg.replace("\\,", ",")).collect();
        let typed: Vec<&str> = typed.iter().map(String::as_str).collect();
        let by_meshctl = made(&typed);
        assert_eq!(by_helm.keys().collect::<Vec<_>>(), by_meshctl.keys().collect::<Vec<_>>(), "{args:?}");
        for (name, object) in &by_meshctl {
            assert_eq!(by_helm.get(name), Some(object), "{args:?}: {name}");
        }
    }
}

#[test]
fn what_a_cluster_does_not_know_is_left_out() {
    let (newer, older) = (rendered(&["--kube-version", "1.30.0"]), rendered(&["--kube-version", "1.29.4"]));
    let gone: Vec<&String> = newer.keys().filter(|name| !older.contains_key(*name)).collect();
    assert_eq!(gone.len(), 3, "the rule, its binding and the kind that they guard: {gone:?}");
    let own = rendered(&["--kube-version", "1.34.0", "--namespace", "mesh-system"]);
    assert!(
        own.keys().all(|name| !name.contains("\"Namespace\"")),
        "Helm has made it with --create-namespace"
    );
    let output = helm(&["--kube-version", "1.28.9"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("incompatible with Kubernetes"), "{output:?}");
}

#[test]
fn helm_refuses_what_meshctl_refuses() {
    for pair in [
        "image.tga=1",
        "control.replicas=0",
        "control.replicas=many",
        "image.pullPolicy=never",
        "trustDomain=Mesh_",
        "image.tag=",
        "image.registry=a b",
        "control.cpu=1G",
        "control.memory=0Mi",
        "log.level=a b",
        "log.format=xml",
        "certificates.svidLifetime=5",
        "certificates.svidLifetime=700000",
        "certificates.intermediateLifetime=31536000",
    ] {
        let state = folder();
        meshctl(state.path()).args(["install", "--dry-run", "--set", pair]).assert().code(2);
        let output = helm(&["--kube-version", "1.34.0", "--set", pair]);
        assert!(!output.status.success(), "helm takes {pair}");
        let (key, _) = pair.split_once('=').expect("a pair");
        let name = key.rsplit('.').next().expect("a name");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(name), "{pair}: {said}");
    }
}

#[test]
fn nothing_secret_is_in_the_chart_and_twice_is_the_same() {
    let text = |output: Output| String::from_utf8(output.stdout).expect("text");
    let once = text(helm(&["--kube-version", "1.34.0"]));
    assert_eq!(once, text(helm(&["--kube-version", "1.34.0"])));
    for word in ["kind: Secret\n", "BEGIN ", "caBundle"] {
        assert!(!once.contains(word), "{word}");
    }
}
