//! See `mesh_fuzz::traffic::host`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_fuzz::traffic::host(data));
