//! Whole proxies over loopback: a small control plane made here, real certificates, real sockets.

mod access;
mod apps;
mod control;
mod h2;
mod lifecycle;
mod limits;
mod mux;
mod peers;
mod requests;
mod standing;
mod streams;
mod tcp;
mod traces;
mod world;
