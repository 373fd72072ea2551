//! How proxies learn what they must know: one stream for each, state in, differences out.
//!
//! - [`server`]: the gRPC service; each stream is a state machine that lives and dies with its connection.
//! - [`subscriber`]: what one proxy has, what it was sent, what it must get next. Pure.
//! - [`fanout`]: the mesh as it is now, published to all streams; and what each proxy has confirmed.
//!
//! # Why state and not events
//! A stream holds no queue of changes. It looks at the newest state when its proxy is ready for it and sends the
//! difference to what the proxy has confirmed. So a slow proxy costs no memory, gets coalesced state, and can never end up
//! with a sum of events that differs from the state. One update is under way at a time; the next waits for its answer.

pub(crate) mod fanout;
mod hello;
pub(crate) mod server;
pub(crate) mod subscriber;
