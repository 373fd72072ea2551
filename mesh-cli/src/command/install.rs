//! `meshctl install`: the mesh's control plane on a Kubernetes cluster.

use crate::cluster::access::Cluster;
use crate::cluster::values::{Kept, Values};
use crate::cluster::{installation, manifest};
use crate::duration;
use crate::failure::{Exit, Failure};
use crate::output::{self, Format, Tone};
use crate::session::Session;
use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  meshctl install                                   # into the current cluster of the kubeconfig
  meshctl install --set control.replicas=3 --set trustDomain=mesh.example
  meshctl install --dry-run -o yaml > mesh.yaml     # the objects, without asking any cluster
  meshctl check --pre                               # whether the cluster is fit for it";

/// What `install` is told.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct InstallArgs {
    #[command(flatten)]
    chosen: Chosen,
    #[command(flatten)]
    before: Before,
    /// Only show what would be made; nothing is asked of the cluster
    #[arg(long)]
    dry_run: bool,
    /// How long to wait for the control plane, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
}

/// What may be chosen, as it is typed.
#[derive(Args, Debug)]
pub(crate) struct Chosen {
    /// Changes one value; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Values from a YAML file; --set wins over it
    #[arg(long, value_name = "FILE")]
    values: Option<PathBuf>,
}

/// What becomes of the values that were chosen before.
#[derive(Args, Debug)]
pub(crate) struct Before {
    /// Forgets what was chosen at earlier installations and upgrades
    #[arg(long)]
    reset_values: bool,
}

impl Before {
    /// What was chosen before and still holds.
    ///
    /// # Errors
    /// The API server's refusal.
    pub(crate) async fn kept(&self, cluster: &Cluster) -> Result<Kept, Failure> {
        match self.reset_values {
            true => Ok(Kept::new()),
            false => installation::kept(cluster).await,
        }
    }
}

impl Chosen {
    /// Reads the file and the pairs; they change what was chosen before.
    ///
    /// # Errors
    /// All that is wrong with them.
    pub(crate) fn read(&self, kept: &Kept) -> Result<Values, Failure> {
        let text = match &self.values {
            None => None,
            Some(path) => Some(std::fs::read_to_string(path).map_err(|error| {
                Failure::usage(format!("--values {}: cannot be read: {error}", path.display()))
            })?),
        };
        let name = self.values.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        let file = text.as_deref().map(|text| (name.as_str(), text));
        Values::read(kept, file, &self.set)
            .map_err(|wrong| Failure::usage(wrong.join("\n")).next("meshctl install --help"))
    }
}

/// Installs, or shows what would be.
///
/// # Errors
/// Wrong values; what the cluster refused.
pub(crate) async fn run(args: InstallArgs, session: &Session) -> Result<Exit, Failure> {
    // Mistakes are told before any cluster is asked.
    let typed = args.chosen.read(&Kept::new())?;
    if args.dry_run {
        show(session.format, &manifest::objects(&typed))?;
        return Ok(Exit::Done);
    }
    let begun = output::now_ms();
    let cluster = session.cluster.connect().await?;
    output::note(&format!("cluster {} (Kubernetes {})", cluster.name, cluster.version));
    installation::permit(&cluster).await?;
    let values = args.chosen.read(&args.before.kept(&cluster).await?)?;
    tell_kept(&values, &typed);
    let objects = manifest::for_version(manifest::objects(&values), cluster.minor);
    installation::prepare(&cluster, &objects, &values).await?;
    installation::make(&cluster, &objects, step).await?;
    installation::finish(&cluster, Duration::from_secs(args.timeout), wait).await?;
    let installed = Installed {
        cluster: cluster.name,
        kubernetes: cluster.version,
        version: env!("CARGO_PKG_VERSION"),
        image: values.image(manifest::CONTROL),
        trust_domain: values.trust_domain,
        replicas: values.replicas,
        took_ms: output::now_ms().saturating_sub(begun),
    };
    output::print_value(session.format, &installed, || {
        format!(
            "{} is ready: {} replicas of {}, trust domain {}, after {}\n\n\
             bring a namespace in:  kubectl label namespace NAME meshctl.io/inject=enabled\n\
             then its pods:         kubectl --namespace NAME rollout restart deployment\n\
             look at it:            meshctl status\n",
            output::paint(Tone::Good, "the mesh"),
            installed.replicas,
            installed.image,
            installed.trust_domain,
            duration::show(Duration::from_millis(installed.took_ms)),
        )
    })?;
    Ok(Exit::Done)
}

/// Tells of values that hold because they were chosen before.
pub(crate) fn tell_kept(values: &Values, typed: &Values) {
    let chosen = values.chosen();
    let kept = chosen.iter().filter(|(key, value)| typed.text(key) != **value);
    let kept: Vec<String> = kept.map(|(key, value)| format!("{key}={value}")).collect();
    if !kept.is_empty() {
        output::note(&format!("  as chosen before: {}", output::clean(&kept.join(" "))));
    }
    if values.image_tag != typed.image_tag {
        output::warn(&format!(
            "the images keep the tag {}; --set image.tag={} takes those of this meshctl",
            output::clean(&values.image_tag),
            env!("CARGO_PKG_VERSION")
        ));
    }
}

#[derive(Serialize)]
struct Installed {
    cluster: String,
    kubernetes: String,
    version: &'static str,
    image: String,
    trust_domain: String,
    replicas: u32,
    took_ms: u64,
}

/// Tells of a step that is done.
fn step(text: &str) {
    output::note(&format!("  {} {text}", output::paint(Tone::Good, "✓")));
}

/// Tells how far something is that takes its time.
fn wait(text: &str) {
    output::note(&format!("  {} {text}", output::paint(Tone::Dim, "…")));
}

/// Prints the objects: documents of YAML, one list of JSON, or their names.
fn show(format: Format, objects: &[Value]) -> Result<(), Failure> {
    let name = |object: &Value, key: &str| {
        object.pointer(&format!("/metadata/{key}")).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    match format {
        Format::Json => {
            let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
            output::print_value(Format::Json, &list, String::new)
        }
        Format::Yaml => {
            let mut text = format!(
                "# The Secret {} is not here: meshctl install makes it, with a random key.\n",
                manifest::SEAL_KEY.0,
            );
            for object in objects {
                let yaml = serde_saphyr::to_string(object)
                    .map_err(|error| Failure::failed(format!("cannot write YAML: {error}")))?;
                text.push_str("---\n");
                text.push_str(&yaml);
            }
            output::print_raw(text.as_bytes())
        }
        Format::Table => {
            let mut grid = output::Grid::new(&["KIND", "NAMESPACE", "NAME"]);
            for object in objects {
                let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default();
                grid.row([
                    (Tone::Plain, kind.to_owned()),
                    (Tone::Plain, name(object, "namespace")),
                    (Tone::Plain, name(object, "name")),
                ]);
            }
            output::print(&format!("{}\n{} objects; see them with -o yaml\n", grid.to_text(), objects.len()))
        }
    }
}
