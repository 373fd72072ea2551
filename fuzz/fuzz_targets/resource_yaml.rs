//! See `mesh_fuzz::traffic::resource_yaml`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_fuzz::traffic::resource_yaml(data));
