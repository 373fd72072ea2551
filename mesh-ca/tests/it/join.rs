//! Joining from another machine: token over a pinned channel once, the SVID afterwards, through a rotation of the root.

use crate::world::{Mesh, domain, id, instance, now};
use mesh_ca::authority::attest::{AttestError, Caller, TlsCaller};
use mesh_ca::authority::server::{Accepted, IdentityService, SelfIssuer};
use mesh_ca::authority::{ProxyTrust, Revocable, RotateRoot};
use mesh_ca::bundle::TrustBundles;
use mesh_ca::client::{self, Identity, IssueError, Issuer, JoinIssuer};
use mesh_ca::tls::{self, Credentials};
use mesh_proto::wire::v1::identity_server::IdentityServer;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tonic::transport::Server;

const TEN_MINUTES: Duration = Duration::from_secs(600);

/// Serves `Identity` over TLS on a free port, with the control plane's newest credentials for each connection.
async fn serve(mesh: &Mesh) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let authority = mesh.authority.clone();
    let service = IdentityService {
        authority: authority.clone(),
        control_address: address.to_string(),
        own_uid: 0,
        named_owner: Arc::new(|_| None),
        clock: now,
    };
    let own = SelfIssuer {
        authority: authority.clone(),
        instance: instance("mesh-control"),
        control_address: address.to_string(),
        clock: now,
    };
    let incoming = futures_util::stream::unfold((listener, own), |(listener, own)| async move {
        let (stream, from) = listener.accept().await.unwrap();
        let control = client::first(&own, &instance("mesh-control")).await.unwrap();
        let config = credentials(&control).control_server_config().unwrap();
        let accepted = tls::accept_control(config, stream).await.map(|(stream, peer)| {
            let caller = TlsCaller { address: from, peer: peer.map(Arc::new) };
            Accepted::new(stream, Caller::Tls(caller))
        });
        Some((accepted, (listener, own)))
    });
    tokio::spawn(Server::builder().add_service(IdentityServer::new(service)).serve_with_incoming(incoming));
    address
}

fn credentials(identity: &Identity) -> Credentials {
    Credentials {
        svid: identity.svid.clone(),
        bundles: Arc::new(TrustBundles::from_config(&identity.bundles).unwrap()),
        revocations: Arc::default(),
    }
}

fn token(mesh: &Mesh) -> String {
    mesh.authority.create_join_token(&id("web"), TEN_MINUTES, now()).unwrap()
}

fn joiner(mesh: &Mesh, at: SocketAddr, token: String) -> JoinIssuer {
    JoinIssuer::new(at.to_string(), mesh.authority.root_sha256(), token, instance("vm-1"))
}

async fn join(issuer: &JoinIssuer) -> Result<Arc<Identity>, IssueError> {
    let identity = Arc::new(client::first(issuer, &instance("vm-1")).await?);
    issuer.accepted(&identity);
    Ok(identity)
}

#[tokio::test]
async fn a_token_gets_one_svid_which_then_renews_itself() {
    let mesh = Mesh::new();
    let at = serve(&mesh).await;
    let issuer = joiner(&mesh, at, token(&mesh));
    let first = join(&issuer).await.unwrap();
    assert_eq!(first.svid.id(), &id("web"));
    assert_eq!(first.control_address, at.to_string());
    let second = join(&issuer).await.unwrap();
    assert_ne!(first.svid.serial(), second.svid.serial());
    let attestors: Vec<String> = mesh
        .authority
        .issued()
        .into_iter()
        .filter(|record| record.id == id("web"))
        .map(|record| record.attestor.split([' ', '=']).next().unwrap().to_owned())
        .collect();
    assert_eq!(attestors, ["join_token", "svid"]);
}

#[tokio::test]
async fn a_used_wrong_or_expired_token_gets_nothing() {
    let mesh = Mesh::new();
    let at = serve(&mesh).await;
    let used = token(&mesh);
    join(&joiner(&mesh, at, used.clone())).await.unwrap();
    let expired = mesh.authority.create_join_token(&id("web"), Duration::ZERO, now() - TEN_MINUTES).unwrap();
    for (what, token) in [("used", used), ("wrong", "mesh-join-x".to_owned()), ("expired", expired)] {
        let refused = join(&joiner(&mesh, at, token)).await.unwrap_err();
        assert!(
            matches!(&refused, IssueError::Refused { reason, .. } if reason.contains("token")),
            "{what}: {refused}"
        );
    }
}

#[tokio::test]
async fn a_pin_of_another_root_is_an_impostor_and_costs_no_token() {
    let mesh = Mesh::new();
    let at = serve(&mesh).await;
    let token = token(&mesh);
    let pinned = JoinIssuer::new(at.to_string(), [9; 32], token.clone(), instance("vm-1"));
    let refused = join(&pinned).await.unwrap_err();
    assert!(matches!(refused, IssueError::Impostor { .. }), "{refused}");
    let elsewhere = joiner(&mesh, at, token.clone()).in_trust_domain("other.local".parse().unwrap());
    assert!(matches!(join(&elsewhere).await.unwrap_err(), IssueError::Impostor { .. }));
    join(&joiner(&mesh, at, token)).await.unwrap();
}

#[tokio::test]
async fn a_joined_machine_follows_a_rotation_of_the_root() {
    let mesh = Mesh::new();
    let at = serve(&mesh).await;
    let issuer = joiner(&mesh, at, token(&mesh));
    let mut identity = join(&issuer).await.unwrap();
    let old = identity.bundles[&domain()].clone();
    mesh.authority.rotate_root(RotateRoot::Start, now()).unwrap();
    for _ in 0..6 {
        let bundle = mesh.authority.bundles().remove(0);
        issuer.learn(&[(domain(), bundle.clone())].into());
        if identity.reissue_epoch < mesh.authority.reissue_epoch() {
            identity = join(&issuer).await.unwrap();
        }
        let fleet = [ProxyTrust {
            instance: instance("vm-1"),
            bundle_sequence: bundle.sequence,
            svid_root: None,
            serial: identity.svid.serial().to_vec(),
        }];
        mesh.authority.tick(now(), &fleet).unwrap();
    }
    assert_eq!(mesh.authority.status(&[], now()).phase, None);
    let new = mesh.authority.bundles().remove(0);
    assert!(new.roots.len() == 1 && new.roots != old.roots);
    issuer.learn(&[(domain(), new)].into());
    join(&issuer).await.unwrap();
}

#[tokio::test]
async fn a_revoked_identity_is_neither_renewed_nor_joined() {
    let mesh = Mesh::new();
    let at = serve(&mesh).await;
    let issuer = joiner(&mesh, at, token(&mesh));
    join(&issuer).await.unwrap();
    let spare = token(&mesh);
    mesh.authority.revoke(&Revocable::Identity(id("web")), "stolen", now()).unwrap();
    for attempt in [issuer, joiner(&mesh, at, spare)] {
        let refused = join(&attempt).await.unwrap_err();
        assert!(refused.to_string().contains("revoked"), "{refused}");
    }
    assert!(mesh.authority.create_join_token(&id("web"), TEN_MINUTES, now()).is_err());
}

#[test]
fn a_token_is_bound_to_the_first_key_that_shows_it() {
    let mesh = Mesh::new();
    let token = token(&mesh);
    let redeem = |key: u8| mesh.authority.redeem_join_token(&token, [key; 32], now());
    assert_eq!(redeem(1).unwrap().id, id("web"));
    assert!(redeem(1).is_ok(), "a lost answer may be asked for again");
    assert!(matches!(redeem(2), Err(AttestError::Token)));
    assert!(mesh.authority.redeem_join_token(&token, [1; 32], now() + TEN_MINUTES * 2).is_err());
}

#[test]
fn guesses_are_slowed_down_and_valid_tokens_are_not() {
    let mesh = Mesh::new();
    let (token, at) = (token(&mesh), now());
    let mut slowed = 0;
    for n in 0..100 {
        match mesh.authority.redeem_join_token(&format!("mesh-join-{n}"), [1; 32], at) {
            Err(AttestError::TooManyGuesses) => slowed += 1,
            Err(AttestError::Token) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(slowed, 80);
    mesh.authority.redeem_join_token(&token, [1; 32], at).unwrap();
}

#[test]
fn a_token_that_could_not_be_marked_as_used_gives_nothing() {
    let mesh = Mesh::new();
    let token = token(&mesh);
    mesh.store.fail();
    assert!(matches!(
        mesh.authority.redeem_join_token(&token, [1; 32], now()),
        Err(AttestError::Authority(_))
    ));
    mesh.store.recover();
    assert!(mesh.authority.redeem_join_token(&token, [2; 32], now()).is_ok());
}

#[test]
fn tokens_survive_a_restart_as_hashes_and_are_only_for_workloads_of_this_mesh() {
    let mesh = Mesh::new();
    let token = token(&mesh);
    let state = mesh.store.saved().pop().unwrap();
    let plain = crate::world::seal_key().open("authority state", &state).unwrap();
    assert!(!plain.windows(token.len()).any(|w| w == token.as_bytes()));
    for bad in [
        "spiffe://other/ns/a/sa/b",
        "spiffe://mesh.local/ns/mesh-system/sa/mesh-control",
        "spiffe://mesh.local/x",
    ] {
        assert!(
            mesh.authority.create_join_token(&bad.parse().unwrap(), TEN_MINUTES, now()).is_err(),
            "{bad}"
        );
    }
}
