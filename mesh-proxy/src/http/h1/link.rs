//! A transport with what was read and not used yet, and what is to be written.

/// One side of a connection.
pub(crate) struct Link<S> {
    io: S,
    #[expect(dead_code, reason = "read by the codec")]
    input: Vec<u8>,
}

impl<S> Link<S> {
    /// With bytes that were read before.
    pub(crate) fn new(io: S, early: Vec<u8>) -> Self {
        Self { io, input: early }
    }

    /// The transport.
    pub(crate) fn io(&self) -> &S {
        &self.io
    }
}
