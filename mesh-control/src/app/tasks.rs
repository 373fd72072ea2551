//! The long tasks of a control plane: started, watched for the first that ends, ended together.

use super::ControlError;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long what is under way may take to end.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(3);

/// The long tasks. Dropping it aborts them.
#[derive(Default)]
pub(super) struct Tasks {
    set: JoinSet<(&'static str, String)>,
    /// Cancelled when they are to end.
    pub(super) stop: CancellationToken,
}

impl Tasks {
    /// Starts one; none should end by itself.
    pub(super) fn add(&mut self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        self.set.spawn(async move {
            work.await;
            (name, "it returned".to_owned())
        });
    }

    /// Starts a server.
    pub(super) fn add_server(
        &mut self,
        name: &'static str,
        work: impl Future<Output = Result<(), tonic::transport::Error>> + Send + 'static,
    ) {
        self.set.spawn(async move {
            let problem = work.await.map_or_else(|error| error.to_string(), |()| "it returned".to_owned());
            (name, problem)
        });
    }

    /// Waits for the first task that ends; none should.
    pub(super) async fn first_end(&mut self) -> ControlError {
        match self.set.join_next().await {
            Some(Ok((task, problem))) => ControlError::Task { task, problem },
            Some(Err(error)) => ControlError::Task { task: "a task", problem: error.to_string() },
            None => ControlError::Task { task: "everything", problem: "there was nothing to run".to_owned() },
        }
    }

    /// Asks all to end, waits a little, and aborts the rest.
    pub(super) async fn stop(mut self) {
        self.stop.cancel();
        let all = async { while self.set.join_next().await.is_some() {} };
        if tokio::time::timeout(SHUTDOWN_DEADLINE, all).await.is_err() {
            tracing::info!("some connections did not end in time and were cut");
            self.set.shutdown().await;
        }
    }
}
