//! What operators see of every program. Filled by its parts.
