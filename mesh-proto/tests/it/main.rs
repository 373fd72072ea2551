//! What the mesh's contract means, tested through its public doors.

mod canonical;
mod decisions;
mod notation;
mod properties;
mod reference;
mod resources;
