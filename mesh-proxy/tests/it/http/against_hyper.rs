//! The same bytes, read by hyper's server and by ours: what hyper refuses we refuse, and where we are stricter is listed.

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mesh_proxy::http::Limits;
use mesh_proxy::http::canonical::{Canonical, Intake};
use mesh_proxy::http::h1::{RequestHead, decode};
use proptest::collection::vec;
use proptest::prelude::*;
use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

/// The first request as hyper reads it: method, target and body; `None` if it refuses or waits for more.
fn hyper_reads(bytes: &[u8]) -> Option<(String, String, Vec<u8>)> {
    let seen = Rc::new(RefCell::new(None));
    let noted = Rc::clone(&seen);
    let service = service_fn(move |request: Request<Incoming>| {
        let noted = Rc::clone(&noted);
        async move {
            let (head, body) = request.into_parts();
            if let Ok(body) = body.collect().await
                && noted.borrow().is_none()
            {
                let body = body.to_bytes().to_vec();
                *noted.borrow_mut() = Some((head.method.to_string(), head.uri.to_string(), body));
            }
            Ok::<_, Infallible>(Response::new(http_body_util::Empty::<Bytes>::new()))
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let (mut near, far) = duplex(1 << 16);
        let server = hyper::server::conn::http1::Builder::new()
            .half_close(true)
            .serve_connection(TokioIo::new(far), service);
        let client = async {
            near.write_all(bytes).await.unwrap();
            near.shutdown().await.unwrap();
            let mut answers = Vec::new();
            let _ = near.read_to_end(&mut answers).await;
        };
        let _ = tokio::join!(server, client);
    });
    seen.take()
}

/// The first request as we read it; the error is why not.
fn we_read(bytes: &[u8]) -> Result<(String, String, Vec<u8>), &'static str> {
    let limits = Limits::default();
    let head = RequestHead::parse(bytes, &limits).map_err(|refusal| refusal.code())?.ok_or("incomplete")?;
    let request = Canonical::from_h1(&head, &Intake::default()).map_err(|refusal| refusal.code())?;
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let body =
        decode([&bytes[end..]], head.body(), limits.trailer_bytes_max).map_err(|fault| fault.code())?;
    if !body.complete {
        return Err("incomplete");
    }
    let target = String::from_utf8_lossy(head.target()).into_owned();
    Ok((request.method.to_owned(), target, body.data))
}

#[test]
fn we_are_stricter_exactly_here() {
    let post = |fields: &str, body: &str| format!("POST / HTTP/1.1\r\nhost: a\r\n{fields}\r\n{body}");
    let stricter = [
        ("GET / HTTP/1.1\nhost: a\n\n".to_owned(), "bare_lf"),
        ("GET / HTTP/1.1\r\nhost: a\nx: y\r\n\r\n".to_owned(), "bare_lf"),
        ("\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(), "start_line"),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), "host"),
        ("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n".to_owned(), "host"),
        ("GET http://b/ HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(), "host_mismatch"),
        ("GET /a/../b HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(), "path_dot_segment"),
        ("GET /a#b HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(), "path_fragment"),
        (
            "GET / HTTP/1.1\r\nhost: a\r\nauthorization: b\r\nauthorization: c\r\n\r\n".to_owned(),
            "repeated_field",
        ),
        ("GET / HTTP/1.1\r\nhost: a\r\ncontent_length: 5\r\n\r\n".to_owned(), "look_alike"),
        ("GET / HTTP/1.1\r\nhost: a\r\nconnection: authorization\r\n\r\n".to_owned(), "connection_option"),
        (post("content-length: 1\r\ncontent-length: 1\r\n", "x"), "content_length"),
        (post("transfer-encoding: chunked\r\ncontent-length: 1\r\n", "1\r\nx\r\n0\r\n\r\n"), "two_framings"),
        (post("content-length: 1\r\ntransfer-encoding: chunked\r\n", "1\r\nx\r\n0\r\n\r\n"), "two_framings"),
        (post("transfer-encoding: gzip, chunked\r\n", "1\r\nx\r\n0\r\n\r\n"), "transfer_encoding"),
        (post("transfer-encoding: chunked\r\n", "1 \r\nx\r\n0\r\n\r\n"), "chunk"),
    ];
    for (bytes, code) in stricter {
        assert!(
            hyper_reads(bytes.as_bytes()).is_some(),
            "hyper has become stricter, take it off the list: {bytes:?}"
        );
        assert_eq!(we_read(bytes.as_bytes()), Err(code), "{bytes:?}");
    }
}

#[test]
fn plain_requests_are_read_alike() {
    let cases = [
        "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET /a?b HTTP/1.0\r\nhost: a\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabcGET",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\na: b\r\n\r\nGET",
    ];
    for bytes in cases {
        assert_eq!(
            hyper_reads(bytes.as_bytes()).as_ref(),
            we_read(bytes.as_bytes()).ok().as_ref(),
            "{bytes:?}"
        );
    }
}

fn request() -> impl Strategy<Value = String> {
    let words = |words: &[&'static str]| proptest::sample::select(words.to_vec());
    let start = words(&["GET", "POST", "HEAD", "get", "G\tT", "PO ST", ""]);
    let target = words(&["/", "/a%41", "/a b", "http://a/", "*", "", "/\u{7f}", "/a\"b"]);
    let version = words(&["HTTP/1.1", "HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "http/1.1", "HTTP/1.1 "]);
    let ending = || words(&["\r\n", "\r\n", "\r\n", "\r\n", "\r\n", "\n", "\r", "\r\r\n", " \r\n", "\0\r\n"]);
    let field = words(&[
        "host: a",
        "host: a",
        "host: a",
        "content-length: 3",
        "content-length: 0",
        "content-length: +3",
        "content-length: 3, 3",
        "content-length: ",
        "transfer-encoding: chunked",
        "transfer-encoding: x",
        "transfer-encoding: chunked, x",
        "x: y",
        "x : y",
        " x: y",
        "x",
        ": y",
        "x: \u{1}",
        "expect: 100-continue",
        "connection: close",
        "connection: upgrade",
        "upgrade: websocket",
        "\u{e4}: y",
        "x: \u{e4}",
    ]);
    let body = words(&[
        "",
        "abc",
        "3\r\nabc\r\n0\r\n\r\n",
        "3\nabc\n0\n\n",
        "3\r\nabcd",
        "g\r\n",
        "0\r\n\r\n",
        "0\r\na:b\r\n\r\n",
        "0\r\na\r\n\r\n",
        "-3\r\nabc\r\n0\r\n\r\n",
        "00000000000000003\r\nabc\r\n0\r\n\r\n",
        "3;\u{1}\r\nabc\r\n0\r\n\r\n",
    ]);
    (start, target, version, ending(), vec((field, ending()), 0..5), ending(), body).prop_map(
        |(start, target, version, first, fields, last, body)| {
            let fields: String = fields.iter().map(|(field, end)| format!("{field}{end}")).collect();
            format!("{start} {target} {version}{first}{fields}{last}{body}")
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_hyper_refuses_we_refuse_and_what_we_read_it_reads_alike(bytes in request()) {
        if let Ok(read) = we_read(bytes.as_bytes()) {
            prop_assert_eq!(Some(read), hyper_reads(bytes.as_bytes()));
        }
    }
}
