use super::*;

/// An extension.
fn extension(kind: u16, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap();
    [&kind.to_be_bytes()[..], &length.to_be_bytes(), body].concat()
}

/// The extension `server_name` with these entries.
fn sni(entries: &[(u8, &[u8])]) -> Vec<u8> {
    let entry = |(kind, name): &(u8, &[u8])| {
        [&[*kind][..], &u16::try_from(name.len()).unwrap().to_be_bytes(), name].concat()
    };
    let list: Vec<u8> = entries.iter().flat_map(entry).collect();
    extension(0, &[&u16::try_from(list.len()).unwrap().to_be_bytes()[..], &list].concat())
}

fn named(name: &str) -> Vec<u8> {
    sni(&[(0, name.as_bytes())])
}

const VERSIONS: [u8; 7] = [0, 43, 0, 3, 2, 3, 4];

/// A hello message with these extensions, without key shares: enough for the parser.
fn hello(extensions: &[&[u8]]) -> Vec<u8> {
    let extensions = extensions.concat();
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
    body.extend(extensions);
    message(&body)
}

fn message(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[1, length[1], length[2], length[3]][..], body].concat()
}

fn record(version: [u8; 2], payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    [&[0x16, version[0], version[1], length[0], length[1]][..], payload].concat()
}

fn records(message: &[u8], cut: usize) -> Vec<u8> {
    message.chunks(cut).flat_map(|part| record([3, 1], part)).collect()
}

/// The name, or a word for what else was read.
fn reading(bytes: &[u8]) -> String {
    match read(bytes) {
        Reading::More => "more".to_owned(),
        Reading::NotTls => "no TLS".to_owned(),
        Reading::Done(Hello::Nameless) => "nameless".to_owned(),
        Reading::Done(Hello::Odd) => "odd".to_owned(),
        Reading::Done(Hello::Named(name)) => name,
    }
}

#[track_caller]
fn check(what: &str, bytes: &[u8], expected: &str) {
    assert_eq!(reading(bytes), expected, "{what}: {bytes:02x?}");
}

type Case = (&'static str, Vec<u8>, &'static str);

fn one(extension: &[u8]) -> Vec<u8> {
    record([3, 1], &hello(&[&VERSIONS, extension]))
}

fn framings(plain: &[u8]) -> Vec<Case> {
    vec![
        ("plain", record([3, 1], plain), "admin.example"),
        ("record version 3.0", record([3, 0], plain), "admin.example"),
        ("record version 3.4", record([3, 4], plain), "admin.example"),
        ("record version 3.255", record([3, 255], plain), "admin.example"),
        ("record version 2.0", record([2, 0], plain), "no TLS"),
        ("TLCP", record([1, 1], plain), "odd"),
        ("one byte a record", records(plain, 1), "admin.example"),
        ("three bytes a record", records(plain, 3), "admin.example"),
        (
            "two records of two versions",
            [record([3, 1], &plain[..9]), record([3, 3], &plain[9..])].concat(),
            "admin.example",
        ),
        ("an empty record first", [record([3, 1], &[]), record([3, 1], plain)].concat(), "odd"),
        (
            "an empty record between",
            [record([3, 1], &plain[..9]), record([3, 1], &[]), record([3, 1], &plain[9..])].concat(),
            "odd",
        ),
        ("an alert between", [record([3, 1], &plain[..9]), vec![0x15, 3, 1, 0, 2, 1, 0]].concat(), "odd"),
        (
            "another major version between",
            [record([3, 1], &plain[..9]), record([2, 1], &plain[9..])].concat(),
            "odd",
        ),
        ("a record that is too long", [&[0x16, 3, 1, 0x40, 1][..], plain].concat(), "odd"),
        ("a message that is too long", record([3, 1], &[1, 0, 0x40, 1, 3, 3]), "odd"),
        ("another handshake message", record([3, 1], &[&[0, 0, 0, 0][..], plain].concat()), "odd"),
        ("a second message in the record", record([3, 1], &[plain, plain].concat()), "odd"),
        (
            "data after the record",
            [record([3, 1], plain), vec![0x17, 3, 3, 0, 1, 9]].concat(),
            "admin.example",
        ),
        ("SSL 2.0 form, version 3.1", vec![0x80, 46, 1, 3, 1, 0, 21, 0, 0, 0, 16], "odd"),
        ("SSL 2.0 form, version 2", vec![0x80, 46, 1, 0, 2, 0, 21, 0, 0, 0, 16], "odd"),
        ("high bytes that are too short for it", vec![0x80, 2, 1, 3], "no TLS"),
        ("high bytes", vec![0xff, 0xfe, 0, 1], "no TLS"),
    ]
}

fn names() -> Vec<Case> {
    let long = "a".repeat(254);
    vec![
        ("upper case", one(&named("ADMIN.Example")), "admin.example"),
        ("a final dot", one(&named("admin.example.")), "admin.example"),
        ("two final dots", one(&named("admin.example..")), "odd"),
        ("a dot", one(&named(".")), "odd"),
        ("an empty label", one(&named("admin..example")), "odd"),
        ("an empty name", one(&named("")), "odd"),
        ("NUL in the name", one(&named("admin\0.example")), "odd"),
        ("a space in the name", one(&named("admin.example ")), "odd"),
        ("not ASCII", one(&named("ädmin.example")), "odd"),
        ("not UTF-8", one(&sni(&[(0, b"admin\xff")])), "odd"),
        ("too long a name", one(&named(&long)), "odd"),
        ("an address", one(&named("10.0.0.1")), "10.0.0.1"),
        ("an underscore", one(&named("a_b.example")), "a_b.example"),
        ("no name", record([3, 1], &hello(&[&VERSIONS])), "nameless"),
        ("two names", one(&sni(&[(0, b"db.example"), (0, b"admin.example")])), "odd"),
        ("a name of another type", one(&sni(&[(1, b"admin.example")])), "odd"),
        ("a name after one of another type", one(&sni(&[(1, b"x"), (0, b"admin.example")])), "odd"),
        (
            "two name extensions",
            record([3, 1], &hello(&[&named("db.example"), &named("admin.example")])),
            "odd",
        ),
        ("an empty extension", one(&extension(0, &[])), "odd"),
        ("an empty list", one(&extension(0, &[0, 0])), "odd"),
        ("a list that is too short", one(&extension(0, &[0, 1, 0, 0, 1, b'a'])), "odd"),
        (
            "encrypted hello",
            record([3, 1], &hello(&[&named("db.example"), &extension(0xfe0d, &[0; 40])])),
            "nameless",
        ),
        ("encrypted name", record([3, 1], &hello(&[&extension(0xffce, &[0; 40])])), "nameless"),
    ]
}

fn bodies(plain: &[u8]) -> Vec<Case> {
    let odd_body = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut body = plain[4..].to_vec();
        change(&mut body);
        record([3, 1], &message(&body))
    };
    vec![
        ("an extension that runs over", odd_body(&|body| body[45] = 200), "odd"),
        ("no extensions", odd_body(&|body| body.truncate(41)), "nameless"),
        ("bytes after the extensions", odd_body(&|body| body.push(0)), "odd"),
        ("a long session", odd_body(&|body| body[34] = 33), "odd"),
        ("no suites", odd_body(&|body| drop(body.splice(35..39, [0, 0]))), "odd"),
        ("hello version 2", odd_body(&|body| body[0] = 2), "odd"),
        ("cut short", odd_body(&|body| body.truncate(20)), "odd"),
    ]
}

#[test]
fn every_shape_of_a_hello_has_one_reading_or_is_odd() {
    let plain = hello(&[&VERSIONS, &named("admin.example")]);
    let cases = [framings(&plain), names(), bodies(&plain)].concat();
    assert!(cases.len() > 30);
    for (what, bytes, expected) in &cases {
        check(what, bytes, expected);
    }
}

#[test]
fn a_hello_is_waited_for_to_its_last_byte() {
    let message = hello(&[&VERSIONS, &named("admin.example")]);
    for cut in [1, 7, 16_000] {
        let whole = records(&message, cut);
        for n in 0..whole.len() {
            check("a part", &whole[..n], "more");
        }
    }
    check("a part of SSL 2.0", &[0x80], "more");
    check("a part of SSL 2.0", &[0x80, 46, 1, 3], "more");
    let mut endless = vec![0x16, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xff];
    endless.resize(DETECT_BYTES_MAX - 1, 3);
    check("almost all", &endless, "more");
    endless.push(3);
    check("as much as is looked at", &endless, "odd");
}

proptest::proptest! {
    #[test]
    fn a_name_that_was_sent_is_read_however_it_is_cut(name in "[a-z0-9-]{1,20}(\\.[a-z0-9-]{1,20}){0,4}", cut in 1_usize..300) {
        let bytes = records(&hello(&[&VERSIONS, &named(&name)]), cut);
        proptest::prop_assert_eq!(read(&bytes), Reading::Done(Hello::Named(name)));
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(0_u8.., 0..400)) {
        let mut bytes = bytes;
        let _ = read(&bytes);
        bytes.splice(0..0, [0x16, 3, 1, 1, 0, 1, 0, 0]);
        let _ = read(&bytes);
    }
}
