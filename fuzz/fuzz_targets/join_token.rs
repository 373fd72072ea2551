//! See `mesh_fuzz::authority::join_token`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_fuzz::authority::join_token(data));
