//! A root that was brought instead of made: which are taken, which are refused and why.

use crate::openssl::openssl;
use crate::world::{MemoryStore, Mesh, domain, id, now, seal_key};
use mesh_ca::authority::{Authority, AuthorityConfig, BroughtRoot, RotateRoot};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A self-signed certificate by openssl, with its key.
fn brought(new_key: &[&str], extensions: &str, days: &str) -> BroughtRoot {
    let dir = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let (ok, text) = openssl(arguments, dir.path());
        assert!(ok, "openssl {arguments:?}: {text}");
    };
    std::fs::write(
        dir.path().join("conf"),
        format!("[req]\ndistinguished_name=dn\n[dn]\n[ext]\n{extensions}"),
    )
    .unwrap();
    run(&[&["genpkey", "-out", "key.pem"], new_key].concat());
    run(&[
        "req",
        "-x509",
        "-new",
        "-key",
        "key.pem",
        "-subj",
        "/C=DE/O=Example AG/CN=Example Root",
        "-days",
        days,
        "-config",
        "conf",
        "-extensions",
        "ext",
        "-out",
        "cert.pem",
    ]);
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    BroughtRoot { certificate_pem: read("cert.pem"), key_pem: read("key.pem").into() }
}

const EC: [&str; 4] = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"];
const RSA: [&str; 4] = ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];
const GOOD: &str = "basicConstraints=critical,CA:TRUE,pathlen:1\nkeyUsage=critical,keyCertSign,cRLSign\n\
                    subjectKeyIdentifier=hash\n";

fn open(root: BroughtRoot) -> Result<Mesh, String> {
    let mut config = AuthorityConfig::new(domain());
    config.brought_root = Some(root);
    let store = Arc::new(MemoryStore::default());
    let authority = Authority::open(config, store.clone(), &seal_key(), now()).map_err(|e| e.to_string())?;
    Ok(Mesh { authority: Arc::new(authority), store })
}

fn verify_by_openssl(mesh: &Mesh, directory: &Path) {
    let (issued, _) = mesh.issue(&id("web"), "web-1", now());
    let pem = |name: &str, der: &[u8]| {
        std::fs::write(directory.join("x.der"), der).unwrap();
        let (ok, text) = openssl(&["x509", "-inform", "DER", "-in", "x.der", "-out", name], directory);
        assert!(ok, "{text}");
    };
    pem("root.pem", &mesh.authority.bundles()[0].roots[0]);
    pem("issuer.pem", &issued.chain_der[1]);
    pem("leaf.pem", &issued.chain_der[0]);
    let (ok, text) = openssl(
        &["verify", "-x509_strict", "-CAfile", "root.pem", "-untrusted", "issuer.pem", "leaf.pem"],
        directory,
    );
    assert!(ok, "{text}");
}

#[test]
fn brought_roots_of_elliptic_curves_and_rsa_are_used_and_survive_a_restart() {
    for new_key in [EC, RSA] {
        let dir = tempfile::tempdir().unwrap();
        let mesh = open(brought(&new_key, GOOD, "30")).unwrap();
        verify_by_openssl(&mesh, dir.path());
        assert!(mesh.authority.status(&[], now()).roots[0].subject.contains("Example Root"));
        let reopened =
            Authority::open(AuthorityConfig::new(domain()), mesh.store.clone(), &seal_key(), now()).unwrap();
        reopened.rotate_intermediate(now()).unwrap();
        verify_by_openssl(&Mesh { authority: Arc::new(reopened), store: mesh.store }, dir.path());
    }
}

#[test]
fn a_brought_root_that_cannot_serve_is_refused_with_its_fault() {
    let good = || brought(&EC, GOOD, "30");
    let with = |extensions: &str| brought(&EC, extensions, "30");
    let usage = "keyUsage=critical,keyCertSign\nsubjectKeyIdentifier=hash\n";
    let mismatch = BroughtRoot { key_pem: good().key_pem, ..good() };
    let swapped = BroughtRoot { certificate_pem: good().key_pem.to_string(), ..good() };
    let cases = [
        ("another key", mismatch, "does not belong"),
        ("no certificate", swapped, "no certificate"),
        ("no key", BroughtRoot { key_pem: String::new().into(), ..good() }, "no private key"),
        ("garbage", BroughtRoot { certificate_pem: "garbage".to_owned(), ..good() }, "no certificate"),
        (
            "not an authority",
            with(&format!("basicConstraints=CA:FALSE\n{usage}")),
            "not a certificate authority",
        ),
        (
            "no room below",
            with(&format!("basicConstraints=critical,CA:TRUE,pathlen:0\n{usage}")),
            "path length",
        ),
        (
            "may not sign",
            with("basicConstraints=critical,CA:TRUE\nkeyUsage=digitalSignature\nsubjectKeyIdentifier=hash\n"),
            "sign certificates",
        ),
        ("no key usage", with("basicConstraints=critical,CA:TRUE\nsubjectKeyIdentifier=hash\n"), "key usage"),
        (
            "another trust domain's",
            with(&format!("{GOOD}subjectAltName=URI:spiffe://other.example\n")),
            "another trust domain",
        ),
    ];
    for (what, root, expected) in cases {
        let refused = open(root).err().unwrap_or_default();
        assert!(refused.contains(expected), "{what}: {refused:?}");
    }
}

#[test]
fn the_next_rotation_changes_to_a_root_that_is_brought_later() {
    let mesh = Mesh::new();
    let mut config = AuthorityConfig::new(domain());
    config.brought_root = Some(brought(&EC, GOOD, "30"));
    let authority = Authority::open(config, mesh.store.clone(), &seal_key(), now()).unwrap();
    let made = authority.bundles()[0].roots.clone();
    authority.rotate_root(RotateRoot::Start, now()).unwrap();
    for _ in 0..4 {
        authority.tick(now() + Duration::from_secs(3600), &[]).unwrap();
    }
    let status = authority.status(&[], now());
    assert_eq!(status.phase, None);
    assert!(status.roots[0].subject.contains("Example Root"), "{}", status.roots[0].subject);
    assert_ne!(authority.bundles()[0].roots, made);
    assert_eq!(status.warnings, [] as [String; 0]);
    let refused = authority.rotate_root(RotateRoot::Start, now()).unwrap_err().to_string();
    assert!(refused.contains("it is the root in use"), "{refused}");
}

#[test]
fn a_root_that_was_replaced_is_never_a_root_again() {
    let (root, mut config) = (brought(&EC, GOOD, "30"), AuthorityConfig::new(domain()));
    let again =
        || BroughtRoot { certificate_pem: root.certificate_pem.clone(), key_pem: root.key_pem.clone() };
    config.brought_root = Some(again());
    let store = Arc::new(MemoryStore::default());
    drop(Authority::open(config, store.clone(), &seal_key(), now()).unwrap());
    let made = Authority::open(AuthorityConfig::new(domain()), store.clone(), &seal_key(), now()).unwrap();
    made.rotate_root(RotateRoot::Start, now()).unwrap();
    for _ in 0..4 {
        made.tick(now() + Duration::from_secs(3600), &[]).unwrap();
    }
    assert!(!made.status(&[], now()).roots[0].subject.contains("Example Root"));
    let mut config = AuthorityConfig::new(domain());
    config.brought_root = Some(again());
    let reopened = Authority::open(config, store, &seal_key(), now()).unwrap();
    let warnings = reopened.status(&[], now()).warnings;
    assert!(warnings.iter().any(|warning| warning.contains("is not in use")), "{warnings:?}");
    let refused = reopened.rotate_root(RotateRoot::Start, now()).unwrap_err().to_string();
    assert!(refused.contains("that was replaced"), "{refused}");
    assert_eq!(reopened.status(&[], now()).phase, None);
}
