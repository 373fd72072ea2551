//! gRPC messages and services (`v1`), and their conversions to domain types.

/// The generated messages, clients and servers of `mesh.v1`.
#[expect(missing_docs, clippy::all, clippy::pedantic, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("mesh.v1");
}
