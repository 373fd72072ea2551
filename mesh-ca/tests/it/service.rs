//! The service `Identity` over a real Unix socket: attestation, issuance, refusal.

use crate::world::{Mesh, domain, instance, now};
use mesh_ca::authority::attest::{Caller, UnixCaller};
use mesh_ca::authority::server::{Accepted, IdentityService};
use mesh_ca::client::{self, IssueError, UnixIssuer};
use mesh_proto::wire::v1::identity_server::IdentityServer;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
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
