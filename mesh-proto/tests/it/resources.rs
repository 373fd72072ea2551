//! Documents as users write them: what is accepted, what is refused with which words, what it means together, and that
//! writing is the inverse of reading.

mod bad;
mod examples;
mod fleet;
mod golden;
mod meaning;
mod related;
mod round_trip;
mod survey;
