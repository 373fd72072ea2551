//! The trace context in a request's fields: W3C Trace Context (Level 1) and B3 in both forms, read strictly and written
//! anew in the form it came in.
//!
//! What cannot be read is no context. Reading allocates nothing.

use crate::http::canonical::Canonical;
use std::io::Write as _;

/// Which request of which trace this one is part of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Context {
    /// Never 0.
    pub(crate) trace_id: u128,
    /// Never 0.
    pub(crate) span_id: u64,
    /// Whether the caller records it; `None` leaves it to us, which only B3 can.
    pub(crate) sampled: Option<bool>,
}

/// What came with a request, and in which forms.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Incoming {
    /// W3C's if there is one, B3's otherwise.
    pub(crate) context: Option<Context>,
    /// The caller said that it is not sampled, without a trace (only B3 can).
    pub(crate) is_declined: bool,
    is_w3c: bool,
    has_b3: bool,
    has_b3_parts: bool,
}

impl Incoming {
    /// Of a request.
    pub(crate) fn of(request: &Canonical<'_>) -> Self {
        let mut incoming = Self::default();
        let (mut w3c, mut b3, mut parts) = (Seen::Nothing, Seen::Nothing, Parts::default());
        // The names are told apart by their lengths and first letters; all of them are of a trace.
        request.each_trace_field(&mut |name, value| match (name.len(), name.first()) {
            (11, Some(b't' | b'T')) => w3c.see(traceparent(value)),
            (2, _) => {
                incoming.has_b3 = true;
                incoming.is_declined |= value == b"0";
                b3.see(single(value));
            }
            (12, _) => {
                incoming.has_b3_parts = true;
                parts.see(name, value);
            }
            (11, _) => parts.span_id = hex(value, 16).and_then(|id| u64::try_from(id).ok()),
            (10, Some(b'x' | b'X')) if value == b"1" => parts.sampled = Some(true),
            _ => {}
        });
        incoming.is_declined |= parts.sampled == Some(false);
        incoming.is_w3c = matches!(w3c, Seen::One(_));
        incoming.context = w3c.one().or_else(|| b3.one()).or_else(|| parts.context());
        incoming
    }
}

/// The fields of B3's second form, as far as they have been seen.
#[derive(Default)]
struct Parts {
    trace_id: Option<u128>,
    span_id: Option<u64>,
    sampled: Option<bool>,
}

impl Parts {
    fn see(&mut self, name: &[u8], value: &[u8]) {
        if name.eq_ignore_ascii_case(b"x-b3-traceid") {
            self.trace_id = b3_trace_id(value);
        } else {
            self.sampled = b3_sampled(value).or(self.sampled);
        }
    }

    fn context(&self) -> Option<Context> {
        let (trace_id, span_id) = (self.trace_id?, self.span_id?);
        (trace_id != 0 && span_id != 0).then_some(Context { trace_id, span_id, sampled: self.sampled })
    }
}

/// A field that may stand there once.
enum Seen {
    Nothing,
    One(Context),
    /// Twice, or unreadable.
    Unusable,
}

impl Seen {
    fn see(&mut self, context: Option<Context>) {
        *self = match (&self, context) {
            (Self::Nothing, Some(context)) => Self::One(context),
            _ => Self::Unusable,
        };
    }

    fn one(&self) -> Option<Context> {
        match self {
            Self::One(context) => Some(*context),
            Self::Nothing | Self::Unusable => None,
        }
    }
}

/// `version-trace-parent-flags` (W3C Trace Context, 3.2). Of later versions the beginning is read, as it says there.
fn traceparent(value: &[u8]) -> Option<Context> {
    let has_dashes = [2, 35, 52].iter().all(|at| value.get(*at) == Some(&b'-'));
    let version = hex(value.get(..2)?, 2).filter(|version| has_dashes && *version != 0xff)?;
    let ends = match value.get(55) {
        None => true,
        Some(more) => version > 0 && *more == b'-',
    };
    let is_lower = !value.get(..55)?.iter().any(u8::is_ascii_uppercase);
    let trace_id = hex(value.get(3..35)?, 32)?;
    let span_id = u64::try_from(hex(value.get(36..52)?, 16)?).ok()?;
    let flags = hex(value.get(53..55)?, 2)?;
    let is_valid = ends && is_lower && trace_id != 0 && span_id != 0;
    is_valid.then_some(Context { trace_id, span_id, sampled: Some(flags & 1 == 1) })
}

/// `trace-span[-sampled[-parent]]`, or a sampling decision alone, which is no context.
fn single(value: &[u8]) -> Option<Context> {
    let mut parts = value.split(|byte| *byte == b'-');
    let trace_id = b3_trace_id(parts.next()?)?;
    let span_id = u64::try_from(hex(parts.next()?, 16)?).ok()?;
    let sampled = match parts.next() {
        Some(b"d") => Some(true),
        Some(word) => Some(b3_sampled(word)?),
        None => None,
    };
    (trace_id != 0 && span_id != 0).then_some(Context { trace_id, span_id, sampled })
}

/// 32 or 16 digits.
fn b3_trace_id(value: &[u8]) -> Option<u128> {
    hex(value, 32).or_else(|| hex(value, 16))
}

fn b3_sampled(value: &[u8]) -> Option<bool> {
    match value {
        b"1" | b"true" => Some(true),
        b"0" | b"false" => Some(false),
        _ => None,
    }
}

/// Exactly so many hexadecimal digits.
fn hex(text: &[u8], digits: usize) -> Option<u128> {
    if text.len() != digits {
        return None;
    }
    text.iter().try_fold(0_u128, |number, byte| {
        let digit = char::from(*byte).to_digit(16)?;
        Some(number << 4 | u128::from(digit))
    })
}

/// The header lines that continue a trace: `traceparent` always, B3 in the forms that came, `tracestate` if it belongs to
/// what is continued.
pub(crate) fn write(
    request: &Canonical<'_>,
    incoming: &Incoming,
    (trace_id, span_id): (u128, u64),
) -> Vec<u8> {
    let mut lines = Vec::with_capacity(128);
    // Writing to a vector does not fail.
    let _ = write!(lines, "traceparent: 00-{trace_id:032x}-{span_id:016x}-01\r\n");
    let parent = incoming.context.map(|came| came.span_id);
    if incoming.has_b3 {
        let _ = write!(lines, "b3: {trace_id:032x}-{span_id:016x}-1");
        let _ = parent.map_or(Ok(()), |parent| write!(lines, "-{parent:016x}"));
        lines.extend_from_slice(b"\r\n");
    }
    if incoming.has_b3_parts {
        let ids = format_args!("x-b3-traceid: {trace_id:032x}\r\nx-b3-spanid: {span_id:016x}\r\n");
        let _ = write!(lines, "{ids}x-b3-sampled: 1\r\n");
        let _ = parent.map_or(Ok(()), |parent| write!(lines, "x-b3-parentspanid: {parent:016x}\r\n"));
    }
    if incoming.is_w3c {
        request.each_trace_field(&mut |name, value| {
            if name.eq_ignore_ascii_case(b"tracestate") {
                lines.extend_from_slice(b"tracestate: ");
                lines.extend_from_slice(value);
                lines.extend_from_slice(b"\r\n");
            }
        });
    }
    lines
}

/// Such lines as fields of HTTP/2.
pub(crate) fn fields(lines: &[u8]) -> http::HeaderMap {
    let mut fields = http::HeaderMap::new();
    for line in lines.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = line.split_at(colon);
        let value = value.strip_prefix(b": ").unwrap_or_default();
        let both = (http::HeaderName::from_bytes(name), http::HeaderValue::from_bytes(value));
        if let (Ok(name), Ok(value)) = both {
            fields.append(name, value);
        }
    }
    fields
}
