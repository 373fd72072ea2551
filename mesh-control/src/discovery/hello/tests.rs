use super::*;

/// What is said of an address that a callable workload names, when it comes from `from`.
fn check(from: &str, address: &str, ports: &[u32], expected: Option<&str>) {
    let peer = PeerIdentity {
        id: "spiffe://mesh.local/ns/shop/sa/web".parse().unwrap(),
        instance: Some("web-1".parse().unwrap()),
        serials: Vec::new(),
        not_after: std::time::UNIX_EPOCH,
    };
    let port = |port: &u32| v1::InboundPort { port: *port, ..Default::default() };
    let hello = v1::Hello {
        instance: "web-1".into(),
        workload: "web".into(),
        address: address.into(),
        ports: ports.iter().map(port).collect(),
        ..Default::default()
    };
    let said =
        read(hello, &peer, from.parse().unwrap(), Claims::Unproven).map_err(|s| s.message().to_owned());
    match (said, expected) {
        (Ok(_), None) => {}
        (Err(said), Some(expected)) => assert!(said.contains(expected), "{from} {address}: {said}"),
        (said, expected) => panic!("{from} {address}: {said:?}, not {expected:?}"),
    }
}

#[test]
fn what_only_means_itself_is_no_address_for_others() {
    let elsewhere = Some("which other machines cannot reach: start it with --listen");
    for (from, address, expected) in [
        ("127.0.0.1", "127.0.0.1:4000", None),
        ("::1", "[::1]:4000", None),
        ("10.0.0.9", "10.0.0.9:4000", None),
        ("10.0.0.9", "10.0.0.8:4000", None),
        ("169.254.1.1", "169.254.1.1:4000", None),
        ("10.0.0.9", "127.0.0.1:4000", elsewhere),
        ("10.0.0.9", "[::ffff:127.0.0.1]:4000", elsewhere),
        ("2001:db8::9", "[::1]:4000", elsewhere),
        ("10.0.0.9", "169.254.169.254:80", elsewhere),
        ("2001:db8::9", "[fe80::1]:4000", elsewhere),
        ("10.0.0.9", "255.255.255.255:4000", Some("nobody can connect")),
        ("10.0.0.9", "[::ffff:0.0.0.0]:4000", Some("nobody can connect")),
        ("10.0.0.9", "10.0.0.9:0", Some("nobody can connect")),
    ] {
        check(from, address, &[8080], expected);
    }
    // Nobody calls a workload without ports: it may listen where nobody hears it.
    check("10.0.0.9", "127.0.0.1:4000", &[], None);
}
