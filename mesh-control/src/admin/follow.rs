//! Resources that change elsewhere: in a cluster people change them through its API server, and the mesh follows.

use super::receipts::{Issued, affected};
use super::{Control, ms};
use crate::clock;
use crate::cluster::Followed;
use crate::store::write::{ResourceChange, Write};
use mesh_proto::resource::SourceDocument;
use std::sync::Arc;
use tonic::Status;

impl Control {
    /// Writes a change that the cluster has made into the history and brings it into force. What its objects refer to may come
    /// later, so nothing is refused because of that: the objects' status says it.
    ///
    /// # Errors
    /// It could not be written; nothing is in force then.
    pub(crate) async fn follow(self: &Arc<Self>, followed: Followed) -> Result<(), Status> {
        let turn = self.changing.clone().lock_owned().await;
        self.aside(move |control| {
            let Followed { actor, verb, changes } = followed;
            let write = |(key, change): (_, &Option<(SourceDocument, _)>)| {
                let source = change.as_ref().map(|(source, _)| source.clone());
                let (file, line) =
                    source.as_ref().map(|source| (source.file.clone(), source.line)).unwrap_or_default();
                ResourceChange { key, file, line, yaml: source.map(|source| source.yaml) }
            };
            let writes: Vec<_> = changes.iter().map(|(key, change)| write((key.clone(), change))).collect();
            let objects = writes.len();
            let world = control.mesh.world();
            let changes =
                changes.into_iter().map(|(key, change)| (key, change.map(|(_, resource)| resource)));
            let catalog = Arc::new(world.catalog.with_changes(changes));
            let affected =
                affected(&world, &control.hypothetical(&world, catalog.clone()), &control.mesh.fleet);
            let detail = format!("{objects} objects of the cluster");
            let write =
                Write { actor: actor.clone(), verb, time_ms: ms(clock::wall()), changes: writes, detail };
            let committed = tokio::runtime::Handle::current().block_on(control.commit(write))?;
            let at = clock::monotonic();
            let affected = Some(Arc::new(affected));
            control.receipts.add(Issued { revision: committed.revision, trust_generation: 0, affected, at });
            control.mesh.set_catalog(committed.revision, catalog);
            tracing::info!(actor, %verb, revision = committed.revision, objects, "resources changed");
            drop(turn);
            Ok(())
        })
        .await
    }
}
