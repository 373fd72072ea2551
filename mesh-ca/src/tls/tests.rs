use super::*;
use proptest::prelude::*;

fn domain() -> TrustDomain {
    "mesh.local".parse().unwrap()
}

fn service(namespace: &str, name: &str) -> ServiceRef {
    ServiceRef { namespace: namespace.parse().unwrap(), name: name.parse().unwrap() }
}

#[test]
fn constant_names_are_names() {
    assert_eq!(control_identity(&domain()).as_str(), "spiffe://mesh.local/ns/mesh-system/sa/mesh-control");
    assert_eq!(control_server_name().to_str(), "mesh-control");
}

#[test]
fn a_server_name_reads_back_and_nothing_else_does() {
    let name = server_name(Port::new(8080).unwrap(), &service("shop", "web"), &domain()).unwrap();
    assert_eq!(name.to_str(), "8080.web.shop.mesh.local");
    assert_eq!(
        parse_server_name(&name.to_str(), &domain()),
        Some((Port::new(8080).unwrap(), service("shop", "web")))
    );
    let bad = [
        "",
        "mesh.local",
        ".mesh.local",
        "web.shop.mesh.local",
        "8080.web.shop.other.local",
        "8080.web.shopmesh.local",
        "08080.web.shop.mesh.local",
        "0.web.shop.mesh.local",
        "65536.web.shop.mesh.local",
        "+80.web.shop.mesh.local",
        "8080.Web.shop.mesh.local",
        "8080..shop.mesh.local",
        "1.8080.web.shop.mesh.local",
        "8080.web.shop.mesh.local.",
        "8080.web.shop.MESH.local",
    ];
    for name in bad {
        assert_eq!(parse_server_name(name, &domain()), None, "{name}");
    }
}

#[test]
fn a_trust_domain_that_tls_cannot_carry_is_an_error() {
    for text in [&"a".repeat(64), "a..b", &"a.".repeat(125)] {
        let domain: TrustDomain = text.parse().unwrap();
        let name = server_name(Port::new(1).unwrap(), &service("a", "b"), &domain);
        assert!(matches!(name, Err(TlsError::Name(_))), "{text}");
    }
}

proptest! {
    #[test]
    fn parsing_any_name_never_panics_and_only_takes_what_is_made(name in "[0-9]{0,6}\\.?[a-z0-9.-]{0,30}(\\.mesh\\.local)?") {
        if let Some((port, service)) = parse_server_name(&name, &domain()) {
            let made = server_name(port, &service, &domain()).unwrap();
            prop_assert_eq!(&*made.to_str(), name.as_str());
        }
    }

    #[test]
    fn every_name_reads_back(port in 1_u16.., name in "[a-z]([a-z0-9-]{0,20}[a-z0-9])?", namespace in "[a-z]([a-z0-9-]{0,20}[a-z0-9])?") {
        let (port, service) = (Port::new(port).unwrap(), service(&namespace, &name));
        let made = server_name(port, &service, &domain()).unwrap();
        prop_assert_eq!(parse_server_name(&made.to_str(), &domain()), Some((port, service)));
    }
}
