//! TLS to servers that are not of the mesh: receivers of alarms, collectors of traces.
//!
//! The server is verified as browsers do it, against the roots of the system or against those that were given, and against
//! them alone; there is no way to leave that out. TLS 1.3, and 1.2 for receivers that know no other.

use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

/// To connect and shake hands.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// What we prove ourselves with to a server that asks for it: a chain, leaf first, and its key.
pub type Shown = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Why a server outside the mesh cannot be spoken to by TLS.
#[derive(Debug, thiserror::Error)]
pub enum OutsideError {
    /// The given text has no certificate that can be used as a root.
    #[error("the given CA has no certificate that can be used as a root: {0}")]
    Roots(String),
    /// The system has none.
    #[error(
        "the system has no root certificates ({0}); install them (Debian: ca-certificates), or give the server's CA"
    )]
    NoSystemRoots(String),
    /// A file with a certificate and its key cannot be used.
    #[error("the certificate to show cannot be used: {0}; the file must have the chain and its key in PEM")]
    Shown(String),
    /// The name cannot be in a certificate.
    #[error("{0:?} is neither a DNS name nor an address")]
    Name(String),
}

/// For a connection to a server outside the mesh. `ca` is PEM, `None` means the roots of the system.
///
/// Reads the roots of the system from the disk: to be kept, not made for each connection.
///
/// # Errors
/// There is no root, or what is to be shown cannot be used.
pub fn outside_client_config(
    ca: Option<&str>,
    shown: Option<Shown>,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, OutsideError> {
    let builder = ClientConfig::builder().with_root_certificates(roots(ca)?);
    let mut config = match shown {
        Some((chain, key)) => {
            let config = builder.with_client_auth_cert(chain, key);
            config.map_err(|error| OutsideError::Shown(error.to_string()))?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.enable_early_data = false;
    Ok(Arc::new(config))
}

fn roots(ca: Option<&str>) -> Result<RootCertStore, OutsideError> {
    let mut store = RootCertStore::empty();
    match ca {
        Some(text) => {
            for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
                let added = certificate.map_err(|error| error.to_string());
                let added = added.and_then(|root| store.add(root).map_err(|error| error.to_string()));
                added.map_err(OutsideError::Roots)?;
            }
            if store.is_empty() {
                return Err(OutsideError::Roots("nothing between BEGIN CERTIFICATE and END".to_owned()));
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            // One of many that cannot be read is nothing to fail for: it vouches for nobody.
            store.add_parsable_certificates(found.certs);
            if store.is_empty() {
                let problem = found.errors.first().map(ToString::to_string);
                return Err(OutsideError::NoSystemRoots(problem.unwrap_or_else(|| "none found".to_owned())));
            }
        }
    }
    Ok(store)
}

/// Reads a chain and its key from one file in PEM.
///
/// # Errors
/// One of them is missing or damaged.
pub fn shown_in(file: &[u8]) -> Result<Shown, OutsideError> {
    let error = |error: pem::Error| OutsideError::Shown(error.to_string());
    let chain = CertificateDer::pem_slice_iter(file).collect::<Result<Vec<_>, _>>().map_err(error)?;
    if chain.is_empty() {
        return Err(OutsideError::Shown("there is no certificate in it".to_owned()));
    }
    Ok((chain, PrivateKeyDer::from_pem_slice(file).map_err(error)?))
}

/// Connects over `stream` to a server that must prove to be `host`. The caller sets the deadline.
///
/// # Errors
/// The server proves to be somebody else or nobody, or the connection broke.
pub async fn connect_outside<S>(config: Arc<ClientConfig>, host: &str, stream: S) -> io::Result<TlsStream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let name = ServerName::try_from(host.to_owned());
    let name = name.map_err(|_| io::Error::other(OutsideError::Name(host.to_owned())))?;
    TlsConnector::from(config).connect(name, stream).await
}

/// A channel of gRPC to `http://HOST:PORT`, or by TLS to `https://HOST:PORT`; connects with its first call, and again when
/// it was cut off. `ca` is as in [`outside_client_config`].
///
/// # Errors
/// The endpoint is none, or there is no root.
pub fn outside_channel(endpoint: &str, ca: Option<&str>) -> Result<Channel, OutsideError> {
    let name = || OutsideError::Name(endpoint.to_owned());
    let uri: tonic::codegen::http::Uri = endpoint.parse().map_err(|_| name())?;
    let authority = uri.authority().ok_or_else(name)?;
    let (host, port) = (authority.host().trim_matches(['[', ']']), authority.port_u16());
    let (host, port) = (host.to_owned(), port.ok_or_else(name)?);
    let is_secure = uri.scheme_str() == Some("https");
    let config = if is_secure { Some(outside_client_config(ca, None, &[super::ALPN_H2])?) } else { None };
    // TLS is below the channel, which otherwise would ask for a library of its own.
    let channel = Endpoint::from_shared(format!("http://{authority}")).map_err(|_| name())?;
    let channel = channel.connect_timeout(CONNECT_WITHIN);
    let Some(config) = config else { return Ok(channel.connect_lazy()) };
    let connector = tower::service_fn(move |_: tonic::codegen::http::Uri| {
        let (config, host) = (config.clone(), host.clone());
        async move {
            let connecting = async {
                let stream = TcpStream::connect((host.as_str(), port)).await?;
                stream.set_nodelay(true)?;
                connect_outside(config, &host, stream).await
            };
            let stream = tokio::time::timeout(CONNECT_WITHIN, connecting).await;
            Ok::<_, io::Error>(TokioIo::new(stream.map_err(|_| io::ErrorKind::TimedOut)??))
        }
    });
    Ok(channel.connect_with_connector_lazy(connector))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certified() -> (String, String) {
        crate::install_crypto();
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn what_is_no_root_and_no_certificate_is_said() {
        let (certificate, key) = certified();
        for text in ["", "no PEM", &key, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            let config = outside_client_config(Some(text), None, &[]);
            assert!(matches!(config, Err(OutsideError::Roots(_))), "{text}");
        }
        for file in ["", &certificate, &key] {
            assert!(shown_in(file.as_bytes()).is_err(), "{file}");
        }
        let shown = shown_in(format!("{certificate}{key}").as_bytes()).unwrap();
        outside_client_config(Some(&certificate), Some(shown), &[b"h2"]).unwrap();
        let (_, other) = certified();
        let not_its_key = shown_in(format!("{certificate}{other}").as_bytes()).unwrap();
        let config = outside_client_config(Some(&certificate), Some(not_its_key), &[]);
        assert!(matches!(config, Err(OutsideError::Shown(_))));
    }
}
