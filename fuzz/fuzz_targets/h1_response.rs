//! See `mesh_fuzz::traffic::h1_response`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_fuzz::traffic::h1_response(data));
