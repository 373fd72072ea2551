//! See `mesh_fuzz::traffic::first_bytes`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_fuzz::traffic::first_bytes(data));
