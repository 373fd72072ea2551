//! A file's text cut into YAML documents, each with the line it starts on.
//!
//! Called by everything that reads files for `apply`. It never parses: a damaged document is one document.

/// The largest document, in bytes. The largest useful policy found is some tens of KiB; Kubernetes stops near 1 MiB too.
pub const DOCUMENT_BYTES_MAX: usize = 1 << 20;

/// Documents that are applied at once, and bytes of all of them together: twice a mesh of 10,000 policies.
pub const DOCUMENTS_MAX: usize = 20_000;
/// See [`DOCUMENTS_MAX`].
pub const TOTAL_BYTES_MAX: usize = 32 << 20;

/// Says why so much is not applied at once; nothing when it is.
pub fn too_much<'t>(texts: impl ExactSizeIterator<Item = &'t str>) -> Option<String> {
    let advice = "apply them in several parts, what others refer to first";
    let count = texts.len();
    if count > DOCUMENTS_MAX {
        return Some(format!("{count} documents at once; at most {DOCUMENTS_MAX} are taken: {advice}"));
    }
    let bytes = texts.map(str::len).fold(0, usize::saturating_add);
    let is_more = bytes > TOTAL_BYTES_MAX;
    is_more
        .then(|| format!("{bytes} bytes of documents at once; at most {TOTAL_BYTES_MAX} are taken: {advice}"))
}

/// One YAML document and where it came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourceDocument {
    /// The file as the user named it; empty when there is none.
    pub file: String,
    /// The line of the document's first line in the file, from 1.
    pub line: u32,
    /// Its text.
    pub yaml: String,
}

/// Cuts a text at the lines `---` and `...`. Documents without content (blank, comments) are left out.
pub fn split_documents(file: &str, text: &str) -> Vec<SourceDocument> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut documents = Vec::new();
    let mut current = Pending { line: 1, yaml: String::new(), has_content: false };
    for (line, number) in text.split_inclusive('\n').zip(1_u32..) {
        let marker = marker(line);
        if marker != Marker::None {
            current.finish(file, &mut documents);
            current = Pending { line: number.saturating_add(1), yaml: String::new(), has_content: false };
        }
        match marker {
            Marker::Alone => {}
            Marker::StartWithContent => {
                current.line = number;
                current.push(line);
            }
            Marker::None => current.push(line),
        }
    }
    current.finish(file, &mut documents);
    documents
}

struct Pending {
    line: u32,
    yaml: String,
    has_content: bool,
}

impl Pending {
    fn push(&mut self, line: &str) {
        let start = line.trim_start();
        self.has_content |= !(start.is_empty() || start.starts_with('#') || line.starts_with("%YAML"));
        self.yaml.push_str(line);
    }

    fn finish(&mut self, file: &str, documents: &mut Vec<SourceDocument>) {
        if self.has_content {
            let yaml = std::mem::take(&mut self.yaml);
            documents.push(SourceDocument { file: file.to_owned(), line: self.line, yaml });
        }
    }
}

#[derive(PartialEq, Eq)]
enum Marker {
    None,
    /// `---` or `...`, with nothing or a comment behind it.
    Alone,
    /// `--- content`.
    StartWithContent,
}

/// A marker stands at the start of a line and is followed by white space or nothing (YAML 1.2.2, 9.1.2).
fn marker(line: &str) -> Marker {
    let Some(rest) = line.strip_prefix("---").or_else(|| line.strip_prefix("...")) else {
        return Marker::None;
    };
    let trimmed = rest.trim();
    if trimmed.is_empty() || (rest.starts_with([' ', '\t']) && trimmed.starts_with('#')) {
        Marker::Alone
    } else if rest.starts_with([' ', '\t']) {
        Marker::StartWithContent
    } else {
        Marker::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_know_their_first_line() {
        let text =
            "# head\n---\na: 1\n--- # second\n\nb: |\n  --- no\n---\n# only a comment\n---\n--- c\n...\n";
        let found: Vec<_> =
            split_documents("f", text).into_iter().map(|document| (document.line, document.yaml)).collect();
        let expected =
            [(3, "a: 1\n".to_owned()), (5, "\nb: |\n  --- no\n".to_owned()), (11, "--- c\n".to_owned())];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_byte_order_mark_and_windows_lines_do_no_harm() {
        let found = split_documents("f", "\u{feff}a: 1\r\n---\r\nb: 2\r\n");
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].yaml.as_str(), found[1].line), ("a: 1\r\n", 3));
    }
}
