//! Placeholder head; the crate's README says what it is.
