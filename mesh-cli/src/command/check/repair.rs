//! `meshctl check --repair-store`: salvages what still verifies of a damaged store.

use crate::command::restore::{SEAL_KEY_NAME, STORE_NAME, blocking, check_stopped};
use crate::failure::{Exit, Failure, chain};
use crate::output::{self, Tone};
use crate::session::Session;
use mesh_ca::seal::{Missing, SealKey};
use mesh_control::store::disk::{self, RepairReport};
use std::sync::Arc;

/// Repairs the store of the session's state directory.
///
/// # Errors
/// When a control plane runs, there is no store, or nothing verifies.
pub(super) async fn run(session: &Session) -> Result<Exit, Failure> {
    check_stopped(session).await?;
    let dir = session.state_dir.clone();
    let store = dir.join(STORE_NAME);
    if !store.exists() {
        return Err(Failure::failed(format!("there is no store in {}", dir.display()))
            .next("meshctl restore FILE --state-dir DIR"));
    }
    let key = SealKey::from_file(&dir.join(SEAL_KEY_NAME), Missing::Refuse)
        .map_err(|error| Failure::failed(chain(&error)).next("meshctl restore FILE --state-dir NEW-DIR"))?;
    let report =
        blocking(move || disk::repair(&store, Arc::new(key)).map_err(|error| Failure::failed(chain(&error))))
            .await?;
    output::print(&text(&report))?;
    output::note(&format!("start it with: meshctl up --state-dir {}", dir.display()));
    Ok(if is_whole(&report) { Exit::Done } else { Exit::Bad })
}

fn is_whole(report: &RepairReport) -> bool {
    report.records_lost == Some(0) && report.values_lost.is_empty()
}

fn text(report: &RepairReport) -> String {
    let RepairReport { revision, records, records_lost, resources, values_lost, problems, kept_as } = report;
    let head = match is_whole(report) {
        true => output::paint(Tone::Good, "the store is whole again; nothing was lost"),
        false => output::paint(Tone::Warn, "the store can be used again; not everything could be saved"),
    };
    let lost = records_lost.map_or_else(|| "an unknown number".to_owned(), |lost| lost.to_string());
    let mut text = format!(
        "{head}\n  revision {revision}, {resources} resources, {records} audit records saved, {lost} lost\n  \
         the damaged store is kept in {}\n",
        kept_as.display()
    );
    for value in values_lost {
        text.push_str(&format!("  lost or older: {}\n", output::clean(value)));
    }
    for problem in problems {
        text.push_str(&format!("  {}\n", output::clean(problem)));
    }
    text
}
