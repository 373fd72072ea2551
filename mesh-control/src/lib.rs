//! The control plane of a mesh: policy state, identity service, discovery, explanation and administration.
//!
//! [`run`] is the whole of it: the program `mesh-control` and `meshctl up` both call it and nothing else. What it is made
//! of and how the parts are wired stands in `app`.

mod app;
pub mod config;
pub mod store;

pub use app::{ControlError, Running, run};
pub use config::Config;
