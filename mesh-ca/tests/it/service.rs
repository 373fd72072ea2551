//! The service `Identity` over a real Unix socket: attestation, issuance, refusal.

use crate::world::{Mesh, domain, instance, now};
use mesh_ca::authority::Revocable;
use mesh_ca::authority::attest::{Caller, TlsCaller, UnixCaller};
use mesh_ca::authority::server::{Accepted, IdentityService};
use mesh_ca::client::{self, IssueError, UnixIssuer};
use mesh_ca::csr::WorkloadKey;
use mesh_ca::verify::{PeerIdentity, peer_identity};
use mesh_proto::wire::v1::identity_server::{Identity, IdentityServer};
use mesh_proto::wire::v1::issue_request::Evidence;
use mesh_proto::wire::v1::{IssueRequest, JoinToken, UnixPeer};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::Server;

/// Serves `Identity` on a socket until the token is cancelled; `own_uid` is whom it takes itself for.
pub(crate) fn serve(mesh: &Mesh, socket: &Path, own_uid: u32, stop: CancellationToken) {
    let listener = UnixListener::bind(socket).unwrap();
    let service = IdentityService {
        authority: mesh.authority.clone(),
        control_address: "127.0.0.1:15012".to_owned(),
        own_uid,
        named_owner: Arc::new(|_| None),
        clock: now,
        reviewer: None,
    };
    let incoming = async_stream(listener);
    tokio::spawn(
        Server::builder()
            .add_service(IdentityServer::new(service))
            .serve_with_incoming_shutdown(incoming, async move { stop.cancelled().await }),
    );
}

fn async_stream(
    listener: UnixListener,
) -> impl futures_util::Stream<Item = std::io::Result<Accepted<tokio::net::UnixStream>>> {
    futures_util::stream::unfold(listener, |listener| async move {
        let accepted = match listener.accept().await {
            Ok((stream, _)) => stream.peer_cred().map(|cred| {
                let caller = Caller::Unix(UnixCaller { uid: cred.uid(), pid: cred.pid() });
                Accepted::new(stream, caller)
            }),
            Err(e) => Err(e),
        };
        Some((accepted, listener))
    })
}

fn own_uid(directory: &Path) -> u32 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(directory).unwrap().uid()
}

fn issuer(socket: PathBuf, account: &str) -> UnixIssuer {
    UnixIssuer {
        socket,
        namespace: "default".parse().unwrap(),
        account: account.parse().unwrap(),
        instance: instance("web-1"),
        lifetime: Some(Duration::from_secs(60)),
    }
}

#[tokio::test]
async fn a_workload_gets_its_svid_over_the_unix_socket() {
    let mesh = Mesh::new();
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("control.sock");
    let stop = CancellationToken::new();
    serve(&mesh, &socket, own_uid(dir.path()), stop.clone());
    let identity = client::first(&issuer(socket, "web"), &instance("web-1")).await.unwrap();
    assert_eq!(identity.svid.id().as_str(), "spiffe://mesh.local/ns/default/sa/web");
    assert_eq!(identity.svid.instance().unwrap().as_str(), "web-1");
    assert_eq!(identity.control_address, "127.0.0.1:15012");
    assert_eq!(identity.control_identity.as_str(), "spiffe://mesh.local/ns/mesh-system/sa/mesh-control");
    assert_eq!(identity.bundles[&domain()], mesh.authority.bundles()[0]);
    let life = identity.svid.not_after().duration_since(now()).unwrap();
    assert!(life <= Duration::from_secs(60) && life > Duration::from_secs(40), "{life:?}");
    let record = &mesh.authority.issued()[0];
    assert!(record.attestor.starts_with("unix_peer uid="), "{}", record.attestor);
    stop.cancel();
}

#[tokio::test]
async fn the_mesh_own_namespace_and_a_missing_control_plane_are_clear_refusals() {
    let mesh = Mesh::new();
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("control.sock");
    let absent = client::first(&issuer(socket.clone(), "web"), &instance("web-1")).await.unwrap_err();
    assert!(matches!(absent, IssueError::Unreachable { .. }), "{absent}");
    assert!(absent.to_string().contains("meshctl up"), "{absent}");
    serve(&mesh, &socket, own_uid(dir.path()), CancellationToken::new());
    let mut impostor = issuer(socket, "mesh-control");
    impostor.namespace = "mesh-system".parse().unwrap();
    let refused = client::first(&impostor, &instance("web-1")).await.unwrap_err();
    assert!(
        matches!(&refused, IssueError::Refused { reason, .. } if reason.contains("mesh-system")),
        "{refused}"
    );
    assert!(mesh.authority.issued().is_empty());
}

/// Asks the service as a given caller, without a transport. A resource gives `owned` to the user 1001.
async fn ask(
    mesh: &Mesh,
    caller: Caller,
    evidence: Option<Evidence>,
    name: &str,
) -> Result<(), tonic::Status> {
    ask_where(mesh, caller, evidence, (name, 1001)).await
}

/// As `ask`, with another user for `owned`.
async fn ask_where(
    mesh: &Mesh,
    caller: Caller,
    evidence: Option<Evidence>,
    (name, owner): (&str, u32),
) -> Result<(), tonic::Status> {
    let service = IdentityService {
        authority: mesh.authority.clone(),
        control_address: "127.0.0.1:1".to_owned(),
        own_uid: 1000,
        named_owner: Arc::new(move |id| (*id == crate::world::id("owned")).then_some(owner)),
        clock: now,
        reviewer: None,
    };
    let csr_der = WorkloadKey::generate().unwrap().csr_der(&instance(name)).unwrap();
    let message = IssueRequest { csr_der, evidence, instance: name.to_owned(), lifetime_seconds: 0 };
    let mut request = tonic::Request::new(message);
    request.extensions_mut().insert(caller);
    service.issue(request).await.map(|_| ())
}

fn unix(account: &str) -> Option<Evidence> {
    let (namespace, service_account) = ("default".to_owned(), account.to_owned());
    Some(Evidence::UnixPeer(UnixPeer { namespace, service_account }))
}

fn tls(peer: Option<PeerIdentity>) -> Caller {
    Caller::Tls(TlsCaller { address: "192.0.2.1:1".parse().unwrap(), peer: peer.map(Arc::new) })
}

#[tokio::test]
async fn evidence_counts_only_through_its_own_door() {
    let mesh = Mesh::new();
    let peer = |account: &str| peer_identity(mesh.svid(account).chain()).unwrap();
    let from = |uid: u32| Caller::Unix(UnixCaller { uid, pid: Some(1) });
    let token = || Some(Evidence::JoinToken(JoinToken { token: "mesh-join-x".to_owned() }));
    let mut expired = peer("web");
    expired.not_after = now() - Duration::from_secs(1);
    let cases = [
        ("the owner", from(1000), unix("web"), Code::Ok),
        ("root", from(0), unix("web"), Code::Ok),
        ("another user", from(1001), unix("web"), Code::PermissionDenied),
        ("the user a resource names", from(1001), unix("owned"), Code::Ok),
        ("the owner, of what a resource gives to another", from(1000), unix("owned"), Code::PermissionDenied),
        ("no evidence on the socket", from(1000), None, Code::Unauthenticated),
        ("a name that is none", from(1000), unix("no/name"), Code::InvalidArgument),
        ("Unix credentials over TLS", tls(None), unix("web"), Code::PermissionDenied),
        (
            "Unix credentials over TLS, with a certificate",
            tls(Some(peer("web"))),
            unix("web"),
            Code::PermissionDenied,
        ),
        ("nothing over TLS", tls(None), None, Code::Unauthenticated),
        ("a wrong token", tls(None), token(), Code::Unauthenticated),
        ("a wrong token beside a certificate", tls(Some(peer("web"))), token(), Code::Unauthenticated),
        ("a certificate", tls(Some(peer("web"))), None, Code::Ok),
        ("another instance's certificate", tls(Some(peer("other"))), None, Code::PermissionDenied),
        ("a certificate that has expired since", tls(Some(expired)), None, Code::Unauthenticated),
    ];
    for (what, caller, evidence, expected) in cases {
        let code =
            ask(&mesh, caller, evidence, "web").await.map_or_else(|status| status.code(), |()| Code::Ok);
        assert_eq!(code, expected, "{what}");
    }
    let revoked = peer("web");
    mesh.authority.revoke(&Revocable::Serial(revoked.serials[0].clone()), "stolen", now()).unwrap();
    let refused = ask(&mesh, tls(Some(revoked)), None, "web").await.unwrap_err();
    assert_eq!(
        refused.code(),
        Code::Unauthenticated,
        "a stolen key cannot renew itself over an old connection"
    );
}

#[tokio::test]
async fn a_renewal_asks_again_whether_the_user_may_have_the_identity() {
    let mesh = Mesh::new();
    let owned = crate::world::id("owned");
    let from = |uid: u32| Caller::Unix(UnixCaller { uid, pid: Some(7) });
    ask(&mesh, from(1001), unix("owned"), "job-1").await.unwrap();
    let mut generations = Vec::new();
    for _ in 0..2 {
        let newest = mesh.authority.newest(&owned, &instance("job-1")).unwrap();
        let peer = PeerIdentity {
            id: owned.clone(),
            instance: Some(instance("job-1")),
            serials: vec![newest.serial.clone()],
            not_after: newest.not_after,
        };
        ask(&mesh, tls(Some(peer.clone())), None, "job-1").await.unwrap();
        generations.push(peer);
    }
    let renewed = mesh.authority.newest(&owned, &instance("job-1")).unwrap();
    assert!(renewed.attestor.ends_with(" from unix_peer uid=1001 pid=7"), "{}", renewed.attestor);
    // The resource names another user now.
    for peer in generations {
        let refused = ask_where(&mesh, tls(Some(peer)), None, ("job-1", 1002)).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
        assert!(refused.message().contains("uid 1001"), "{refused:?}");
    }
    let unrecorded = PeerIdentity {
        id: owned,
        instance: Some(instance("job-1")),
        serials: vec![vec![9; 16]],
        not_after: renewed.not_after,
    };
    let refused = ask(&mesh, tls(Some(unrecorded)), None, "job-1").await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused:?}");
}
