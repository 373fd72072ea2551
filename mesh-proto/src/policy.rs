//! Access policy and what it means. One walk over the rules ([`evaluate`]) answers for proxy, dry run and `explain`.

pub mod model;
