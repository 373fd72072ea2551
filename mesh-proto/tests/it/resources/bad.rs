//! Bad documents and the exact words in which they are refused, in `bad.golden`.

use super::golden;
use mesh_proto::resource::{SourceDocument, parse};

#[test]
fn bad_documents_are_refused_with_the_words_that_help() {
    golden::check("bad.golden", 60, |title, yaml| {
        let document = SourceDocument { file: "bad.yaml".to_owned(), line: 1, yaml: format!("{yaml}\n") };
        match parse(&document) {
            Ok(resource) => panic!("{title:?} was accepted as\n{}", resource.to_yaml()),
            Err(problems) => {
                assert!(!problems.is_empty(), "{title:?} was refused without a word");
                problems
            }
        }
    });
}
