//! The part of the wiring that watches: ledger, detectors, alarms, couriers.

use super::{ControlError, Tasks};
use crate::admin::Control;
use crate::alarm::{Alarms, courier};
use crate::clock;
use crate::ledger::Ledger;
use crate::lookout::Lookout;
use crate::state_dir::{StateDir, StateDirError};
use std::path::PathBuf;
use std::sync::Arc;
use std::{io, path::Path};

/// Opens what is kept of traffic and alarms.
///
/// # Errors
/// A directory can be neither found nor made.
pub(super) fn open(state_dir: &StateDir) -> Result<(Arc<Ledger>, Arc<Alarms>), ControlError> {
    let now_ms = clock::unix_ms(clock::wall());
    let error = |path: &Path| {
        let path: PathBuf = path.to_owned();
        move |source: io::Error| StateDirError::Io { action: "use", path, source }
    };
    let (ledger, alarms) = (state_dir.ledger(), state_dir.alarms());
    let opened = Ledger::open(ledger.clone(), now_ms).map_err(error(&ledger))?;
    let alarms = Alarms::open(alarms.clone(), now_ms).map_err(error(&alarms))?;
    Ok((Arc::new(opened), Arc::new(alarms)))
}

/// Starts what looks and what sends.
pub(super) fn start(control: &Control, tasks: &mut Tasks) {
    let stop = tasks.stop.clone();
    let lookout = Lookout {
        ledger: control.ledger.clone(),
        alarms: control.alarms.clone(),
        mesh: control.mesh.clone(),
        authority: control.authority.clone(),
    };
    tasks.add("the lookout", lookout.run(stop.clone()));
    tasks.add("the couriers of alarms", courier::run(control.alarms.clone(), control.mesh.watch(), stop));
}

/// Writes what the ledger still has, when nothing is reported any more.
pub(super) fn close(control: &Control) {
    if let Err(error) = control.ledger.close(clock::unix_ms(clock::wall())) {
        tracing::warn!(%error, "the flow ledger's last minute could not be written");
    }
}
