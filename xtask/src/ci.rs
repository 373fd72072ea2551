//! The steps of `cargo xtask ci` and `test`, in the order in which a failure is cheapest to find.

use crate::step::{Step, root};
use crate::{programs, tidy};
use anyhow::Result;

/// The crates that must also compile alone: a workspace build unifies features and hides missing ones.
const CRATES: [&str; 7] =
    ["mesh-proto", "mesh-ca", "mesh-proxy", "mesh-control", "mesh-cli", "xtask", "integration-tests"];

/// Feature sets of `mesh-proto` and `mesh-ca` that no dependent builds by itself.
const FEATURES: [(&str, &str); 4] =
    [("mesh-proto", ""), ("mesh-proto", "wire"), ("mesh-proto", "ops"), ("mesh-ca", "authority")];

/// Everything that must hold before a change lands.
pub(crate) fn run() -> Result<()> {
    Step::cargo("format", &["fmt", "--all", "--check"]).run()?;
    tidy::run()?;
    Step::cargo("lints", &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])
        .run()?;
    for name in CRATES {
        Step::cargo("crate alone", &["check", "--locked", "--package", name, "--all-targets"]).run()?;
    }
    for (name, features) in FEATURES {
        let args = ["check", "--locked", "--package", name, "--no-default-features", "--features", features];
        Step::cargo("features", &args).run()?;
    }
    Step::cargo(
        "documentation",
        &["doc", "--workspace", "--no-deps", "--locked", "--document-private-items"],
    )
    .env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private_intra_doc_links")
    .run()?;
    if root().join("fuzz/Cargo.toml").is_file() {
        Step::cargo("fuzz targets compile", &["check", "--locked"]).within("fuzz").run()?;
    }
    test(None)
}

/// All tests that need no cluster.
pub(crate) fn test(filter: Option<&str>) -> Result<()> {
    programs::install()?;
    // The integration tests start the built programs; a filtered run would not build them by itself.
    Step::cargo("programs under test", &["build", "--locked", "--workspace", "--bins"]).run()?;
    let mut args = vec!["test", "--locked", "--workspace"];
    args.extend(filter);
    Step::cargo("tests", &args).run()
}

/// Each fuzz target for a while.
pub(crate) fn fuzz(seconds: u32) -> Result<()> {
    let targets = std::process::Command::new("cargo")
        .args(["+nightly", "fuzz", "list"])
        .current_dir(root())
        .output()?;
    anyhow::ensure!(
        targets.status.success(),
        "cargo fuzz does not run; install it with: rustup toolchain install nightly && cargo install cargo-fuzz"
    );
    let limit = format!("-max_total_time={seconds}");
    for target in String::from_utf8(targets.stdout)?.lines() {
        Step::cargo("fuzz", &["+nightly", "fuzz", "run", target, "--", &limit]).run()?;
    }
    Ok(())
}
