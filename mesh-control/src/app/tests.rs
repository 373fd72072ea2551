use super::opening::Opened;
use super::*;
use crate::admin::access::Actor;
use crate::discovery::fanout::Beginning;
use crate::index::Trust;
use crate::local::registry::Registry;
use crate::store::memory::MemoryStore;
use crate::store::view::{AuditReport, ReadView};
use crate::store::write::{Committed, Write};
use crate::store::{BackupReport, Health, Store, StoreError};
use futures_util::future::{BoxFuture, FutureExt as _};
use mesh_ca::authority::attest::{Caller, UnixCaller};
use mesh_ca::authority::{Authority, AuthorityConfig};
use mesh_ca::seal::SealKey;
use mesh_proto::resource::Catalog;
use mesh_proto::wire::v1;
use mesh_proto::wire::v1::admin_server::Admin as _;

/// A control plane over a store in memory that can be told to refuse writes; nothing listens.
async fn plane(store: Arc<dyn Store>) -> (Plane, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let trust_domain: TrustDomain = "mesh.local".parse().unwrap();
    let kept = Arc::new(crate::authority::StoredAuthority(store.clone()));
    let seal = SealKey::from_bytes(&[7; 32]);
    let authority =
        Authority::open(AuthorityConfig::new(trust_domain.clone()), kept, &seal, clock::wall()).unwrap();
    let trust = Trust { bundles: authority.bundles(), ..Trust::default() };
    let audit_key = Arc::new(crate::audit::AuditKey::open(&*store, &seal).unwrap());
    let opened = Opened {
        audit_key,
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
    let instance = opening::own_instance();
    let place = Place {
        instance,
        advertised: "127.0.0.1:1".into(),
        home: Home::Here,
        reviewer: None,
        elsewhere: Arc::new(Vec::new),
    };
    (Plane::assemble(opened, place, CancellationToken::new()).await.unwrap(), dir)
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

/// A store that has written before it says so: each answer waits for a permit.
struct Slow {
    inner: MemoryStore,
    answers: tokio::sync::Semaphore,
}

impl Store for Slow {
    fn commit(&self, write: Write) -> BoxFuture<'_, Result<Committed, StoreError>> {
        async move {
            let done = self.inner.commit(write).await;
            self.answers.acquire().await.expect("never closed").forget();
            done
        }
        .boxed()
    }

    fn read(&self) -> ReadView {
        self.inner.read()
    }

    fn put_meta(&self, key: &str, value: Vec<u8>) -> Result<(), StoreError> {
        self.inner.put_meta(key, value)
    }

    fn health(&self) -> Health {
        self.inner.health()
    }

    fn backup(&self, out: &mut dyn io::Write) -> Result<BackupReport, StoreError> {
        self.inner.backup(out)
    }

    fn verify_audit(&self) -> Result<AuditReport, StoreError> {
        self.inner.verify_audit()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_written_comes_into_force_although_its_caller_went_away() {
    let store = Arc::new(Slow { inner: MemoryStore::new(), answers: tokio::sync::Semaphore::new(0) });
    let (plane, _dir) = plane(store.clone()).await;
    let admin = AdminService { control: plane.control.clone() };
    let written = async {
        while store.read().revision() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        answer = admin.apply(call(policy())) => panic!("it cannot have been answered: {answer:?}"),
        () = written => {}
    }
    // The caller is gone, the disk answers.
    store.answers.add_permits(1);
    let mut world = plane.control.mesh.watch();
    let in_force = world.wait_for(|world| world.revision == 1);
    let in_force = tokio::time::timeout(Duration::from_secs(20), in_force).await;
    assert_eq!(in_force.expect("it never came into force").unwrap().catalog.len(), 1);
}

#[tokio::test]
async fn a_backup_is_noted_first_and_the_owner_gets_one_from_a_full_disk() {
    let store = Arc::new(MemoryStore::new());
    let (plane, _dir) = plane(store.clone()).await;
    let admin = AdminService { control: plane.control.clone() };
    let answer = admin.backup(call(v1::BackupRequest {})).await.unwrap();
    let record = store.read().audit(1..=1)[0].clone();
    assert_eq!((record.verb.as_str(), record.actor.starts_with("uid 0")), ("backup", true), "{record:?}");
    drop(answer);
    store.refuse_writes(Some("no space left on the device".to_owned()));
    admin.backup(call(v1::BackupRequest {})).await.map(drop).unwrap();
    store.refuse_writes(None);
    let stop = CancellationToken::new();
    stop.cancel();
    plane.control.notices.clone().keep(store.clone(), stop).await;
    assert_eq!(store.read().audit(2..=2)[0].verb.as_str(), "backup");
}
