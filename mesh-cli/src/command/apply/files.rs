//! Reads the documents of `-f`: files, directories, standard input.
//!
//! Used by `apply`, `diff` and `delete`. Every document is parsed here already, and all problems of all files are told
//! together, each with its line; the parsed form is thrown away, since the control plane parses for itself.

use crate::failure::Failure;
use mesh_proto::resource::document::too_much;
use mesh_proto::resource::{self, Problem, SourceDocument};
use mesh_proto::wire::v1;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A file larger than this is not a policy but a mistake.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// So many problems are printed; whoever made more mends the first, and many of the others with them.
const PROBLEMS_SHOWN_MAX: usize = 100;
/// A directory tree deeper than this has a loop.
const DEPTH_MAX: usize = 32;

/// Whether directories within directories are read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Only the directory's own files.
    Flat,
    /// Everything below it.
    Recursive,
}

/// Reads and checks all documents.
///
/// # Errors
/// A file that cannot be read, or every problem found in the documents.
pub(crate) fn read(paths: &[PathBuf], depth: Depth) -> Result<Vec<v1::Document>, Failure> {
    let mut texts = BTreeMap::new();
    let mut order = Vec::new();
    for path in paths {
        for (name, text) in read_one(path, depth)? {
            order.push(name.clone());
            texts.insert(name, text);
        }
    }
    let documents: Vec<SourceDocument> = order
        .iter()
        .filter_map(|name| texts.get(name).map(|text| resource::split_documents(name, text)))
        .flatten()
        .collect();
    if documents.is_empty() {
        let names: Vec<&str> = order.iter().map(String::as_str).collect();
        return Err(Failure::failed(format!("there is no document in {}", names.join(", "))));
    }
    // Before they are parsed and sent: the control plane takes no more than this.
    if let Some(problem) = too_much(documents.iter().map(|document| document.yaml.as_str())) {
        return Err(Failure::failed(problem));
    }
    let problems: Vec<Problem> =
        documents.iter().filter_map(|document| resource::parse(document).err()).flatten().collect();
    if problems.iter().any(Problem::is_error) {
        return Err(refused(&problems, &texts));
    }
    Ok(documents
        .into_iter()
        .map(|SourceDocument { file, line, yaml }| v1::Document { file, line, yaml })
        .collect())
}

/// The names and texts of the files, in order, unread.
///
/// # Errors
/// A file that cannot be read.
pub(crate) fn texts(paths: &[PathBuf]) -> Result<Vec<(String, String)>, Failure> {
    let read: Result<Vec<_>, Failure> = paths.iter().map(|path| read_one(path, Depth::Flat)).collect();
    Ok(read?.into_iter().flatten().collect())
}

fn refused(problems: &[Problem], texts: &BTreeMap<String, String>) -> Failure {
    let count = problems.iter().filter(|problem| problem.is_error()).count();
    let shown = problems.get(..PROBLEMS_SHOWN_MAX).unwrap_or(problems);
    let mut text = resource::problem::render(shown, |file| texts.get(file).map(String::as_str));
    let left = problems.len().saturating_sub(shown.len());
    if left > 0 {
        text.push_str(&format!("… and {left} more; they are shown when these are mended"));
    }
    let problems = if count == 1 { "1 problem".to_owned() } else { format!("{count} problems") };
    Failure::failed(format!("{problems} found; nothing was changed\n{}", text.trim_end()))
}

/// The files that a path means, with their texts, in the order of their names.
fn read_one(path: &Path, depth: Depth) -> Result<Vec<(String, String)>, Failure> {
    if path.as_os_str() == "-" {
        let stdin = Path::new("standard input");
        let text = read_all(stdin, std::io::stdin())?;
        return Ok(vec![("<stdin>".to_owned(), text)]);
    }
    let about = std::fs::metadata(path).map_err(|error| cannot_read(path, &error))?;
    if !about.is_dir() {
        return Ok(vec![(path.display().to_string(), read_file(path)?)]);
    }
    let mut found = Vec::new();
    collect(path, depth, DEPTH_MAX, &mut found)?;
    found.sort();
    if found.is_empty() {
        return Err(Failure::failed(format!(
            "no .yaml, .yml or .json file in the directory {}",
            path.display()
        ))
        .next(format!("meshctl apply -R -f {}   # with the directories in it", path.display())));
    }
    found.into_iter().map(|file| Ok((file.display().to_string(), read_file(&file)?))).collect()
}

fn collect(dir: &Path, depth: Depth, levels_left: usize, found: &mut Vec<PathBuf>) -> Result<(), Failure> {
    for entry in std::fs::read_dir(dir).map_err(|error| cannot_read(dir, &error))? {
        let path = entry.map_err(|error| cannot_read(dir, &error))?.path();
        let is_dir = std::fs::metadata(&path).map_err(|error| cannot_read(&path, &error))?.is_dir();
        if is_dir {
            if depth == Depth::Recursive {
                let left = levels_left.checked_sub(1).ok_or_else(|| {
                    Failure::failed(format!(
                        "the directory {} is more than {DEPTH_MAX} levels deep",
                        dir.display()
                    ))
                })?;
                collect(&path, depth, left, found)?;
            }
        } else if path.extension().is_some_and(|end| end == "yaml" || end == "yml" || end == "json") {
            found.push(path);
        }
    }
    Ok(())
}

fn read_file(path: &Path) -> Result<String, Failure> {
    read_all(path, std::fs::File::open(path).map_err(|error| cannot_read(path, &error))?)
}

/// All of a source, or none: half a file would be applied as if it were whole. A device or a pipe need not end.
fn read_all(path: &Path, source: impl Read) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let read = source.take(FILE_BYTES_MAX.saturating_add(1)).read_to_end(&mut bytes);
    read.map_err(|error| cannot_read(path, &error))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(Failure::failed(format!(
            "{} has more than {FILE_BYTES_MAX} bytes, which is the most that is read; split it",
            path.display()
        )));
    }
    String::from_utf8(bytes).map_err(|_| Failure::failed(format!("{} is not UTF-8 text", path.display())))
}

fn cannot_read(path: &Path, error: &std::io::Error) -> Failure {
    match error.kind() {
        std::io::ErrorKind::NotFound => {
            Failure::failed(format!("there is no file or directory {}", path.display()))
        }
        _ => Failure::failed(format!("cannot read {}: {error}", path.display()))
            .next(format!("ls -l {}", path.display())),
    }
}
