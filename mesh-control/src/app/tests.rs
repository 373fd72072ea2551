use super::opening::Opened;
use super::*;
use crate::admin::access::Actor;
use crate::discovery::fanout::Beginning;
use crate::index::Trust;
use crate::local::registry::Registry;
use crate::store::memory::MemoryStore;
use mesh_ca::authority::attest::{Caller, UnixCaller};
use mesh_ca::authority::{Authority, AuthorityConfig};
use mesh_ca::seal::SealKey;
use mesh_proto::resource::Catalog;
use mesh_proto::wire::v1;
use mesh_proto::wire::v1::admin_server::Admin as _;

/// A control plane over a store in memory that can be told to refuse writes; nothing listens.
async fn plane(store: Arc<MemoryStore>) -> (Plane, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let trust_domain: TrustDomain = "mesh.local".parse().unwrap();
    let kept = Arc::new(crate::authority::StoredAuthority(store.clone()));
    let seal = SealKey::from_bytes(&[7; 32]);
    let authority =
        Authority::open(AuthorityConfig::new(trust_domain.clone()), kept, &seal, clock::wall()).unwrap();
    let trust = Trust { bundles: authority.bundles(), ..Trust::default() };
    let opened = Opened {
        state_dir: state_dir::StateDir::claim(&dir.path().join("s")).unwrap(),
        store,
        authority: Arc::new(authority),
        beginning: Beginning {
            trust_domain,
            revision: 0,
            catalog: Arc::new(Catalog::default()),
            trust: Arc::new(trust),
            registry: Registry::default(),
        },
        unreadable: vec!["an old object".to_owned()],
    };
    (Plane::assemble(opened, "127.0.0.1:1".into(), CancellationToken::new()).await.unwrap(), dir)
}

/// A call as the owner makes it.
fn call<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.extensions_mut().insert(Caller::Unix(UnixCaller { uid: 0, pid: None }));
    request
}

fn policy() -> v1::ApplyRequest {
    let yaml = "apiVersion: meshctl.io/v1alpha1\nkind: AccessPolicy\nmetadata: {name: x}\n\
                spec: {target: {service: web}, rules: [{from: [{anyMeshed: true}]}]}\n";
    v1::ApplyRequest {
        documents: vec![v1::Document { file: "x.yaml".into(), line: 1, yaml: yaml.into() }],
        dry_run: false,
    }
}

#[tokio::test]
async fn a_store_that_refuses_writes_stops_changes_and_nothing_else() {
    let store = Arc::new(MemoryStore::new());
    let (plane, _dir) = plane(store.clone()).await;
    let admin = AdminService { control: plane.control.clone() };
    admin.apply(call(policy())).await.unwrap();
    store.refuse_writes(Some("no space left on the device".to_owned()));
    let other = v1::ApplyRequest {
        documents: policy()
            .documents
            .into_iter()
            .map(|mut d| {
                d.yaml = d.yaml.replace("name: x", "name: y");
                d
            })
            .collect(),
        dry_run: false,
    };
    for refused in [
        admin.apply(call(other.clone())).await.map(|_| ()),
        admin.ca_rotate(call(v1::CaRotateRequest::default())).await.map(|_| ()),
        admin
            .create_join_token(call(v1::CreateJoinTokenRequest {
                service_account: "vm".into(),
                ..Default::default()
            }))
            .await
            .map(|_| ()),
    ] {
        let status = refused.unwrap_err();
        assert!(status.message().contains("no space left"), "{status:?}");
    }
    let status = admin.status(call(v1::StatusRequest {})).await.unwrap().into_inner();
    assert!(status.store.contains("no space left"), "{status:?}");
    assert!(
        status.warnings.iter().any(|w| w.contains("no space left"))
            && status.warnings.contains(&"an old object".to_owned())
    );
    assert_eq!((status.revision, plane.control.mesh.world().catalog.len()), (1, 1));
    // Certificates are issued all the same, and a dry run still answers.
    client::first(&plane.issuer, &plane.issuer.instance).await.unwrap();
    admin.apply(call(v1::ApplyRequest { dry_run: true, ..other.clone() })).await.unwrap();
    store.refuse_writes(None);
    assert_eq!(admin.apply(call(other)).await.unwrap().into_inner().revision, 2);
}

#[tokio::test]
async fn administration_is_for_the_socket_only() {
    let (plane, _dir) = plane(Arc::new(MemoryStore::new())).await;
    let admin = AdminService { control: plane.control.clone() };
    let status = admin.status(tonic::Request::new(v1::StatusRequest {})).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::PermissionDenied);
    let shown = Actor::of(&call(()), 0).unwrap().to_string();
    assert!(shown.starts_with("uid 0"), "{shown}");
}
