//! See `mesh_fuzz::wire_update`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_fuzz::wire_update(data));
