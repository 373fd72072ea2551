use super::*;

#[track_caller]
fn check(bytes: &[u8], expected: Finding) {
    assert_eq!(detect(bytes), expected, "{:?}", String::from_utf8_lossy(bytes));
}

/// A ClientHello without key shares, enough for the parser.
fn hello(sni: Option<&str>) -> Vec<u8> {
    let mut extensions = vec![0, 43, 0, 3, 2, 3, 4];
    if let Some(name) = sni {
        let n = name.len() as u16;
        extensions.extend([0, 0]);
        extensions.extend((n + 5).to_be_bytes());
        extensions.extend((n + 3).to_be_bytes());
        extensions.push(0);
        extensions.extend(n.to_be_bytes());
        extensions.extend(name.as_bytes());
    }
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let mut message = vec![1, 0];
    message.extend((body.len() as u16).to_be_bytes());
    message.extend(body);
    message
}

fn records(message: &[u8], cut: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for part in message.chunks(cut) {
        out.extend([0x16, 3, 1]);
        out.extend((part.len() as u16).to_be_bytes());
        out.extend(part);
    }
    out
}

#[test]
fn http_is_told_by_its_request_line() {
    check(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", Finding::Http1);
    check(b"GET /a b HTTP/1.0\r\n", Finding::Http1);
    check(b"M-SEARCH * HTTP/1.1\r\n", Finding::Http1);
    check(b"GET / HTTP/1.1", Finding::Http1);
    check(b"GE", Finding::More);
    check(b"GET /lo", Finding::More);
    check(b"", Finding::More);
    check(b"GET /\r\n", Finding::Tcp);
    check(b"HELO mail.example\r\n", Finding::Tcp);
    check(b"GET / HTTP/2.0\r\n", Finding::Tcp);
    check(b"*1\r\n$4\r\nPING\r\n", Finding::Tcp);
    check(b"\0\0\0\x08\x04\xd2\x16\x2f", Finding::Tcp);
    check(b"\x00 a HTTP/1.1\r\n", Finding::Tcp);
    check(&[b'A'; 40], Finding::Tcp);
}

#[test]
fn http2_is_told_by_its_preface() {
    check(PREFACE, Finding::Http2);
    check(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0", Finding::Http2);
    check(b"PRI * HT", Finding::More);
    check(b"P", Finding::More);
    check(b"POST / HTTP/1.1\r\n", Finding::Http1);
    check(b"PRI /x HTTP/1.1\r\n", Finding::Http1);
}

#[test]
fn tls_is_told_by_its_hello() {
    let message = hello(Some("Api.Example.com"));
    let expected = Finding::Tls { sni: Some("api.example.com".to_owned()) };
    for cut in [1, 3, 40, 16_000] {
        check(&records(&message, cut), expected.clone());
    }
    check(&records(&hello(None), 16_000), Finding::Tls { sni: None });
    let whole = records(&message, 16_000);
    for n in 1..whole.len() {
        check(&whole[..n], Finding::More);
    }
    check(b"\x16\x03\x01\x00\x05\x02aaaa", Finding::Tcp);
    check(b"\x16\x02\x01\x00\x05\x01aaaa", Finding::Tcp);
    check(&records(&hello(Some("evil\0.example")), 16_000), Finding::Tls { sni: None });
}

#[test]
fn undecided_ends_at_the_limit() {
    let mut long = b"GET /".to_vec();
    long.resize(DETECT_BYTES_MAX - 1, b'a');
    check(&long, Finding::More);
    long.push(b'a');
    check(&long, Finding::Tcp);
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_judged_without_panic(bytes in proptest::collection::vec(0u8.., 0..400), tls: bool) {
        let mut bytes = bytes;
        if tls {
            bytes.splice(0..0, [0x16, 3, 1]);
        }
        let _ = detect(&bytes);
    }
}
