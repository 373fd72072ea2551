//! Everything about certificates: SVIDs, bundles, verification, TLS, renewal, and the signing authority.
//!
//! `mesh-proxy` uses it without features: it makes keys and requests, verifies peers and renews. `mesh-control` adds the
//! feature `authority`, which holds the signing keys. Layers, each may use only those to its right:
//! `authority` → `client` → `tls` → `svid` → `verify` → `bundle` → `x509`; `csr` and `seal` stand on nothing.
//!
//! It never decides who may call whom (that is `mesh_proto::policy`), never reads arguments or the environment, and
//! never hands out a private key.

#[cfg(feature = "authority")]
pub mod authority;
pub mod bundle;
pub mod client;
pub mod csr;
pub mod seal;
pub mod svid;
pub mod tls;
pub mod verify;
mod x509;

/// Makes aws-lc-rs the process's provider for every library that asks rustls for one. Call it first in each `main`.
///
/// May be called any number of times. The configurations of [`tls`] carry their provider and do not depend on it.
pub fn install_crypto() {
    // The only failure is that a provider is already installed, which is what we want.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
