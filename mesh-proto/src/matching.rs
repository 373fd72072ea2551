//! Matchers over canonical requests, and the one canonical form of path and host.
//!
//! The proxy's codec makes the canonical form once, policy judges it, the same bytes are forwarded. `resource` and `wire`
//! read patterns with `FromStr` and write them with `Display`; both directions agree. No regex: literals, prefixes and
//! whole-segment templates, each bounded in length. Nothing here resolves, repairs or guesses: what has no single
//! reading is refused.

mod header;
mod host;
mod path;
mod pattern;

pub use header::{Fields, HeaderCondition, HeaderTest, Quantifier};
pub use host::{CanonicalHost, HostPattern, HostProblem, canonical_host};
pub use path::{PATH_BYTES_MAX, PathPattern, PathProblem, canonical_path, split_target};
pub(crate) use path::{Reach, Segment, matching_form};
pub use pattern::{GrpcPattern, Method, PatternError};
