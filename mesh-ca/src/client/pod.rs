//! The way to the authority from within a Kubernetes pod: the pod's own token is the evidence, the roots come as a file.
//!
//! Both files are the platform's (a projected token, a mounted configuration map) and are replaced by it while the pod runs,
//! so each is read anew at each attempt. The SVID is never evidence here: however long the control plane was away, the
//! token is fresh, and the workload recovers by itself.

use super::fetch::{ask, request, tls_channel};
use super::{IssueError, Issuer};
use crate::bundle::TrustBundles;
use crate::tls;
use mesh_proto::config::Bundle;
use mesh_proto::identity::TrustDomain;
use mesh_proto::name::InstanceName;
use mesh_proto::wire::v1;
use mesh_proto::wire::v1::issue_request::Evidence;
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// A service account token has about 1 KiB.
const TOKEN_BYTES_MAX: u64 = 64 * 1024;
/// A root has about 1 KiB, and there are two of them during a rotation.
const ROOTS_BYTES_MAX: u64 = 1024 * 1024;

/// Asks over TLS with the pod's projected token.
#[derive(Debug, Clone)]
pub struct PodIssuer {
    /// `host:port` of the control plane's mutual-TLS port.
    pub address: String,
    /// The mesh's trust domain, as the pod was told at its injection.
    pub trust_domain: TrustDomain,
    /// The roots to believe, PEM.
    pub roots_file: PathBuf,
    /// The token, bound to the pod and to the mesh's audience.
    pub token_file: PathBuf,
    /// The pod's name.
    pub instance: InstanceName,
    /// `None`: the mesh's default.
    pub lifetime: Option<Duration>,
}

impl PodIssuer {
    fn configuration(&self) -> Result<Arc<ClientConfig>, IssueError> {
        let pem = read(&self.roots_file, ROOTS_BYTES_MAX)?;
        let unusable = |problem: String| IssueError::Evidence { path: self.roots_file.clone(), problem };
        let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
        let roots = roots.map_err(|error| unusable(error.to_string()))?;
        if roots.is_empty() {
            return Err(unusable("it holds no certificate".to_owned()));
        }
        let roots = roots.into_iter().map(|root| root.to_vec()).collect();
        let bundle = Bundle { trust_domain: self.trust_domain.clone(), roots, sequence: 0 };
        let bundles = BTreeMap::from([(self.trust_domain.clone(), bundle)]);
        let bundles = TrustBundles::from_config(&bundles).map_err(|error| unusable(error.to_string()))?;
        tls::bootstrap_client_config(Arc::new(bundles), &self.trust_domain)
            .map_err(|error| unusable(error.to_string()))
    }
}

impl Issuer for PodIssuer {
    async fn issue(&self, csr_der: Vec<u8>) -> Result<v1::IssueResponse, IssueError> {
        let config = self.configuration()?;
        let token = read(&self.token_file, TOKEN_BYTES_MAX)?;
        let evidence = Evidence::KubernetesToken(v1::KubernetesToken { token: token.trim().to_owned() });
        let channel = tls_channel(&self.address, config).await?;
        ask(channel, &self.address, request(csr_der, Some(evidence), &self.instance, self.lifetime)).await
    }
}

/// Reads a small file that the platform may be replacing.
fn read(path: &Path, bytes_max: u64) -> Result<Zeroizing<String>, IssueError> {
    let failed = |problem: String| IssueError::Evidence { path: path.to_owned(), problem };
    let file = std::fs::File::open(path).map_err(|error| failed(error.to_string()))?;
    let mut text = Zeroizing::new(String::new());
    // One byte more tells a file of the limit from a longer one.
    file.take(bytes_max.saturating_add(1))
        .read_to_string(&mut text)
        .map_err(|error| failed(error.to_string()))?;
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > bytes_max {
        return Err(failed(format!("it is longer than {bytes_max} bytes")));
    }
    if text.trim().is_empty() {
        return Err(failed("it is empty".to_owned()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issuer(dir: &Path) -> PodIssuer {
        PodIssuer {
            address: "127.0.0.1:1".to_owned(),
            trust_domain: "mesh.local".parse().unwrap(),
            roots_file: dir.join("roots.pem"),
            token_file: dir.join("token"),
            instance: "web-0".parse().unwrap(),
            lifetime: None,
        }
    }

    #[tokio::test]
    async fn a_file_that_is_missing_or_means_nothing_is_named() {
        crate::install_crypto();
        let dir = tempfile::tempdir().unwrap();
        let issuer = issuer(dir.path());
        let say = async || issuer.issue(Vec::new()).await.unwrap_err().to_string();
        let said = say().await;
        assert!(said.contains("roots.pem") && said.contains("No such file"), "{said}");
        for (content, expected) in [("", "empty"), ("no certificate", "no certificate")] {
            std::fs::write(&issuer.roots_file, content).unwrap();
            let said = say().await;
            assert!(said.contains("roots.pem") && said.contains(expected), "{said}");
        }
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.subject_alt_names = vec![rcgen::SanType::URI("spiffe://mesh.local".try_into().unwrap())];
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
        std::fs::write(&issuer.roots_file, params.self_signed(&key).unwrap().pem()).unwrap();
        let said = say().await;
        assert!(said.contains("token") && said.contains("No such file"), "{said}");
        std::fs::write(&issuer.token_file, "a.b.c\n").unwrap();
        let said = say().await;
        assert!(said.contains("no control plane answers at 127.0.0.1:1"), "{said}");
    }
}
