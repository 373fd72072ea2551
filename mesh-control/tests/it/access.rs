//! Who gets in, over the real socket and the real port: strangers, holders of roles, a second control plane.
//!
//! The callers here are other users of the machine, so these tests need root, and say so.

use crate::plane::{PATIENCE, Plane, config, socket_channel};
use mesh_ca::client::{IssueError, UnixIssuer, first};
use mesh_control::{ControlError, run};
use mesh_proto::name::Namespace;
use mesh_proto::wire::v1;
use mesh_proto::wire::v1::admin_client::AdminClient;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tonic::Code;

/// Runs a client as another user, on a thread of its own: the kernel's word is about the thread that connects.
fn as_user<T, F>(uid: u32, socket: PathBuf, client: impl FnOnce(PathBuf) -> F + Send + 'static) -> T
where
    T: Send + 'static,
    F: Future<Output = T>,
{
    let thread = std::thread::spawn(move || {
        let uid = rustix::process::Uid::from_raw(uid);
        let became = rustix::thread::set_thread_res_uid(uid, uid, uid);
        assert!(became.is_ok(), "this test needs root, to call as another user: {became:?}");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime
            .block_on(async move { tokio::time::timeout(PATIENCE, client(socket)).await.expect("in time") })
    });
    thread.join().unwrap()
}

/// A control plane whose socket other users can reach.
async fn open_to_others() -> Plane {
    let plane = Plane::start().await;
    let around = plane.state_dir().parent().unwrap().to_path_buf();
    std::fs::set_permissions(around, std::fs::Permissions::from_mode(0o711)).unwrap();
    plane
}

fn code<T>(answer: Result<tonic::Response<T>, tonic::Status>) -> Code {
    answer.map_or_else(|status| status.code(), |_| Code::Ok)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_user_may_do_what_its_role_says_and_is_told_what_is_missing() {
    const STRANGER: u32 = 4242;
    let plane = open_to_others().await;
    let socket = plane.running.socket.clone();
    let refused = as_user(STRANGER, socket.clone(), |socket| async move {
        AdminClient::new(socket_channel(socket).await).status(v1::StatusRequest {}).await.unwrap_err()
    });
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(
        refused.message().contains("uid 4242") && refused.message().contains("RoleBinding"),
        "{refused:?}"
    );
    let role = "apiVersion: meshctl.io/v1alpha1\nkind: Role\nmetadata: {name: authors}\nspec: {admin: policy-author}\n---\n\
                apiVersion: meshctl.io/v1alpha1\nkind: RoleBinding\nmetadata: {name: authors}\n\
                spec: {role: authors, subjects: [{uid: 4242}]}\n---\n\
                apiVersion: meshctl.io/v1alpha1\nkind: Role\nmetadata: {name: operators}\nspec: {admin: operator}\n---\n\
                apiVersion: meshctl.io/v1alpha1\nkind: RoleBinding\nmetadata: {name: operators}\n\
                spec: {role: operators, subjects: [{uid: 4246}]}\n";
    plane.apply(role).await.unwrap();
    let policy = crate::plane::documents(&crate::plane::allow("web", "payments"));
    let admin_role = crate::plane::documents(
        "apiVersion: meshctl.io/v1alpha1\nkind: RoleBinding\nmetadata: {name: more}\n\
         spec: {role: authors, subjects: [{uid: 4243}]}\n",
    );
    let as_operator = as_user(4246, socket.clone(), |socket| async move {
        let mut admin = AdminClient::new(socket_channel(socket).await);
        let token = v1::CreateJoinTokenRequest { service_account: "payments".into(), ..Default::default() };
        (code(admin.backup(v1::BackupRequest {}).await), admin.create_join_token(token).await.unwrap_err())
    });
    assert_eq!(as_operator.0, Code::Ok);
    let refused = as_operator.1;
    assert_eq!(refused.code(), Code::PermissionDenied, "a token for an identity is that identity");
    assert!(refused.message().contains("uid 4246 may not make join tokens"), "{refused:?}");
    let codes = as_user(STRANGER, socket, |socket| async move {
        let mut admin = AdminClient::new(socket_channel(socket).await);
        vec![
            code(admin.status(v1::StatusRequest {}).await),
            code(admin.apply(v1::ApplyRequest { documents: policy, dry_run: false }).await),
            code(admin.apply(v1::ApplyRequest { documents: admin_role, dry_run: false }).await),
            code(admin.ca_rotate(v1::CaRotateRequest::default()).await),
            code(admin.backup(v1::BackupRequest {}).await),
            code(admin.create_join_token(v1::CreateJoinTokenRequest::default()).await),
        ]
    });
    use Code::{Ok, PermissionDenied};
    assert_eq!(codes, [Ok, Ok, PermissionDenied, PermissionDenied, PermissionDenied, PermissionDenied]);
    let history = plane.admin().await.history(v1::HistoryRequest::default()).await.unwrap().into_inner();
    assert!(history.entries[0].actor.starts_with("uid 4242"), "{history:?}");
    for call in ["status", "apply", "ca rotate", "backup", "create join token"] {
        // Refusals of several users within a moment are one record.
        plane.audited("denied", |record| record.detail.contains(&format!("uid 4242: {call}"))).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_refused_calls_is_counted_exactly_and_takes_few_records() {
    const CALLS: usize = 400;
    let plane = open_to_others().await;
    let before = plane.status().await.audit_sequence;
    as_user(4246, plane.running.socket.clone(), |socket| async move {
        let mut admin = AdminClient::new(socket_channel(socket).await);
        for _ in 0..CALLS {
            admin.status(v1::StatusRequest {}).await.unwrap_err();
        }
    });
    // What repeats itself is written when the window ends, or the control plane does.
    let plane = plane.restart(|_| {}).await;
    let records = plane.audit().await;
    let denied: Vec<_> = records.iter().filter(|r| r.verb == "denied" && r.sequence > before).collect();
    let times = |detail: &str| {
        let count = detail.rsplit_once(", ").and_then(|(_, rest)| rest.strip_suffix(" times"));
        count.map_or(1, |count| count.parse::<usize>().unwrap())
    };
    assert_eq!(denied.iter().map(|r| times(&r.detail)).sum::<usize>(), CALLS, "{denied:?}");
    assert!(denied.len() <= 3, "{denied:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_user_gets_the_identity_that_names_it_and_no_other() {
    const STRANGER: u32 = 4244;
    let plane = open_to_others().await;
    let workload = "apiVersion: meshctl.io/v1alpha1\nkind: Workload\nmetadata: {name: batch}\n\
                    spec: {attestation: {unix: {uid: 4244}}}\n";
    plane.apply(workload).await.unwrap();
    let issue = |account: &'static str| {
        as_user(STRANGER, plane.running.socket.clone(), move |socket| async move {
            let instance: mesh_proto::name::InstanceName = "x-1".parse().unwrap();
            let issuer = UnixIssuer {
                socket,
                namespace: Namespace::default_local(),
                account: account.parse().unwrap(),
                instance: instance.clone(),
                lifetime: None,
            };
            first(&issuer, &instance).await.map(|identity| identity.svid.id().to_string())
        })
    };
    assert_eq!(issue("batch").unwrap(), "spiffe://mesh.local/ns/default/sa/batch");
    let refused = issue("web").unwrap_err();
    assert!(matches!(refused, IssueError::Refused { .. }), "{refused}");
    assert!(refused.to_string().contains("uid 4244"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_of_strangers_does_not_keep_the_owner_out() {
    let plane = open_to_others().await;
    let crowd = as_user(4245, plane.running.socket.clone(), |socket| async move {
        let mut crowd = Vec::new();
        for _ in 0..300 {
            crowd.push(std::os::unix::net::UnixStream::connect(&socket).unwrap());
        }
        crowd
    });
    assert_eq!(plane.status().await.store, "ok");
    // Those beyond the bound were closed: reading from them ends.
    let mut closed = 0;
    for stream in &crowd {
        stream.set_nonblocking(true).unwrap();
    }
    let all = async {
        loop {
            closed = crowd.iter().filter(|stream| is_closed(stream)).count();
            if closed >= 300 - 32 {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, all).await.is_ok(), "only {closed} were closed");
}

/// Whether the other side has ended the connection; what it sent before (HTTP/2 settings) is read away.
fn is_closed(mut stream: &std::os::unix::net::UnixStream) -> bool {
    let mut buffer = [0; 4096];
    loop {
        match std::io::Read::read(&mut stream, &mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
}

async fn start_fails(change: impl FnOnce(&mut mesh_control::Config), dir: PathBuf) -> ControlError {
    let mut config = config(dir);
    change(&mut config);
    let (ready, _) = oneshot::channel();
    let ended = tokio::time::timeout(PATIENCE, run(config, ready, CancellationToken::new())).await;
    ended.expect("it ends at once").expect_err("it must not start")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_start_says_what_to_do() {
    let plane = Plane::start().await;
    let dir = plane.state_dir();
    let error = start_fails(|_| {}, dir.clone()).await;
    assert!(error.to_string().contains("another control plane (pid "), "{error}");
    let other = tempfile::tempdir().unwrap();
    let busy = plane.running.address;
    let error = start_fails(|config| config.listen = busy, other.path().join("s")).await;
    assert!(
        error.to_string().contains(&busy.to_string()) && error.to_string().contains("--listen"),
        "{error}"
    );
    let file = other.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let error = start_fails(|_| {}, file.join("state")).await;
    assert!(error.to_string().contains("--state-dir"), "{error}");
    let stopped = plane.stop().await;
    let error = start_fails(|config| config.trust_domain = Some("other".parse().unwrap()), dir.clone()).await;
    assert!(error.to_string().contains("mesh.local"), "{error}");
    // The key is gone: no new one is made beside a store that it could not open.
    std::fs::remove_file(dir.join("seal.key")).unwrap();
    let error = start_fails(|_| {}, dir.clone()).await;
    assert!(error.to_string().contains("seal.key") && !dir.join("seal.key").exists(), "{error}");
    drop(stopped);
}

/// What a scraper gets.
async fn metrics(plane: &Plane) -> String {
    use std::io::{Read, Write};
    let address = plane.running.metrics.unwrap();
    let text = tokio::task::spawn_blocking(move || {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    });
    text.await.unwrap()
}

/// A connection to the TLS port from another address of this machine, as from another host.
async fn connect_from(from: [u8; 4], to: std::net::SocketAddr) -> std::io::Result<tokio::net::TcpStream> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    socket.connect(to).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_says_nothing_does_not_shut_out_the_others() {
    use tokio::io::AsyncReadExt as _;
    let plane = Plane::start_with(|config| config.metrics = Some(([127, 0, 0, 1], 0).into())).await;
    let address = plane.running.address;
    let mut crowd = tokio::task::JoinSet::new();
    for _ in 0..700 {
        crowd.spawn(async move {
            // Silent until the other side has had enough, and then again.
            for _ in 0..20 {
                let Ok(mut stream) = connect_from([127, 0, 0, 2], address).await else { return };
                let _ = stream.read(&mut [0; 64]).await;
            }
        });
    }
    // Some have stood there for as long as they may, and the host has met its bound.
    let both = async {
        loop {
            let text = metrics(&plane).await;
            let has = |reason: &str| text.contains(&format!("failures_total{{reason=\"{reason}\"}}"));
            if has("hello_timeout") && has("source_too_many_unheard") {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, both).await.is_ok(), "{}", metrics(&plane).await);
    let web = crate::fake::FakeProxy::join(&plane, &crate::fake::Script::new("web")).await;
    web.wait("a snapshot, past the crowd", |view| view.updates == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_and_backup_are_there() {
    let plane = Plane::start_with(|config| config.metrics = Some(([127, 0, 0, 1], 0).into())).await;
    let text = metrics(&plane).await;
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("mesh_control_store_writable 1"), "{text}");
    plane.apply(&crate::plane::allow("web", "payments")).await.unwrap();
    let mut chunks = plane.admin().await.backup(v1::BackupRequest {}).await.unwrap().into_inner();
    let mut backup = Vec::new();
    while let Some(chunk) = chunks.message().await.unwrap() {
        backup.extend(chunk.data);
    }
    let restored = tempfile::tempdir().unwrap();
    let dir = restored.path().join("store");
    let seal = mesh_ca::seal::SealKey::from_file(
        &plane.state_dir().join("seal.key"),
        mesh_ca::seal::Missing::Refuse,
    );
    let report = mesh_control::store::disk::restore(&mut &*backup, &dir, seal.unwrap().into()).unwrap();
    assert_eq!((report.revision, report.resources), (1, 1), "{report:?}");
    plane.audited("backup", |record| record.actor.starts_with("uid ")).await;
}
