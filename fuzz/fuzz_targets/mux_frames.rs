//! See `mesh_fuzz::mux::mux_frames`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_fuzz::mux::mux_frames(data));
