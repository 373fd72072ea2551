//! The control plane of a mesh: policy state, identity service, discovery, explanation and administration.
//!
//! [`run`] is the whole of it: the program `mesh-control` and `meshctl up` both call it and nothing else. What it is made
//! of and how the parts are wired stands in `app`.

mod admin;
mod advise;
mod alarm;
mod app;
pub mod audit;
mod authority;
mod clock;
mod cluster;
mod config;
mod dashboard;
mod detect;
mod discovery;
mod events;
mod index;
mod ledger;
mod local;
mod lookout;
mod metrics;
mod notices;
mod posture;
mod snapshot;
mod state_dir;
pub mod store;
mod telemetry;
mod traffic;
mod transport;
pub mod webhook;

pub use app::{ControlError, Running, run};
pub use cluster::{ClusterError, KubernetesConfig};
pub use config::{Args, ArgsError, BroughtRoot, Config};
pub use state_dir::StateDirError;
