//! What this proxy must know, and how it learns of changes.
//!
//! [`apply`] turns snapshots and certificates into the form the data path uses; [`client`] speaks with the control plane.
//! Runs on the control thread; the workers only ever see an immutable [`Applied`].

pub(crate) mod apply;
pub(crate) mod client;

pub(crate) use apply::Applied;
