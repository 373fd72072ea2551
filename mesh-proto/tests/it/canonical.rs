//! Spellings of path, host and header.
