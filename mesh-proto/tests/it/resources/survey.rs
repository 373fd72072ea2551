//! What platform engineers get wrong: well-meant documents with one mistake each, and what is said of them, in `survey.golden`.

use super::fleet::Fleet;
use super::golden;
use super::related::NOW;
use mesh_proto::resource::{Catalog, Problem, ResourceKey, parse, split_documents};

#[test]
fn no_common_mistake_goes_unsaid() {
    golden::check("survey.golden", 40, |title, yaml| {
        let (mut resources, mut problems): (_, Vec<Problem>) = (Vec::new(), Vec::new());
        for document in split_documents("p.yaml", yaml) {
            match parse(&document) {
                Ok(resource) => resources.push(resource),
                Err(found) => problems.extend(found),
            }
        }
        let catalog = Catalog::from_resources(resources);
        let changed: Vec<ResourceKey> = catalog.iter().map(|(key, _)| key.clone()).collect();
        let fleet = Fleet::of(&catalog, &["web", "catalog", "payments", "store"]);
        problems.extend(catalog.check(&changed, &fleet.targets(), NOW));
        assert!(!problems.is_empty(), "{title:?} is taken without a word");
        problems
    });
}
