//! What one scenario works with: the cluster, and namespaces of its own that go with it.

use super::cluster::{Cluster, Said};
use super::manifest::App;
use super::wait;
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::time::Duration;

/// Marks namespaces as a scenario's.
const LABEL: &str = "e2e.meshctl.io/scenario";
/// How long pods may take to be ready: images are on the node, and two cores may be busy.
const READY_SECONDS: u32 = 120;

/// A scenario's own part of the cluster.
pub(super) struct Stage<'a> {
    /// The cluster.
    pub(super) cluster: &'a Cluster,
    name: &'static str,
}

impl<'a> Stage<'a> {
    /// For the scenario of this name.
    pub(super) fn new(cluster: &'a Cluster, name: &'static str) -> Self {
        Self { cluster, name }
    }

    /// A namespace of its own whose pods are injected.
    pub(super) fn meshed(&self, part: &str) -> Result<Area<'a>> {
        self.area(part, "enabled")
    }

    /// A namespace of its own that the mesh does not know.
    pub(super) fn unmeshed(&self, part: &str) -> Result<Area<'a>> {
        self.area(part, "disabled")
    }

    fn area(&self, part: &str, inject: &str) -> Result<Area<'a>> {
        self.labelled(format!("e2e-{}-{part}", self.name), inject)
    }

    /// A namespace of its own with this very name, injected.
    pub(super) fn named(&self, namespace: &str) -> Result<Area<'a>> {
        self.labelled(namespace.to_owned(), "enabled")
    }

    fn labelled(&self, namespace: String, inject: &str) -> Result<Area<'a>> {
        let label = if inject == "enabled" { "\n    meshctl.io/inject: enabled" } else { "" };
        self.cluster.apply(&format!(
            "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {namespace}\n  labels:\n    {LABEL}: {}{label}\n",
            self.name
        ))?;
        Ok(Area { cluster: self.cluster, namespace })
    }

    /// Writes what the pods of the scenario and of the mesh logged, and what Kubernetes thinks of them.
    pub(super) fn gather(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        let selector = format!("{LABEL}={}", self.name);
        let listed = self.cluster.told(&["get", "namespaces", "-l", &selector, "-o", "name"])?;
        let mut namespaces: Vec<&str> =
            listed.lines().filter_map(|line| line.strip_prefix("namespace/")).collect();
        namespaces.push(super::cluster::SYSTEM);
        for namespace in namespaces {
            for (file, args) in [
                ("objects", &["get", "all,endpointslices,accesspolicies", "-o", "wide"][..]),
                ("describe", &["describe", "pods"][..]),
                ("events", &["get", "events", "--sort-by=.lastTimestamp"][..]),
            ] {
                let said = self.cluster.tried(&[&["-n", namespace], args].concat())?;
                std::fs::write(
                    folder.join(format!("{namespace}.{file}.txt")),
                    format!("{}\n{}\n", said.out, said.err),
                )?;
            }
            let pods = self.cluster.told(&["get", "pods", "-n", namespace, "-o", "name"])?;
            for pod in pods.lines() {
                for (file, which) in [("log", "--previous=false"), ("before.log", "--previous=true")] {
                    let said = self.cluster.tried(&[
                        "logs",
                        "-n",
                        namespace,
                        pod,
                        "--all-containers",
                        "--prefix",
                        "--timestamps",
                        which,
                    ])?;
                    let name = pod.trim_start_matches("pod/");
                    if said.code == 0 {
                        std::fs::write(folder.join(format!("{namespace}.{name}.{file}")), said.out + "\n")?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Deletes its namespaces, without waiting for the end.
    pub(super) fn clear(&self) -> Result<()> {
        let selector = format!("{LABEL}={}", self.name);
        self.cluster.told(&["delete", "namespaces", "-l", &selector, "--wait=false"]).map(drop)
    }
}

/// A namespace of a scenario.
pub(super) struct Area<'a> {
    /// The cluster.
    pub(super) cluster: &'a Cluster,
    /// Its name.
    pub(super) namespace: String,
}

impl Area<'_> {
    /// Applies a manifest into it.
    pub(super) fn apply(&self, manifest: &str) -> Result<()> {
        let mut command = self.cluster.kubectl();
        let said = self.cluster.fed(command.args(["apply", "-n", &self.namespace, "-f", "-"]), manifest)?;
        said.ok("kubectl apply").map(drop)
    }

    /// `kubectl` in it; must succeed.
    pub(super) fn told(&self, args: &[&str]) -> Result<String> {
        self.cluster.told(&[&["-n", &self.namespace], args].concat())
    }

    /// Starts applications and waits until their pods are ready.
    pub(super) fn run(&self, apps: &[App]) -> Result<()> {
        for app in apps {
            self.apply(&app.manifest(&self.cluster.programs()))?;
        }
        apps.iter().try_for_each(|app| self.ready(app.name()))
    }

    /// Waits until a Deployment has all its pods ready in their newest form.
    pub(super) fn ready(&self, deployment: &str) -> Result<()> {
        self.cluster.rolled_out(&self.namespace, &format!("deployment/{deployment}"), READY_SECONDS)
    }

    /// What a program says in a pod, also when it fails.
    pub(super) fn exec(&self, pod: &str, argv: &[&str]) -> Result<Said> {
        let args = [&["exec", "-n", &self.namespace, pod, "-c", "app", "--"], argv].concat();
        self.cluster.tried(&args)
    }

    /// The status of `GET url` from a pod and the mesh's reason, as `200` or `403 no_rule_allows`; `000` when there was no answer.
    pub(super) fn status(&self, pod: &str, url: &str) -> Result<String> {
        let format = "%{http_code} %header{x-mesh-reason}";
        let said =
            self.exec(pod, &["curl", "-s", "-g", "-o", "/dev/null", "--max-time", "15", "-w", format, url])?;
        ensure!(!said.out.is_empty(), "no curl in {pod}: {}", said.err);
        Ok(said.out.trim().to_owned())
    }

    /// Waits until `GET url` from a pod ends with this status.
    pub(super) fn until_status(&self, pod: &str, url: &str, expected: &str) -> Result<()> {
        wait::until(&format!("{url} from {pod} to answer {expected}"), Duration::from_secs(20), || {
            let status = self.status(pod, url)?;
            ensure!(status == expected, "it answers {status:?}");
            Ok(())
        })
    }

    /// The names of the pods of an application.
    pub(super) fn pods(&self, app: &str) -> Result<Vec<String>> {
        let told = self.told(&[
            "get",
            "pods",
            "-l",
            &format!("app={app}"),
            "-o",
            "jsonpath={.items[*].metadata.name}",
        ])?;
        Ok(told.split_whitespace().map(str::to_owned).collect())
    }

    /// The address of the first pod of an application.
    pub(super) fn pod_ip(&self, app: &str) -> Result<String> {
        let told = self.told(&[
            "get",
            "pods",
            "-l",
            &format!("app={app}"),
            "-o",
            "jsonpath={.items[0].status.podIP}",
        ])?;
        Some(told).filter(|ip| !ip.is_empty()).with_context(|| format!("no pod of {app} has an address"))
    }
}
