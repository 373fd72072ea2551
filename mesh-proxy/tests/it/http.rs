//! The HTTP module through its public doors: what is refused, and what arrives on the other side.

mod h1_exchange;
mod h1_heads;
mod wire;
