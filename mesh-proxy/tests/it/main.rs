//! Stages of the proxy over in-memory streams, and whole proxies over loopback.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::disallowed_methods, reason = "tests look at the paused clock")]

mod http;
mod mesh;
mod parsers;
