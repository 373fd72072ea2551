//! See `mesh_fuzz::host`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_fuzz::host(data));
