//! Forged certificates, each refused in a real handshake, by both ends, with the reason that names its fault.

use crate::forge::{
    Ca, DNS, EMAIL, Forger, IP, URI, WEB, Workshop, at, bundles, ca_params, der, extension, leaf_params,
    named,
};
use crate::world::{Mesh, id, shake};
use mesh_ca::bundle::{BundleError, TrustBundles};
use mesh_ca::tls::{Alpn, Credentials};
use mesh_ca::verify::handshake_error;
use rcgen::{
    CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyPair,
    KeyUsagePurpose, NameConstraints, SanType,
};
use std::sync::Arc;

/// The codes with which a server and a client refuse a chain; "accepted" if they do not.
async fn verdicts(bundles: TrustBundles, chain: &[Vec<u8>], key: &KeyPair) -> (&'static str, &'static str) {
    mesh_ca::install_crypto();
    let mesh = Mesh::new();
    // Our own end needs an SVID whose domain the bundles know; who it is does not matter here.
    let ours =
        Credentials { svid: mesh.svid("payments"), bundles: Arc::new(bundles), revocations: Arc::default() };
    let code = |error: std::io::Error| handshake_error(&error).map_or("no reason", |reason| reason.code());
    let forger = Forger::new(chain, key);
    let (server, _) = shake(ours.server_config().unwrap(), forger.clone().client()).await;
    let expecting = ours.client_config(&id("web"), Alpn::MeshH1).unwrap();
    let (_, client) = shake(forger.server(), expecting).await;
    (server.err().map_or("accepted", code), client.err().map_or("accepted", code))
}

/// Runs every case; the failure lists all that went wrong.
async fn check(workshop: &Workshop, cases: Vec<(&str, &str, Vec<Vec<u8>>)>) {
    let mut wrong = Vec::new();
    for (what, expected, chain) in cases {
        let verdict = verdicts(workshop.bundles(), &chain, &workshop.key).await;
        if verdict != (expected, expected) {
            wrong.push(format!("{what}: expected {expected}, server and client said {verdict:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn the_workshop_makes_good_certificates_too() {
    let workshop = Workshop::open();
    let mut with_root = workshop.chain(&leaf_params());
    with_root.push(workshop.root.der.clone());
    let mut two_dns = leaf_params();
    two_dns.subject_alt_names.push(SanType::DnsName("web-2".try_into().unwrap()));
    let mut subject = leaf_params();
    subject.distinguished_name.push(DnType::CommonName, "spiffe://mesh.local/ns/default/sa/admin");
    check(
        &workshop,
        vec![
            ("good", "accepted", workshop.chain(&leaf_params())),
            ("with the root", "accepted", with_root),
            ("two DNS names", "accepted", workshop.chain(&two_dns)),
            ("a common name that claims more", "accepted", workshop.chain(&subject)),
            ("names by hand", "accepted", workshop.chain(&named(&[(URI, WEB.as_bytes())]))),
            ("directly below the root", "accepted", vec![workshop.root.sign(&leaf_params(), &workshop.key)]),
        ],
    )
    .await;
    for algorithm in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519, &rcgen::PKCS_RSA_SHA256] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let chain = vec![workshop.intermediate.sign(&leaf_params(), &key), workshop.intermediate.der.clone()];
        assert_eq!(verdicts(workshop.bundles(), &chain, &key).await, ("accepted", "accepted"), "{key:?}");
    }
}

#[tokio::test]
async fn a_uri_that_is_not_byte_exact_spiffe_is_refused() {
    let workshop = Workshop::open();
    let long_path = format!("spiffe://mesh.local/{}", "a".repeat(2048));
    let long_domain = format!("spiffe://{}/a", "a".repeat(256));
    let uris: [&[u8]; 36] = [
        b"SPIFFE://mesh.local/ns/default/sa/web",
        b"Spiffe://mesh.local/ns/default/sa/web",
        b"https://mesh.local/ns/default/sa/web",
        b"spiffe:/mesh.local/ns/default/sa/web",
        b"spiffe:mesh.local/ns/default/sa/web",
        b"//mesh.local/ns/default/sa/web",
        b"spiffe://mesh.local",
        b"spiffe://mesh.local/",
        b"spiffe://mesh.local/ns/default/sa/web/",
        b"spiffe://mesh.local//ns/default/sa/web",
        b"spiffe://mesh.local/ns/default//sa/web",
        b"spiffe://mesh.local/ns/./default/sa/web",
        b"spiffe://mesh.local/ns/other/../default/sa/web",
        b"spiffe://mesh.local/ns/default/sa/we%62",
        b"spiffe://mesh.local/ns/default/sa%2fweb",
        b"spiffe://mesh.local/ns/default/sa/web?x",
        b"spiffe://mesh.local/ns/default/sa/web#x",
        b"spiffe://mesh.local:443/ns/default/sa/web",
        b"spiffe://user@mesh.local/ns/default/sa/web",
        b"spiffe://MESH.local/ns/default/sa/web",
        b"spiffe://mesh%2elocal/ns/default/sa/web",
        b"spiffe://[::1]/ns/default/sa/web",
        b"spiffe:///ns/default/sa/web",
        b"spiffe://mesh.local/ns/default/sa/web\0",
        b"spiffe://mesh.local/ns/default/sa/web\0.evil",
        b"spiffe://mesh.local\0.evil/ns/default/sa/web",
        b"spiffe://mesh.local/ns/default/sa/web\n",
        b"spiffe://mesh.local/ns/default/sa/web\r\nx",
        b" spiffe://mesh.local/ns/default/sa/web",
        b"spiffe://mesh.local/ns/default/sa/web ",
        b"spiffe://mesh.local\\ns\\default\\sa\\web",
        b"spiffe://mesh.local/ns/default/sa/w\xffb",
        "spiffe://mesh.local/ns/default/sa/wéb".as_bytes(),
        "spiffe://mesh.local/ns/default/sa/wеb".as_bytes(),
        long_path.as_bytes(),
        long_domain.as_bytes(),
    ];
    let mut wrong = Vec::new();
    for uri in uris.into_iter().chain([&b""[..]]) {
        let chain = workshop.chain(&named(&[(URI, uri)]));
        let verdict = verdicts(workshop.bundles(), &chain, &workshop.key).await;
        if verdict != ("bad_spiffe_id", "bad_spiffe_id") {
            wrong.push(format!("{}: {verdict:?}", uri.escape_ascii()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn exactly_one_uri_counts_hidden_ones_too() {
    let workshop = Workshop::open();
    let web = (URI, WEB.as_bytes());
    let admin = (URI, &b"spiffe://mesh.local/ns/default/sa/admin"[..]);
    let mut common_name = leaf_params();
    common_name.subject_alt_names.clear();
    common_name.distinguished_name.push(DnType::CommonName, WEB);
    let many = vec![web; 100];
    // The same extension twice: one reader takes the first, another the last.
    let mut twice = named(&[web]);
    twice.custom_extensions.push(named(&[admin]).custom_extensions.remove(0));
    let chain = |names: &[(u8, &[u8])]| workshop.chain(&named(names));
    check(
        &workshop,
        vec![
            ("no names", "no_uri_san", workshop.chain(&common_name)),
            ("an empty list of names", "no_uri_san", chain(&[])),
            ("a DNS name that looks like one", "no_uri_san", chain(&[(DNS, WEB.as_bytes())])),
            ("an e-mail address that looks like one", "no_uri_san", chain(&[(EMAIL, WEB.as_bytes())])),
            ("an address only", "no_uri_san", chain(&[(IP, &[127, 0, 0, 1])])),
            ("twice the same", "several_uri_sans", chain(&[web, web])),
            ("two identities", "several_uri_sans", chain(&[web, admin])),
            ("a second one that is not UTF-8", "several_uri_sans", chain(&[web, (URI, b"\xff\xfe")])),
            ("a first one that is not UTF-8", "several_uri_sans", chain(&[(URI, b"\xff\xfe"), web])),
            (
                "a second one of another scheme",
                "several_uri_sans",
                chain(&[web, (URI, b"https://mesh.local/")]),
            ),
            ("a second empty one", "several_uri_sans", chain(&[web, (URI, b"")])),
            ("a hundred", "several_uri_sans", chain(&many)),
            ("two lists of names", "malformed_certificate", workshop.chain(&twice)),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_leaf_that_is_more_or_less_than_a_leaf_is_refused() {
    let workshop = Workshop::open();
    let with = |change: &dyn Fn(&mut CertificateParams)| {
        let mut params = leaf_params();
        change(&mut params);
        workshop.chain(&params)
    };
    let purposes = |purposes: Vec<ExtendedKeyUsagePurpose>| {
        with(&|params| params.extended_key_usages = purposes.clone())
    };
    let usages = |usages: Vec<KeyUsagePurpose>| with(&|params| params.key_usages = usages.clone());
    let raw = |oid: &[u64], content: &[u8]| {
        with(&|params| params.custom_extensions.push(extension(oid, content.to_vec())))
    };
    let harmless = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
    check(
        &workshop,
        vec![
            (
                "an authority",
                "ca_as_leaf",
                with(&|p| p.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained)),
            ),
            (
                "may sign certificates",
                "ca_as_leaf",
                usages(vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign]),
            ),
            (
                "may sign revocation lists",
                "ca_as_leaf",
                usages(vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign]),
            ),
            ("no key usage", "wrong_key_usage", usages(vec![])),
            ("encipherment only", "wrong_key_usage", usages(vec![KeyUsagePurpose::KeyEncipherment])),
            ("no purpose", "wrong_usage", purposes(vec![])),
            ("code signing", "wrong_usage", purposes(vec![ExtendedKeyUsagePurpose::CodeSigning])),
            ("any purpose", "wrong_usage", purposes(vec![ExtendedKeyUsagePurpose::Any])),
            ("an unknown critical extension", "unknown_extension", raw(&[1, 2, 3, 4], &[5, 0])),
            (
                "an unknown extension that is not critical",
                "accepted",
                with(&|params| params.custom_extensions.push(harmless.clone())),
            ),
            ("constraints that are no DER", "malformed_certificate", {
                with(&|params| {
                    params.is_ca = IsCa::NoCa;
                    params.custom_extensions.push(extension(&[2, 5, 29, 19], vec![0xff]));
                })
            }),
            ("key usage that is no DER", "malformed_certificate", {
                with(&|params| {
                    params.key_usages.clear();
                    params.custom_extensions.push(extension(&[2, 5, 29, 15], vec![0x30, 0x80]));
                })
            }),
            ("key usage twice", "malformed_certificate", raw(&[2, 5, 29, 15], &der(3, &[7, 0x80]))),
        ],
    )
    .await;
    for (purpose, expected) in [
        (ExtendedKeyUsagePurpose::ServerAuth, ("wrong_usage", "accepted")),
        (ExtendedKeyUsagePurpose::ClientAuth, ("accepted", "wrong_usage")),
    ] {
        let verdict = verdicts(workshop.bundles(), &purposes(vec![purpose.clone()]), &workshop.key).await;
        assert_eq!(verdict, expected, "{purpose:?} alone");
    }
}

#[tokio::test]
async fn time_is_checked_from_leaf_to_root() {
    let workshop = Workshop::open();
    let span = |mut params: CertificateParams, from: i32, to: i32| {
        params.not_before = at(from);
        params.not_after = at(to);
        params
    };
    let issuer = |from, to| {
        let issuer =
            workshop.root.below(span(ca_params("timely issuer", "spiffe://mesh.local", 0), from, to));
        vec![issuer.sign(&leaf_params(), &workshop.key), issuer.der]
    };
    check(
        &workshop,
        vec![
            ("expired leaf", "expired", workshop.chain(&span(leaf_params(), -3, -1))),
            ("future leaf", "not_yet_valid", workshop.chain(&span(leaf_params(), 1, 3))),
            (
                "leaf that ends before it starts",
                "malformed_certificate",
                workshop.chain(&span(leaf_params(), 3, 1)),
            ),
            ("expired intermediate", "expired", issuer(-3, -1)),
            ("future intermediate", "not_yet_valid", issuer(1, 3)),
        ],
    )
    .await;
    for (from, to, expected) in [(-3, -1, "expired"), (1, 3, "expired")] {
        let root = Ca::root(span(ca_params("timely root", "spiffe://mesh.local", 1), from, to));
        let chain = vec![root.sign(&leaf_params(), &workshop.key)];
        let verdict = verdicts(bundles(&[("mesh.local", &root.der)]), &chain, &workshop.key).await;
        assert_eq!(verdict, (expected, expected), "root from {from} to {to}");
    }
}

#[tokio::test]
async fn a_chain_must_lead_to_the_bundle_of_the_trust_domain_in_the_name() {
    let workshop = Workshop::open();
    let (key, other) = (&workshop.key, &workshop.other_root);
    let of_other = named(&[(URI, b"spiffe://other.example/ns/default/sa/web")]);
    let of_nobody = named(&[(URI, b"spiffe://nobody.example/ns/default/sa/web")]);
    let their_issuer = other.below(ca_params("their issuer", "spiffe://other.example", 0));
    let same_name = Ca::root(ca_params("our root", "spiffe://mesh.local", 1));
    let same_name_issuer = same_name.below(ca_params("our issuer", "spiffe://mesh.local", 0));
    let turncoat = workshop.root.below(ca_params("turncoat", "spiffe://other.example", 0));
    let upper = workshop.root.below(ca_params("upper", "spiffe://MESH.local", 0));
    let self_signed = Ca::root(leaf_params()).der;
    // An issuer that names no domain says nothing; the root alone decides.
    let silent = |root: &Ca| {
        let mut params = ca_params("silent issuer", "spiffe://mesh.local", 0);
        params.subject_alt_names.clear();
        root.below(params)
    };
    let (our_silent, their_silent) = (silent(&workshop.root), silent(other));
    check(
        &workshop,
        vec![
            ("their name from our root", "wrong_trust_domain", workshop.chain(&of_other)),
            (
                "their name from our root, the issuer silent",
                "unknown_issuer",
                vec![our_silent.sign(&of_other, key), our_silent.der.clone()],
            ),
            (
                "our name from their root",
                "wrong_trust_domain",
                vec![their_issuer.sign(&leaf_params(), key), their_issuer.der.clone()],
            ),
            (
                "our name from their root, the issuer silent",
                "unknown_issuer",
                vec![their_silent.sign(&leaf_params(), key), their_silent.der.clone()],
            ),
            ("our name from their root, directly", "unknown_issuer", vec![other.sign(&leaf_params(), key)]),
            ("a name that no bundle knows", "wrong_trust_domain", workshop.chain(&of_nobody)),
            (
                "an issuer that names another domain",
                "wrong_trust_domain",
                vec![turncoat.sign(&leaf_params(), key), turncoat.der.clone()],
            ),
            (
                "an issuer that names the domain in capitals",
                "wrong_trust_domain",
                vec![upper.sign(&leaf_params(), key), upper.der.clone()],
            ),
            (
                "a stranger with our root's name",
                "bad_signature",
                vec![same_name_issuer.sign(&leaf_params(), key), same_name_issuer.der.clone()],
            ),
            ("self-signed", "unknown_issuer", vec![self_signed]),
            ("no intermediate", "unknown_issuer", vec![workshop.intermediate.sign(&leaf_params(), key)]),
            (
                "the wrong intermediate",
                "unknown_issuer",
                vec![
                    workshop.intermediate.sign(&leaf_params(), key),
                    workshop.root.below(ca_params("a sister", "spiffe://mesh.local", 0)).der,
                ],
            ),
        ],
    )
    .await;
    // The same chain is theirs to give: the other domain is believed for its own names.
    let theirs = vec![their_issuer.sign(&of_other, key), their_issuer.der.clone()];
    assert_eq!(verdicts(workshop.bundles(), &theirs, key).await, ("accepted", "wrong_peer"));
}

#[tokio::test]
async fn issuers_must_be_issuers_and_chains_no_longer_than_allowed() {
    let workshop = Workshop::open();
    let key = &workshop.key;
    let chain = |issuer: &Ca| vec![issuer.sign(&leaf_params(), key), issuer.der.clone()];
    let below_root = |change: &dyn Fn(&mut CertificateParams)| {
        let mut params = ca_params("odd issuer", "spiffe://mesh.local", 0);
        change(&mut params);
        chain(&workshop.root.below(params))
    };
    let mut workload = leaf_params();
    workload.distinguished_name.push(DnType::CommonName, "a workload that issues");
    let workload = workshop.intermediate.below(workload);
    let second = workshop.intermediate.below(ca_params("second", "spiffe://mesh.local", 0));
    let mut long = chain(&workshop.intermediate);
    long.extend((0..5).map(|_| workshop.root.der.clone()));
    let constraints = |permitted: Vec<GeneralSubtree>, excluded: Vec<GeneralSubtree>| {
        below_root(&|params| {
            params.name_constraints = Some(NameConstraints {
                permitted_subtrees: permitted.clone(),
                excluded_subtrees: excluded.clone(),
            });
        })
    };
    check(
        &workshop,
        vec![
            (
                "an issuer that is no authority",
                "issuer_not_ca",
                below_root(&|p| p.is_ca = IsCa::ExplicitNoCa),
            ),
            (
                "an issuer that may not sign",
                "issuer_not_ca",
                below_root(&|p| p.key_usages = vec![KeyUsagePurpose::DigitalSignature]),
            ),
            (
                "a workload that issues",
                "issuer_not_ca",
                vec![
                    workload.sign(&leaf_params(), key),
                    workload.der.clone(),
                    workshop.intermediate.der.clone(),
                ],
            ),
            (
                "an issuer below one of path length 0",
                "path_too_long",
                vec![second.sign(&leaf_params(), key), second.der.clone(), workshop.intermediate.der.clone()],
            ),
            ("seven certificates", "chain_too_long", long),
            ("a DNS name outside the constraints", "name_constraint", {
                constraints(vec![GeneralSubtree::DnsName("elsewhere".into())], vec![])
            }),
            ("a DNS name among the excluded", "name_constraint", {
                constraints(vec![], vec![GeneralSubtree::DnsName("web-1".into())])
            }),
        ],
    )
    .await;
    let short_root = Ca::root(ca_params("short root", "spiffe://mesh.local", 0));
    let issuer = short_root.below(ca_params("one too many", "spiffe://mesh.local", 0));
    let verdict = verdicts(bundles(&[("mesh.local", &short_root.der)]), &chain(&issuer), key).await;
    assert_eq!(verdict, ("path_too_long", "path_too_long"), "the root's own path length counts");
}

#[tokio::test]
async fn weak_keys_weak_digests_and_damaged_bytes_are_refused() {
    let workshop = Workshop::open();
    let good = workshop.chain(&leaf_params());
    let leaf = |leaf: Vec<u8>| vec![leaf, workshop.intermediate.der.clone()];
    let made = |new_key: &[&str], digest: &str| leaf(workshop.openssl_leaf(new_key, digest));
    let rsa = |bits: &'static str| vec!["-algorithm", "RSA", "-pkeyopt", bits];
    let curve = |name: &'static str| vec!["-algorithm", "EC", "-pkeyopt", name];
    let flipped = |from_end: usize| {
        let mut bytes = good[0].clone();
        let at = bytes.len() - from_end;
        bytes[at] ^= 1;
        leaf(bytes)
    };
    let mut trailing = good[0].clone();
    trailing.push(0);
    check(
        &workshop,
        vec![
            ("RSA of 1024 bits", "weak_key", made(&rsa("rsa_keygen_bits:1024"), "-sha256")),
            ("RSA of 2047 bits", "weak_key", made(&rsa("rsa_keygen_bits:2047"), "-sha256")),
            ("secp256k1", "weak_key", made(&curve("ec_paramgen_curve:secp256k1"), "-sha256")),
            ("P-224", "weak_key", made(&curve("ec_paramgen_curve:P-224"), "-sha256")),
            ("P-521", "weak_key", made(&curve("ec_paramgen_curve:P-521"), "-sha256")),
            ("Ed448", "weak_key", made(&["-algorithm", "ED448"], "-sha256")),
            ("SHA-1", "weak_signature", made(&curve("ec_paramgen_curve:P-256"), "-sha1")),
            ("SHA-224", "weak_signature", made(&curve("ec_paramgen_curve:P-256"), "-sha224")),
            ("a flipped bit in the signature", "bad_signature", flipped(4)),
            ("cut in half", "malformed_certificate", leaf(good[0][..good[0].len() / 2].to_vec())),
            ("a byte too many", "malformed_certificate", leaf(trailing)),
            ("no certificate at all", "malformed_certificate", leaf(b"-----BEGIN CERTIFICATE-----".to_vec())),
            (
                "an issuer that is garbage",
                "malformed_certificate",
                vec![good[0].clone(), vec![0x30, 0x03, 1, 2, 3]],
            ),
        ],
    )
    .await;
    let stolen = KeyPair::generate().unwrap();
    let verdict = verdicts(workshop.bundles(), &good, &stolen).await;
    assert_eq!(verdict, ("bad_signature", "bad_signature"), "a certificate without its key proves nothing");
}

#[test]
fn a_root_that_may_not_vouch_is_refused_before_any_peer() {
    let workshop = Workshop::open();
    let read = |domain: &str, root: &[u8]| {
        let trust_domain: mesh_proto::identity::TrustDomain = domain.parse().unwrap();
        let bundle = mesh_proto::config::Bundle {
            trust_domain: trust_domain.clone(),
            roots: vec![root.to_vec()],
            sequence: 1,
        };
        TrustBundles::from_config(&[(trust_domain, bundle)].into()).err()
    };
    assert_eq!(read("mesh.local", &workshop.root.der), None);
    let mut unsigned = ca_params("no signer", "spiffe://mesh.local", 1);
    unsigned.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let cases = [
        ("another domain's", workshop.other_root.der.clone()),
        ("a leaf", workshop.chain(&leaf_params()).remove(0)),
        ("one that may not sign", Ca::root(unsigned).der),
        ("garbage", vec![1, 2, 3]),
        ("nothing", vec![]),
    ];
    for (what, root) in cases {
        assert!(matches!(read("mesh.local", &root), Some(BundleError::Root { .. })), "{what}");
    }
}
