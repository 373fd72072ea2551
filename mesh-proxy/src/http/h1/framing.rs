//! Where a message ends (RFC 9112, sections 6 and 7).

/// How long a body is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BodyLength {
    /// There is none.
    None,
    /// Exactly so many bytes.
    Exact(u64),
    /// In chunks.
    Chunked,
    /// Until the connection ends; responses only.
    UntilClose,
}
