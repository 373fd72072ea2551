//! See `mesh_fuzz::canonical_path`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_fuzz::canonical_path(data));
