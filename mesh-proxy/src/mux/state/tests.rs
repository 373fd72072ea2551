use super::*;
use crate::mux::frame::Inside;
use crate::mux::guard::Fault;
use crate::mux::{BULK_BYTES, WINDOW, WINDOW_MAX};

const NAME: &str = "80.api.default.mesh.local";
const SECOND: u64 = 1_000_000_000;

fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// Two ends with a wire between them.
struct Pair {
    caller: State,
    called: State,
    now_ns: u64,
}

fn step(from: &mut State, to: &mut State, now_ns: u64) {
    let mut wire = Vec::new();
    from.gather(&mut wire);
    to.receive(&wire, now_ns).expect("our own frames keep the rules");
}

impl Pair {
    fn new() -> Self {
        let [caller, called] = [Side::Caller, Side::Called].map(|side| State::new(side, Rc::default()));
        Self { caller, called, now_ns: 0 }
    }

    /// A stream that both ends hold.
    fn stream(&mut self) -> u32 {
        let stream = self.caller.open(NAME, Inside::Bytes, self.now_ns).expect("room for a stream");
        self.carry();
        let arrival = self.called.arrival().expect("an arrival");
        assert_eq!((arrival.stream, arrival.name.as_str()), (stream, NAME));
        stream
    }

    /// Moves frames until both ends are silent.
    fn carry(&mut self) {
        while self.caller.has_output() || self.called.has_output() {
            step(&mut self.caller, &mut self.called, self.now_ns);
            step(&mut self.called, &mut self.caller, self.now_ns);
        }
    }
}

/// Writes as much as is taken at once.
fn write(state: &mut State, stream: u32, bytes: &[u8]) -> usize {
    let mut written = 0;
    while let Poll::Ready(Ok(count @ 1..)) = state.write(stream, &bytes[written..], &mut cx()) {
        written += count;
    }
    written
}

/// Reads what is there; `None` at the end.
fn read(state: &mut State, stream: u32) -> Option<Vec<u8>> {
    let mut all = Vec::new();
    let mut space = [0; 5000];
    loop {
        let mut buf = ReadBuf::new(&mut space);
        match state.read(stream, &mut buf, &mut cx()) {
            Poll::Pending => return Some(all),
            Poll::Ready(result) => {
                result.expect("not reset");
                if buf.filled().is_empty() {
                    return if all.is_empty() { None } else { Some(all) };
                }
                all.extend_from_slice(buf.filled());
            }
        }
    }
}

fn is_reset(state: &mut State, stream: u32) -> bool {
    let mut space = [0; 8];
    let read = state.read(stream, &mut ReadBuf::new(&mut space), &mut cx());
    let write = state.write(stream, b"x", &mut cx());
    let is = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionReset;
    matches!((read, write), (Poll::Ready(Err(a)), Poll::Ready(Err(b))) if is(&a) && is(&b))
}

#[test]
fn bytes_and_ends_pass_both_ways_each_by_itself() {
    let mut pair = Pair::new();
    let stream = pair.stream();
    assert_eq!(write(&mut pair.caller, stream, b"hello"), 5);
    pair.caller.finish(stream);
    pair.carry();
    assert_eq!(read(&mut pair.called, stream).unwrap(), b"hello");
    assert_eq!(read(&mut pair.called, stream), None);
    // The other direction is open still.
    assert_eq!(write(&mut pair.called, stream, b"answer"), 6);
    pair.called.finish(stream);
    pair.carry();
    assert_eq!(read(&mut pair.caller, stream).unwrap(), b"answer");
    assert_eq!(read(&mut pair.caller, stream), None);
    pair.caller.release(stream);
    pair.called.release(stream);
    pair.carry();
    assert!(pair.caller.is_empty() && pair.called.is_empty());
}

#[test]
fn what_was_written_and_ended_arrives_although_nobody_holds_the_stream_any_more() {
    let mut pair = Pair::new();
    let stream = pair.stream();
    pair.called.finish(stream);
    pair.carry();
    let bytes: Vec<u8> = (0..WINDOW).map(|n| (n % 251) as u8).collect();
    // Something else comes first, so that it must wait in its outbox.
    let other = pair.stream();
    write(&mut pair.caller, other, &bytes);
    assert_eq!(write(&mut pair.caller, stream, &bytes), bytes.len());
    pair.caller.finish(stream);
    pair.caller.release(stream);
    pair.carry();
    assert!(read(&mut pair.called, stream).unwrap() == bytes);
    assert_eq!(read(&mut pair.called, stream), None);
    assert_eq!(pair.caller.len(), 1, "only the other is left");
}

#[test]
fn a_reset_ends_both_directions_and_so_does_a_drop_before_the_end() {
    for drop in [false, true] {
        for by_caller in [false, true] {
            let mut pair = Pair::new();
            let stream = pair.stream();
            write(&mut pair.caller, stream, b"unread");
            write(&mut pair.called, stream, b"unread");
            pair.carry();
            let (one, other) = match by_caller {
                true => (&mut pair.caller, &mut pair.called),
                false => (&mut pair.called, &mut pair.caller),
            };
            if drop {
                one.release(stream)
            } else {
                one.reset(stream)
            }
            step(one, other, 0);
            assert!(is_reset(other, stream), "drop {drop}, by the caller {by_caller}");
            other.release(stream);
            one.release(stream);
            assert!(one.is_empty() && other.is_empty());
            assert_eq!((one.buffered(), other.buffered()), (0, 0));
        }
    }
}

#[test]
fn a_stream_that_nobody_reads_holds_up_nobody_else() {
    let mut pair = Pair::new();
    let (stalled, lively) = (pair.stream(), pair.stream());
    let bytes = vec![7; WINDOW as usize * 2];
    let mut taken = write(&mut pair.caller, stalled, &bytes);
    pair.carry();
    taken += write(&mut pair.caller, stalled, &bytes);
    assert_eq!(taken, WINDOW as usize, "a window and no more");
    for _ in 0..100 {
        assert_eq!(write(&mut pair.caller, lively, b"ping"), 4);
        pair.carry();
        assert_eq!(read(&mut pair.called, lively).unwrap(), b"ping");
    }
    assert_eq!(pair.called.buffered(), u64::from(WINDOW));
    assert_eq!(read(&mut pair.called, stalled).unwrap().len(), WINDOW as usize);
    pair.carry();
    assert!(write(&mut pair.caller, stalled, &bytes) > 0, "reading gives credit");
}

#[test]
fn streams_take_turns() {
    let mut pair = Pair::new();
    let streams = [pair.stream(), pair.stream(), pair.stream()];
    // Each has a full window waiting; the small one came last.
    for stream in &streams[..2] {
        assert_eq!(write(&mut pair.caller, *stream, &vec![1; WINDOW as usize]), WINDOW as usize);
    }
    assert_eq!(write(&mut pair.caller, streams[2], b"small"), 5);
    let mut wire = Vec::new();
    pair.caller.gather(&mut wire);
    assert!(wire.len() <= GATHER_MAX + DATA_BYTES_MAX + 8, "{}", wire.len());
    pair.called.receive(&wire, 0).unwrap();
    assert_eq!(read(&mut pair.called, streams[2]).unwrap(), b"small", "not behind all of the others");
}

#[test]
fn the_window_grows_for_a_reader_that_keeps_up_and_only_within_the_budget() {
    let mut pair = Pair::new();
    let streams: Vec<u32> = (0..8).map(|_| pair.stream()).collect();
    let bytes = vec![1; WINDOW_MAX as usize];
    let mut most = 0;
    for _ in 0..200 {
        for stream in &streams {
            let sent = write(&mut pair.caller, *stream, &bytes);
            pair.carry();
            let read = read(&mut pair.called, *stream).map_or(0, |bytes| bytes.len());
            assert!(read >= sent);
            most = most.max(sent);
            pair.carry();
        }
        assert!(pair.called.grown <= GROWTH_MAX);
        assert_eq!(pair.called.grown, pair.called.budget.grown.get());
    }
    assert!(pair.called.grown > GROWTH_MAX / 2, "{}", pair.called.grown);
    assert!(pair.caller.is_bulk() && pair.called.is_bulk(), "{BULK_BYTES} bytes and more");
    for stream in streams {
        pair.caller.release(stream);
        pair.carry();
        pair.called.release(stream);
    }
    assert_eq!((pair.called.grown, pair.called.budget.grown.get()), (0, 0), "all is given back");
    assert!(!pair.caller.is_bulk() && !pair.called.is_bulk());
}

#[test]
fn a_session_that_leaves_ends_what_it_has_and_begins_nothing() {
    let mut pair = Pair::new();
    let stream = pair.stream();
    // This one crosses with the farewell.
    let late = pair.caller.open(NAME, Inside::Bytes, 0).unwrap();
    write(&mut pair.caller, late, b"early bytes");
    pair.called.leave();
    pair.carry();
    assert_eq!(pair.called.arrival().unwrap().stream, late, "what was under way is taken");
    assert_eq!(read(&mut pair.called, late).unwrap(), b"early bytes");
    assert!(pair.caller.open(NAME, Inside::Bytes, 0).is_none(), "it was told");
    write(&mut pair.caller, stream, b"goes on");
    pair.carry();
    assert_eq!(read(&mut pair.called, stream).unwrap(), b"goes on");
}

#[test]
fn the_end_of_a_session_resets_its_streams_but_keeps_what_was_complete() {
    let mut pair = Pair::new();
    let (complete, open) = (pair.stream(), pair.stream());
    pair.caller.finish(complete);
    write(&mut pair.called, complete, b"all of it");
    pair.called.finish(complete);
    pair.carry();
    pair.caller.kill();
    assert_eq!(read(&mut pair.caller, complete).unwrap(), b"all of it");
    assert_eq!(read(&mut pair.caller, complete), None);
    assert!(is_reset(&mut pair.caller, open));
    pair.caller.release(complete);
    pair.caller.release(open);
    assert!(pair.caller.is_empty());
}

#[test]
fn a_silent_session_is_asked_and_not_used_until_it_answers() {
    let mut pair = Pair::new();
    pair.stream();
    pair.now_ns = 5 * SECOND;
    assert!(pair.caller.open(NAME, Inside::Bytes, pair.now_ns).is_some(), "asks");
    assert!(pair.caller.open(NAME, Inside::Bytes, pair.now_ns).is_some(), "may still answer");
    pair.now_ns += 2 * SECOND;
    assert!(pair.caller.open(NAME, Inside::Bytes, pair.now_ns).is_none());
    pair.carry();
    assert!(pair.caller.open(NAME, Inside::Bytes, pair.now_ns).is_some(), "it answered");
}

#[test]
fn our_own_calling_side_stops_before_the_other_must() {
    let mut pair = Pair::new();
    // As fast as the clock allows, each given up before an answer.
    let mut opened = 0;
    while let Some(stream) = pair.caller.open(NAME, Inside::Bytes, pair.now_ns) {
        pair.caller.release(stream);
        pair.carry();
        opened += 1;
        assert!(opened < 10_000, "no end");
    }
    assert!(pair.called.arrival().is_none(), "all were given up");
    pair.now_ns += 60 * SECOND;
    assert!(pair.caller.open(NAME, Inside::Bytes, pair.now_ns).is_some(), "later there is room again");
    for _ in 1..STREAMS_MAX {
        assert!(pair.caller.open(NAME, Inside::Bytes, pair.now_ns).is_some());
    }
    assert!(pair.caller.open(NAME, Inside::Bytes, pair.now_ns).is_none(), "all streams are in use");
    pair.carry();
}

type Frames = Vec<u8>;

fn open(stream: u32, out: &mut Frames) {
    encode(&Event::Open { stream, name: NAME.to_owned(), inside: Inside::Bytes, asks: false }, out);
}

/// What a caller sends after its first OPEN, and which rule it breaks.
fn check(what: &str, write: impl Fn(&mut Frames), fault: Fault) {
    let mut frames = Vec::new();
    open(1, &mut frames);
    write(&mut frames);
    let mut called = State::new(Side::Called, Rc::default());
    assert_eq!(called.receive(&frames, 0), Err(fault), "{what}");
    called.kill();
    assert!(called.is_empty() && called.buffered() == 0, "{what}: nothing is kept");
}

#[test]
fn a_caller_whose_frames_make_no_sense_loses_the_session_by_name() {
    let ends = |out: &mut Frames| data(1, b"x", Last::Yes, out);
    check("a number is left out", |out| open(3, out), Fault::BadStream);
    check("a number comes again", |out| open(1, out), Fault::BadStream);
    check("number 0", |out| data(0, b"x", Last::No, out), Fault::BadStream);
    check("never opened", |out| data(2, b"x", Last::No, out), Fault::BadStream);
    check("after the end", |out| (0..2).for_each(|_| ends(out)), Fault::AfterEnd);
    let end = |out: &mut Frames| encode(&Event::End { stream: 1 }, out);
    check("the end again", |out| (0..2).for_each(|_| end(out)), Fault::AfterEnd);
    let reset = |out: &mut Frames| encode(&Event::Reset { stream: 1 }, out);
    check("for a stream that is gone", |out| (0..2).for_each(|_| reset(out)), Fault::Stray);
    check("not for a caller", |out| encode(&Event::GoAway { last: 1 }, out), Fault::WrongSide);
    check("an answer to nothing", |out| encode(&Event::Here, out), Fault::WrongSide);
    check("empty", |out| out.extend([2, 0, 0, 0, 0, 0, 0, 1]), Fault::EmptyData);
    check("unknown", |out| out.extend([9; 8]), Fault::UnknownFrame);
}

#[test]
fn a_caller_who_floods_or_takes_liberties_with_windows_loses_the_session_by_name() {
    let credit = |amount, out: &mut Frames| encode(&Event::Credit { stream: 1, amount }, out);
    check("crumbs", |out| credit(1, out), Fault::WindowAbuse);
    check("nothing", |out| credit(0, out), Fault::WindowAbuse);
    check("too much", |out| credit(u32::MAX, out), Fault::WindowAbuse);
    check("much too often", |out| (0..300).for_each(|_| credit(4096, out)), Fault::WindowAbuse);
    let full = |out: &mut Frames| data(1, &[0; DATA_BYTES_MAX], Last::No, out);
    check("over the window", |out| (0..3).for_each(|_| full(out)), Fault::CreditExceeded);
    check("too many at once", |out| (2..300).for_each(|id| open(id, out)), Fault::TooManyStreams);
    let rapid = |out: &mut Frames| {
        encode(&Event::Reset { stream: 1 }, out);
        for stream in 2..3_000 {
            open(stream, out);
            encode(&Event::Reset { stream }, out);
        }
    };
    check("given up at once", rapid, Fault::ResetFlood);
}

#[test]
fn a_caller_who_is_answered_and_opens_too_fast_loses_the_session() {
    let mut called = State::new(Side::Called, Rc::default());
    let mut frames = Vec::new();
    let result = (1..20_000).try_for_each(|stream| {
        frames.clear();
        encode(
            &Event::Open { stream, name: NAME.to_owned(), inside: Inside::Bytes, asks: false },
            &mut frames,
        );
        encode(&Event::End { stream }, &mut frames);
        called.receive(&frames, 0)?;
        let arrival = called.arrival().unwrap();
        called.finish(arrival.stream);
        called.release(arrival.stream);
        frames.clear();
        called.gather(&mut frames);
        Ok(())
    });
    assert_eq!(result, Err(Fault::OpenFlood));
}

#[test]
fn a_caller_who_does_not_read_what_it_asks_for_loses_the_session() {
    let mut called = State::new(Side::Called, Rc::default());
    let mut frames = Vec::new();
    // Each is refused, and the refusals pile up.
    let result = (1..).try_for_each(|stream| {
        frames.clear();
        encode(&Event::Open { stream, name: "a".to_owned(), inside: Inside::Bytes, asks: true }, &mut frames);
        called.receive(&frames, u64::from(stream) * SECOND)?;
        called.arrival().unwrap();
        called.reset(stream);
        called.release(stream);
        Ok(())
    });
    assert_eq!(result, Err(Fault::Unread));
}

#[test]
fn a_caller_who_does_not_hear_the_farewell_is_refused_in_the_end() {
    let mut called = State::new(Side::Called, Rc::default());
    called.leave();
    let mut frames = Vec::new();
    let taken = (1..1_000_u32).take_while(|stream| {
        frames.clear();
        encode(
            &Event::Open { stream: *stream, name: NAME.to_owned(), inside: Inside::Bytes, asks: false },
            &mut frames,
        );
        called.receive(&frames, u64::from(*stream) * SECOND).unwrap();
        let arrival = called.arrival();
        if arrival.is_some() {
            called.reset(*stream);
            called.release(*stream);
        }
        frames.clear();
        called.gather(&mut frames);
        arrival.is_some()
    });
    assert_eq!(taken.count(), STREAMS_MAX - 1);
}

#[test]
fn the_caller_closes_a_session_that_is_over_and_the_called_side_only_after_a_while() {
    let mut pair = Pair::new();
    pair.called.leave();
    pair.carry();
    assert!(pair.caller.is_done() && !pair.called.is_done());
    pair.called.close();
    assert!(pair.called.is_done());
}

#[test]
fn a_hostile_called_side_loses_the_session_by_name() {
    let cases: Vec<(Event<'_>, Fault)> = vec![
        (
            Event::Open { stream: 2, name: NAME.to_owned(), inside: Inside::Bytes, asks: false },
            Fault::WrongSide,
        ),
        (Event::Here, Fault::WrongSide),
        (Event::GoAway { last: 2 }, Fault::BadStream),
        (Event::Data { stream: 2, bytes: b"x" }, Fault::BadStream),
    ];
    for (event, fault) in cases {
        let mut caller = State::new(Side::Caller, Rc::default());
        caller.open(NAME, Inside::Bytes, 0).unwrap();
        let mut frames = Vec::new();
        encode(&event, &mut frames);
        assert_eq!(caller.receive(&frames, 0), Err(fault), "{event:?}");
    }
    let mut caller = State::new(Side::Caller, Rc::default());
    let mut frames = Vec::new();
    encode(&Event::GoAway { last: 0 }, &mut frames);
    caller.receive(&frames, 0).unwrap();
    assert_eq!(caller.receive(&frames, 0), Err(Fault::WrongSide), "goes away twice");
}

#[test]
fn what_all_sessions_hold_unread_is_bounded() {
    let budget = Rc::new(Budget::default());
    let mut frames = Vec::new();
    for stream in 1..=200 {
        encode(
            &Event::Open { stream, name: NAME.to_owned(), inside: Inside::Bytes, asks: false },
            &mut frames,
        );
        data(stream, &[0; DATA_BYTES_MAX], Last::No, &mut frames);
        data(stream, &[0; DATA_BYTES_MAX], Last::No, &mut frames);
    }
    let mut sessions: Vec<State> = (0..20).map(|_| State::new(Side::Called, Rc::clone(&budget))).collect();
    for session in &mut sessions {
        // Whoever has filled the room is closed; to the others nothing more is open.
        let _ = frames.chunks(16 * 1024).try_for_each(|chunk| session.receive(chunk, 0));
    }
    let most = budget.buffered();
    assert!((60 << 20..72 << 20).contains(&most), "{most}");
    assert!(sessions[19].has_output() && sessions[19].is_empty(), "its streams were refused");
    frames.clear();
    encode(
        &Event::Open { stream: 201, name: NAME.to_owned(), inside: Inside::Bytes, asks: false },
        &mut frames,
    );
    assert_eq!(sessions[0].receive(&frames, 0), Err(Fault::Memory));
    drop(sessions);
    assert_eq!((budget.buffered(), budget.grown.get()), (0, 0));
}
