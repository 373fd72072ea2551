//! What the mesh's contract means, tested through its public doors.

#![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]

mod arbitrary;
mod canonical;
mod decisions;
mod lints;
mod notation;
mod properties;
mod reference;
mod resources;
#[cfg(feature = "wire")]
mod wire;
