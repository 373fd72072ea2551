//! The examples that ship with the mesh are valid, mean something together, and are fixed points of writing.

use mesh_proto::resource::{Resource, SourceDocument, parse, split_documents};
use std::path::{Path, PathBuf};

fn yaml_files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        // Objects of a cluster, some of kinds that exist there alone: `cargo xtask e2e` applies them to one.
        if path.ends_with("kubernetes") {
            continue;
        }
        if path.is_dir() {
            found.extend(yaml_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            found.push(path);
        }
    }
    found.sort();
    found
}

pub(super) fn read_all(directory: &str) -> Vec<Resource> {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples").join(directory);
    let mut resources = Vec::new();
    for file in yaml_files(&examples) {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        for document in split_documents(&name, &std::fs::read_to_string(&file).unwrap()) {
            match parse(&document) {
                Ok(resource) => resources.push(resource),
                Err(problems) => panic!("{}", problems.iter().map(|p| format!("{p}\n")).collect::<String>()),
            }
        }
    }
    resources
}

#[test]
fn examples_are_read_and_written_alike() {
    let resources = read_all(".");
    assert!(resources.len() > 15, "only {} objects", resources.len());
    for resource in resources {
        let yaml = resource.to_yaml();
        let document = SourceDocument { file: "again".to_owned(), line: 1, yaml: yaml.clone() };
        let again = parse(&document).unwrap_or_else(|problems| panic!("{}\n{yaml}", problems[0]));
        assert_eq!(again, resource, "{yaml}");
        assert_eq!(again.to_yaml(), yaml);
    }
}
