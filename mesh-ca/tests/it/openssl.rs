//! What the `openssl` program says of our certificates: a reader that shares no code with us.

use crate::world::{Mesh, id, now};
use std::path::Path;
use std::process::Command;

/// Runs openssl and gives its output; its absence is a failure that says what to install.
pub(crate) fn openssl(arguments: &[&str], directory: &Path) -> (bool, String) {
    let output = Command::new("openssl")
        .args(arguments)
        .current_dir(directory)
        .output()
        .expect("the program `openssl` runs; install it with: apt-get install openssl");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// Writes a certificate as DER and gives openssl's text of it.
fn text_of(der: &[u8], name: &str, directory: &Path) -> String {
    std::fs::write(directory.join(name), der).unwrap();
    let (ok, text) = openssl(&["x509", "-inform", "DER", "-in", name, "-noout", "-text"], directory);
    assert!(ok, "{text}");
    text
}

#[test]
fn the_chain_passes_openssl_verify_in_strict_mode_for_both_purposes() {
    let mesh = Mesh::new();
    let dir = tempfile::tempdir().unwrap();
    let (issued, _) = mesh.issue(&id("web"), "web-1", now());
    let root = mesh.authority.bundles()[0].roots[0].clone();
    for (name, der) in [("root", &root), ("leaf", &issued.chain_der[0]), ("issuer", &issued.chain_der[1])] {
        std::fs::write(dir.path().join(format!("{name}.der")), der).unwrap();
        let (input, output) = (format!("{name}.der"), format!("{name}.pem"));
        let (ok, text) = openssl(&["x509", "-inform", "DER", "-in", &input, "-out", &output], dir.path());
        assert!(ok, "{text}");
    }
    for purpose in ["sslserver", "sslclient"] {
        let (ok, text) = openssl(
            &[
                "verify",
                "-x509_strict",
                "-purpose",
                purpose,
                "-CAfile",
                "root.pem",
                "-untrusted",
                "issuer.pem",
                "leaf.pem",
            ],
            dir.path(),
        );
        assert!(ok, "{purpose}: {text}");
    }
    // A second opinion that can fail: without the intermediate there is no chain.
    let (ok, _) = openssl(&["verify", "-x509_strict", "-CAfile", "root.pem", "leaf.pem"], dir.path());
    assert!(!ok);
}

#[test]
fn openssl_shows_what_spiffe_demands() {
    let mesh = Mesh::new();
    let dir = tempfile::tempdir().unwrap();
    let (issued, _) = mesh.issue(&id("web"), "web-1", now());
    let leaf = text_of(&issued.chain_der[0], "leaf.der", dir.path());
    let issuer = text_of(&issued.chain_der[1], "issuer.der", dir.path());
    let root = text_of(&mesh.authority.bundles()[0].roots[0], "root.der", dir.path());
    let after = |text: &str, heading: &str| -> String {
        let at = text.find(heading).unwrap_or_else(|| panic!("{heading} in {text}"));
        let mut lines = text[at..].lines();
        let heading = lines.next().unwrap().trim().to_owned();
        format!("{heading} {}", lines.next().unwrap_or_default().trim())
    };
    let uri = "URI:spiffe://mesh.local/ns/default/sa/web, DNS:web-1";
    assert_eq!(
        after(&leaf, "X509v3 Subject Alternative Name"),
        format!("X509v3 Subject Alternative Name: critical {uri}")
    );
    assert_eq!(after(&leaf, "X509v3 Basic Constraints"), "X509v3 Basic Constraints: critical CA:FALSE");
    assert_eq!(after(&leaf, "X509v3 Key Usage"), "X509v3 Key Usage: critical Digital Signature");
    assert_eq!(
        after(&leaf, "X509v3 Extended Key Usage"),
        "X509v3 Extended Key Usage: TLS Web Server Authentication, TLS Web Client Authentication"
    );
    assert!(leaf.contains("ASN1 OID: prime256v1") && leaf.contains("ecdsa-with-SHA256"), "{leaf}");
    assert!(leaf.contains("X509v3 Authority Key Identifier"), "{leaf}");
    for (text, path_len) in [(&issuer, 0), (&root, 2)] {
        assert_eq!(
            after(text, "X509v3 Basic Constraints"),
            format!("X509v3 Basic Constraints: critical CA:TRUE, pathlen:{path_len}")
        );
        assert_eq!(after(text, "X509v3 Key Usage"), "X509v3 Key Usage: critical Certificate Sign, CRL Sign");
        assert_eq!(
            after(text, "X509v3 Subject Alternative Name"),
            "X509v3 Subject Alternative Name: URI:spiffe://mesh.local"
        );
        assert!(!text.contains("Name Constraints"), "{text}");
    }
}
