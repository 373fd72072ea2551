//! Access policy and what it means. One walk over the rules ([`evaluate`]) answers for proxy, dry run and `explain`.

pub mod compile;
pub mod diff;
pub mod evaluate;
pub mod explain;
mod hash;
mod index;
pub mod lint;
pub mod model;
pub mod standing;
