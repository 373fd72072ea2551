//! Packs the program's relocations.
//!
//! # Why
//! Half a megabyte of them is read once when the program starts, and would stay in the memory of each sidecar; packed they
//! are 9 KB. Linkers that cannot do so ignore it.

#[expect(clippy::disallowed_methods, reason = "cargo tells a build script its target in the environment")]
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let target = |what: &str| std::env::var(format!("CARGO_CFG_TARGET_{what}")).unwrap_or_default();
    if target("OS") == "linux" && target("ENV") == "gnu" {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
