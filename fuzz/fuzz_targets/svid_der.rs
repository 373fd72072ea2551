//! See `mesh_fuzz::traffic::svid_der`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_fuzz::traffic::svid_der(data));
