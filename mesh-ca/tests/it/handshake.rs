//! Two SVIDs and a handshake: what is agreed, and what is refused on which side.

use crate::world::{Mesh, domain, id, now, shake};
use mesh_ca::tls::{self, Alpn, Credentials};
use mesh_ca::verify::{PeerError, handshake_error};
use mesh_proto::config::Revocations;
use rustls::{ClientConfig, HandshakeKind, NamedGroup, ProtocolVersion};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn two_svids_agree_on_tls13_hybrid_key_exchange_and_each_other() {
    let mesh = Mesh::new();
    let (web, payments) = (mesh.credentials("web"), mesh.credentials("payments"));
    for alpn in Alpn::ALL {
        let (server, client) =
            shake(payments.server_config().unwrap(), web.client_config(&id("payments"), alpn).unwrap()).await;
        let (mut server, mut client) = (server.unwrap(), client.unwrap());
        assert_eq!((server.alpn, client.alpn), (alpn, alpn));
        assert_eq!(server.peer.id, id("web"));
        assert_eq!(server.peer.instance.as_ref().unwrap().as_str(), "web");
        assert_eq!(client.peer.id, id("payments"));
        assert_eq!(client.peer.serials[0], payments.svid.serial());
        assert_eq!(client.peer.serials.len(), 2, "the leaf and the intermediate, not the root");
        let (_, connection) = server.stream.get_ref();
        assert_eq!(connection.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        assert_eq!(connection.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
        client.stream.write_all(b"ping").await.unwrap();
        let mut bytes = [0; 4];
        server.stream.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"ping");
    }
}

#[tokio::test]
async fn a_second_connection_is_never_resumed() {
    let mesh = Mesh::new();
    let server = mesh.credentials("payments").server_config().unwrap();
    let client = mesh.credentials("web").client_config(&id("payments"), Alpn::MeshH1).unwrap();
    for _ in 0..3 {
        let (server, client) = shake(server.clone(), client.clone()).await;
        let (mut server, mut client) = (server.unwrap(), client.unwrap());
        // Tickets would come with the first bytes.
        server.stream.write_all(b"x").await.unwrap();
        client.stream.read_u8().await.unwrap();
        assert_eq!(client.stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
    }
}

#[tokio::test]
async fn the_caller_refuses_everybody_but_the_expected() {
    let mesh = Mesh::new();
    let server = mesh.credentials("intruder").server_config().unwrap();
    let client = mesh.credentials("web").client_config(&id("payments"), Alpn::MeshH1).unwrap();
    let (server, client) = shake(server, client).await;
    let refusal = handshake_error(&client.err().unwrap()).unwrap();
    assert_eq!(refusal, PeerError::WrongPeer { expected: id("payments"), presented: id("intruder") });
    let told = handshake_error(&server.err().unwrap()).unwrap();
    assert_eq!(told.code(), "refused_us");
}

#[tokio::test]
async fn a_client_without_a_certificate_or_protocol_is_refused() {
    let mesh = Mesh::new();
    let server = mesh.credentials("payments").server_config().unwrap();
    let pin = mesh.authority.root_sha256();

    let stranger = tls::pinned_client_config(pin, None).unwrap();
    let mut no_certificate = ClientConfig::clone(&stranger);
    no_certificate.alpn_protocols = vec![Alpn::MeshH1.as_bytes().to_vec()];
    // A client that would believe anybody.
    no_certificate.dangerous().set_certificate_verifier(Arc::new(crate::world::Gullible));
    let (side, _) = shake(server.clone(), Arc::new(no_certificate)).await;
    assert_eq!(handshake_error(&side.err().unwrap()), Some(PeerError::NoCertificate));

    let web = mesh.credentials("web").client_config(&id("payments"), Alpn::MeshH1).unwrap();
    for protocols in [vec![], vec![b"h2".to_vec()], vec![b"http/1.1".to_vec(), b"mesh-h3".to_vec()]] {
        let mut client = ClientConfig::clone(&web);
        client.alpn_protocols = protocols.clone();
        let (server, client) = shake(server.clone(), Arc::new(client)).await;
        assert_eq!(handshake_error(&server.err().unwrap()), Some(PeerError::NoMeshProtocol), "{protocols:?}");
        assert_eq!(handshake_error(&client.err().unwrap()).unwrap().code(), "refused_us", "{protocols:?}");
    }
}

#[tokio::test]
async fn revocation_of_leaf_intermediate_and_identity_is_asked_in_the_handshake_by_both_sides() {
    let mesh = Mesh::new();
    let (web, payments) = (mesh.credentials("web"), mesh.credentials("payments"));
    let serials =
        |credentials: &Credentials| mesh_ca::verify::peer_identity(credentials.svid.chain()).unwrap().serials;
    let revoke_serial = |serial: &[u8]| Revocations { serials: vec![serial.to_vec()], identities: vec![] };
    let cases = |bad: &Credentials| {
        let [leaf, intermediate] = <[Vec<u8>; 2]>::try_from(serials(bad)).unwrap();
        let identity = Revocations { serials: vec![], identities: vec![bad.svid.id().clone()] };
        [
            ("leaf", revoke_serial(&leaf)),
            ("intermediate", revoke_serial(&intermediate)),
            ("identity", identity),
        ]
    };
    for (what, revocations) in cases(&web) {
        let strict = Credentials { revocations: Arc::new(revocations), ..payments.clone() };
        let client = web.client_config(&id("payments"), Alpn::MeshH1).unwrap();
        let (server, client) = shake(strict.server_config().unwrap(), client).await;
        assert_eq!(handshake_error(&server.err().unwrap()), Some(PeerError::Revoked), "{what}");
        // The client has finished already; it learns of it with its first read.
        let told = client.unwrap().stream.read_u8().await.unwrap_err();
        assert_eq!(
            handshake_error(&told),
            Some(PeerError::RefusedUs { alert: "certificate_revoked" }),
            "{what}"
        );
    }
    for (what, revocations) in cases(&payments) {
        let strict = Credentials { revocations: Arc::new(revocations), ..web.clone() };
        let client = strict.client_config(&id("payments"), Alpn::MeshH1).unwrap();
        let (_, client) = shake(payments.server_config().unwrap(), client).await;
        assert_eq!(handshake_error(&client.err().unwrap()), Some(PeerError::Revoked), "{what}");
    }
}

#[tokio::test]
async fn a_peer_of_another_mesh_is_refused_even_under_the_same_name() {
    let (ours, theirs) = (Mesh::new(), Mesh::new());
    let server = ours.credentials("payments").server_config().unwrap();
    let mut foreign = theirs.credentials("web");
    foreign.bundles = ours.bundles();
    let client = foreign.client_config(&id("payments"), Alpn::MeshH1).unwrap();
    let (server, _) = shake(server, client).await;
    assert_eq!(handshake_error(&server.err().unwrap()), Some(PeerError::UnknownIssuer));
}

#[tokio::test]
async fn the_pinned_bootstrap_believes_the_control_plane_of_its_root_and_nobody_else() {
    let (mesh, other) = (Mesh::new(), Mesh::new());
    let control_id = tls::control_identity(&domain());
    let control = |mesh: &Mesh| {
        let (issued, key) = mesh.issue(&control_id, "mesh-control", now());
        Credentials {
            svid: Arc::new(mesh_ca::svid::Svid::new(issued.chain_der, key).unwrap()),
            bundles: mesh.bundles(),
            revocations: Arc::default(),
        }
    };
    let cases = [
        ("the control plane", control(&mesh), mesh.authority.root_sha256(), None),
        ("another root", control(&other), mesh.authority.root_sha256(), Some(PeerError::UnknownIssuer)),
        ("a wrong pin", control(&mesh), [1; 32], Some(PeerError::UnknownIssuer)),
        (
            "a workload that poses as one",
            mesh.credentials("web"),
            mesh.authority.root_sha256(),
            Some(PeerError::WrongPeer { expected: control_id.clone(), presented: id("web") }),
        ),
    ];
    for (what, server, pin, expected) in cases {
        let client = tls::pinned_client_config(pin, Some(domain())).unwrap();
        let (near, far) = tokio::io::duplex(64 * 1024);
        let acceptor = tokio_rustls::TlsAcceptor::from(server.control_server_config().unwrap());
        let (_, client) = tokio::join!(acceptor.accept(near), tls::connect_control(client, far));
        assert_eq!(client.err().map(|e| handshake_error(&e).unwrap()), expected, "{what}");
    }
    let elsewhere = tls::pinned_client_config(mesh.authority.root_sha256(), Some("other".parse().unwrap()));
    let (near, far) = tokio::io::duplex(64 * 1024);
    let acceptor = tokio_rustls::TlsAcceptor::from(control(&mesh).control_server_config().unwrap());
    let (_, client) = tokio::join!(acceptor.accept(near), tls::connect_control(elsewhere.unwrap(), far));
    assert_eq!(handshake_error(&client.err().unwrap()), Some(PeerError::WrongTrustDomain));
}
