//! Joining from another machine: token over a pinned channel once, the SVID afterwards, through a rotation of the root.

use crate::world::{Mesh, domain, id, instance, now};
use mesh_ca::authority::attest::{AttestError, Bearer, Caller, Origin, TlsCaller};
use mesh_ca::authority::server::{Accepted, IdentityService, SelfIssuer};
use mesh_ca::authority::{ProxyTrust, Revocable, RotateRoot};
use mesh_ca::bundle::TrustBundles;
use mesh_ca::client::{self, Identity, IssueError, Issuer, JoinIssuer};
use mesh_ca::csr::WorkloadKey;
use mesh_ca::tls::{self, Credentials};
use mesh_proto::name::InstanceName;
use mesh_proto::wire::v1::identity_server::IdentityServer;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
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
        reviewer: None,
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
            id: id("web"),
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

fn bearer(instance: &InstanceName) -> Bearer<'_> {
    Bearer { key_sha256: [1; 32], instance }
}

#[tokio::test]
async fn revoking_one_certificate_ends_its_renewals_and_the_token_it_came_with() {
    let mesh = Mesh::new();
    let at = serve(&mesh).await;
    let (text, spare) = (token(&mesh), token(&mesh));
    let issuer = joiner(&mesh, at, text.clone());
    let key = WorkloadKey::generate().unwrap();
    // A lost answer: the key that asked keeps its right to the token.
    issuer.issue(key.csr_der(&instance("vm-1")).unwrap()).await.unwrap();
    let stolen = mesh.authority.newest(&id("web"), &instance("vm-1")).unwrap();
    issuer.issue(key.csr_der(&instance("vm-1")).unwrap()).await.unwrap();
    let newer = mesh.authority.newest(&id("web"), &instance("vm-1")).unwrap();
    let done = mesh.authority.revoke(&Revocable::Serial(stolen.serial.clone()), "stolen", now()).unwrap();
    assert_eq!(done.serials, [stolen.serial.clone(), newer.serial.clone()]);
    assert_eq!((done.holder, done.tokens), (Some((id("web"), instance("vm-1"))), 1));
    assert_eq!(done.origin, Some(Origin::JoinToken));
    let mut listed = [stolen.serial.clone(), newer.serial];
    listed.sort();
    assert_eq!(mesh.authority.revocations().serials, listed);
    let refused = issuer.issue(key.csr_der(&instance("vm-1")).unwrap()).await.unwrap_err();
    assert!(refused.to_string().contains("token is not valid"), "{refused}");
    // The machine comes back with a new token, and what it gets then is not revoked.
    let again = join(&joiner(&mesh, at, spare)).await.unwrap();
    assert!(!mesh.authority.revocations().serials.contains(&again.svid.serial().to_vec()));
    let undone = mesh.authority.undo_revocation(&Revocable::Serial(stolen.serial), now()).unwrap().unwrap();
    assert_eq!(undone.serials.len(), 2);
    assert!(mesh.authority.revocations().serials.is_empty());
}

#[test]
fn a_token_is_bound_to_the_first_key_that_shows_it() {
    let mesh = Mesh::new();
    let token = token(&mesh);
    let show = |key: u8, name: &str, at: SystemTime| {
        let bearer = Bearer { key_sha256: [key; 32], instance: &instance(name) };
        mesh.authority.redeem_join_token(&token, &bearer, at)
    };
    assert_eq!(show(1, "vm-1", now()).unwrap().id, id("web"));
    assert!(show(1, "vm-1", now()).is_ok(), "a lost answer may be asked for again");
    assert!(matches!(show(2, "vm-1", now()), Err(AttestError::Token)));
    assert!(matches!(show(1, "vm-2", now()), Err(AttestError::Token)), "one token is for one instance");
    assert!(show(1, "vm-1", now() + TEN_MINUTES * 2).is_err());
}

#[tokio::test]
async fn a_machine_that_is_locked_out_is_told_what_to_do_and_people_are_told_of_it() {
    let mesh = Mesh::new();
    let at = serve(&mesh).await;
    let issuer = joiner(&mesh, at, token(&mesh));
    join(&issuer).await.unwrap();
    let done = mesh.authority.revoke(&Revocable::Intermediate, "key exposed", now()).unwrap();
    assert_eq!(done.locked_out, [(id("web"), instance("vm-1"))]);
    let refused = join(&issuer).await.unwrap_err();
    assert!(refused.to_string().contains("meshctl ca token --namespace default"), "{refused}");
    // A root that changed without this machine.
    let (other, moved) = (Mesh::new(), joiner(&mesh, at, token(&mesh)));
    join(&moved).await.unwrap();
    moved.learn(&[(domain(), other.authority.bundles().remove(0))].into());
    let refused = join(&moved).await.unwrap_err();
    assert!(matches!(refused, IssueError::LockedOut { .. }), "{refused}");
    assert!(refused.to_string().contains("meshctl ca token"), "{refused}");
}

#[test]
fn guesses_are_slowed_down_and_valid_tokens_are_not() {
    let mesh = Mesh::new();
    let (token, at) = (token(&mesh), now());
    let (mut slowed, vm) = (0, instance("vm-1"));
    for n in 0..100 {
        match mesh.authority.redeem_join_token(&format!("mesh-join-{n}"), &bearer(&vm), at) {
            Err(AttestError::TooManyGuesses) => slowed += 1,
            Err(AttestError::Token) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(slowed, 80);
    mesh.authority.redeem_join_token(&token, &bearer(&vm), at).unwrap();
}

#[test]
fn a_token_that_could_not_be_marked_as_used_gives_nothing() {
    let mesh = Mesh::new();
    let (token, vm) = (token(&mesh), instance("vm-1"));
    mesh.store.fail();
    assert!(matches!(
        mesh.authority.redeem_join_token(&token, &bearer(&vm), now()),
        Err(AttestError::Authority(_))
    ));
    mesh.store.recover();
    let other = Bearer { key_sha256: [2; 32], ..bearer(&vm) };
    assert!(mesh.authority.redeem_join_token(&token, &other, now()).is_ok());
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
