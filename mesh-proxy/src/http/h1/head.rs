//! Heads: tokens by httparse, then every rule that httparse leaves open.
//!
//! [`super::Server`] and [`super::Client`] parse with this what stands in their buffers. A head is either wholly valid
//! here or an error; nothing is repaired. What the request means as a whole is `http::canonical`'s matter.

use super::framing::{self, BodyLength};
use crate::http::Limits;
use crate::http::field::{self, Known};
use crate::refusal::{Malformed, Refusal};
use smallvec::SmallVec;
use std::mem::MaybeUninit;

/// The most fields that any setting can allow: the size of the parser's table on the stack.
const FIELDS_MAX: usize = 128;
/// The longest method. The longest registered one has 17 bytes.
const METHOD_BYTES_MAX: usize = 32;

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

impl Span {
    /// Where `part`, a slice of `whole`, lies in it; empty for an empty part.
    pub(super) fn within(whole: &[u8], part: &[u8]) -> Self {
        if part.is_empty() {
            return Self::default();
        }
        let start = (part.as_ptr() as usize).wrapping_sub(whole.as_ptr() as usize);
        let end = start.wrapping_add(part.len());
        match (u32::try_from(start), u32::try_from(end)) {
            (Ok(start), Ok(end)) if end as usize <= whole.len() => Self { start, end },
            _ => Self::default(),
        }
    }

    pub(super) fn start(self) -> usize {
        self.start as usize
    }

    pub(crate) fn of(self, bytes: &[u8]) -> &[u8] {
        bytes.get(self.start as usize..self.end as usize).unwrap_or_default()
    }
}

/// One field of a head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    pub(crate) name: Span,
    pub(crate) value: Span,
    pub(crate) known: Known,
}

/// The fields of a head; 16 stay on the stack.
pub(crate) type Fields = SmallVec<[Field; 16]>;

/// What the `Connection` fields say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Options {
    close: bool,
    keep_alive: bool,
    upgrade: bool,
    /// Names a field other than the options above: that one is removed.
    nominates: bool,
}

/// A request's head, as it was read. Owns its bytes.
#[derive(Debug)]
pub struct RequestHead {
    bytes: Vec<u8>,
    layout: RequestLayout,
}

/// Where the parts of a request's head are.
#[derive(Debug)]
pub(super) struct RequestLayout {
    /// Bytes of the head.
    pub(super) length: usize,
    method: Span,
    target: Span,
    version: Version,
    fields: Fields,
    body: BodyLength,
    options: Options,
    expects_continue: bool,
}

impl RequestLayout {
    /// Parses the front of `bytes`; `None`: more bytes are needed.
    ///
    /// # Errors
    /// The head has no single reading, or is larger than allowed.
    pub(super) fn parse(bytes: &[u8], limits: &Limits) -> Result<Option<Self>, Refusal> {
        let bad = Refusal::BadRequest;
        let mut slots = [const { MaybeUninit::<httparse::Header<'_>>::uninit() }; FIELDS_MAX];
        let mut request = httparse::Request::new(&mut []);
        let window = bytes.get(..limits.head_bytes_max).unwrap_or(bytes);
        // httparse skips empty lines before the start line; two servers may not agree on how many.
        if matches!(window.first(), Some(b'\r' | b'\n')) {
            return Err(bad(Malformed::StartLine));
        }
        let slots = slots.get_mut(..limits.fields_max.min(FIELDS_MAX)).unwrap_or_default();
        let length = match request.parse_with_uninit_headers(window, slots) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if bytes.len() < limits.head_bytes_max => return Ok(None),
            Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
                return Err(Refusal::HeaderTooLarge);
            }
            Err(error) => return Err(bad(fault(error))),
        };
        let head = window.get(..length).unwrap_or_default();
        let version = version(request.version).ok_or(bad(Malformed::StartLine))?;
        let method = request.method.unwrap_or_default().as_bytes();
        if method.is_empty() || method.len() > METHOD_BYTES_MAX {
            return Err(bad(Malformed::StartLine));
        }
        let fields = collect(head, request.headers).map_err(bad)?;
        let target = Span::within(head, request.path.unwrap_or_default().as_bytes());
        let mut layout = Self {
            length,
            method: Span::within(head, method),
            target,
            version,
            body: framing::length(head, &fields, version).map_err(bad)?.unwrap_or(BodyLength::None),
            options: options(head, &fields),
            expects_continue: false,
            fields,
        };
        layout.check_start_line(head).map_err(bad)?;
        layout.expects_continue = version == Version::Http11
            && layout
                .of(Known::Expect)
                .any(|field| field.value.of(head).eq_ignore_ascii_case(b"100-continue"));
        Ok(Some(layout))
    }

    /// The start line must be exactly `METHOD SP target SP HTTP/1.x CRLF`: httparse also takes a bare LF.
    fn check_start_line(&self, head: &[u8]) -> Result<(), Malformed> {
        let tail = head.get(self.target.end as usize..).unwrap_or_default();
        match tail {
            [b' ', b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0' | b'1', b'\r', b'\n', ..] => Ok(()),
            _ => Err(Malformed::BareLineFeed),
        }
    }

    fn of(&self, known: Known) -> impl Iterator<Item = &Field> {
        self.fields.iter().filter(move |field| field.known == known)
    }
}

impl RequestHead {
    /// From the bytes of the head and their layout.
    pub(super) fn new(bytes: Vec<u8>, layout: RequestLayout) -> Self {
        Self { bytes, layout }
    }

    /// Parses a whole head from bytes, for tests and fuzzing; `None`: it is not complete.
    ///
    /// # Errors
    /// As [`super::Server::read_request`].
    pub fn parse(bytes: &[u8], limits: &Limits) -> Result<Option<Self>, Refusal> {
        let layout = RequestLayout::parse(bytes, limits)?;
        Ok(layout.map(|layout| {
            let head = bytes.get(..layout.length).unwrap_or_default().to_vec();
            Self::new(head, layout)
        }))
    }

    /// The buffer, to be used again.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// How long its body is.
    pub fn body(&self) -> BodyLength {
        self.layout.body
    }

    /// The version the caller speaks.
    pub fn version(&self) -> Version {
        self.layout.version
    }

    /// The method as it was sent.
    pub fn method(&self) -> &[u8] {
        self.layout.method.of(&self.bytes)
    }

    /// The target as it was sent.
    pub fn target(&self) -> &[u8] {
        self.layout.target.of(&self.bytes)
    }

    /// Whether the caller waits for `100 Continue` before it sends the body.
    pub fn expects_continue(&self) -> bool {
        self.layout.expects_continue
    }

    /// Whether the caller lets the connection go on (RFC 9112, section 9.3).
    pub fn is_persistent(&self) -> bool {
        is_persistent(self.layout.version, self.layout.options)
    }

    /// Whether `Connection` names a field, which then is not forwarded.
    pub(crate) fn nominates(&self) -> bool {
        self.layout.options.nominates
    }

    /// Whether `Connection` says `upgrade`.
    pub(crate) fn asks_upgrade(&self) -> bool {
        self.layout.options.upgrade
    }

    /// Names and values in the order of the message, with what is known of them.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8], Known)> {
        self.layout
            .fields
            .iter()
            .map(|field| (field.name.of(&self.bytes), field.value.of(&self.bytes), field.known))
    }

    /// Appends the lines of the fields that `keep` chooses by name, each exactly `name: value` and CRLF.
    pub(super) fn copy_fields(&self, out: &mut Vec<u8>, keep: impl FnMut(&[u8], Known) -> bool) {
        copy_fields(out, &self.bytes, &self.layout.fields, keep);
    }

    /// The values of one known field.
    pub(crate) fn values(&self, known: Known) -> impl Iterator<Item = &[u8]> {
        self.layout.of(known).map(|field| field.value.of(&self.bytes))
    }
}

/// A response's head. Its ranges belong to the buffer it was parsed from.
#[derive(Debug)]
pub struct ResponseHead {
    length: usize,
    status: u16,
    reason: Span,
    version: Version,
    fields: Fields,
    framing: Option<BodyLength>,
    options: Options,
}

impl ResponseHead {
    /// Parses the front of `bytes`; `None`: more bytes are needed.
    ///
    /// # Errors
    /// The head has no single reading, or is larger than allowed.
    pub fn parse(bytes: &[u8], limits: &Limits) -> Result<Option<Self>, Refusal> {
        let bad = Refusal::BadResponse;
        let mut slots = [const { MaybeUninit::<httparse::Header<'_>>::uninit() }; FIELDS_MAX];
        let mut response = httparse::Response::new(&mut []);
        let window = bytes.get(..limits.head_bytes_max).unwrap_or(bytes);
        if matches!(window.first(), Some(b'\r' | b'\n')) {
            return Err(bad(Malformed::StartLine));
        }
        let slots = slots.get_mut(..limits.fields_max.min(FIELDS_MAX)).unwrap_or_default();
        let config = httparse::ParserConfig::default();
        let length = match config.parse_response_with_uninit_headers(&mut response, window, slots) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if bytes.len() < limits.head_bytes_max => return Ok(None),
            Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
                return Err(Refusal::ResponseTooLarge);
            }
            Err(error) => return Err(bad(fault(error))),
        };
        let head = window.get(..length).unwrap_or_default();
        let version = version(response.version).ok_or(bad(Malformed::StartLine))?;
        let status = response.code.filter(|code| (100..=599).contains(code));
        let status = status.ok_or(bad(Malformed::StartLine))?;
        let line = head.iter().position(|byte| *byte == b'\n').unwrap_or_default();
        if line == 0 || head.get(line - 1) != Some(&b'\r') {
            return Err(bad(Malformed::BareLineFeed));
        }
        let fields = collect(head, response.headers).map_err(bad)?;
        let framing = framing::length(head, &fields, version).map_err(bad)?;
        Ok(Some(Self {
            length,
            status,
            reason: Span::within(head, response.reason.unwrap_or_default().as_bytes()),
            version,
            options: options(head, &fields),
            fields,
            framing,
        }))
    }

    /// Bytes of the head.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The status, 100 to 599.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// What the framing fields say, whatever the request was.
    pub(crate) fn declared(&self) -> Option<BodyLength> {
        self.framing
    }

    /// How long the body is, as an answer to a request with this method (RFC 9112, section 6.3).
    pub fn body(&self, method: &str) -> BodyLength {
        match self.status {
            100..=199 | 204 | 304 => BodyLength::None,
            _ if method == "HEAD" => BodyLength::None,
            _ => self.framing.unwrap_or(BodyLength::UntilClose),
        }
    }

    /// Whether the origin lets the connection go on.
    pub fn is_persistent(&self) -> bool {
        is_persistent(self.version, self.options)
    }

    /// The reason phrase in `bytes`, the buffer this was parsed from.
    pub(crate) fn reason<'b>(&self, bytes: &'b [u8]) -> &'b [u8] {
        self.reason.of(bytes)
    }

    /// Whether `Connection` says `upgrade`.
    pub(crate) fn upgrades(&self) -> bool {
        self.options.upgrade
    }

    /// Whether `Connection` names a field, which then is not forwarded.
    pub(crate) fn nominates(&self) -> bool {
        self.options.nominates
    }

    /// As [`RequestHead::copy_fields`], from `bytes`, the buffer this was parsed from.
    pub(super) fn copy_fields(
        &self,
        bytes: &[u8],
        out: &mut Vec<u8>,
        keep: impl FnMut(&[u8], Known) -> bool,
    ) {
        copy_fields(out, bytes, &self.fields, keep);
    }

    /// Names and values in `bytes`, the buffer this was parsed from.
    pub(crate) fn fields<'b>(&'b self, bytes: &'b [u8]) -> impl Iterator<Item = (&'b [u8], &'b [u8], Known)> {
        self.fields.iter().map(|field| (field.name.of(bytes), field.value.of(bytes), field.known))
    }
}

fn is_persistent(version: Version, options: Options) -> bool {
    !options.close && (version == Version::Http11 || options.keep_alive)
}

/// Classifies the fields of a head. Every line must end in CRLF, single-valued fields must be single.
fn collect(head: &[u8], headers: &[httparse::Header<'_>]) -> Result<Fields, Malformed> {
    let mut fields = Fields::new();
    let mut seen = 0_u32;
    for header in headers {
        let known = field::classify(header.name.as_bytes());
        if known.is_single() && seen & known.bit() != 0 {
            return Err(match known {
                Known::ContentLength => Malformed::ContentLength,
                Known::TransferEncoding => Malformed::TransferEncoding,
                Known::Host => Malformed::Host,
                _ => Malformed::RepeatedField,
            });
        }
        seen |= known.bit();
        let name = Span::within(head, header.name.as_bytes());
        fields.push(Field { name, value: Span::within(head, header.value), known });
    }
    if framing::lines_end_in_crlf(head, fields.iter().map(|field| field.name)) {
        Ok(fields)
    } else {
        Err(Malformed::BareLineFeed)
    }
}

/// Copies lines of a head. Most come spelt as they go out, one behind the other, so they are copied in runs, not by
/// four small copies for each field, each with its check of the capacity.
fn copy_fields(
    out: &mut Vec<u8>,
    bytes: &[u8],
    fields: &[Field],
    mut keep: impl FnMut(&[u8], Known) -> bool,
) {
    let mut run = Span::default();
    for field in fields.iter().filter(|field| keep(field.name.of(bytes), field.known)) {
        let after = field.value.end.saturating_add(2);
        let gap = Span { start: field.name.end, end: field.value.start };
        let tail = Span { start: field.value.end, end: after };
        if gap.of(bytes) == b": " && tail.of(bytes) == b"\r\n" {
            if run.end != field.name.start {
                out.extend_from_slice(run.of(bytes));
                run.start = field.name.start;
            }
            run.end = after;
            continue;
        }
        out.extend_from_slice(run.of(bytes));
        run = Span::default();
        for part in [field.name.of(bytes), b": ", field.value.of(bytes), b"\r\n"] {
            out.extend_from_slice(part);
        }
    }
    out.extend_from_slice(run.of(bytes));
}

fn options(head: &[u8], fields: &[Field]) -> Options {
    let mut options = Options::default();
    for field in fields.iter().filter(|field| field.known == Known::Connection) {
        for option in list(field.value.of(head)) {
            if option.eq_ignore_ascii_case(b"close") {
                options.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                options.keep_alive = true;
            } else if option.eq_ignore_ascii_case(b"upgrade") {
                options.upgrade = true;
            } else {
                options.nominates = true;
            }
        }
    }
    options
}

/// The members of a comma-separated list, without the white space around them and without empty ones.
pub(crate) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}

fn version(minor: Option<u8>) -> Option<Version> {
    match minor {
        Some(0) => Some(Version::Http10),
        Some(1) => Some(Version::Http11),
        _ => None,
    }
}

fn fault(error: httparse::Error) -> Malformed {
    use httparse::Error as E;
    match error {
        E::HeaderName | E::HeaderValue | E::NewLine | E::TooManyHeaders => Malformed::Field,
        E::Status | E::Token | E::Version => Malformed::StartLine,
    }
}
