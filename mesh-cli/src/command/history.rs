//! `meshctl history`: the accepted changes, newest first.

use super::apply::changes::ChangeOut;
use super::get::parse_key;
use crate::failure::{Exit, Failure};
use crate::output::{self, Grid, Tone};
use crate::session::Session;
use clap::Args;
use mesh_proto::wire::v1;
use serde::Serialize;

const EXAMPLES: &str = "\
Examples:
  meshctl history
  meshctl history accesspolicy/shop/payments   # of one object
  meshctl diff 12                              # what revision 12 changed
  meshctl rollback 11                          # makes everything as it was at revision 11";

/// What `history` is told.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct HistoryArgs {
    /// Only the changes of this object: KIND/NAME or KIND/NAMESPACE/NAME
    #[arg(value_name = "OBJECT")]
    object: Option<String>,
    /// How many changes at most
    #[arg(long, default_value_t = 50, value_name = "N")]
    limit: u32,
}

#[derive(Serialize)]
struct History {
    entries: Vec<EntryOut>,
}

#[derive(Serialize)]
struct EntryOut {
    revision: u64,
    time: String,
    actor: String,
    verb: String,
    changes: Vec<ChangeOut>,
}

/// Prints the history.
///
/// # Errors
/// When the object's name makes no sense.
pub(crate) async fn run(args: HistoryArgs, session: &Session) -> Result<Exit, Failure> {
    let object = args.object.as_deref().map(parse_key).transpose()?.map(|key| v1::ObjectRef {
        kind: key.kind.to_string(),
        namespace: key.namespace.map(|namespace| namespace.to_string()).unwrap_or_default(),
        name: key.name.to_string(),
    });
    let client = session.admin().await?;
    let response =
        client.answer(client.api().history(v1::HistoryRequest { limit: args.limit, object }).await)?;
    let history = History { entries: response.entries.into_iter().map(EntryOut::from).collect() };
    output::print_value(session.format, &history, || table(&history))?;
    Ok(Exit::Done)
}

impl From<v1::HistoryEntry> for EntryOut {
    fn from(entry: v1::HistoryEntry) -> Self {
        let v1::HistoryEntry { revision, time_ms, actor, verb, changes } = entry;
        let changes = changes.into_iter().map(ChangeOut::from).collect();
        Self { revision, time: output::time(time_ms), actor, verb, changes }
    }
}

fn table(history: &History) -> String {
    /// More than these in one line help nobody; `diff` shows all.
    const OBJECTS_SHOWN: usize = 3;
    if history.entries.is_empty() {
        return "no changes yet\n".to_owned();
    }
    let mut grid = Grid::new(&["REVISION", "TIME", "WHO", "WHAT", "OBJECTS"]);
    for entry in &history.entries {
        let mut objects: Vec<String> =
            entry.changes.iter().take(OBJECTS_SHOWN).map(|change| change.object()).collect();
        if let Some(more) = entry.changes.len().checked_sub(OBJECTS_SHOWN).filter(|more| *more > 0) {
            objects.push(format!("and {more} more"));
        }
        grid.row([
            (Tone::Plain, entry.revision.to_string()),
            (Tone::Dim, entry.time.clone()),
            (Tone::Plain, entry.actor.clone()),
            (Tone::Plain, entry.verb.clone()),
            (Tone::Plain, objects.join(", ")),
        ]);
    }
    grid.to_text()
}
