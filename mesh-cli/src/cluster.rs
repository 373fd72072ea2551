//! The mesh on a Kubernetes cluster, as a platform engineer drives it: what is installed there, and the way to it.
//!
//! `access` is the way to the API server, `object` and `permission` what it is asked; `values` is what may be chosen,
//! `manifest` what is made of it, `installation` how, `change` what an upgrade changes, `removal` how it goes again; `resources` are
//! the mesh's own objects; `ready`
//! and `health` say how it is, `session` is the way to the control plane.

pub(crate) mod access;
pub(crate) mod change;
pub(crate) mod health;
pub(crate) mod installation;
pub(crate) mod manifest;
pub(crate) mod object;
pub(crate) mod permission;
pub(crate) mod ready;
pub(crate) mod removal;
pub(crate) mod resources;
pub(crate) mod session;
pub(crate) mod values;
