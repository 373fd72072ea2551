//! What a user sent, read: documents become resources, or a text that says everything that is wrong with them.

use mesh_proto::resource::document::too_much;
use mesh_proto::resource::problem::{Code, render};
use mesh_proto::resource::{self, Problem, Resource, ResourceKey, Severity, SourceDocument};
use mesh_proto::wire::v1;
use std::collections::BTreeMap;
use tonic::Status;

/// Bytes that an error text may have once it is percent-encoded for a header (HTTP/2 clients take 16 KiB of headers).
const STATUS_BYTES_MAX: usize = 10 * 1024;

/// A document and what it says.
pub(crate) struct Read {
    /// As it was sent.
    pub(crate) document: SourceDocument,
    /// What it means.
    pub(crate) resource: Resource,
}

/// Reads all documents.
///
/// # Errors
/// Everything that is wrong with any of them, rendered.
pub(crate) fn read(documents: Vec<v1::Document>) -> Result<BTreeMap<ResourceKey, Read>, Status> {
    if let Some(problem) = too_much(documents.iter().map(|document| document.yaml.as_str())) {
        return Err(Status::invalid_argument(problem));
    }
    let documents =
        documents.into_iter().map(|v1::Document { file, line, yaml }| SourceDocument { file, line, yaml });
    let documents: Vec<SourceDocument> = documents.collect();
    let mut problems = Vec::new();
    let mut read: BTreeMap<ResourceKey, Read> = BTreeMap::new();
    for document in &documents {
        match resource::parse(document) {
            Ok(resource) => {
                let key = resource.key();
                if let Some(first) = read.get(&key) {
                    problems.push(twice(&key, document, &first.document));
                }
                read.insert(key, Read { document: document.clone(), resource });
            }
            Err(found) => problems.extend(found),
        }
    }
    if problems.iter().any(Problem::is_error) { Err(refusal(&problems, &documents)) } else { Ok(read) }
}

fn twice(key: &ResourceKey, second: &SourceDocument, first: &SourceDocument) -> Problem {
    Problem {
        severity: Severity::Error,
        code: Code::Duplicate,
        file: second.file.as_str().into(),
        line: second.line,
        field: "metadata.name".to_owned(),
        value: Some(key.name.to_string()),
        message: format!("{key} is there twice; the first is at {}:{}", first.file, first.line),
    }
}

/// Problems as an error of the call, with the lines of the documents that they are about.
pub(crate) fn refusal(problems: &[Problem], documents: &[SourceDocument]) -> Status {
    let mut files: BTreeMap<&str, (String, usize)> = BTreeMap::new();
    let mut sorted: Vec<&SourceDocument> = documents.iter().collect();
    sorted.sort_by_key(|document| (&document.file, document.line));
    for document in sorted {
        let (text, have) = files.entry(&document.file).or_default();
        // Puts the document on its own lines of the file; what lies between is not at hand.
        let skip = usize::try_from(document.line).unwrap_or(0).saturating_sub(1).saturating_sub(*have);
        // A hostile line number must not make us write gigabytes.
        if skip > 1_000_000 {
            continue;
        }
        text.extend(std::iter::repeat_n('\n', skip));
        text.push_str(&document.yaml);
        if !text.ends_with('\n') {
            text.push('\n');
        }
        *have = have.saturating_add(skip).saturating_add(document.yaml.lines().count());
    }
    let mut shown = 0;
    let mut text = String::new();
    let mut bytes = 0_usize;
    for problem in problems {
        let one =
            render(std::slice::from_ref(problem), |file| files.get(file).map(|(text, _)| text.as_str()));
        let cost = encoded_len(&one);
        if bytes.saturating_add(cost) > STATUS_BYTES_MAX && shown > 0 {
            break;
        }
        bytes = bytes.saturating_add(cost);
        text.push_str(&one);
        shown += 1;
    }
    let left = problems.len().saturating_sub(shown);
    if left > 0 {
        text.push_str(&format!("… and {left} more; they are shown when these are mended\n"));
    }
    Status::invalid_argument(text)
}

/// How long a text is in a `grpc-message` header: percent-encoded except for visible ASCII.
fn encoded_len(text: &str) -> usize {
    text.bytes()
        .map(|b| if (b' '..=b'~').contains(&b) && b != b'%' { 1 } else { 3 })
        .fold(0, usize::saturating_add)
}

/// Warnings for the answer of a call that succeeds.
pub(crate) fn findings(problems: &[Problem]) -> Vec<v1::Finding> {
    let finding = |problem: &Problem| v1::Finding {
        severity: problem.severity.as_str().to_owned(),
        code: problem.code.as_str().to_owned(),
        file: problem.file.to_string(),
        line: problem.line,
        field: problem.field.clone(),
        message: problem.message.clone(),
    };
    problems.iter().map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(line: u32) -> Problem {
        Problem {
            severity: Severity::Error,
            code: Code::UnknownField,
            file: "a.yaml".into(),
            line,
            field: "spec".to_owned(),
            value: None,
            message: "unknown field".to_owned(),
        }
    }

    #[test]
    fn a_problem_is_shown_with_its_line_of_a_later_document() {
        let documents =
            [SourceDocument { file: "a.yaml".into(), line: 5, yaml: "kind: X\nspec: bad\n".into() }];
        let status = refusal(&[problem(6)], &documents);
        assert!(
            status.message().contains("a.yaml:6") && status.message().contains("spec: bad"),
            "{status:?}"
        );
    }

    #[test]
    fn a_thousand_problems_fit_into_a_header() {
        let problems: Vec<_> = (1..1000).map(problem).collect();
        let status = refusal(&problems, &[]);
        assert!(encoded_len(status.message()) < 12 * 1024);
        assert!(status.message().contains("more; they are shown"), "{status:?}");
    }

    #[test]
    fn a_hostile_line_number_costs_nothing() {
        let documents = [SourceDocument { file: "a".into(), line: u32::MAX, yaml: "x".into() }];
        assert!(!refusal(&[problem(1)], &documents).message().is_empty());
    }
}
