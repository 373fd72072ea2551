//! Bad documents and the exact words in which they are refused, in `bad.golden`.
//!
//! `UPDATE_GOLDEN=1 cargo test -p mesh-proto` rewrites the words; they are reviewed as code.

use mesh_proto::resource::{SourceDocument, parse};
use std::fmt::Write as _;
use std::path::Path;

const CASE: &str = "==== ";
const WORDS: &str = "---- refused with";

#[test]
#[expect(clippy::disallowed_methods, reason = "the switch that rewrites golden files")]
fn bad_documents_are_refused_with_the_words_that_help() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/resources/bad.golden");
    let golden = std::fs::read_to_string(&path).unwrap();
    let mut rewritten =
        golden.lines().take_while(|line| !line.starts_with(CASE)).fold(String::new(), |mut head, line| {
            let _ = writeln!(head, "{line}");
            head
        });
    let mut cases = 0;
    for case in golden.split("\n==== ").skip(1) {
        let (title, rest) = case.split_once('\n').unwrap();
        let yaml = rest.split(WORDS).next().unwrap();
        let document = SourceDocument { file: "bad.yaml".to_owned(), line: 1, yaml: yaml.to_owned() };
        let problems = match parse(&document) {
            Ok(resource) => panic!("{title:?} was accepted as\n{}", resource.to_yaml()),
            Err(problems) => problems,
        };
        assert!(!problems.is_empty(), "{title:?} was refused without a word");
        let _ = write!(rewritten, "{CASE}{title}\n{yaml}{WORDS}\n");
        for problem in &problems {
            assert!(problem.line > 0, "{title:?}: no line in {problem}");
            let _ = writeln!(rewritten, "{:<17} {problem}", problem.code.as_str());
        }
        rewritten.push('\n');
        cases += 1;
    }
    assert!(cases >= 60, "only {cases} cases");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, rewritten).unwrap();
        return;
    }
    for (line, (expected, found)) in golden.lines().zip(rewritten.lines()).enumerate() {
        assert_eq!(expected, found, "bad.golden:{}", line + 1);
    }
    assert_eq!(golden, rewritten);
}
