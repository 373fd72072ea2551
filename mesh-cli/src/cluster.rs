//! The mesh on a Kubernetes cluster, as a platform engineer drives it: what is installed there, and the way to it.
//!
//! `values` is what may be chosen, `manifest` what is made of it, `installation` how, `removal` how it
//! goes again; `access` is the way to the API server,
//! `object` and `permission` what it is asked, `ready` whether the control plane runs,
//! `session` the way to it.

pub(crate) mod access;
pub(crate) mod installation;
pub(crate) mod manifest;
pub(crate) mod object;
pub(crate) mod permission;
pub(crate) mod ready;
pub(crate) mod removal;
pub(crate) mod session;
pub(crate) mod values;
