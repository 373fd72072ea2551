//! Heads: tokens by httparse, then every rule that httparse leaves open.

use super::framing::BodyLength;
use crate::http::field::Known;
use smallvec::SmallVec;

/// HTTP/1 versions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    /// 1.0: no chunks, no interim responses, closed unless told otherwise.
    Http10,
    /// 1.1.
    Http11,
}

/// A range of a head's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Span {
    start: u32,
    end: u32,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    pub(crate) name: Span,
    pub(crate) value: Span,
    pub(crate) known: Known,
}

/// A request's head, as it was read.
#[derive(Debug)]
pub struct RequestHead {
    bytes: Vec<u8>,
    method: Span,
    target: Span,
    version: Version,
    fields: SmallVec<[Field; 16]>,
    body: BodyLength,
}

/// A response's head, as it was read.
#[derive(Debug)]
pub struct ResponseHead {
    status: u16,
    body: BodyLength,
}

impl RequestHead {
    /// How long its body is.
    pub fn body(&self) -> BodyLength {
        self.body
    }

    /// The version the caller speaks.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The method as it was sent.
    pub fn method(&self) -> &[u8] {
        self.at(self.method)
    }

    /// The target as it was sent.
    pub fn target(&self) -> &[u8] {
        self.at(self.target)
    }

    fn at(&self, span: Span) -> &[u8] {
        self.bytes.get(span.start as usize..span.end as usize).unwrap_or_default()
    }
}

impl ResponseHead {
    /// The status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// How long its body is.
    pub fn body(&self) -> BodyLength {
        self.body
    }
}
