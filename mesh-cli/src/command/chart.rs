//! `meshctl chart`: the objects of `meshctl install` as a Helm chart, which `deploy/chart` keeps.
//!
//! Called by `cargo xtask chart`; a test says when the committed chart is no longer what this writes, and another renders it
//! with Helm and compares each object with those of `meshctl install --dry-run`. There is no certificate and no key in it: a
//! control plane that finds no sealing key makes it.
//!
//! # Why
//! Written by the program rather than by hand beside it: two descriptions of one installation drift apart. The objects are
//! made from values that are marks, and each mark becomes the template's expression for that value, so that a value that
//! is used in a new place needs nothing here.

use super::inject::yaml;
use crate::cluster::manifest;
use crate::cluster::object::Name;
use crate::cluster::values::{KEYS, Values};
use crate::failure::{Exit, Failure};
use clap::Args;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// What `chart` is told.
#[derive(Args, Debug)]
pub(crate) struct ChartArgs {
    /// The folder of the chart, whose files are written anew
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// The values that are numbers, and the marks that stand for them: no allowed value is so large.
const NUMBERS: [(&str, u32); 4] = [
    ("control.replicas", 4_000_000_001),
    ("certificates.svidLifetime", 4_000_000_002),
    ("certificates.intermediateLifetime", 4_000_000_003),
    ("certificates.rootLifetime", 4_000_000_004),
];

/// Values of YAML become numbers of 64 bits with a point, and large ones of these would be written with an exponent.
const TEXT: &str = r#"{{- define "mesh.text" -}}
{{- if kindIs "float64" . }}{{ int64 . }}{{ else }}{{ . }}{{ end -}}
{{- end -}}
"#;

/// What no schema can say: a certificate cannot outlive its issuer. The defaults are the control plane's.
const LIFETIMES: &str = r#"{{- $svid := int64 (default 86400 .Values.certificates.svidLifetime) }}
{{- $intermediate := int64 (default 604800 .Values.certificates.intermediateLifetime) }}
{{- $root := int64 (default 31536000 .Values.certificates.rootLifetime) }}
{{- if ge $svid $intermediate }}{{ fail "certificates.svidLifetime must be shorter than certificates.intermediateLifetime" }}{{ end }}
{{- if ge $intermediate $root }}{{ fail "certificates.intermediateLifetime must be shorter than certificates.rootLifetime" }}{{ end }}
"#;

const NOTES: &str = "\
The control plane of the mesh is on its way; it is there with:
  kubectl --namespace mesh-system rollout status deployment mesh-control
bring a namespace in:  kubectl label namespace NAME meshctl.io/inject=enabled
then its pods:         kubectl --namespace NAME rollout restart deployment
look at it:            meshctl status
";

/// Writes the chart.
///
/// # Errors
/// The folder cannot be written to.
pub(crate) fn run(args: &ChartArgs) -> Result<Exit, Failure> {
    let templates = args.dir.join("templates");
    let failed = |error: std::io::Error| Failure::failed(format!("{}: {error}", args.dir.display()));
    if templates.exists() {
        // What is no longer made would be rendered for ever.
        std::fs::remove_dir_all(&templates).map_err(failed)?;
    }
    std::fs::create_dir_all(&templates).map_err(failed)?;
    for (name, text) in files() {
        std::fs::write(args.dir.join(name), text).map_err(failed)?;
    }
    Ok(Exit::Done)
}

/// The chart's files by their path in it.
fn files() -> BTreeMap<String, String> {
    let version = env!("CARGO_PKG_VERSION");
    let about = format!(
        "# Written by: cargo xtask chart\napiVersion: v2\nname: mesh\ndescription: The control plane of the mesh, as meshctl install \
         makes it\ntype: application\nversion: {version}\nappVersion: \"{version}\"\nkubeVersion: \">=1.{}.0-0\"\n",
        crate::cluster::access::MINOR_MIN
    );
    let mut files = BTreeMap::from([
        ("Chart.yaml".to_owned(), about),
        ("values.yaml".to_owned(), values()),
        ("values.schema.json".to_owned(), format!("{:#}\n", schema())),
        ("templates/_text.tpl".to_owned(), TEXT.to_owned()),
        ("templates/NOTES.txt".to_owned(), NOTES.to_owned()),
    ]);
    let marked = marked();
    let objects = manifest::objects(&marked);
    let oldest = manifest::for_version(objects.clone(), crate::cluster::access::MINOR_MIN);
    let on_all: BTreeSet<String> = oldest.iter().map(|object| Name::of(object).to_string()).collect();
    for object in &objects {
        let name = Name::of(object);
        let file = format!("templates/{}.yaml", name.kind.to_ascii_lowercase());
        let mut document = template(object);
        if !on_all.contains(&name.to_string()) {
            let minor = r#"(int (regexFind "^[0-9]+" .Capabilities.KubeVersion.Minor))"#;
            document = format!(
                "{{{{- if ge {minor} {} }}}}\n---\n{document}{{{{- end }}}}\n",
                manifest::SESSIONS_MINOR_MIN
            );
        } else if name.kind == "Namespace" {
            // Helm has made it then, with --create-namespace, or somebody before.
            let elsewhere = format!("ne .Release.Namespace {:?}", manifest::NAMESPACE);
            document = format!("{{{{- if {elsewhere} }}}}\n---\n{document}{{{{- end }}}}\n");
        } else {
            document = format!("---\n{document}");
        }
        files.entry(file).or_default().push_str(&document);
    }
    files
}

/// Values that are marks of themselves.
fn marked() -> Values {
    let mark = |key: &str| format!("@({key})");
    let number = |key: &str| NUMBERS.iter().find(|(known, _)| *known == key).map(|(_, mark)| *mark);
    Values {
        image_registry: mark("image.registry"),
        image_tag: mark("image.tag"),
        image_pull_policy: mark("image.pullPolicy"),
        trust_domain: mark("trustDomain"),
        replicas: number("control.replicas").unwrap_or_default(),
        cpu: mark("control.cpu"),
        memory: mark("control.memory"),
        memory_limit: mark("control.memoryLimit"),
        log_level: mark("log.level"),
        log_format: mark("log.format"),
        svid_lifetime: number("certificates.svidLifetime"),
        intermediate_lifetime: number("certificates.intermediateLifetime"),
        root_lifetime: number("certificates.rootLifetime"),
    }
}

/// An object with the template's expressions in the places of marks.
fn template(object: &Value) -> String {
    let is_values = Name::of(object).name == manifest::VALUES;
    let mut text = if is_values { LIFETIMES.to_owned() } else { String::new() };
    for line in yaml::write(object).lines() {
        let condition = if is_values { if_chosen(line) } else { if_told(line) };
        let line = expressions(line);
        match condition {
            Some(condition) => text.push_str(&format!("{{{{- if {condition} }}}}\n{line}\n{{{{- end }}}}\n")),
            None => text.push_str(&format!("{line}\n")),
        }
    }
    text
}

/// On which condition an entry of the kept values stands there: only what was chosen is kept.
fn if_chosen(line: &str) -> Option<String> {
    let (key, default, _) =
        KEYS.iter().find(|(key, ..)| line.trim_start().starts_with(&format!("{key}:")))?;
    Some(format!("ne ({}) {default:?}", value(key)))
}

/// On which condition an argument stands there: what is left to the control plane is not said.
fn if_told(line: &str) -> Option<String> {
    let (key, _) = NUMBERS.iter().find(|(_, mark)| line.contains(&mark.to_string()))?;
    key.starts_with("certificates.").then(|| format!(".Values.{key}"))
}

/// The expression for a value as text.
fn value(key: &str) -> String {
    format!("include \"mesh.text\" .Values.{key}")
}

/// A line with each mark replaced.
fn expressions(line: &str) -> String {
    let registry = "{{ with .Values.image.registry }}{{ . }}/{{ end }}";
    let mut line = line.replace("@(image.registry)/", registry);
    for (key, ..) in KEYS {
        line = line.replace(&format!("@({key})"), &format!("{{{{ {} }}}}", value(key)));
    }
    for (key, mark) in NUMBERS {
        line = line.replace(&mark.to_string(), &format!("{{{{ {} }}}}", value(key)));
    }
    line
}

/// The defaults, each with what is allowed.
fn values() -> String {
    let mut text =
        "# Written by: cargo xtask chart\n# The same keys as: meshctl install --set KEY=VALUE\n".to_owned();
    let mut group = "";
    for (key, default, allowed) in KEYS {
        let (of, name) = key.split_once('.').unwrap_or(("", key));
        if of != group && !of.is_empty() {
            text.push_str(&format!("{of}:\n"));
        }
        group = of;
        let indent = if of.is_empty() { "" } else { "  " };
        let is_number = !default.is_empty() && default.bytes().all(|byte| byte.is_ascii_digit());
        let default = if is_number { default.to_owned() } else { Value::from(default).to_string() };
        text.push_str(&format!("{indent}# {allowed}\n{indent}{name}: {default}\n"));
    }
    text
}

/// What Helm refuses before it renders anything: the same as `--set` does.
fn schema() -> Value {
    let mut groups: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for (key, ..) in KEYS {
        let (group, name) = key.split_once('.').unwrap_or(("", key));
        groups.entry(group).or_default().insert(name.to_owned(), allowed(key));
    }
    let closed = |properties: Map<String, Value>| {
        let required: Vec<&String> = properties.keys().filter(|name| *name != "global").collect();
        json!({ "type": "object", "additionalProperties": false, "required": required, "properties": properties })
    };
    let mut root = groups.remove("").unwrap_or_default();
    // Helm's own, where the chart is part of another.
    root.insert("global".to_owned(), json!({}));
    root.extend(groups.into_iter().map(|(group, properties)| (group.to_owned(), closed(properties))));
    let mut schema = closed(root);
    if let Some(schema) = schema.as_object_mut() {
        schema.insert("$schema".to_owned(), "http://json-schema.org/draft-07/schema#".into());
    }
    schema
}

fn allowed(key: &str) -> Value {
    let text = |pattern: &str| json!({ "type": "string", "pattern": pattern });
    let number = |pattern: &str, least: u32, most: u32| json!({ "type": ["integer", "string"], "pattern": pattern, "minimum": least, "maximum": most });
    let memory = "^0*[1-9][0-9]{0,11}([kMG]|[KMG]i)?$";
    match key {
        "image.registry" => text("^([A-Za-z0-9._:/-]{0,199}[A-Za-z0-9._:-])?$"),
        "image.tag" => text("^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$"),
        "image.pullPolicy" => json!({ "enum": ["Always", "IfNotPresent", "Never"] }),
        "trustDomain" => text("^[a-z0-9._-]{1,255}$"),
        "control.replicas" => number("^[1-9]$", 1, 9),
        "control.cpu" => number("^0*[1-9][0-9]{0,11}m?$", 1, 1_000_000),
        "control.memory" | "control.memoryLimit" => number(memory, 1, u32::MAX),
        "log.level" => text(r"^[A-Za-z0-9_:=,\[\]-]{1,400}$"),
        "log.format" => json!({ "enum": ["json", "text"] }),
        "certificates.svidLifetime" => number("^([0-9]{1,7})?$", 6, 2_592_000),
        "certificates.intermediateLifetime" => number("^([0-9]{1,8})?$", 30, 31_536_000),
        "certificates.rootLifetime" => number("^([0-9]{1,9})?$", 120, 946_080_000),
        // A key that nothing is said of here takes nothing, and the test that renders it fails.
        _ => Value::Bool(false),
    }
}
