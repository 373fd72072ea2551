//! Good documents that do not fit together, and what is said of them, in `related.golden`.

use super::fleet::Fleet;
use super::golden;
use mesh_proto::resource::{Catalog, ResourceKey, parse, split_documents};

/// 2026-11-24T12:00:00Z.
pub(super) const NOW: u64 = 1_795_521_600;

#[test]
fn objects_that_do_not_fit_together_are_told_apart() {
    golden::check("related.golden", 20, |title, yaml| {
        let resources = split_documents("all.yaml", yaml)
            .into_iter()
            .map(|document| parse(&document).unwrap_or_else(|problems| panic!("{title:?}: {}", problems[0])));
        let catalog = Catalog::from_resources(resources);
        let changed: Vec<ResourceKey> = catalog.iter().map(|(key, _)| key.clone()).collect();
        let fleet = Fleet::of(&catalog, &["web", "catalog", "payments", "store"]);
        catalog.check(&changed, &fleet.targets(), NOW)
    });
}
