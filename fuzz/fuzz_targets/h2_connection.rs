//! See `mesh_fuzz::traffic::h2_connection`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_fuzz::traffic::h2_connection(data));
