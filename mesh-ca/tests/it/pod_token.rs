//! Pods' tokens: who gets which identity, and what a pod's certificate is not good for.

use crate::world::{Mesh, domain, instance, now};
use mesh_ca::authority::attest::{Caller, ReviewError, Reviewed, TlsCaller, TokenReviewer};
use mesh_ca::authority::server::IdentityService;
use mesh_ca::csr::WorkloadKey;
use mesh_ca::verify::PeerIdentity;
use mesh_proto::wire::v1::identity_server::Identity;
use mesh_proto::wire::v1::issue_request::Evidence;
use mesh_proto::wire::v1::{IssueRequest, IssueResponse, KubernetesToken};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tonic::{Code, Status};

/// A cluster with the pods of a few tokens; counts what it is asked.
#[derive(Default)]
struct Cluster {
    asked: AtomicUsize,
}

impl TokenReviewer for Cluster {
    fn review(&self, token: &str) -> Result<Reviewed, ReviewError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let pod = |namespace: &str, account: &str, pod: &str| {
            Ok(Reviewed {
                namespace: namespace.parse().unwrap(),
                account: account.parse().unwrap(),
                pod: instance(pod),
                pod_uid: "1-2-3".to_owned(),
            })
        };
        match token {
            "web.of.shop" => pod("shop", "web", "web-1"),
            "control.of.mesh" => pod("mesh-system", "mesh-control", "web-1"),
            "api.is.away" => Err(ReviewError::Unavailable("no answer within 5s".to_owned())),
            _ => Err(ReviewError::Refused("it has expired".to_owned())),
        }
    }
}

async fn ask(
    mesh: &Mesh,
    cluster: Option<Arc<Cluster>>,
    (peer, evidence): (Option<PeerIdentity>, Option<&str>),
    name: &str,
) -> Result<IssueResponse, Status> {
    let service = IdentityService {
        authority: mesh.authority.clone(),
        control_address: "127.0.0.1:1".to_owned(),
        own_uid: 1000,
        named_owner: Arc::new(|_| None),
        reviewer: cluster.map(|cluster| cluster as Arc<dyn TokenReviewer>),
        clock: now,
    };
    let csr_der = WorkloadKey::generate().unwrap().csr_der(&instance(name)).unwrap();
    let evidence =
        evidence.map(|token| Evidence::KubernetesToken(KubernetesToken { token: token.to_owned() }));
    let message = IssueRequest { csr_der, evidence, instance: name.to_owned(), lifetime_seconds: 0 };
    let mut request = tonic::Request::new(message);
    let caller = TlsCaller { address: "192.0.2.1:1".parse().unwrap(), peer: peer.map(Arc::new) };
    request.extensions_mut().insert(Caller::Tls(caller));
    service.issue(request).await.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn a_pod_gets_the_identity_of_its_account_and_no_other() {
    let mesh = Mesh::new();
    let long = format!("a.{}.c", "b".repeat(8 * 1024));
    for (token, name, expected) in [
        ("web.of.shop", "web-1", Code::Ok),
        ("web.of.shop", "web-2", Code::PermissionDenied),
        ("control.of.mesh", "web-1", Code::PermissionDenied),
        ("an.old.one", "web-1", Code::Unauthenticated),
        ("api.is.away", "web-1", Code::Unavailable),
    ] {
        let answer = ask(&mesh, Some(Arc::default()), (None, Some(token)), name).await;
        let code = answer.as_ref().map_or_else(Status::code, |_| Code::Ok);
        assert_eq!(code, expected, "{token} for {name}: {answer:?}");
        if let Ok(issued) = answer {
            assert_eq!(issued.spiffe_id, format!("spiffe://{}/ns/shop/sa/web", domain()));
        }
    }
    for token in ["", "no-token", "a.b", "a..c", "a.b.c.d", "a.b!.c", &long] {
        let cluster = Arc::new(Cluster::default());
        let refused = ask(&mesh, Some(cluster.clone()), (None, Some(token)), "web-1").await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{token:?}");
        assert_eq!(cluster.asked.load(Ordering::SeqCst), 0, "the cluster is not asked about {token:?}");
    }
    let refused = ask(&mesh, None, (None, Some("web.of.shop")), "web-1").await.unwrap_err();
    assert!(refused.message().contains("does not run on Kubernetes"), "{refused:?}");
}

#[tokio::test]
async fn a_pods_certificate_does_not_outlive_its_token() {
    let mesh = Mesh::new();
    let cluster: Arc<Cluster> = Arc::default();
    let token = || (None, Some("web.of.shop"));
    ask(&mesh, Some(cluster.clone()), token(), "web-1").await.unwrap();
    let issued = mesh.authority.issued();
    let record = issued.first().unwrap();
    assert_eq!(record.attestor, "pod_token pod=shop/web-1 uid=1-2-3");
    let peer = |serial: Vec<u8>| PeerIdentity {
        id: record.id.clone(),
        instance: Some(record.instance.clone()),
        serials: vec![serial],
        not_after: record.not_after,
    };
    for serial in [record.serial.clone(), vec![7; 16]] {
        let with = (Some(peer(serial.clone())), None);
        let refused = ask(&mesh, Some(cluster.clone()), with, "web-1").await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{serial:?}");
        assert!(refused.message().contains("token"), "{refused:?}");
    }
    // Each renewal is reviewed anew.
    ask(&mesh, Some(cluster.clone()), token(), "web-1").await.unwrap();
    assert_eq!(cluster.asked.load(Ordering::SeqCst), 2);
}
