//! Bytes of a session with many streams, from another proxy.

use mesh_proxy::mux::frame;
use mesh_proxy::mux::guard::Side;
use mesh_proxy::mux::state::State;

/// Frames: what is read is written as the same bytes, as far as it is whole.
pub fn mux_frames(data: &[u8]) {
    let mut decoder = frame::Decoder::default();
    let mut input = data;
    let mut written = Vec::new();
    while let Ok(Some(event)) = decoder.next(&mut input) {
        match event {
            frame::Event::Data { stream, bytes } => frame::data(stream, bytes, frame::Last::No, &mut written),
            event => frame::encode(&event, &mut written),
        }
    }
    let mut again = frame::Decoder::default();
    let mut input = written.as_slice();
    while again.next(&mut input).expect("what we write is a frame").is_some() {}
    assert!(input.is_empty());
}

/// A session with a hostile peer: the first byte says which side it is and how its bytes are cut. Whatever it sends, what
/// is held is bounded, and nothing is left when the session ends.
pub fn mux_session(data: &[u8]) {
    let Some((how, bytes)) = data.split_first() else { return };
    let side = if how & 1 == 0 { Side::Called } else { Side::Caller };
    let budget = std::rc::Rc::default();
    let mut session = State::new(side, std::rc::Rc::clone(&budget));
    let mut held: Vec<u32> =
        (0..4).filter_map(|_| session.open("80.api.default.mesh.local", frame::Inside::Http1, 0)).collect();
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let mut space = [0; 64];
    let mut sent = Vec::new();
    for (turn, piece) in bytes.chunks(usize::from(how >> 1).max(1)).enumerate() {
        if session.receive(piece, turn as u64 * 1_000_000).is_err() {
            break;
        }
        while let Some(arrival) = session.arrival() {
            held.push(arrival.stream);
        }
        for (at, stream) in held.iter().enumerate() {
            let mut buf = tokio::io::ReadBuf::new(&mut space);
            let _ = session.read(*stream, &mut buf, &mut cx);
            let _ = session.write(*stream, b"some bytes", &mut cx);
            match (turn + at) % 7 {
                2 => session.calm(*stream),
                0 => session.finish(*stream),
                1 => session.reset(*stream),
                _ => {}
            }
        }
        if turn % 3 == 0 {
            held.drain(..held.len() / 2).for_each(|stream| session.release(stream));
        }
        sent.clear();
        session.gather(&mut sent);
        assert!(session.buffered() <= bytes.len() as u64);
    }
    session.kill();
    held.into_iter().for_each(|stream| session.release(stream));
    assert!(session.is_empty());
    assert_eq!((session.buffered(), budget.buffered()), (0, 0));
}
