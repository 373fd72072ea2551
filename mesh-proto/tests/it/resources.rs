//! Documents as users write them: what is accepted, what is refused with which words, and that writing is the inverse of
//! reading.
#![expect(clippy::unwrap_used, reason = "test code outside of a test function")]

mod bad;
mod examples;
