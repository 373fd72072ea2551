//! The HTTP module through its public doors: what is refused, and what arrives on the other side.

mod against_hyper;
mod h1_exchange;
mod h1_heads;
mod h2_bounds;
mod h2_floods;
mod h2_streams;
mod h2_world;
mod properties;
mod wire;
