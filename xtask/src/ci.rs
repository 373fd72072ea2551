//! The steps of `cargo xtask ci` and `test`, in the order in which a failure is cheapest to find.

use crate::step::{Step, root};
use crate::{fuzz, programs, tidy};
use anyhow::Result;

/// How thorough a run is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    /// For each change.
    Short,
    /// With the ten minutes of the soak and a minute for each fuzz target.
    Long,
}

/// How programs are built.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// As the tests build them, with overflow checks and debug assertions.
    Debug,
    /// As users get them.
    Release,
}

/// The crates that must also compile alone: a workspace build unifies features and hides missing ones.
const CRATES: [&str; 7] =
    ["mesh-proto", "mesh-ca", "mesh-proxy", "mesh-control", "mesh-cli", "xtask", "integration-tests"];

/// Feature sets of `mesh-proto` and `mesh-ca` that no dependent builds by itself.
const FEATURES: [(&str, &str); 4] =
    [("mesh-proto", ""), ("mesh-proto", "wire"), ("mesh-proto", "ops"), ("mesh-ca", "authority")];

/// Everything that must hold before a change lands.
pub(crate) fn run(length: Length) -> Result<()> {
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
    test(None)?;
    if length == Length::Long {
        fuzz::run(&fuzz::Args::all(60))?;
        soak(10.0, Profile::Debug)?;
    }
    Ok(())
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

/// A large mesh of real discovery streams; see `integration_tests::scale`. With the programs as users get them.
pub(crate) fn scale(proxies: usize, services: usize) -> Result<()> {
    let build = [
        "build",
        "--locked",
        "--release",
        "--package",
        "mesh-cli",
        "--package",
        "integration-tests",
        "--bins",
    ];
    Step::cargo("programs of the large mesh", &build).run()?;
    let (proxies, services) = (proxies.to_string(), services.to_string());
    let run = ["run", "--locked", "--release", "--package", "integration-tests", "--bin", "mesh-scale", "--"];
    Step::cargo("the large mesh", &[&run[..], &[&proxies, &services]].concat()).run()
}

/// Certificates of a minute under load for so long; see `integration_tests::soak`.
pub(crate) fn soak(minutes: f64, profile: Profile) -> Result<()> {
    programs::install()?;
    // Built together, so that the program finds the others beside itself.
    let mut build =
        vec!["build", "--locked", "--package", "mesh-cli", "--package", "integration-tests", "--bins"];
    let mut run = vec!["run", "--locked", "--package", "integration-tests", "--bin", "mesh-soak"];
    if profile == Profile::Release {
        build.push("--release");
        run.push("--release");
    }
    Step::cargo("programs of the soak", &build).run()?;
    let minutes = minutes.to_string();
    run.extend(["--", &minutes]);
    Step::cargo("soak", &run).run()
}
