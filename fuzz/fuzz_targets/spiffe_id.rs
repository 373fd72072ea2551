//! See `mesh_fuzz::traffic::spiffe_id`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_fuzz::traffic::spiffe_id(data));
