use super::*;

const HOST_TEXT: &str = "127.0.0.1:4000";

/// Method, path, headers, and why not.
type Case<'a> = (&'a str, &'a str, Vec<(&'a str, &'a str)>, Refusal);

/// A door, its newest secret address without the host, and a cookie that it gave.
struct Open {
    door: Door,
    base: String,
    cookie: String,
}

fn ask(door: &Door, method: &str, path: &str, headers: &[(&str, &str)]) -> Verdict {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
    }
    door.judge(&method.parse().unwrap(), &path.parse().unwrap(), &map)
}

fn path_of(address: &str) -> String {
    address.strip_prefix(&format!("http://{HOST_TEXT}")).unwrap().to_owned()
}

fn open() -> Open {
    let door = Door::new(HOST_TEXT.to_owned()).unwrap();
    let address = path_of(&door.address().unwrap());
    let Verdict::Enter { cookie } = ask(&door, "GET", &address, &[("host", HOST_TEXT)]) else {
        panic!("the secret opens")
    };
    let (pair, rest) = cookie.split_once(';').unwrap();
    let base = format!("/{}/", door.base());
    assert_eq!(rest, format!(" Path={base}; HttpOnly; SameSite=Strict"));
    Open { base, cookie: pair.to_owned(), door }
}

#[test]
fn the_cookie_lets_in() {
    let Open { door, base, cookie } = open();
    let headers =
        [("host", HOST_TEXT), ("cookie", &*format!("a=b; {cookie}")), ("sec-fetch-site", "same-origin")];
    for (path, query) in [("", ""), ("app.js", ""), ("api/graph", "window=60&q=%3Cimg"), ("api/graph", "")] {
        let typed = if query.is_empty() { format!("{base}{path}") } else { format!("{base}{path}?{query}") };
        let expected = Verdict::Relay { path: path.to_owned(), query: query.to_owned() };
        assert_eq!(ask(&door, "GET", &typed, &headers), expected, "{typed}");
    }
    assert_eq!(ask(&door, "GET", base.trim_end_matches('/'), &headers), Verdict::Moved);
}

#[test]
fn a_secret_works_once_and_never_for_a_prefetch() {
    let door = Door::new(HOST_TEXT.to_owned()).unwrap();
    let first = path_of(&door.address().unwrap());
    let prefetch = [("host", HOST_TEXT), ("sec-purpose", "prefetch;prerender")];
    assert_eq!(ask(&door, "GET", &first, &prefetch), Verdict::Refused(Refusal::Secret));
    let host = [("host", HOST_TEXT)];
    assert!(matches!(ask(&door, "GET", &first, &host), Verdict::Enter { .. }));
    assert_eq!(ask(&door, "GET", &first, &host), Verdict::Refused(Refusal::Secret), "replayed");
    let second = path_of(&door.address().unwrap());
    assert_eq!(ask(&door, "GET", &first, &host), Verdict::Refused(Refusal::Secret), "of before");
    let empty = format!("/{}/open/", door.base());
    assert_eq!(ask(&door, "GET", &empty, &host), Verdict::Refused(Refusal::Secret), "empty");
    assert!(matches!(ask(&door, "GET", &second, &host), Verdict::Enter { .. }));
}

#[test]
fn strangers_stay_outside() {
    use Refusal::{Cookie, Host, Method, Origin, Path, Query};
    let Open { door, base, cookie } = open();
    let page = base.as_str();
    let long = format!("{base}api/graph?q={}", "a".repeat(QUERY_BYTES_MAX));
    let wrong = format!("{cookie}0");
    let good = [("host", HOST_TEXT), ("cookie", &*cookie)];
    let with = |more: &[(&'static str, &'static str)]| [&good[..], more].concat();
    let cases: Vec<Case<'_>> = vec![
        ("GET", page, vec![], Host),
        ("GET", page, vec![("host", "localhost:4000"), ("cookie", &cookie)], Host),
        ("GET", page, vec![("host", "rebound.example:4000"), ("cookie", &cookie)], Host),
        ("GET", page, with(&[("host", HOST_TEXT)]), Host),
        ("POST", page, with(&[]), Method),
        ("HEAD", page, with(&[]), Method),
        ("OPTIONS", page, with(&[]), Method),
        ("GET", page, vec![("host", HOST_TEXT)], Cookie),
        ("GET", page, vec![("host", HOST_TEXT), ("cookie", &wrong)], Cookie),
        ("GET", page, vec![("host", HOST_TEXT), ("cookie", "meshctl=")], Cookie),
        ("GET", page, with(&[("origin", "http://127.0.0.1:4001")]), Origin),
        ("GET", page, with(&[("origin", "null")]), Origin),
        ("GET", page, with(&[("sec-fetch-site", "same-site")]), Origin),
        ("GET", page, with(&[("sec-fetch-site", "cross-site")]), Origin),
        ("GET", "/", with(&[]), Path),
        ("GET", "/api/graph", with(&[]), Path),
        ("GET", "/0000000000000000/", with(&[]), Path),
        ("GET", &long, with(&[]), Query),
    ];
    for (method, path, headers, refusal) in cases {
        assert_eq!(
            ask(&door, method, path, &headers),
            Verdict::Refused(refusal),
            "{method} {path} {headers:?}"
        );
    }
    for path in ["../x", "api/../x", "%2e%2e/x", "a//b", "./x", "A", "api\\x", "..%2fx", "a;b"] {
        let path = format!("{base}{path}");
        assert_eq!(ask(&door, "GET", &path, &good), Verdict::Refused(Path), "{path}");
    }
}
