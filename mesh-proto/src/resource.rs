//! The YAML kinds.
