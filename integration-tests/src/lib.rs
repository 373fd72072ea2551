//! What the integration tests stand on: a mesh of built programs in a folder of its own.
//!
//! Nothing here knows the insides of the mesh: it types what a user types and reads what a user reads.
#![expect(
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a test harness fails by panicking with what it saw"
)]

pub mod applications;
pub mod capture;
pub mod forge;
pub mod frames;
pub mod insider;
pub mod load;
pub mod past;
pub mod process;
pub mod programs;
pub mod receivers;
pub mod scale;
pub mod soak;
pub mod wait;
pub mod world;
