//! See `mesh_fuzz::traffic::chunked`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_fuzz::traffic::chunked(data));
