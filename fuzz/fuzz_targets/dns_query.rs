//! See `mesh_fuzz::traffic::dns_query`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_fuzz::traffic::dns_query(data));
