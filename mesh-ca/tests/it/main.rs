//! A stage of its own for each part of mesh-ca: real handshakes over in-memory streams, a real gRPC service, and the
//! `openssl` program as a second opinion on every certificate.
//!
//! # Why
//! rustls judges certificates by the system's clock, so these tests run at the present time; whatever depends on other
//! times goes through functions that take the time.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test's own failure is a panic")]

mod brought;
mod forge;
mod forged;
mod handshake;
mod join;
mod left_behind;
mod openssl;
mod outside_bytes;
mod pod_token;
mod revocation;
mod rotation;
mod rotation_model;
mod service;
mod shared;
mod slow_store;
mod world;
