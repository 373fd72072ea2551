//! Compiles the protos without protoc: `protox` parses, `tonic-prost-build` generates.
//!
//! The descriptor set is kept in `OUT_DIR` for compatibility checks between releases.
use prost::Message;
use std::path::PathBuf;

const PROTOS: [&str; 6] = [
    "mesh/v1/identity.proto",
    "mesh/v1/policy.proto",
    "mesh/v1/discovery.proto",
    "mesh/v1/telemetry.proto",
    "mesh/v1/observe.proto",
    "mesh/v1/admin.proto",
];

#[expect(clippy::disallowed_methods, reason = "cargo speaks to build scripts through the environment")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_WIRE").is_none() {
        return Ok(());
    }
    let set = protox::compile(PROTOS, ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("mesh.v1.descriptors"), set.encode_to_vec())?;
    // Item bodies are shared among all proxies that get them, not copied for each.
    tonic_prost_build::configure().bytes(".mesh.v1.Item.body").compile_fds(set)?;
    Ok(())
}
