//! Heads made anew.
