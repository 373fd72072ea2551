//! Properties of the HTTP/1 codec: nothing panics, how the bytes are cut makes no difference, what goes out is read as
//! what came in.

use super::wire::{Seen, Setup, Step, run_with, send, until};
use mesh_proto::matching::Fields as _;
use mesh_proxy::http::Limits;
use mesh_proxy::http::canonical::{Canonical, Intake};
use mesh_proxy::http::h1::{BodyLength, RequestHead, ResponseHead, decode};
use proptest::collection::vec;
use proptest::prelude::*;

/// Pieces that messages are made of, the wrong ones too.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let words: &[&str] = &[
        "GET",
        "POST",
        "HEAD",
        "CONNECT",
        " ",
        "/",
        "/a/b?c=d",
        "http://a/",
        "*",
        " HTTP/1.1\r\n",
        " HTTP/1.0\r\n",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 101 X\r\n",
        "Host: a\r\n",
        "Host: b:80\r\n",
        "Content-Length: 3\r\n",
        "Content-Length: 0\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Connection: close\r\n",
        "Connection: x, upgrade\r\n",
        "Upgrade: websocket\r\n",
        "X: y\r\n",
        "x-mesh-a: b\r\n",
        "X_Tenant: b\r\n",
        "Expect: 100-continue\r\n",
        "\r\n",
        "\n",
        "\r",
        "\r\n\r\n",
        "3\r\nabc\r\n",
        "0\r\n\r\n",
        "0;x=y\r\n",
        "ffffffffffffffff\r\n",
        "a: b\r\n\r\n",
        ":",
        "\t",
        "\0",
        "%2e",
        "..",
        ";",
        "\u{e4}",
        "abc",
    ];
    prop_oneof![
        20 => proptest::sample::select(words.to_vec()).prop_map(|word| word.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 0..8),
    ]
}

fn message() -> impl Strategy<Value = Vec<u8>> {
    vec(piece(), 0..16).prop_map(|pieces| pieces.concat())
}

/// Cuts bytes at the given places.
fn cut<'b>(bytes: &'b [u8], places: &[usize]) -> Vec<&'b [u8]> {
    let mut places: Vec<usize> = places.iter().map(|place| place % (bytes.len() + 1)).collect();
    places.extend([0, bytes.len()]);
    places.sort_unstable();
    places.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

/// A body in random chunks, with the bytes on the wire.
fn chunked() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    vec((vec(any::<u8>(), 1..300), proptest::sample::select(vec!["", ";a", ";a=\"b\"", ";"])), 0..8).prop_map(
        |chunks| {
            let (mut data, mut wire) = (Vec::new(), Vec::new());
            for (chunk, extension) in chunks {
                wire.extend(format!("{:X}{extension}\r\n", chunk.len()).bytes());
                wire.extend(&chunk);
                wire.extend(b"\r\n");
                data.extend(chunk);
            }
            wire.extend(b"0\r\nX-Sum: 1\r\nX-Mesh-A: 2\r\n\r\n");
            (data, wire)
        },
    )
}

/// Runs a whole exchange: the caller sends `request` in `parts`, the origin answers with `answer` in `answers`.
fn exchange(parts: &[&[u8]], answers: &[&[u8]]) -> Seen {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let mut caller: Vec<Step> = parts.iter().map(send).collect();
    caller.extend([until("~"), Step::End]);
    let mut origin = vec![until("X-Sum: 1\r\n\r\n")];
    origin.extend(answers.iter().map(send));
    runtime.block_on(run_with(&Setup { pipe: 512, ..Setup::default() }, &caller, &[origin]))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn heads_never_panic(bytes in message()) {
        let limits = Limits { fields_max: 8, head_bytes_max: 200, ..Limits::default() };
        if let Ok(Some(head)) = RequestHead::parse(&bytes, &limits) {
            let _ = Canonical::from_h1(&head, &Intake { judged: &["x-tenant".into()], default_port: None });
        }
        let _ = ResponseHead::parse(&bytes, &limits);
    }

    #[test]
    fn a_longer_buffer_does_not_change_a_head(bytes in message(), more in message()) {
        let limits = Limits::default();
        if let Ok(Some(head)) = RequestHead::parse(&bytes, &limits) {
            let longer = [bytes.clone(), more].concat();
            let again = RequestHead::parse(&longer, &limits).unwrap().unwrap();
            prop_assert_eq!(format!("{head:?}"), format!("{again:?}"));
        }
        // Nor does a shorter one end a head early: every strict prefix is incomplete, or an error already.
        if let Ok(None) = RequestHead::parse(&bytes, &limits) {
            for end in 0..bytes.len() {
                prop_assert!(!matches!(RequestHead::parse(&bytes[..end], &limits), Ok(Some(_))));
            }
        }
    }

    #[test]
    fn chunks_are_read_the_same_however_they_are_cut((data, wire) in chunked(), places in vec(any::<usize>(), 0..9)) {
        let whole = decode([wire.as_slice()], BodyLength::Chunked, 8192).unwrap();
        prop_assert_eq!(&whole.data, &data);
        prop_assert_eq!(whole.trailers.as_slice(), b"X-Sum: 1\r\n");
        prop_assert!(whole.complete && whole.used == wire.len());
        prop_assert_eq!(decode(cut(&wire, &places), BodyLength::Chunked, 8192).unwrap(), whole);
    }

    #[test]
    fn garbage_is_refused_the_same_however_it_is_cut(bytes in message(), places in vec(any::<usize>(), 0..9)) {
        for body in [BodyLength::Chunked, BodyLength::Exact(7), BodyLength::UntilClose, BodyLength::None] {
            let whole = decode([bytes.as_slice()], body, 64);
            let parts = decode(cut(&bytes, &places), body, 64);
            match (whole, parts) {
                (Ok(whole), Ok(parts)) => prop_assert_eq!(whole, parts),
                (whole, parts) => prop_assert_eq!(whole.is_err(), parts.is_err()),
            }
        }
    }

    #[test]
    fn a_body_that_was_changed_is_never_longer_than_its_chunks((_, mut wire) in chunked(), at in any::<usize>(), to in any::<u8>()) {
        let place = at % wire.len();
        wire[place] = to;
        if let Ok(read) = decode([wire.as_slice()], BodyLength::Chunked, 8192) {
            prop_assert!(read.data.len() < wire.len());
            prop_assert!(read.used <= wire.len());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_goes_out_is_read_as_what_came_in(
        (data, wire) in chunked(),
        places in vec(any::<usize>(), 0..6),
        answer_places in vec(any::<usize>(), 0..6),
        value in "[ -~]{0,40}",
    ) {
        // A tilde ends the answer, so the body must not have one.
        let wire: Vec<u8> = wire.iter().map(|byte| if *byte == b'~' { b'-' } else { *byte }).collect();
        let data: Vec<u8> = data.iter().map(|byte| if *byte == b'~' { b'-' } else { *byte }).collect();
        let head = format!("POST //a%41?q={} HTTP/1.1\r\nhost: A\r\nx-a: {value}\r\n", value.len());
        let request = [head.as_bytes(), b"transfer-encoding: chunked\r\n\r\n", &wire].concat();
        let answer = [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", wire.as_slice()].concat();
        let answer = [&answer[..answer.len() - 2], b"x-end: ~\r\n\r\n"].concat();
        let whole = exchange(&[&request], &[&answer]);
        let parts = exchange(&cut(&request, &places), &cut(&answer, &answer_places));
        prop_assert_eq!(whole.meter, parts.meter);
        for seen in [&whole, &parts] {
            prop_assert_eq!(&seen.statuses(), &[200]);
            prop_assert!(seen.outcomes[0].failure.is_none());
            let limits = Limits::default();
            // `Seen` holds text; the heads are ASCII, and lengths of bodies are in the meter.
            let arrived = RequestHead::parse(seen.origin.as_bytes(), &limits).unwrap().unwrap();
            let read = Canonical::from_h1(&arrived, &Intake::default()).unwrap();
            prop_assert_eq!((read.host.authority(), &*read.path), ("a", "/aA"));
            let mut values = Vec::new();
            read.each("x-a", &mut |value| values.push(value.to_vec()));
            prop_assert_eq!(values, vec![value.trim().as_bytes().to_vec()]);
            prop_assert_eq!(seen.meter.request_bytes, data.len() as u64);
            prop_assert_eq!(seen.meter.response_bytes, data.len() as u64);
        }
    }
}
