//! Transparent capture: a network namespace for one workload, from which every connection leads into its proxy.
//!
//! `app` makes a [`namespace::Namespace`] when the configuration asks for it, `meshctl run --transparent` starts the
//! workload inside it. The namespace has no link to anything: its only interface is a pair whose two ends are both in it.
//! What the workload sends is either redirected to the proxy's listeners or refused; there is no road past the proxy,
//! whatever the workload's user id, IPv4 or IPv6. The proxy itself lives outside; only its sockets stand inside.
//!
//! Never decides who may call whom, never touches the rules of the machine's own namespace, needs root on Linux.
//!
//! # Why
//! The usual sidecar shares the workload's namespace and tells its own packets apart by user id or mark, which a root
//! workload can imitate. Sockets keep the namespace they were made in, so the proxy can listen inside and call outside
//! without being inside: there is nothing to tell apart and nothing to imitate.

pub mod dialer;
pub mod dns;
pub(crate) mod doors;
pub mod namespace;
pub mod original_dst;
pub mod pod;
pub mod rules;
pub mod vip;
