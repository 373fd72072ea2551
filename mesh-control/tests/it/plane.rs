//! A whole control plane on a directory of its own, and the clients that tests use against it.

use hyper_util::rt::TokioIo;
use mesh_control::{Config, ControlError, Running, run};
use mesh_proto::wire::v1;
use mesh_proto::wire::v1::admin_client::AdminClient;
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

/// Nothing that is waited for takes longer on an idle machine than some milliseconds; this leaves room for a busy one.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A running control plane.
pub(crate) struct Plane {
    pub(crate) running: Running,
    dir: TempDir,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), ControlError>>,
}

/// A configuration for tests: any free port, and nothing that takes long.
pub(crate) fn config(dir: PathBuf) -> Config {
    Config { listen: ([127, 0, 0, 1], 0).into(), settle: Duration::from_secs(5), ..Config::new(dir) }
}

impl Plane {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        Self::start_in(TempDir::new().unwrap(), change).await
    }

    async fn start_in(dir: TempDir, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = config(dir.path().join("state"));
        change(&mut config);
        let shutdown = CancellationToken::new();
        let (ready, is_ready) = oneshot::channel();
        let task = tokio::spawn(run(config, ready, shutdown.clone()));
        let Ok(running) = tokio::time::timeout(PATIENCE, is_ready).await.expect("ready in time") else {
            panic!("the control plane did not start: {:?}", task.await);
        };
        Self { running, dir, shutdown, task }
    }

    /// Stops it and starts it again on the same directory and the same port.
    pub(crate) async fn restart(self, change: impl FnOnce(&mut Config)) -> Self {
        let address = self.running.address;
        let dir = self.stop().await;
        Self::start_in(dir, |config| {
            config.listen = address;
            change(config);
        })
        .await
    }

    /// Stops it; its directory stays until the result is dropped.
    pub(crate) async fn stop(self) -> TempDir {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.expect("stops in time").unwrap().unwrap();
        self.dir
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// A client on the Unix socket.
    pub(crate) async fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(socket_channel(self.running.socket.clone()).await)
    }

    /// Applies YAML as the file `test.yaml`.
    pub(crate) async fn apply(&self, yaml: &str) -> Result<v1::ApplyResponse, tonic::Status> {
        let request = v1::ApplyRequest { documents: documents(yaml), dry_run: false };
        Ok(self.admin().await.apply(request).await?.into_inner())
    }

    /// Waits until every affected proxy enforces a revision, and returns the last receipt.
    pub(crate) async fn wait_for(&self, revision: u64) -> v1::Receipt {
        let mut admin = self.admin().await;
        let mut receipts = admin.r#await(v1::AwaitRequest { revision }).await.unwrap().into_inner();
        let mut last = None;
        let all = async {
            while let Some(receipt) = receipts.message().await.unwrap() {
                last = Some(receipt);
            }
        };
        tokio::time::timeout(PATIENCE, all).await.expect("receipts in time");
        last.expect("a receipt")
    }

    /// All audit records, newest first.
    pub(crate) async fn audit(&self) -> Vec<v1::AuditRecord> {
        let request = v1::AuditRequest { limit: 1_000, verify: false };
        self.admin().await.audit(request).await.unwrap().into_inner().records
    }

    /// Waits for an audit record.
    pub(crate) async fn audited(
        &self,
        verb: &str,
        is_it: impl Fn(&v1::AuditRecord) -> bool,
    ) -> v1::AuditRecord {
        let found = async {
            loop {
                let records = self.audit().await;
                if let Some(record) = records.into_iter().find(|record| record.verb == verb && is_it(record))
                {
                    return record;
                }
                tokio::task::yield_now().await;
            }
        };
        match tokio::time::timeout(PATIENCE, found).await {
            Ok(record) => record,
            Err(_) => panic!("no such {verb} record: {:?}", self.audit().await),
        }
    }

    pub(crate) async fn status(&self) -> v1::StatusResponse {
        self.admin().await.status(v1::StatusRequest {}).await.unwrap().into_inner()
    }
}

pub(crate) fn documents(yaml: &str) -> Vec<v1::Document> {
    let split = mesh_proto::resource::split_documents("test.yaml", yaml);
    split.into_iter().map(|d| v1::Document { file: d.file, line: d.line, yaml: d.yaml }).collect()
}

pub(crate) async fn socket_channel(socket: PathBuf) -> Channel {
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://control").connect_with_connector(connector).await.unwrap()
}

/// An `AccessPolicy` that lets `from` call the workload `to`, both in `default`.
pub(crate) fn allow(from: &str, to: &str) -> String {
    format!(
        "apiVersion: meshctl.io/v1alpha1\nkind: AccessPolicy\nmetadata:\n  name: {to}\nspec:\n  target:\n    service: {to}\n  \
         rules:\n    - action: allow\n      from:\n        - serviceAccount: {from}\n"
    )
}
