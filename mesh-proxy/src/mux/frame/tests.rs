use super::*;
use proptest::collection::vec;
use proptest::prelude::*;

/// All events of some bytes that come in pieces of at most `piece`; DATA is joined, so that pieces make no difference.
fn decode(bytes: &[u8], piece: usize) -> Result<Vec<(String, Vec<u8>)>, Fault> {
    let mut decoder = Decoder::default();
    let mut events: Vec<(String, Vec<u8>)> = Vec::new();
    for mut input in bytes.chunks(piece.max(1)) {
        while let Some(event) = decoder.next(&mut input)? {
            match event {
                Event::Data { stream, bytes } => {
                    let name = format!("Data {stream}");
                    match events.last_mut() {
                        Some((last, joined)) if *last == name => joined.extend_from_slice(bytes),
                        _ => events.push((name, bytes.to_vec())),
                    }
                }
                other => events.push((format!("{other:?}"), Vec::new())),
            }
        }
        assert!(input.is_empty(), "everything is taken or kept");
    }
    Ok(events)
}

fn raw(kind: u8, flags: u8, length: u16, stream: u32, payload: &[u8]) -> Vec<u8> {
    [&[kind, flags][..], &length.to_be_bytes(), &stream.to_be_bytes(), payload].concat()
}

#[test]
fn each_frame_has_one_form() {
    let name = "80.api.default.mesh.local".to_owned();
    let cases = [
        (
            Event::Open { stream: 1, name: "a.b".to_owned(), inside: Inside::Bytes, asks: false },
            raw(1, 0, 3, 1, b"a.b"),
        ),
        (
            Event::Open { stream: 1, name: name.clone(), inside: Inside::Bytes, asks: true },
            raw(1, 1, 25, 1, name.as_bytes()),
        ),
        (
            Event::Open { stream: 2, name: name.clone(), inside: Inside::Http1, asks: true },
            raw(1, 3, 25, 2, name.as_bytes()),
        ),
        (Event::Data { stream: 7, bytes: b"hi" }, raw(2, 0, 2, 7, b"hi")),
        (Event::End { stream: 7 }, raw(2, 1, 0, 7, b"")),
        (Event::Credit { stream: 7, amount: 0x0102_0304 }, raw(3, 0, 4, 7, &[1, 2, 3, 4])),
        (Event::Reset { stream: u32::MAX }, raw(4, 0, 0, u32::MAX, b"")),
        (Event::GoAway { last: 9 }, raw(5, 0, 0, 9, b"")),
        (Event::Here, raw(6, 0, 0, 0, b"")),
    ];
    for (event, bytes) in cases {
        let mut out = Vec::new();
        encode(&event, &mut out);
        assert_eq!(out, bytes, "{event:?}");
        let mut input = out.as_slice();
        assert_eq!(Decoder::default().next(&mut input), Ok(Some(event)));
    }
}

#[test]
fn what_the_protocol_does_not_define_is_a_fault() {
    let cases = [
        (raw(0, 0, 0, 1, b""), Fault::UnknownFrame),
        (raw(7, 0, 0, 1, b""), Fault::UnknownFrame),
        (raw(255, 0, 0, 1, b""), Fault::UnknownFrame),
        (raw(1, 4, 3, 1, b"a.b"), Fault::BadFrame),
        (raw(1, 0, 0, 1, b""), Fault::BadFrame),
        (raw(1, 0, 254, 1, &[b'a'; 254]), Fault::BadFrame),
        (raw(1, 0, 2, 1, &[0xff, 0xfe]), Fault::BadFrame),
        (raw(2, 0, 0, 1, b""), Fault::EmptyData),
        (raw(2, 2, 1, 1, b"a"), Fault::BadFrame),
        (raw(2, 0, 16 * 1024 - 7, 1, b"a"), Fault::BadFrame),
        (raw(3, 0, 3, 1, b"abc"), Fault::BadFrame),
        (raw(3, 1, 4, 1, b"abcd"), Fault::BadFrame),
        (raw(4, 1, 0, 1, b""), Fault::BadFrame),
        (raw(4, 0, 1, 1, b"a"), Fault::BadFrame),
        (raw(5, 0, 4, 1, b"abcd"), Fault::BadFrame),
        (raw(6, 128, 0, 1, b""), Fault::BadFrame),
    ];
    for (bytes, fault) in cases {
        for piece in [1, 3, bytes.len()] {
            assert_eq!(decode(&bytes, piece), Err(fault), "{bytes:?} in pieces of {piece}");
        }
    }
}

#[test]
fn a_frame_that_is_not_whole_is_waited_for() {
    for bytes in [raw(1, 0, 3, 1, b"a."), raw(3, 0, 4, 1, b"abc"), vec![2, 0, 0], raw(2, 0, 9, 1, b"")] {
        assert_eq!(decode(&bytes, 2), Ok(vec![]), "{bytes:?}");
    }
    // DATA passes as far as it has come, its end only when all of it has.
    let bytes = raw(2, 1, 3, 1, b"ab");
    assert_eq!(decode(&bytes, 2), Ok(vec![("Data 1".to_owned(), b"ab".to_vec())]));
}

#[derive(Clone, Debug)]
enum Sent {
    Open(u32, String, Inside, bool),
    Data(u32, Vec<u8>, bool),
    Other(Event<'static>),
}

fn sent() -> impl Strategy<Value = Sent> {
    prop_oneof![
        (any::<u32>(), "[a-z0-9.]{1,60}", any::<bool>(), any::<bool>()).prop_map(|(id, name, http, asks)| {
            Sent::Open(id, name, if http { Inside::Http1 } else { Inside::Bytes }, asks)
        }),
        (any::<u32>(), vec(any::<u8>(), 1..300), any::<bool>())
            .prop_map(|(id, bytes, last)| Sent::Data(id, bytes, last)),
        (any::<u32>(), any::<u32>())
            .prop_map(|(stream, amount)| Sent::Other(Event::Credit { stream, amount })),
        any::<u32>().prop_map(|stream| Sent::Other(Event::Reset { stream })),
        any::<u32>().prop_map(|stream| Sent::Other(Event::End { stream })),
        any::<u32>().prop_map(|last| Sent::Other(Event::GoAway { last })),
        Just(Sent::Other(Event::Here)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read_however_it_is_cut(all in vec(sent(), 0..20), piece in 1usize..600) {
        let mut out = Vec::new();
        let mut expected: Vec<(String, Vec<u8>)> = Vec::new();
        for one in &all {
            match one {
                Sent::Open(stream, name, inside, asks) => {
                    let event = Event::Open { stream: *stream, name: name.clone(), inside: *inside, asks: *asks };
                    encode(&event, &mut out);
                    expected.push((format!("{event:?}"), vec![]));
                }
                Sent::Data(stream, bytes, ends) => {
                    data(*stream, bytes, if *ends { Last::Yes } else { Last::No }, &mut out);
                    let name = format!("Data {stream}");
                    match expected.last_mut() {
                        Some((last, joined)) if *last == name => joined.extend_from_slice(bytes),
                        _ => expected.push((name, bytes.clone())),
                    }
                    if *ends {
                        expected.push((format!("{:?}", Event::End { stream: *stream }), vec![]));
                    }
                }
                Sent::Other(event) => {
                    encode(event, &mut out);
                    expected.push((format!("{event:?}"), vec![]));
                }
            }
        }
        prop_assert_eq!(decode(&out, piece), Ok(expected));
    }

    #[test]
    fn any_bytes_are_frames_or_a_fault_however_they_are_cut(bytes in vec(0u8..8, 0..200), piece in 1usize..40) {
        prop_assert_eq!(decode(&bytes, piece), decode(&bytes, 200));
    }
}
