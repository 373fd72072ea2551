//! `meshctl install`: the mesh's control plane on a Kubernetes cluster.

use crate::cluster::manifest;
use crate::cluster::values::Values;
use crate::failure::{Exit, Failure};
use crate::output::{self, Format};
use crate::session::Session;
use clap::Args;
use serde_json::{Value, json};
use std::path::PathBuf;

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
    /// Only show what would be made; nothing is asked of the cluster
    #[arg(long)]
    dry_run: bool,
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

impl Chosen {
    /// Reads the file and the pairs.
    ///
    /// # Errors
    /// All that is wrong with them.
    pub(crate) fn read(&self) -> Result<Values, Failure> {
        let text = match &self.values {
            None => None,
            Some(path) => Some(std::fs::read_to_string(path).map_err(|error| {
                Failure::usage(format!("--values {}: cannot be read: {error}", path.display()))
            })?),
        };
        let name = self.values.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        let file = text.as_deref().map(|text| (name.as_str(), text));
        Values::read(file, &self.set)
            .map_err(|wrong| Failure::usage(wrong.join("\n")).next("meshctl install --help"))
    }
}

/// Installs, or shows what would be.
///
/// # Errors
/// Wrong values; what the cluster refused.
pub(crate) async fn run(args: InstallArgs, session: &Session) -> Result<Exit, Failure> {
    let values = args.chosen.read()?;
    let objects = manifest::objects(&values);
    if args.dry_run {
        show(session.format, &objects)?;
        return Ok(Exit::Done);
    }
    Err(Failure::failed("this release can only show what it would install")
        .next("meshctl install --dry-run -o yaml | kubectl apply --server-side -f -"))
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
                "# The Secrets {} and {} are not here: meshctl install makes them, with random keys.\n",
                manifest::SEAL_KEY.0,
                manifest::SESSION_KEY.0
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
                    (output::Tone::Plain, kind.to_owned()),
                    (output::Tone::Plain, name(object, "namespace")),
                    (output::Tone::Plain, name(object, "name")),
                ]);
            }
            output::print(&format!("{}\n{} objects; see them with -o yaml\n", grid.to_text(), objects.len()))
        }
    }
}
