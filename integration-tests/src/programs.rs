//! Where the real programs are. A missing one fails the test that needs it.

use std::path::{Path, PathBuf};

/// A program of the workspace, built beside the test.
#[track_caller]
pub fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap_or_else(|error| panic!("the test's own path: {error}"));
    // A test lies in `deps`, a program beside the others.
    let beside = test.parent().unwrap_or(&test);
    let folder = if beside.ends_with("deps") { beside.parent().unwrap_or(beside) } else { beside };
    let program = folder.join(name);
    assert!(program.is_file(), "{} is not built; run: cargo build --workspace --bins", program.display());
    program
}

/// A program of the system.
#[track_caller]
pub fn system(name: &str) -> PathBuf {
    ["/usr/bin", "/usr/sbin", "/bin", "/sbin", "/usr/local/bin"]
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("{name} is missing; run: cargo xtask programs"))
}

/// The server of PostgreSQL, whatever its version.
#[track_caller]
pub fn postgres(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    versions
        .map(|version| version.path().join("bin").join(name))
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("PostgreSQL's {name} is missing; run: cargo xtask programs"))
}

/// The HTTP/2 conformance suite.
#[track_caller]
pub fn h2spec() -> PathBuf {
    go("h2spec")
}

/// A program that was built from Go modules.
#[track_caller]
pub fn go(name: &str) -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    let program = workspace.join("target/test-go").join(name);
    assert!(program.is_file(), "{} is missing; run: cargo xtask programs", program.display());
    program
}

/// The Python that has `grpc` and `websockets`.
#[track_caller]
pub fn python() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    let python = workspace.join("target/test-python/bin/python");
    assert!(python.exists(), "{} is missing; run: cargo xtask programs", python.display());
    python
}
