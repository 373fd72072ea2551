//! Files of cases with the words that belong to them: checked line by line, rewritten by `UPDATE_GOLDEN=1`.

use mesh_proto::resource::Problem;
use std::fmt::Write as _;
use std::path::Path;

const CASE: &str = "==== ";
const WORDS: &str = "---- ";

/// Asks `judge` about each case of a file (title and documents), and compares its findings with those in the file.
///
/// The file begins with a text for the reader. A case is a line `==== title`, documents, a line `---- …`, findings.
#[expect(clippy::disallowed_methods, reason = "the switch that rewrites golden files")]
pub(super) fn check(file: &str, at_least: usize, judge: impl Fn(&str, &str) -> Vec<Problem>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/resources").join(file);
    let golden = std::fs::read_to_string(&path).unwrap();
    let head = golden.lines().take_while(|line| !line.starts_with(CASE));
    let mut rewritten: String = head.flat_map(|line| [line, "\n"]).collect();
    let mut cases = 0;
    for case in golden.split("\n==== ").skip(1) {
        let (title, rest) = case.split_once('\n').unwrap();
        let (yaml, words) = rest.split_once("\n---- ").unwrap();
        let words = words.lines().next().unwrap();
        let _ = writeln!(rewritten, "{CASE}{title}\n{yaml}\n{WORDS}{words}");
        for problem in judge(title, yaml) {
            assert!(problem.line > 0, "{title:?}: no line in {problem}");
            let _ = writeln!(rewritten, "{:<17} {problem}", problem.code.as_str());
        }
        rewritten.push('\n');
        cases += 1;
    }
    assert!(cases >= at_least, "only {cases} cases in {file}");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, rewritten).unwrap();
        return;
    }
    for (line, (expected, found)) in golden.lines().zip(rewritten.lines()).enumerate() {
        assert_eq!(expected, found, "{file}:{}", line + 1);
    }
    assert_eq!(golden, rewritten);
}
