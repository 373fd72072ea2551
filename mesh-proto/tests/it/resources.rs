//! Documents as users write them: what is accepted, what is refused with which words, and that writing is the inverse of
//! reading.

mod bad;
mod examples;
mod round_trip;
