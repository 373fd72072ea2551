//! The way of a browser to the control plane's dashboard: a door on loopback that only the user's own browser gets through.
//!
//! [`door`] judges requests and is pure; [`relay`] listens, asks the control plane with the user's own credentials, and
//! writes the answers with the headers that keep a page in its place. `command::dashboard` starts it.
//!
//! It never changes anything: there is nothing but GET, and the one call behind it looks only.
//!
//! # Why not the control plane itself
//! A browser has no way to prove who its user is to a Unix socket or through a port-forward; `meshctl` has, and does so for
//! each call. A password of the control plane's own would be one more secret that can be lost.

pub(crate) mod door;
pub(crate) mod relay;
