//! An HTTP server that takes what it is posted.

use super::Certificates;
use crate::world::loopback;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex, PoisonError};

/// What came: the head, and the body as JSON.
pub type Posted = (String, Value);

/// It and what it was posted; ends with the test.
pub struct Webhook {
    posted: Arc<Mutex<Vec<Posted>>>,
}

impl Webhook {
    /// Listens on a port of loopback; with certificates by TLS only.
    #[track_caller]
    pub fn start(port: u16, certificates: Option<&Certificates>) -> Self {
        let listener = TcpListener::bind(loopback(port)).unwrap_or_else(|error| panic!("{port}: {error}"));
        let tls = certificates.map(config);
        let posted: Arc<Mutex<Vec<Posted>>> = Arc::default();
        let taken = posted.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let one = match &tls {
                    None => take(stream),
                    Some(config) => ServerConnection::new(config.clone())
                        .ok()
                        .and_then(|connection| take(StreamOwned::new(connection, stream))),
                };
                taken.lock().unwrap_or_else(PoisonError::into_inner).extend(one);
            }
        });
        Self { posted }
    }

    /// All that came so far.
    pub fn posted(&self) -> Vec<Posted> {
        self.posted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The alarms in it, as the mesh's own JSON has them.
    pub fn alarms(&self) -> Vec<Value> {
        let bodies = self.posted();
        bodies.iter().flat_map(|(_, body)| body["alarms"].as_array().cloned().unwrap_or_default()).collect()
    }
}

/// Reads a request and answers it; `None` for what is none.
fn take(stream: impl Read + Write) -> Option<Posted> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).unwrap_or(0) == 0 {
            return None;
        }
    }
    let length =
        head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    let stream = reader.get_mut();
    stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").ok()?;
    stream.flush().ok()?;
    Some((head, serde_json::from_slice(&body).unwrap_or_default()))
}

fn config(certificates: &Certificates) -> Arc<ServerConfig> {
    mesh_ca::install_crypto();
    let chain = CertificateDer::from_pem_file(&certificates.server);
    let key = PrivateKeyDer::from_pem_file(&certificates.server_key);
    let (chain, key) =
        chain.and_then(|chain| Ok((vec![chain], key?))).unwrap_or_else(|error| panic!("{error}"));
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key);
    Arc::new(config.unwrap_or_else(|error| panic!("a webhook's TLS: {error}")))
}
