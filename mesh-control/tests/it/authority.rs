//! The authority among the fleet: rotation of the root to its end, revocation, join tokens, who may have what.

use crate::fake::{FakeProxy, Script, channel};
use crate::plane::{PATIENCE, Plane};
use mesh_ca::client::{IssueError, JoinIssuer, first};
use mesh_proto::wire::v1;
use mesh_proto::wire::v1::discovery_client::DiscoveryClient;
use std::time::Duration;

async fn rotate(plane: &Plane, action: &str) -> Result<v1::CaStatusResponse, tonic::Status> {
    let request = v1::CaRotateRequest { action: action.into(), intermediate_only: false };
    Ok(plane.admin().await.ca_rotate(request).await?.into_inner())
}

async fn ca_status(plane: &Plane) -> v1::CaStatusResponse {
    plane.admin().await.ca_status(v1::CaStatusRequest {}).await.unwrap().into_inner()
}

/// Waits until the authority's state is as described.
async fn until(
    plane: &Plane,
    what: &str,
    is_it: impl Fn(&v1::CaStatusResponse) -> bool,
) -> v1::CaStatusResponse {
    let found = async {
        loop {
            let status = ca_status(plane).await;
            if is_it(&status) {
                return status;
            }
            tokio::task::yield_now().await;
        }
    };
    match tokio::time::timeout(PATIENCE, found).await {
        Ok(status) => status,
        Err(_) => panic!("{what}: never; the last state was {:?}", ca_status(plane).await),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_root_is_replaced_under_a_running_fleet() {
    let plane = Plane::start().await;
    let scripts: Vec<Script> = ["web", "payments", "store"].map(Script::new).into();
    let mut fleet = Vec::new();
    for script in &scripts {
        fleet.push(FakeProxy::join(&plane, script).await);
    }
    for proxy in &fleet {
        proxy.wait("a snapshot", |view| view.updates > 0).await;
    }
    let before = ca_status(&plane).await;
    assert_eq!((before.rotation.as_str(), before.proxies_total), ("idle", 3), "{before:?}");
    rotate(&plane, "start").await.unwrap();
    // Every proxy confirms by itself; then the mesh asks all of them to renew.
    for proxy in &fleet {
        let asked = proxy.wait("the call to renew", |view| {
            !view.items.is_empty() && view.snapshot().mesh.reissue_epoch > proxy.identity.reissue_epoch
        });
        let view = asked.await;
        let bundle = view.snapshot().bundles.into_values().next().unwrap();
        assert_eq!(bundle.roots.len(), 2, "both roots are believed while certificates move over");
    }
    let waiting = until(&plane, "waiting", |status| status.rotation == "sign").await;
    assert!(!waiting.waiting_for.is_empty(), "{waiting:?}");
    // They renew and say so; one takes a new stream, the others report the new serial.
    for (script, proxy) in scripts.iter().zip(&fleet) {
        let renewed = script.identity(&plane).await;
        let digest = proxy.view.borrow().items.digest().to_vec();
        let svid_serial = renewed.svid.serial().to_vec();
        proxy.say(v1::proxy_message::Kind::Digest(v1::Digest { revision: 0, digest, svid_serial })).await;
    }
    let done = until(&plane, "the end", |status| status.rotation == "idle").await;
    assert_eq!(done.roots.len(), 1, "{done:?}");
    assert_ne!(done.roots[0].sha256, before.roots[0].sha256);
    for proxy in &fleet {
        let view = proxy.wait("one root", |view| {
            view.snapshot().bundles.into_values().next().is_some_and(|bundle| bundle.roots.len() == 1)
        });
        assert_eq!(view.await.ended, None, "nobody was disconnected");
    }
    // The control plane itself answers under the new root.
    let late = FakeProxy::join(&plane, &Script::new("late")).await;
    late.wait("a snapshot", |view| view.updates == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_can_be_paused_and_aborted_and_survives_a_restart() {
    let plane = Plane::start().await;
    let script = Script::new("web");
    let web = FakeProxy::join(&plane, &script).await;
    web.wait("a snapshot", |view| view.updates == 1).await;
    assert!(rotate(&plane, "pause").await.is_err(), "there is nothing to pause");
    rotate(&plane, "start").await.unwrap();
    until(&plane, "sign", |status| status.rotation == "sign").await;
    rotate(&plane, "pause").await.unwrap();
    let plane = plane.restart(|_| {}).await;
    let status = ca_status(&plane).await;
    assert_eq!((status.rotation.as_str(), status.roots.len()), ("sign (paused)", 2), "{status:?}");
    rotate(&plane, "resume").await.unwrap();
    rotate(&plane, "abort").await.unwrap();
    assert!(rotate(&plane, "sideways").await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_identity_loses_its_stream_and_gets_no_other() {
    let plane = Plane::start().await;
    let script = Script::new("intruder");
    let intruder = FakeProxy::join(&plane, &script).await;
    let web = FakeProxy::join(&plane, &Script::new("web")).await;
    for proxy in [&intruder, &web] {
        proxy.wait("a snapshot", |view| view.updates > 0).await;
    }
    let id = "spiffe://mesh.local/ns/default/sa/intruder";
    let revoke = |undo| v1::CaRevokeRequest {
        identity: id.into(),
        reason: "stolen".into(),
        undo,
        ..Default::default()
    };
    let revoked = plane.admin().await.ca_revoke(revoke(false)).await.unwrap().into_inner();
    let receipt = plane.wait_for(revoked.revision).await;
    assert!(receipt.done && receipt.elapsed_us > 0 && receipt.enforced > 0, "{receipt:?}");
    assert_eq!(web.view.borrow().snapshot().revocations.identities.len(), 1, "a receipt means enforced");
    let ended = intruder.wait("its end", |view| view.ended.is_some()).await;
    assert!(ended.ended.as_ref().unwrap().contains("revoked"), "{ended:?}");
    let told = web.wait("the revocation", |view| {
        view.snapshot().revocations.identities.iter().any(|revoked| revoked.as_str() == id)
    });
    assert_eq!(told.await.snapshot().policy.quarantined.len(), 1);
    // Neither a new certificate nor a new connection with the old one.
    let refused = first(&script.issuer(&plane), &"intruder-1".parse().unwrap()).await;
    assert!(matches!(refused, Err(IssueError::Refused { .. })), "{refused:?}");
    if let Ok(channel) = channel(&intruder.identity).await {
        let empty = tokio_stream::pending();
        assert!(DiscoveryClient::new(channel).stream(empty).await.is_err(), "the handshake has refused it");
    }
    plane.admin().await.ca_revoke(revoke(true)).await.unwrap();
    let again = FakeProxy::join(&plane, &script).await;
    again.wait("a snapshot", |view| view.updates == 1).await;
    let nothing = plane.admin().await.ca_revoke(revoke(true)).await.unwrap_err();
    assert!(nothing.message().contains("is not revoked"), "{nothing:?}");
    let audit = plane.admin().await.audit(v1::AuditRequest { limit: 50, verify: false }).await.unwrap();
    let of_people =
        |record: &&v1::AuditRecord| record.actor.starts_with("uid ") && record.detail.contains(id);
    assert_eq!(audit.get_ref().records.iter().filter(of_people).count(), 2, "{audit:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_joins_once_with_a_token_and_answers_for_its_own_name_only() {
    let plane = Plane::start().await;
    let web = FakeProxy::join(&plane, &Script::new("web").calls(&["vm", "payments"])).await;
    let request = v1::CreateJoinTokenRequest {
        namespace: "default".into(),
        service_account: "vm".into(),
        lifetime_seconds: 0,
    };
    let made = plane.admin().await.create_join_token(request).await.unwrap().into_inner();
    let mut root_sha256 = [0; 32];
    for (byte, pair) in root_sha256.iter_mut().zip(made.root_sha256.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    }
    let issuer = |token: &str, instance: &str| {
        JoinIssuer::new(made.address.clone(), root_sha256, token.to_owned(), instance.parse().unwrap())
    };
    let identity = first(&issuer(&made.token, "vm-1"), &"vm-1".parse().unwrap()).await.unwrap();
    assert_eq!(identity.svid.id().as_str(), "spiffe://mesh.local/ns/default/sa/vm");
    let again = first(&issuer(&made.token, "vm-2"), &"vm-2".parse().unwrap()).await;
    assert!(matches!(again, Err(IssueError::Refused { .. })), "{again:?}");
    // Nobody vouches for the name it gives itself: it must not be able to catch the calls for `payments`.
    let script = Script { instance: "vm-1".into(), workload: "payments".into(), ..Script::new("vm") };
    let vm = FakeProxy::join_as(identity, &script).await;
    vm.wait("a snapshot", |view| view.updates == 1).await;
    let marker = FakeProxy::join(&plane, &Script::new("payments")).await;
    let view = web.wait("the true one", |view| !view.endpoints("payments").is_empty()).await;
    assert_eq!(view.endpoints("payments"), ["payments-1"]);
    let status = plane.status().await;
    assert!(status.warnings.iter().any(|w| w.contains("calls itself payments")), "{:?}", status.warnings);
    drop(marker);
    let known = "apiVersion: meshctl.io/v1alpha1\nkind: Workload\nmetadata: {name: payments}\nspec: {serviceAccount: vm}\n";
    plane.apply(known).await.unwrap();
    web.wait("the machine, now that a resource says so", |view| view.endpoints("payments") == ["vm-1"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_certificate_there_is_no_discovery() {
    let plane = Plane::start_with(|config| config.svid_lifetime = Duration::from_secs(60)).await;
    let made = plane
        .admin()
        .await
        .create_join_token(v1::CreateJoinTokenRequest { service_account: "vm".into(), ..Default::default() })
        .await
        .unwrap()
        .into_inner();
    let root: Vec<u8> =
        (0..32).map(|at| u8::from_str_radix(&made.root_sha256[at * 2..at * 2 + 2], 16).unwrap()).collect();
    let config = mesh_ca::tls::pinned_client_config(root.try_into().unwrap(), None).unwrap();
    let address = plane.running.address;
    let connector = tower::service_fn(move |_| {
        let config = config.clone();
        async move {
            let stream = tokio::net::TcpStream::connect(address).await?;
            mesh_ca::tls::connect_control(config, stream).await.map(hyper_util::rt::TokioIo::new)
        }
    });
    let endpoint = tonic::transport::Endpoint::from_static("http://control");
    let channel = endpoint.connect_with_connector(connector).await.unwrap();
    let status = DiscoveryClient::new(channel).stream(tokio_stream::pending()).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unauthenticated, "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_beginning_of_a_serial_revokes_all_that_its_instance_holds_and_says_so() {
    let plane = Plane::start().await;
    let script = Script::new("web");
    let first_serial = hex(script.identity(&plane).await.svid.serial());
    let second_serial = hex(script.identity(&plane).await.svid.serial());
    let revoke = |serial: &str, undo, force| v1::CaRevokeRequest {
        serial: serial.into(),
        reason: "lost".into(),
        undo,
        force,
        ..Default::default()
    };
    let mut admin = plane.admin().await;
    let roots = ca_status(&plane).await.roots;
    for (serial, part) in [
        ("0f0f0f0f", "meshctl identity --all"),
        (&first_serial[..7], "8 to 40 hexadecimal digits"),
        (&roots[0].serial, "meshctl ca rotate"),
    ] {
        let refused = admin.ca_revoke(revoke(serial, false, false)).await.unwrap_err();
        assert!(refused.message().contains(part), "{serial}: {refused:?}");
    }
    let done = admin.ca_revoke(revoke(&first_serial[..12], false, false)).await.unwrap().into_inner();
    assert_eq!(done.serials, [first_serial.clone(), second_serial.clone()]);
    assert_eq!(done.whom, "spiffe://mesh.local/ns/default/sa/web (web-1)");
    assert!(done.notes.iter().any(|note| note.contains("meshctl ca revoke spiffe://")), "{done:?}");
    let nothing = admin.ca_revoke(revoke("ffffffffffff", true, false)).await.unwrap_err();
    assert_eq!(nothing.code(), tonic::Code::NotFound, "{nothing:?}");
    let back = admin.ca_revoke(revoke(&second_serial[..8], true, false)).await.unwrap().into_inner();
    assert_eq!(back.serials.len(), 2, "{back:?}");
    let short = admin.ca_revoke(revoke("4141414141", false, true)).await.unwrap_err();
    assert!(short.message().contains("must be whole"), "{short:?}");
    let lost = admin.ca_revoke(revoke(&"41".repeat(16), false, true)).await.unwrap().into_inner();
    assert_eq!(lost.serials, ["41".repeat(16)], "{lost:?}");
    let audit = admin.audit(v1::AuditRequest { limit: 50, verify: false }).await.unwrap().into_inner();
    let details: Vec<&str> = audit.records.iter().map(|record| &*record.detail).collect();
    assert!(details.iter().any(|detail| detail.contains("2 certificates of spiffe://")), "{details:?}");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
