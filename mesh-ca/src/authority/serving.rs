//! A small authority of its own, for a server whose clients are not of the mesh: they are handed its certificate and believe
//! whatever it has signed for the server's name.
//!
//! The Kubernetes API server is such a client: it calls webhooks, knows no SPIFFE, and verifies by a bundle in the webhook's
//! configuration. The mesh's own roots have no business there: who holds this authority's key can answer the API server, and
//! nothing else.

use super::AuthorityError;
use super::keys::{CaKey, Signer, Span, serving_leaf};
use crate::tls;
use crate::x509::Facts;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use zeroize::{Zeroize as _, Zeroizing};

/// For clients whose clocks are behind.
const BACKDATE: Duration = Duration::from_secs(300);

/// The authority: one certificate and its key.
pub struct ServingAuthority {
    signer: Signer,
}

impl ServingAuthority {
    /// Makes one. `name` is for people who look at its certificate.
    ///
    /// # Errors
    /// No random bytes, or the library refused.
    pub fn make(name: &str, now: SystemTime, lifetime: Duration) -> Result<Self, AuthorityError> {
        Ok(Self { signer: Signer::make_serving(name, Span::new(now, BACKDATE, lifetime))? })
    }

    /// Reads what [`certificate_pem`](Self::certificate_pem) and [`key_pem`](Self::key_pem) gave.
    ///
    /// # Errors
    /// Says which of the two is no good, and why.
    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, String> {
        let certificate = CertificateDer::from_pem_slice(certificate)
            .map_err(|error| format!("no certificate ({error})"))?;
        let mut key =
            PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("no private key ({error})"))?;
        let read = CaKey::from_der(key.secret_der());
        key.zeroize();
        let signer = Signer::new(certificate.to_vec(), read?)?;
        if !signer.facts.is_ca {
            return Err("the certificate is not an authority's".to_owned());
        }
        Ok(Self { signer })
    }

    /// What clients believe by.
    pub fn certificate_pem(&self) -> String {
        pem("CERTIFICATE", &self.signer.certificate_der)
    }

    /// The private key, for where it is kept.
    pub fn key_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(pem("PRIVATE KEY", &self.signer.key().secret_der()))
    }

    /// From when until when it may sign.
    pub fn validity(&self) -> (SystemTime, SystemTime) {
        (self.signer.facts.not_before, self.signer.facts.not_after)
    }

    /// A server's side of TLS, with a new certificate for these names; clients prove nothing. And when it ends.
    ///
    /// # Errors
    /// A name is none, or the library refused.
    pub fn server_config(
        &self,
        names: &[String],
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<(Arc<ServerConfig>, SystemTime), AuthorityError> {
        const WHAT: &str = "the server's certificate";
        let span = Span::new(now, BACKDATE, lifetime).within(&self.signer.facts);
        let (der, key) = serving_leaf(&self.signer, names, span)?;
        let chain = vec![CertificateDer::from(der)];
        let config = tls::one_way_server_config(chain, PrivateKeyDer::Pkcs8(key.to_vec().into()))
            .map_err(|error| AuthorityError::Make { what: WHAT, problem: error.to_string() })?;
        Ok((config, span.not_after))
    }
}

/// When a certificate in PEM ends; `None`: it is none.
pub fn ends(certificate_pem: &[u8]) -> Option<SystemTime> {
    let der = CertificateDer::from_pem_slice(certificate_pem).ok()?;
    Some(Facts::parse(&der).ok()?.not_after)
}

/// Lines of 64 characters (RFC 7468, section 2).
fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = Zeroizing::new(base64::engine::general_purpose::STANDARD.encode(der));
    let mut lines = format!("-----BEGIN {label}-----\n");
    for (index, character) in text.chars().enumerate() {
        if index > 0 && index % 64 == 0 {
            lines.push('\n');
        }
        lines.push(character);
    }
    lines.push_str(&format!("\n-----END {label}-----\n"));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    #[test]
    fn what_is_kept_is_the_same_authority() {
        let made = ServingAuthority::make("webhook", now(), 24 * HOUR).unwrap();
        let (certificate, key) = (made.certificate_pem(), made.key_pem());
        let read = ServingAuthority::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap();
        assert_eq!(read.certificate_pem(), certificate);
        assert_eq!(read.validity(), made.validity());
        assert_eq!(ends(certificate.as_bytes()), Some(now() + 24 * HOUR));
        assert!(certificate.lines().all(|line| line.len() <= 64), "{certificate}");
        let other = ServingAuthority::make("webhook", now(), HOUR).unwrap();
        for (certificate, key) in [
            (certificate.as_bytes(), other.key_pem().as_bytes()),
            (b"", key.as_bytes()),
            (certificate.as_bytes(), b"nonsense"),
        ] {
            assert!(ServingAuthority::from_pem(certificate, key).is_err());
        }
    }

    #[test]
    fn a_server_proves_its_name_to_who_holds_the_certificate() {
        let authority = ServingAuthority::make("webhook", now(), 24 * HOUR).unwrap();
        let names = ["mesh-control.mesh-system.svc".to_owned()];
        let (config, ends) = authority.server_config(&names, now(), HOUR).unwrap();
        assert_eq!(ends, now() + HOUR);
        assert_eq!(authority.server_config(&names, now(), 48 * HOUR).unwrap().1, now() + 24 * HOUR);
        let stranger = ServingAuthority::make("webhook", now(), HOUR).unwrap();
        for (believed, name, works) in [
            (&authority, "mesh-control.mesh-system.svc", true),
            (&authority, "other.mesh-system.svc", false),
            (&stranger, "mesh-control.mesh-system.svc", false),
        ] {
            let spoken = handshake(&config, believed, name);
            assert_eq!(spoken.is_ok(), works, "{name}: {spoken:?}");
        }
        assert!(authority.server_config(&["not a name".to_owned()], now(), HOUR).is_err());
    }

    /// As the API server does: by the name and the bundle alone.
    fn handshake(
        config: &Arc<ServerConfig>,
        believed: &ServingAuthority,
        name: &str,
    ) -> Result<(), rustls::Error> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(believed.certificate_pem().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut client = rustls::ClientConfig::builder_with_details(provider, Arc::new(At))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let mut client =
            rustls::ClientConnection::new(Arc::new(client), name.to_owned().try_into().unwrap())?;
        let mut server = rustls::ServerConnection::new(config.clone())?;
        for _ in 0..4 {
            let mut wire = Vec::new();
            client.write_tls(&mut wire).unwrap();
            server.read_tls(&mut wire.as_slice()).unwrap();
            server.process_new_packets()?;
            let mut wire = Vec::new();
            server.write_tls(&mut wire).unwrap();
            client.read_tls(&mut wire.as_slice()).unwrap();
            client.process_new_packets()?;
        }
        assert!(!client.is_handshaking() && !server.is_handshaking());
        Ok(())
    }

    /// The tests' time.
    #[derive(Debug)]
    struct At;

    impl rustls::time_provider::TimeProvider for At {
        fn current_time(&self) -> Option<rustls::pki_types::UnixTime> {
            let since = now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
            Some(rustls::pki_types::UnixTime::since_unix_epoch(since))
        }
    }
}
