//! The way to the control plane: one TCP connection over mutual TLS for each channel, made with what is known at that moment.
//!
//! Used by `discovery` and by `observe::telemetry`, each with a connection of its own. It never says anything itself.

use mesh_ca::client::Identity;
use mesh_ca::tls::connect_control;
use rustls::ClientConfig;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;
use tokio::sync::watch;
use tonic::transport::Channel;

/// Time to connect and shake hands, and again to open a stream.
pub(crate) const OPEN_WITHIN: Duration = Duration::from_secs(5);
/// HTTP/2 pings find a control plane that vanished without a word.
const PING_EVERY: Duration = Duration::from_secs(10);

/// Makes the TLS configuration of one attempt.
pub(crate) type Configure = dyn Fn(&Identity) -> Result<Arc<ClientConfig>, String> + Send + Sync;

/// What a connection to the control plane is made with.
#[derive(Clone)]
pub(crate) struct Link {
    /// The certificate in use, with the control plane's address and identity.
    pub(crate) identity: watch::Receiver<Arc<Identity>>,
    /// Trust, as it stands at each attempt.
    pub(crate) configure: Arc<Configure>,
    /// What is shown of it.
    pub(crate) state: Arc<LinkState>,
}

/// What is shown of the connection.
#[derive(Debug, Default)]
pub(crate) struct LinkState {
    /// Whether the discovery stream stands.
    pub(crate) connected: AtomicBool,
    /// Updates that are in use.
    pub(crate) applied: AtomicU64,
    /// Updates that were refused.
    pub(crate) refused: AtomicU64,
    /// Certificates replaced.
    pub(crate) renewals: AtomicU64,
}

/// Why there is no channel.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChannelError {
    /// Our own certificate or trust cannot be used.
    #[error("{0}")]
    Setup(String),
    /// Nobody there, or not who it should be.
    #[error("cannot reach the control plane: {}", chain(.0))]
    Connect(tonic::transport::Error),
}

/// An error with all its causes: tonic's own text says only "transport error".
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

impl Link {
    /// A channel. When its connection breaks, it is of no more use.
    ///
    /// # Errors
    /// See [`ChannelError`].
    pub(crate) async fn channel(&self) -> Result<Channel, ChannelError> {
        let identity = Arc::clone(&self.identity.borrow());
        let config = (self.configure)(&identity).map_err(ChannelError::Setup)?;
        let address = identity.control_address.clone();
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"))
            .map_err(ChannelError::Connect)?
            .connect_timeout(OPEN_WITHIN)
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_while_idle(true);
        let connector = tower::service_fn(move |_: http::Uri| {
            let (config, address) = (Arc::clone(&config), address.clone());
            async move {
                let stream = tokio::net::TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                // Also makes sure that what answers speaks gRPC (ALPN `h2`), and not something else behind the same name.
                let tls = connect_control(config, stream).await?;
                Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(tls))
            }
        });
        endpoint.connect_with_connector(connector).await.map_err(ChannelError::Connect)
    }
}
