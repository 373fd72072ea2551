//! See `mesh_fuzz::traffic::canonical_path`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_fuzz::traffic::canonical_path(data));
