//! `meshctl inject`: manifests with proxies, for those who want to see or keep what the cluster's webhook would do.
//!
//! Documents stay in their order. What makes no pods is printed as it was, comments included; what makes pods is printed
//! anew. No cluster is asked: the images and the trust domain are those that `meshctl install` would be told.

pub(crate) mod yaml;

use super::apply::files;
use super::install::Chosen;
use crate::cluster::values::Kept;
use crate::failure::{Exit, Failure};
use crate::output::{self, Format};
use crate::session::Session;
use clap::Args;
use mesh_control::webhook::patch::{self, Manifest, Options};
use mesh_proto::resource::{self, SourceDocument};
use serde_json::{Value, json};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  meshctl inject -f web.yaml | kubectl apply -f -
  kustomize build . | meshctl inject -f - > meshed.yaml
  meshctl inject -f web.yaml -o json --set image.tag=v2     # as an installation with the same --set

In a namespace with the label meshctl.io/inject: enabled the cluster does the same by itself.
Pods take annotations: meshctl.io/skip-inbound-ports, meshctl.io/skip-outbound-ports,
meshctl.io/skip-outbound-cidrs, meshctl.io/proxy-cpu, meshctl.io/proxy-memory, meshctl.io/log-level.";

/// So many problems are printed; whoever made more mends the first.
const PROBLEMS_SHOWN_MAX: usize = 100;

/// What `inject` is told.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct InjectArgs {
    /// A file, a directory, or - for standard input. May be given several times
    #[arg(short, long = "filename", value_name = "FILE|DIR|-", required = true)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    chosen: Chosen,
}

/// One document of the manifests.
struct Document {
    source: SourceDocument,
    manifest: Manifest,
}

/// Prints the manifests with proxies.
///
/// # Errors
/// A file that cannot be read, or every pod that is refused; then nothing is printed.
pub(crate) fn run(args: &InjectArgs, session: &Session) -> Result<Exit, Failure> {
    let values = args.chosen.read(&Kept::new())?;
    let trust_domain = values.trust_domain.parse();
    let options = Options {
        proxy_image: values.image("mesh-proxy"),
        init_image: values.image("mesh-init"),
        pull_policy: Some(values.image_pull_policy.clone()),
        control: "mesh-control.mesh-system.svc:15012".to_owned(),
        trust_domain: trust_domain.map_err(|error| Failure::usage(format!("trustDomain: {error}")))?,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let documents = inject(&files::texts(&args.files)?, &options)?;
    for document in &documents {
        for warning in &document.manifest.warnings {
            output::warn(&output::clean(warning));
        }
    }
    if documents.iter().all(|document| document.manifest.injected.is_empty()) {
        output::warn("nothing in these manifests makes pods that can have a proxy");
    }
    match session.format {
        Format::Json => output::print_value(Format::Json, &as_json(documents), String::new)?,
        Format::Table | Format::Yaml => output::print_raw(as_yaml(&documents).as_bytes())?,
    }
    Ok(Exit::Done)
}

fn inject(texts: &[(String, String)], options: &Options) -> Result<Vec<Document>, Failure> {
    let mut problems = Vec::new();
    let mut done = Vec::new();
    for source in texts.iter().flat_map(|(name, text)| resource::split_documents(name, text)) {
        let place = format!("{}:{}", source.file, source.line);
        let object: Value = match serde_saphyr::from_str(&source.yaml) {
            Ok(object) => object,
            Err(error) => {
                let said = error.to_string();
                let said = said.lines().next().unwrap_or_default().trim_start_matches("error: ");
                problems.push(format!("{place}: the document is not YAML that is understood: {said}"));
                continue;
            }
        };
        match patch::manifest(&object, options) {
            Ok(manifest) => done.push(Document { source, manifest }),
            Err(found) => problems.extend(found.iter().map(|problem| format!("{place}: {problem}"))),
        }
    }
    if problems.is_empty() {
        if done.is_empty() {
            return Err(Failure::failed("there is no document in what was given"));
        }
        return Ok(done);
    }
    let shown = problems.get(..PROBLEMS_SHOWN_MAX).unwrap_or(&problems);
    let count =
        if problems.len() == 1 { "1 problem".to_owned() } else { format!("{} problems", problems.len()) };
    Err(Failure::failed(format!("{count} found; nothing was printed\n{}", shown.join("\n"))))
}

fn as_json(mut documents: Vec<Document>) -> Value {
    match documents.pop() {
        Some(only) if documents.is_empty() => only.manifest.object,
        last => {
            let items: Vec<Value> =
                documents.into_iter().chain(last).map(|one| one.manifest.object).collect();
            json!({ "apiVersion": "v1", "kind": "List", "items": items })
        }
    }
}

fn as_yaml(documents: &[Document]) -> String {
    let mut text = String::new();
    for (index, document) in documents.iter().enumerate() {
        if index > 0 {
            text.push_str("---\n");
        }
        if document.manifest.injected.is_empty() {
            text.push_str(
                document.source.yaml.trim_start_matches("---").trim_start_matches([' ', '\n', '\r']),
            );
            if !text.ends_with('\n') {
                text.push('\n');
            }
        } else {
            text.push_str(&yaml::write(&document.manifest.object));
        }
    }
    text
}
