//! See `mesh_fuzz::traffic::wire_update`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_fuzz::traffic::wire_update(data));
