//! Stages of the proxy over in-memory streams.

mod http;
