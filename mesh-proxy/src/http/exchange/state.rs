//! The two directions of an exchange, and how each can end.

use super::transfer::{self, Moved};
use super::{Forward, Outcome};
use crate::http::field::Known;
use crate::http::h1::{
    self, After, Answer, BodyLength, Client, Connection, Decoder, HeadScan, RequestHead, ResponseHead,
    Server, Version,
};
use crate::http::{Failure, Limits, Meter, Origin, Retry};
use crate::refusal::{Malformed, REASON_FIELD, Refusal};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite};

/// Output that may gather before it is sent: one read of a streaming body.
const GATHER_BYTES: usize = 64 * 1024;

/// Both directions of one exchange.
pub(super) struct Exchange<'a, S, U> {
    pub(super) server: &'a mut Server<S>,
    pub(super) client: &'a mut Client<U>,
    pub(super) limits: &'a Limits,
    pub(super) meter: &'a mut Meter,
    what: Forward<'a>,
    head: &'a RequestHead,
    /// The request's body as it was before any of it was used.
    untouched: Decoder,
    up: Up,
    down: Down,
    request_bytes: u64,
    /// Any byte was accepted by the origin's transport.
    sent: bool,
    /// Any byte came from the origin.
    heard: bool,
    /// Any byte of an answer was written for the caller.
    answered: bool,
    interim: u32,
}

/// The request's direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Up {
    /// Head and body are being sent.
    Sending,
    /// All of it was sent.
    Complete,
    /// The origin takes no more; it may still answer.
    Refused,
}

/// The response's direction.
enum Down {
    /// Waiting for a head, or for the rest of one.
    Head(Option<HeadScan>),
    /// Streaming the body.
    Body { body: Decoder, framing: BodyLength, origin_persists: bool, caller_persists: bool },
    /// All was read; this is what remains to be sent before the exchange fails visibly.
    Cut(Stop),
    /// The upgrade's head is being sent.
    Upgrading,
}

/// How an origin's connection ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Leaving {
    /// With an end of the stream (under TLS: `close_notify`).
    Cleanly,
    /// With an error.
    Abruptly,
}

/// How an exchange can end well.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// The answer is complete.
    Answered,
    /// Both connections now carry another protocol.
    Upgraded,
}

/// Why an exchange stops, and whether it may be tried elsewhere as far as the origin goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stop {
    refusal: Refusal,
    retry: Retry,
}

impl Stop {
    fn never(refusal: Refusal) -> Self {
        Self { refusal, retry: Retry::Never }
    }
}

impl<'a, S, U> Exchange<'a, S, U>
where
    S: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    /// Writes the head and what is there of the body into the origin's output. Nothing is sent yet.
    pub(super) fn begin(
        server: &'a mut Server<S>,
        what: Forward<'a>,
        client: &'a mut Client<U>,
        limits: &'a Limits,
        meter: &'a mut Meter,
    ) -> Result<Self, Failure> {
        let failure = |refusal, retry| Failure { refusal, answered: false, retry };
        let Some(head) = what.request.h1() else {
            return Err(failure(Refusal::WrongProtocol, Retry::Never));
        };
        if client.is_stale() {
            return Err(failure(Refusal::UpstreamClosed, Retry::Safe));
        }
        if let (BodyLength::Exact(bytes), Some(max)) = (head.body(), limits.body_bytes_max)
            && bytes > max
        {
            return Err(failure(Refusal::BodyTooLarge, Retry::Never));
        }
        h1::request(client.link.output(), what.request, what.append);
        server.link.mark();
        server.touch();
        let untouched = server.body;
        let mut exchange = Self {
            server,
            client,
            limits,
            meter,
            what,
            head,
            untouched,
            up: Up::Sending,
            down: Down::Head(None),
            request_bytes: 0,
            sent: false,
            heard: false,
            answered: false,
            interim: 0,
        };
        if let Err(stop) = exchange.gather_request() {
            return Err(exchange.fail(stop));
        }
        Ok(exchange)
    }

    /// Drives both directions until the answer is complete.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<End, Stop>> {
        let up = self.poll_up(cx)?;
        if let Poll::Ready(end) = self.poll_down(cx)? {
            return Poll::Ready(Ok(end));
        }
        let (limit, refusal) = self.deadline(up);
        self.server.poll_expired(cx, self.limits, limit).map(|()| Err(Stop::never(refusal)))
    }

    /// Who is awaited, and how long.
    fn deadline(&self, up: Poll<()>) -> (std::time::Duration, Refusal) {
        let waits_for_go = self.head.expects_continue() && self.request_bytes == 0;
        let reads_caller = up.is_pending() && self.up == Up::Sending && !self.client.link.has_output();
        if self.server.link.has_output() {
            (self.limits.progress_timeout, Refusal::CallerGone)
        } else if reads_caller && !waits_for_go {
            (self.limits.progress_timeout, Refusal::RequestTimeout)
        } else {
            (self.limits.exchange_timeout, Refusal::UpstreamTimeout)
        }
    }

    /// Moves what is there of the request's body into the origin's output.
    fn gather_request(&mut self) -> Result<Moved, Stop> {
        let (framing, max) = (self.head.body(), self.limits.trailer_bytes_max);
        let out = self.client.link.output();
        let moved = transfer::into_output(&mut self.server.body, &mut self.server.link, out, framing, max);
        let moved = moved.map_err(|fault| Stop::never(Refusal::BadRequest(fault)))?;
        self.count_request(moved.bytes)?;
        Ok(moved)
    }

    fn count_request(&mut self, bytes: u64) -> Result<(), Stop> {
        self.request_bytes = self.request_bytes.saturating_add(bytes);
        self.meter.request_bytes = self.meter.request_bytes.saturating_add(bytes);
        self.limits.tell_passed(bytes);
        match self.limits.body_bytes_max {
            Some(max) if self.request_bytes > max => Err(Stop::never(Refusal::BodyTooLarge)),
            _ => Ok(()),
        }
    }

    /// Sends the request. Ready: nothing more will be sent.
    fn poll_up(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Stop> {
        while self.up == Up::Sending {
            if self.client.link.has_output() {
                match self.client.link.poll_send(cx) {
                    Poll::Pending => {
                        self.sent = true;
                        return Ok(Poll::Pending);
                    }
                    Poll::Ready(Ok(())) => {
                        self.sent = true;
                        self.server.touch();
                    }
                    Poll::Ready(Err(_)) => {
                        self.sent |= !self.client.link.discard_output();
                        self.up = Up::Refused;
                        return Ok(Poll::Ready(()));
                    }
                }
            }
            if self.server.body.is_done() {
                self.up = Up::Complete;
                break;
            }
            if self.step_up(cx)?.is_pending() {
                return Ok(Poll::Pending);
            }
        }
        if self.up == Up::Complete {
            self.watch_caller(cx)?;
        }
        Ok(Poll::Ready(()))
    }

    /// Takes more of the body from the caller.
    fn step_up(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Stop> {
        if matches!(self.head.body(), BodyLength::Exact(_)) {
            let through = transfer::poll_through(
                cx,
                &mut self.server.body,
                &mut self.server.link,
                &mut self.client.link,
            );
            match through {
                Some(Poll::Pending) => return Ok(Poll::Pending),
                Some(Poll::Ready(Err(_))) => {
                    self.up = Up::Refused;
                    return Ok(Poll::Ready(()));
                }
                Some(Poll::Ready(Ok(bytes))) => {
                    self.server.touch();
                    self.count_request(bytes)?;
                    return Ok(Poll::Ready(()));
                }
                None => {}
            }
        }
        self.gather_request()?;
        if self.client.link.has_output() || self.server.body.is_done() {
            return Ok(Poll::Ready(()));
        }
        match self.server.link.poll_fill(cx) {
            Poll::Pending => Ok(Poll::Pending),
            Poll::Ready(Ok(0) | Err(_)) => Err(Stop::never(Refusal::CallerGone)),
            Poll::Ready(Ok(_)) => {
                self.server.touch();
                Ok(Poll::Ready(()))
            }
        }
    }

    /// Notices when the caller goes away while its answer is awaited. A pipelined request stays in the buffer.
    fn watch_caller(&mut self, cx: &mut Context<'_>) -> Result<(), Stop> {
        if self.server.link.unread().is_empty()
            && let Poll::Ready(Ok(0) | Err(_)) = self.server.link.poll_peek(cx)
        {
            return Err(Stop::never(Refusal::CallerGone));
        }
        Ok(())
    }

    /// Passes the answer on. Ready: it is complete and sent.
    fn poll_down(&mut self, cx: &mut Context<'_>) -> Result<Poll<End>, Stop> {
        loop {
            match &mut self.down {
                Down::Head(_) => match self.poll_head(cx)? {
                    Poll::Pending => return Ok(Poll::Pending),
                    Poll::Ready(()) => {}
                },
                Down::Body { body, .. } => {
                    let complete = body.is_done();
                    let waits = if complete { Poll::Ready(()) } else { self.gather_response(cx)? };
                    if self.poll_send_answer(cx)?.is_pending() {
                        return Ok(Poll::Pending);
                    }
                    if matches!(&self.down, Down::Body { body, .. } if body.is_done()) {
                        return Ok(Poll::Ready(End::Answered));
                    }
                    if waits.is_pending() {
                        return Ok(Poll::Pending);
                    }
                }
                Down::Upgrading => {
                    return Ok(self.poll_send_answer(cx)?.map(|()| End::Upgraded));
                }
                Down::Cut(stop) => {
                    let stop = *stop;
                    return match self.poll_send_answer(cx)? {
                        Poll::Pending => Ok(Poll::Pending),
                        Poll::Ready(()) => Err(stop),
                    };
                }
            }
        }
    }

    fn poll_send_answer(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Stop> {
        if !self.server.link.has_output() {
            return Ok(Poll::Ready(()));
        }
        match self.server.link.poll_send(cx) {
            Poll::Pending => Ok(Poll::Pending),
            Poll::Ready(Ok(())) => {
                self.server.touch();
                Ok(Poll::Ready(()))
            }
            Poll::Ready(Err(_)) => Err(Stop::never(Refusal::CallerGone)),
        }
    }

    /// Reads a response's head and writes it for the caller. Ready: look at the state again.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Stop> {
        if self.poll_send_answer(cx)?.is_pending() {
            return Ok(Poll::Pending);
        }
        let Down::Head(scan) = &mut self.down else {
            return Ok(Poll::Ready(()));
        };
        let unread = self.client.link.unread();
        // With bytes of the next head behind an interim one there is no scan yet, and with none there is nothing to parse.
        let due = scan.is_none() && !unread.is_empty();
        if due {
            *scan = Some(HeadScan::after(unread.len()));
            if let Some(head) = ResponseHead::parse(unread, self.limits).map_err(Stop::never)? {
                self.on_head(&head)?;
                return Ok(Poll::Ready(()));
            }
        }
        match ready_or(self.client.link.poll_fill(cx)) {
            None => Ok(Poll::Pending),
            Some(Ok(count)) if count > 0 => {
                self.heard = true;
                self.server.touch();
                if let Down::Head(Some(scan)) = &mut self.down
                    && scan.is_due(self.client.link.unread(), count, self.limits)
                {
                    self.down = Down::Head(None);
                }
                Ok(Poll::Ready(()))
            }
            Some(Ok(_)) => Err(self.origin_gone(Leaving::Cleanly)),
            Some(Err(_)) => Err(self.origin_gone(Leaving::Abruptly)),
        }
    }

    /// What it means that the origin's connection ended before a complete head.
    fn origin_gone(&self, leaving: Leaving) -> Stop {
        let clean = leaving == Leaving::Cleanly;
        let unprocessed = !self.sent || (clean && self.what.origin == Origin::MeshPeer);
        let retry = match (self.heard, unprocessed, self.client.is_reused()) {
            (false, true, _) => Retry::Safe,
            (false, false, true) => Retry::IfIdempotent,
            _ => Retry::Never,
        };
        Stop { refusal: Refusal::UpstreamClosed, retry }
    }

    fn on_head(&mut self, head: &ResponseHead) -> Result<(), Stop> {
        let refused = |fault| Stop::never(Refusal::BadResponse(fault));
        match head.status() {
            101 => self.on_upgrade(head)?,
            100..=199 => {
                self.interim = self.interim.saturating_add(1);
                if self.interim > self.limits.interim_max {
                    return Err(refused(Malformed::Interim));
                }
                if head.declared().is_some() {
                    return Err(refused(Malformed::ContentLength));
                }
                // HTTP/1.0 knows no interim responses (RFC 9110, section 15.2).
                if self.head.version() == Version::Http11 {
                    self.write_answer(head, BodyLength::None, Connection::Default);
                }
                self.down = Down::Head(None);
            }
            503 if self.is_unprocessed(head) => {
                return Err(Stop { refusal: Refusal::ConnectFailed, retry: Retry::Safe });
            }
            _ => self.on_final(head),
        }
        self.client.link.consume(head.length());
        Ok(())
    }

    /// Whether a peer's proxy says that its application took no connection, and the caller can still be spared that: it
    /// has seen nothing of an answer, and its request is still here. The word is the proxy's, which removes it from what
    /// its application answers; so the request reached nobody, or is one of a kind that may be repeated.
    fn is_unprocessed(&self, head: &ResponseHead) -> bool {
        let bytes = self.client.link.unread();
        let says = |(name, value, _): (&[u8], &[u8], Known)| {
            name.eq_ignore_ascii_case(REASON_FIELD.as_bytes())
                && value == Refusal::ConnectFailed.label().as_bytes()
        };
        self.what.origin == Origin::MeshPeer
            && !self.answered
            && self.server.link.is_marked()
            && head.fields(bytes).any(says)
    }

    fn on_upgrade(&mut self, head: &ResponseHead) -> Result<(), Stop> {
        if !self.is_asked_upgrade(head) || !head.upgrades() || head.declared().is_some() {
            return Err(Stop::never(Refusal::BadResponse(Malformed::Upgrade)));
        }
        self.meter.status = 101;
        let protocol = self.what.request.upgrade.unwrap_or_default();
        self.write_answer(head, BodyLength::None, Connection::Upgrade(protocol));
        self.down = Down::Upgrading;
        Ok(())
    }

    /// Whether the answer's only `Upgrade` is the protocol that the caller asked for.
    fn is_asked_upgrade(&self, head: &ResponseHead) -> bool {
        let bytes = self.client.link.unread();
        let mut named = head.fields(bytes).filter(|field| field.2 == Known::Upgrade);
        match (self.what.request.upgrade, named.next(), named.next()) {
            (Some(asked), Some((_, value, _)), None) => value.eq_ignore_ascii_case(asked.as_bytes()),
            _ => false,
        }
    }

    fn on_final(&mut self, head: &ResponseHead) {
        self.meter.status = head.status();
        let body = head.body(self.what.request.method);
        let old_caller = self.head.version() == Version::Http10;
        let framing = match body {
            // What the length would be for a GET may be told (RFC 9110, sections 9.3.2 and 15.4.5).
            BodyLength::None if head.status() != 204 => match head.declared() {
                Some(BodyLength::Exact(bytes)) => BodyLength::Exact(bytes),
                _ => BodyLength::None,
            },
            BodyLength::Chunked | BodyLength::UntilClose if old_caller => BodyLength::UntilClose,
            BodyLength::UntilClose => BodyLength::Chunked,
            same => same,
        };
        let caller_persists =
            self.head.is_persistent() && !self.server.drains() && framing != BodyLength::UntilClose;
        let connection = match (caller_persists, old_caller) {
            (false, _) => Connection::Close,
            (true, true) => Connection::KeepAlive,
            (true, false) => Connection::Default,
        };
        self.write_answer(head, framing, connection);
        self.down = Down::Body {
            body: Decoder::new(body, self.limits.trailer_bytes_max),
            framing,
            origin_persists: head.is_persistent() && body != BodyLength::UntilClose,
            caller_persists,
        };
    }

    fn write_answer(&mut self, head: &ResponseHead, body: BodyLength, connection: Connection<'_>) {
        self.answered = true;
        let answer = Answer { body, connection, origin: self.what.origin };
        h1::response(self.server.link.output(), head, self.client.link.unread(), answer);
    }

    /// Moves what is there of the response's body, and what comes at once, into the caller's output.
    fn gather_response(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Stop> {
        let Down::Body { body, framing, .. } = &mut self.down else {
            return Ok(Poll::Ready(()));
        };
        let (framing, max) = (*framing, self.limits.trailer_bytes_max);
        loop {
            if framing != BodyLength::Chunked
                && let Some(through) =
                    transfer::poll_through(cx, body, &mut self.client.link, &mut self.server.link)
            {
                let bytes = match through {
                    Poll::Pending => return Ok(Poll::Pending),
                    Poll::Ready(Err(_)) => return Err(Stop::never(Refusal::CallerGone)),
                    Poll::Ready(Ok(bytes)) => bytes,
                };
                self.meter.response_bytes = self.meter.response_bytes.saturating_add(bytes);
                self.limits.tell_passed(bytes);
                self.server.touch();
                return Ok(Poll::Ready(()));
            }
            let out = self.server.link.output();
            let moved = match transfer::into_output(body, &mut self.client.link, out, framing, max) {
                Ok(moved) => moved,
                Err(fault) => {
                    self.down = Down::Cut(Stop::never(Refusal::BadResponse(fault)));
                    return Ok(Poll::Ready(()));
                }
            };
            self.meter.response_bytes = self.meter.response_bytes.saturating_add(moved.bytes);
            self.limits.tell_passed(moved.bytes);
            if moved.complete || out.len() >= GATHER_BYTES {
                return Ok(Poll::Ready(()));
            }
            match ready_or(self.client.link.poll_fill(cx)) {
                None => return Ok(Poll::Pending),
                Some(Ok(count)) if count > 0 => self.server.touch(),
                Some(Ok(_)) if body.ends_with_connection() => {
                    *body = Decoder::new(BodyLength::None, 0);
                    if framing == BodyLength::Chunked {
                        self.server.link.output().extend_from_slice(b"0\r\n\r\n");
                    }
                    return Ok(Poll::Ready(()));
                }
                Some(_) => {
                    self.down = Down::Cut(Stop::never(Refusal::UpstreamClosed));
                    return Ok(Poll::Ready(()));
                }
            }
        }
    }

    /// What may happen to both connections after a complete answer.
    pub(super) fn finish(self) -> Outcome {
        self.server.link.unmark();
        self.client.exchanges = self.client.exchanges.saturating_add(1);
        let (origin_persists, caller_persists) = match self.down {
            Down::Body { origin_persists, caller_persists, .. } => (origin_persists, caller_persists),
            _ => (false, false),
        };
        // An answer may come before the request is complete: what the caller still sends has no reader then.
        let complete = self.up == Up::Complete;
        let reusable = complete && origin_persists && self.client.link.unread().is_empty();
        if reusable {
            self.client.link.release();
        }
        let caller = if complete && caller_persists { After::NextRequest } else { After::Close };
        Outcome { caller, reusable, failure: None, upgraded: false }
    }

    /// Puts the request back where it can be tried again, and says how the exchange failed.
    pub(super) fn fail(self, stop: Stop) -> Failure {
        let mut retry = stop.retry;
        if !self.answered && retry != Retry::Never {
            if self.server.link.rewind() {
                self.server.body = self.untouched;
                self.meter.request_bytes = self.meter.request_bytes.saturating_sub(self.request_bytes);
            } else {
                retry = Retry::Never;
            }
        } else {
            self.server.link.unmark();
            retry = Retry::Never;
        }
        Failure { refusal: stop.refusal, answered: self.answered, retry }
    }
}

/// A poll as an option, for `match`.
fn ready_or<T>(poll: Poll<T>) -> Option<T> {
    match poll {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}
