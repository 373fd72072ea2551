//! Stages of the control plane over real files and in-memory streams.

mod store;
