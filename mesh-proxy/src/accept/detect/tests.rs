use super::*;

#[track_caller]
fn check(bytes: &[u8], expected: Finding) {
    assert_eq!(detect(bytes), expected, "{:?}", String::from_utf8_lossy(bytes));
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
    check(b"\x16", Finding::More);
    check(b"\x16\x03\x01\x00\x05\x02aaaa", Finding::Tls(Hello::Odd));
    check(b"\x16\x02\x01\x00\x05\x01aaaa", Finding::Tcp);
    check(b"\x15\x03\x01\x00\x02\x01\x00", Finding::Tcp);
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
