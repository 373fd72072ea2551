//! See `mesh_fuzz::authority::authority_state`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_fuzz::authority::authority_state(data));
