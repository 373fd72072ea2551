//! `meshctl get`: resources and what became of them.

use crate::failure::{Exit, Failure};
use crate::output::{self, Format, Grid, Tone};
use crate::session::Session;
use clap::Args;
use mesh_proto::resource::{Kind, ResourceKey};
use mesh_proto::wire::v1;
use serde::Serialize;

const EXAMPLES: &str = "\
Examples:
  meshctl get                                  # everything, with its status
  meshctl get policies                         # short and plural forms too: ap, rl, svc, …
  meshctl get accesspolicy/shop/payments -o yaml
  meshctl get ratelimits -n shop
  meshctl get --revision 12 -o yaml            # as it was";

/// What `get` is told.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct GetArgs {
    /// A kind, KIND/NAME or KIND/NAMESPACE/NAME; all kinds when left out
    #[arg(value_name = "KIND[/[NAMESPACE/]NAME]")]
    what: Option<String>,
    /// Only this namespace
    #[arg(short, long)]
    namespace: Option<String>,
    /// As it was at this revision
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    revision: u64,
}

#[derive(Serialize)]
struct Objects {
    revision: u64,
    objects: Vec<ObjectOut>,
}

#[derive(Serialize)]
struct ObjectOut {
    kind: String,
    namespace: String,
    name: String,
    revision: u64,
    status: String,
    yaml: String,
}

/// Prints the resources asked for.
///
/// # Errors
/// An unknown kind, or a named object that does not exist.
pub(crate) async fn run(args: GetArgs, session: &Session) -> Result<Exit, Failure> {
    let mut request = to_request(args.what.as_deref())?;
    if let Some(namespace) = args.namespace {
        request.namespace = namespace;
    }
    request.revision = args.revision;
    let client = session.admin().await?;
    let is_one = !request.name.is_empty();
    let response = client.answer(client.api().get(request).await)?;
    let objects: Vec<ObjectOut> = response.objects.into_iter().map(ObjectOut::from).collect();
    if objects.is_empty() && is_one {
        let what = args.what.unwrap_or_default();
        return Err(Failure::failed(format!("there is no {what}")).next("meshctl get"));
    }
    if session.format == Format::Yaml {
        // The documents themselves, so that the output can be applied again.
        let documents: Vec<String> = objects.into_iter().map(|object| object.yaml).collect();
        output::print(&output::clean_lines(&documents.join("---\n")))?;
        return Ok(Exit::Done);
    }
    let objects = Objects { revision: response.revision, objects };
    output::print_value(session.format, &objects, || table(&objects))?;
    Ok(Exit::Done)
}

impl From<v1::Object> for ObjectOut {
    fn from(object: v1::Object) -> Self {
        let v1::Object { r#ref, yaml, revision, status } = object;
        let v1::ObjectRef { kind, namespace, name } = r#ref.unwrap_or_default();
        Self { kind, namespace, name, revision, status, yaml }
    }
}

fn to_request(what: Option<&str>) -> Result<v1::GetRequest, Failure> {
    let mut request = v1::GetRequest::default();
    let Some(what) = what else { return Ok(request) };
    if what.contains(['/', ' ']) {
        let ResourceKey { kind, namespace, name } = parse_key(what)?;
        request.kind = kind.to_string();
        request.namespace = namespace.map(|namespace| namespace.to_string()).unwrap_or_default();
        request.name = name.to_string();
    } else {
        let kind = Kind::from_word(what).ok_or_else(|| {
            let kinds: Vec<&str> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
            Failure::usage(format!("unknown kind {what:?}; there are {}", kinds.join(", ")))
        })?;
        request.kind = kind.to_string();
    }
    Ok(request)
}

/// A key as typed.
///
/// # Errors
/// Says how keys are written.
pub(crate) fn parse_key(text: &str) -> Result<ResourceKey, Failure> {
    text.parse().map_err(|error: mesh_proto::resource::key::KeyError| Failure::usage(error.to_string()))
}

fn table(objects: &Objects) -> String {
    if objects.objects.is_empty() {
        return "no resources; make some with: meshctl apply -f FILE\n".to_owned();
    }
    let mut grid = Grid::new(&["KIND", "NAMESPACE", "NAME", "REVISION", "STATUS"]);
    for object in &objects.objects {
        let tone = status_tone(&object.status);
        let namespace = if object.namespace.is_empty() { "-" } else { &object.namespace };
        grid.row([
            (Tone::Plain, object.kind.clone()),
            (Tone::Plain, namespace.to_owned()),
            (Tone::Plain, object.name.clone()),
            (Tone::Dim, object.revision.to_string()),
            (tone, object.status.clone()),
        ]);
    }
    grid.to_text()
}

fn status_tone(status: &str) -> Tone {
    let counts = status.split_whitespace().nth(1).and_then(|counts| counts.split_once('/'));
    match counts {
        Some((enforced, all)) if status.starts_with("Enforced") && enforced == all => Tone::Good,
        _ if status.starts_with("Invalid") => Tone::Bad,
        _ if status.is_empty() || status.starts_with("Accepted") => Tone::Plain,
        _ => Tone::Warn,
    }
}
