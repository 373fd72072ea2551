//! Tables of heads: what has no single reading is refused, in both directions; the rest is read in one way.

use mesh_proto::matching::Fields as _;
use mesh_proxy::http::Limits;
use mesh_proxy::http::canonical::{Canonical, Intake};
use mesh_proxy::http::h1::{BodyLength, RequestHead, ResponseHead};
use std::sync::Arc;

/// What a request is read as: `method authority path query`, or the code of its refusal.
fn request(bytes: &[u8]) -> String {
    let judged: [Arc<str>; 2] = ["x-tenant".into(), "x_odd".into()];
    let intake = Intake { judged: &judged, default_port: Some(80) };
    let head = match RequestHead::parse(bytes, &Limits::default()) {
        Ok(Some(head)) => head,
        Ok(None) => return "incomplete".into(),
        Err(refusal) => return refusal.code().into(),
    };
    match Canonical::from_h1(&head, &intake) {
        Ok(it) => {
            let query =
                it.query.map(|query| format!("?{}", String::from_utf8_lossy(query))).unwrap_or_default();
            format!("{} {} {}{query} {:?}", it.method, it.host.authority(), it.path, head.body())
        }
        Err(refusal) => refusal.code().into(),
    }
}

fn response(bytes: &[u8], method: &str) -> String {
    match ResponseHead::parse(bytes, &Limits::default()) {
        Ok(Some(head)) => format!("{} {:?}", head.status(), head.body(method)),
        Ok(None) => "incomplete".into(),
        Err(refusal) => refusal.code().into(),
    }
}

fn check(cases: &[(&str, &str)], read: impl Fn(&[u8]) -> String) {
    let mut wrong = String::new();
    for (bytes, expected) in cases {
        let found = read(bytes.as_bytes());
        if found != *expected {
            wrong += &format!("{bytes:?}\n  expected {expected}\n  found    {found}\n");
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn start_lines() {
    let cases = [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET a / None"),
        ("GET / HTTP/1.0\r\nHost: a\r\n\r\n", "GET a / None"),
        ("get / HTTP/1.1\r\nHost: a\r\n\r\n", "get a / None"),
        ("M-SEARCH / HTTP/1.1\r\nHost: a\r\n\r\n", "M-SEARCH a / None"),
        ("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "start_line"),
        ("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "start_line"),
        (" GET / HTTP/1.1\r\nHost: a\r\n\r\n", "start_line"),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", "start_line"),
        ("GET /  HTTP/1.1\r\nHost: a\r\n\r\n", "start_line"),
        ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", "field"),
        ("GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", "start_line"),
        ("GET / HTTP/1.1\nHost: a\r\n\r\n", "bare_lf"),
        ("GET / HTTP/1.1\rHost: a\r\n\r\n", "field"),
        ("GET /\r\n\r\n", "start_line"),
        ("GET / \r\n\r\n", "start_line"),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", "start_line"),
        ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", "start_line"),
        ("GET / HTTP/0.9\r\nHost: a\r\n\r\n", "start_line"),
        ("GET / HTTP/1.01\r\nHost: a\r\n\r\n", "field"),
        ("GET / http/1.1\r\nHost: a\r\n\r\n", "start_line"),
        ("GET / HTTP/1\r\nHost: a\r\n\r\n", "start_line"),
        ("GET / HTTP1.1\r\nHost: a\r\n\r\n", "start_line"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "start_line"),
        ("G@T / HTTP/1.1\r\nHost: a\r\n\r\n", "start_line"),
        ("G(T / HTTP/1.1\r\nHost: a\r\n\r\n", "start_line"),
        ("GET\0 / HTTP/1.1\r\nHost: a\r\n\r\n", "start_line"),
        ("/ HTTP/1.1\r\nHost: a\r\n\r\n", "start_line"),
        ("ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFG / HTTP/1.1\r\nHost: a\r\n\r\n", "start_line"),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", "connect_method"),
        ("CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n", "connect_method"),
        ("GET", "incomplete"),
        ("GET / HTTP/1.1\r\nHost: a\r\n", "incomplete"),
        ("", "incomplete"),
    ];
    check(&cases, request);
}

#[test]
fn lines_and_fields() {
    let cases = [
        ("GET / HTTP/1.1\r\nHost: a\n\r\n", "bare_lf"),
        ("GET / HTTP/1.1\r\nHost: a\r\n\n", "bare_lf"),
        ("GET / HTTP/1.1\r\nHost: a\n\n", "bare_lf"),
        ("GET / HTTP/1.1\nHost: a\n\n", "bare_lf"),
        ("GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", "bare_lf"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX:\nY: b\r\n\r\n", "bare_lf"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: b\rY: c\r\n\r\n", "field"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: b\r\r\n\r\n", "field"),
        ("GET / HTTP/1.1\r\nHost: a\r\n X: b\r\n\r\n", "field"),
        ("GET / HTTP/1.1\r\n X: b\r\nHost: a\r\n\r\n", "field"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n\tc\r\n\r\n", "field"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n", "field"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX : b\r\n\r\n", "field"),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", "field"),
        ("GET / HTTP/1.1\r\nHost\t: a\r\n\r\n", "field"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", "field"),
        ("GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", "field"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: b\0\r\n\r\n", "field"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX\0: b\r\n\r\n", "field"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: \x01\r\n\r\n", "field"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n\r\n", "field"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: \x1b[0m\r\n\r\n", "field"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX(y): b\r\n\r\n", "field"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX y: b\r\n\r\n", "field"),
        ("GET / HTTP/1.1\r\nHost: a\r\nXä: b\r\n\r\n", "field"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: ä\r\n\r\n", "GET a / None"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX:\r\n\r\n", "GET a / None"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX:\t b\t \r\n\r\n", "GET a / None"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: b\r\nX: c\r\n\r\n", "GET a / None"),
        ("GET / HTTP/1.1\r\nHost: a\r\nAuthorization: b\r\nauthorization: c\r\n\r\n", "repeated_field"),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nProxy-Authorization: b\r\nProxy-Authorization: c\r\n\r\n",
            "repeated_field",
        ),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Type: b\r\nContent-Type: b\r\n\r\n", "repeated_field"),
        ("GET / HTTP/1.1\r\nHost: a\r\nOrigin: b\r\nOrigin: c\r\n\r\n", "repeated_field"),
        ("GET / HTTP/1.1\r\nHost: a\r\nReferer: b\r\nReferer: c\r\n\r\n", "repeated_field"),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nExpect: 100-continue\r\n\r\n",
            "repeated_field",
        ),
        ("GET / HTTP/1.1\r\nHost: a\r\nCookie: b\r\nCookie: c\r\n\r\n", "GET a / None"),
    ];
    check(&cases, request);
}

#[test]
fn framing_of_requests() {
    let head = |fields: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let cases = [
        ("Content-Length: 5\r\n", "POST a / Exact(5)"),
        ("Content-Length: 0\r\n", "POST a / Exact(0)"),
        ("Content-Length: 007\r\n", "POST a / Exact(7)"),
        ("Content-Length:5 \r\n", "POST a / Exact(5)"),
        ("Content-Length: 999999999999999999\r\n", "POST a / Exact(999999999999999999)"),
        ("Content-Length: 9999999999999999999\r\n", "content_length"),
        ("Content-Length: 18446744073709551617\r\n", "content_length"),
        ("Content-Length: -1\r\n", "content_length"),
        ("Content-Length: +5\r\n", "content_length"),
        ("Content-Length: 5,5\r\n", "content_length"),
        ("Content-Length: 5, 5\r\n", "content_length"),
        ("Content-Length: 5 5\r\n", "content_length"),
        ("Content-Length: 0x5\r\n", "content_length"),
        ("Content-Length: 5.0\r\n", "content_length"),
        ("Content-Length: 1e3\r\n", "content_length"),
        ("Content-Length: five\r\n", "content_length"),
        ("Content-Length: \r\n", "content_length"),
        ("Content-Length: ٥\r\n", "content_length"),
        ("Content-Length: 5\r\nContent-Length: 5\r\n", "content_length"),
        ("Content-Length: 5\r\ncontent-length: 6\r\n", "content_length"),
        ("Content-Length: 5\r\nContent-Length: \r\n", "content_length"),
        ("Transfer-Encoding: chunked\r\n", "POST a / Chunked"),
        ("transfer-encoding:CHUNKED\r\n", "POST a / Chunked"),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "transfer_encoding"),
        ("Transfer-Encoding: chunked, chunked\r\n", "transfer_encoding"),
        ("Transfer-Encoding: gzip, chunked\r\n", "transfer_encoding"),
        ("Transfer-Encoding: chunked, identity\r\n", "transfer_encoding"),
        ("Transfer-Encoding: identity\r\n", "transfer_encoding"),
        ("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n", "transfer_encoding"),
        ("Transfer-Encoding: gzip\r\n", "transfer_encoding"),
        ("Transfer-Encoding: xchunked\r\n", "transfer_encoding"),
        ("Transfer-Encoding: chunked;q=1\r\n", "transfer_encoding"),
        ("Transfer-Encoding: ,chunked\r\n", "transfer_encoding"),
        ("Transfer-Encoding: \"chunked\"\r\n", "transfer_encoding"),
        ("Transfer-Encoding: chunked\u{b}\r\n", "field"),
        ("Transfer-Encoding: \u{b}chunked\r\n", "field"),
        ("Transfer-Encoding: chu\u{a0}nked\r\n", "transfer_encoding"),
        ("Transfer-Encoding:\r\n", "transfer_encoding"),
        ("Transfer-Encoding:\r\n chunked\r\n", "field"),
        ("Transfer-Encoding : chunked\r\n", "field"),
        ("Transfer-Encoding\0: chunked\r\n", "field"),
        (" Transfer-Encoding: chunked\r\n", "field"),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "two_framings"),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "two_framings"),
        ("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", "two_framings"),
        ("X: y\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n", "bare_lf"),
        ("Transfer_Encoding: chunked\r\nContent-Length: 5\r\n", "look_alike"),
        ("Content_Length: 5\r\n", "look_alike"),
        ("Connection: content-length\r\nContent-Length: 5\r\n", "connection_option"),
        ("Connection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n", "connection_option"),
    ];
    for (fields, expected) in cases {
        assert_eq!(request(head(fields).as_bytes()), expected, "{fields:?}");
    }
    let old = "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(request(old.as_bytes()), "transfer_encoding");
}

#[test]
fn hosts_and_targets() {
    let cases = [
        ("GET / HTTP/1.1\r\n\r\n", "host"),
        ("GET / HTTP/1.0\r\n\r\n", "host"),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "host"),
        ("GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n", "host"),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", "host_empty"),
        ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", "host_user_info"),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "host_bad_byte"),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "host_bad_byte"),
        ("GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", "host_bad_byte"),
        ("GET / HTTP/1.1\r\nHost: A.B.:80\r\n\r\n", "GET a.b / None"),
        ("GET / HTTP/1.1\r\nHost: a:81\r\n\r\n", "GET a:81 / None"),
        ("GET / HTTP/1.1\r\nHost: a:0\r\n\r\n", "host_bad_port"),
        ("GET / HTTP/1.1\r\nHost: [::1]:81\r\n\r\n", "GET [::1]:81 / None"),
        ("GET http://a/b HTTP/1.1\r\nHost: a\r\n\r\n", "GET a /b None"),
        ("GET HTTP://A:80/b HTTP/1.1\r\nHost: a\r\n\r\n", "GET a /b None"),
        ("GET http://a HTTP/1.1\r\nHost: a\r\n\r\n", "GET a / None"),
        ("GET http://a?x HTTP/1.1\r\nHost: a\r\n\r\n", "target"),
        ("GET http://a#x HTTP/1.1\r\nHost: a\r\n\r\n", "target"),
        ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", "host_mismatch"),
        ("GET http://a:81/ HTTP/1.1\r\nHost: a\r\n\r\n", "host_mismatch"),
        ("GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", "host_user_info"),
        ("GET http:///b HTTP/1.1\r\nHost: a\r\n\r\n", "host_empty"),
        ("GET http:a/b HTTP/1.1\r\nHost: a\r\n\r\n", "target"),
        ("GET ftp://a/b HTTP/1.1\r\nHost: a\r\n\r\n", "target"),
        ("GET a/b HTTP/1.1\r\nHost: a\r\n\r\n", "target"),
        ("GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", "target"),
        ("GET ?x HTTP/1.1\r\nHost: a\r\n\r\n", "target"),
        ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", "target"),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS a * None"),
        ("OPTIONS /* HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS a /* None"),
        ("GET //b HTTP/1.1\r\nHost: a\r\n\r\n", "GET a /b None"),
        ("GET /a/../b HTTP/1.1\r\nHost: a\r\n\r\n", "path_dot_segment"),
        ("GET /a/%2e%2e/b HTTP/1.1\r\nHost: a\r\n\r\n", "path_dot_segment"),
        ("GET /a/..;x/b HTTP/1.1\r\nHost: a\r\n\r\n", "path_dot_segment"),
        ("GET /a%2fb HTTP/1.1\r\nHost: a\r\n\r\n", "path_encoded_slash"),
        ("GET /a%5Cb HTTP/1.1\r\nHost: a\r\n\r\n", "path_encoded_backslash"),
        ("GET /a\\b HTTP/1.1\r\nHost: a\r\n\r\n", "path_backslash"),
        ("GET /a%00 HTTP/1.1\r\nHost: a\r\n\r\n", "path_encoded_nul"),
        ("GET /a%0 HTTP/1.1\r\nHost: a\r\n\r\n", "path_bad_escape"),
        ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", "path_fragment"),
        ("GET /a?b#c HTTP/1.1\r\nHost: a\r\n\r\n", "path_fragment"),
        ("GET /%61?%61=%2F HTTP/1.1\r\nHost: a\r\n\r\n", "GET a /a?%61=%2F None"),
        ("GET /a?b?c HTTP/1.1\r\nHost: a\r\n\r\n", "GET a /a?b?c None"),
    ];
    check(&cases, request);
}

#[test]
fn names_that_decisions_depend_on() {
    let head = |fields: &str| format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
    let cases = [
        ("X_Tenant: b", "look_alike"),
        ("x-tenant: b", "GET a / None"),
        ("X_Odd: b", "GET a / None"),
        ("X_Mesh_Client: b", "look_alike"),
        ("X-Mesh_Client: b", "look_alike"),
        ("X_Forwarded_Client_Cert: b", "look_alike"),
        ("X_Forwarded_For: b", "look_alike"),
        ("X-Forwarded_Proto: b", "look_alike"),
        ("Content_Type: b", "look_alike"),
        ("proxy_authorization: b", "look_alike"),
        ("My_Header: b", "GET a / None"),
        ("Connection: close", "GET a / None"),
        ("Connection: keep-alive, x-hop", "GET a / None"),
        ("Connection: TE, Trailer", "GET a / None"),
        ("Connection: x-tenant", "connection_option"),
        ("Connection: close, X-TENANT", "connection_option"),
        ("Connection: x_tenant", "connection_option"),
        ("Connection: authorization", "connection_option"),
        ("Connection: host", "connection_option"),
        ("Connection: cookie", "connection_option"),
        ("Connection: x-forwarded-for", "connection_option"),
        ("Connection: x-mesh-client", "connection_option"),
        ("Connection: close\r\nConnection: Host", "connection_option"),
    ];
    for (fields, expected) in cases {
        assert_eq!(request(head(fields).as_bytes()), expected, "{fields:?}");
    }
}

#[test]
fn heads_of_responses() {
    let cases = [
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", "200 Exact(5)"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "200 Chunked"),
        ("HTTP/1.1 200 OK\r\n\r\n", "200 UntilClose"),
        ("HTTP/1.0 200 OK\r\n\r\n", "200 UntilClose"),
        ("HTTP/1.1 200 \r\n\r\n", "200 UntilClose"),
        ("HTTP/1.1 200\r\n\r\n", "200 UntilClose"),
        ("HTTP/1.1 204 No\r\ncontent-length: 5\r\n\r\n", "204 None"),
        ("HTTP/1.1 304 No\r\ncontent-length: 5\r\n\r\n", "304 None"),
        ("HTTP/1.1 100 Go\r\n\r\n", "100 None"),
        ("HTTP/1.1 599 X\r\ncontent-length: 0\r\n\r\n", "599 Exact(0)"),
        ("HTTP/1.1 600 X\r\n\r\n", "start_line"),
        ("HTTP/1.1 099 X\r\n\r\n", "start_line"),
        ("HTTP/1.1 20 X\r\n\r\n", "start_line"),
        ("HTTP/1.1 2000 X\r\n\r\n", "start_line"),
        ("HTTP/1.1 +200 X\r\n\r\n", "start_line"),
        ("HTTP/1.1  200 X\r\n\r\n", "start_line"),
        ("HTTP/2.0 200 X\r\n\r\n", "start_line"),
        ("HTTP/1.2 200 X\r\n\r\n", "start_line"),
        ("ICY 200 OK\r\n\r\n", "start_line"),
        ("\r\nHTTP/1.1 200 OK\r\n\r\n", "start_line"),
        ("200 OK\r\n\r\n", "start_line"),
        ("HTTP/1.1 200 OK\ncontent-length: 5\r\n\r\n", "bare_lf"),
        ("HTTP/1.1 200 OK\n\r\n", "bare_lf"),
        ("HTTP/1.1 200\n\r\n", "bare_lf"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\n\r\n", "bare_lf"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\n", "bare_lf"),
        ("HTTP/1.1 200 O\rK\r\n\r\n", "start_line"),
        ("HTTP/1.1 200 O\0K\r\n\r\n", "start_line"),
        ("HTTP/1.1 200 OK\r\nX : y\r\n\r\n", "field"),
        ("HTTP/1.1 200 OK\r\nX: y\r\n z\r\n\r\n", "field"),
        ("HTTP/1.1 200 OK\r\nX: \0\r\n\r\n", "field"),
        ("HTTP/1.1 200 OK\r\nX: y\rZ: a\r\n\r\n", "field"),
        ("HTTP/1.1 200 OK\r\n: y\r\n\r\n", "field"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\n", "content_length"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n", "content_length"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5, 5\r\n\r\n", "content_length"),
        ("HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n", "content_length"),
        ("HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\n", "content_length"),
        ("HTTP/1.1 200 OK\r\ncontent-length: \r\n\r\n", "content_length"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n", "two_framings"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n", "two_framings"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n", "transfer_encoding"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n", "transfer_encoding"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: identity\r\n\r\n", "transfer_encoding"),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
            "transfer_encoding",
        ),
        ("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "transfer_encoding"),
        ("HTTP/1.1 204 OK\r\ntransfer-encoding: x\r\n\r\n", "transfer_encoding"),
        ("HTTP/1.1 200 OK\r\nlocation: a\r\nlocation: b\r\n\r\n", "repeated_field"),
        ("HTTP/1.1 200 OK\r\ncontent-type: a\r\ncontent-type: b\r\n\r\n", "repeated_field"),
        ("HTTP/1.1 200 OK\r\nset-cookie: a\r\nset-cookie: b\r\ncontent-length: 0\r\n\r\n", "200 Exact(0)"),
        ("HTTP/1.1 200 OK\r\n", "incomplete"),
        ("", "incomplete"),
    ];
    check(&cases, |bytes| response(bytes, "GET"));
    assert_eq!(response(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", "HEAD"), "200 None");
}

#[test]
fn heads_beyond_their_limits() {
    let limits = Limits::default();
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "a: b\r\n".repeat(limits.fields_max));
    assert_eq!(request(many.as_bytes()), "header_too_large");
    let just = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "a: b\r\n".repeat(limits.fields_max - 1));
    assert_eq!(request(just.as_bytes()), "GET a / None");
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "b".repeat(limits.head_bytes_max));
    assert_eq!(request(long.as_bytes()), "header_too_large");
    let unended = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "b".repeat(limits.head_bytes_max));
    assert_eq!(request(unended.as_bytes()), "header_too_large");
    let answer = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "b".repeat(limits.head_bytes_max));
    assert_eq!(response(answer.as_bytes(), "GET"), "response_too_large");
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(limits.fields_max + 1));
    assert_eq!(response(many.as_bytes(), "GET"), "response_too_large");
}

#[test]
fn a_policy_sees_what_is_forwarded_and_nothing_else() {
    let bytes = b"POST / HTTP/1.1\r\nHost: A:80\r\nX-Tenant: one\r\nx-tenant: two\r\nConnection: x-hop\r\nX-Hop: 1\r\n\
                  X-Mesh-Client: me\r\nContent-Length: 0\r\n\r\n";
    let head = RequestHead::parse(bytes, &Limits::default()).unwrap().unwrap();
    assert_eq!(head.body(), BodyLength::Exact(0));
    let request = Canonical::from_h1(&head, &Intake { judged: &[], default_port: Some(80) }).unwrap();
    let values = |name: &str| {
        let mut found = Vec::new();
        request.each(name, &mut |value| found.push(String::from_utf8_lossy(value).into_owned()));
        found
    };
    assert_eq!(values("x-tenant"), ["one", "two"]);
    assert_eq!(values("host"), ["a"]);
    for hidden in ["x-hop", "x-mesh-client", "connection", "content-length"] {
        assert!(values(hidden).is_empty(), "{hidden}");
    }
}
