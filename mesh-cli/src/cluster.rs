//! The mesh on a Kubernetes cluster, as a platform engineer drives it: what is installed there, and the way to it.
//!
//! `values` is what may be chosen, `manifest` what is made of it.

pub(crate) mod manifest;
pub(crate) mod values;
