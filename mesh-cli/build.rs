//! Compiles the proto of the demo's catalog without protoc.
const PROTO: &str = "shop/catalog.proto";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    println!("cargo::rerun-if-changed=build.rs");
    tonic_prost_build::configure().compile_fds(protox::compile([PROTO], ["proto"])?)?;
    Ok(())
}
