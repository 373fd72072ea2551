//! What each fuzz target does with its bytes: parse, and check what must hold of anything that was accepted.
//!
//! The programs in `fuzz_targets/` hand libFuzzer's bytes to these functions; the tests of `mesh-proxy` include these
//! files and hand them generated ones, so that every change runs them. Nothing here may panic for any input.

pub mod authority;
pub mod mux;
pub mod traffic;
