//! Bytes from outside: whatever they are, they are judged and nothing panics.

use crate::world::{MemoryStore, Mesh, domain, id, instance, now, seal_key};
use mesh_ca::authority::{Authority, AuthorityConfig, IssueRefusal, Order};
use mesh_ca::bundle::TrustBundles;
use mesh_ca::csr::WorkloadKey;
use mesh_ca::svid::{Svid, SvidError};
use mesh_ca::verify::peer_identity;
use mesh_proto::config::Bundle;
use proptest::prelude::*;
use proptest::sample::Index;
use rustls::pki_types::CertificateDer;
use std::sync::OnceLock;

struct Samples {
    mesh: Mesh,
    leaf: Vec<u8>,
    root: Vec<u8>,
    csr: Vec<u8>,
    state: Vec<u8>,
}

fn samples() -> &'static Samples {
    static SAMPLES: OnceLock<Samples> = OnceLock::new();
    SAMPLES.get_or_init(|| {
        let mesh = Mesh::new();
        let (issued, key) = mesh.issue(&id("web"), "web", now());
        let csr = key.csr_der(&instance("web")).unwrap();
        let root = mesh.authority.bundles().remove(0).roots.remove(0);
        let sealed = mesh.store.saved().pop().unwrap();
        let state = seal_key().open("authority state", &sealed).unwrap().to_vec();
        Samples { leaf: issued.chain_der[0].clone(), root, csr, state, mesh }
    })
}

/// Some bytes replaced, some cut, some doubled.
fn damage(bytes: &[u8], places: &[(Index, u8)], cut: Option<Index>) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for (at, value) in places {
        let at = at.index(bytes.len());
        bytes[at] = *value;
    }
    if let Some(cut) = cut {
        bytes.truncate(cut.index(bytes.len()));
    }
    bytes
}

fn issue(csr: &[u8]) -> Result<(), IssueRefusal> {
    let order = Order {
        csr_der: csr,
        id: &id("fuzz"),
        instance: &instance("fuzz"),
        lifetime: None,
        attestor: "test",
    };
    samples().mesh.authority.issue(&order, now()).map(|_| ())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_certificate_is_judged(
        places in proptest::collection::vec((any::<Index>(), any::<u8>()), 0..4),
        cut in proptest::option::weighted(0.1, any::<Index>()),
    ) {
        let leaf = damage(&samples().leaf, &places, cut);
        let changed = leaf != samples().leaf;
        let read = peer_identity(&[CertificateDer::from(leaf.clone())]);
        if let Ok(peer) = read {
            // Whatever was changed, the name is still one of the strict grammar.
            prop_assert!(peer.id.as_str().parse::<mesh_proto::identity::SpiffeId>().is_ok());
        }
        let other_key = WorkloadKey::generate().unwrap();
        let svid = Svid::new(vec![leaf], other_key);
        prop_assert!(matches!(svid, Err(SvidError::Leaf(_) | SvidError::OtherKey(_))), "changed: {changed}");
    }

    #[test]
    fn a_damaged_root_is_judged(
        places in proptest::collection::vec((any::<Index>(), any::<u8>()), 0..4),
        cut in proptest::option::weighted(0.1, any::<Index>()),
    ) {
        let root = damage(&samples().root, &places, cut);
        let bundle = Bundle { trust_domain: domain(), roots: vec![root], sequence: 1 };
        let _ = TrustBundles::from_config(&[(domain(), bundle)].into());
    }

    #[test]
    fn a_request_that_was_damaged_where_it_is_signed_gets_nothing(
        places in proptest::collection::vec((any::<Index>(), any::<u8>()), 1..4),
        cut in proptest::option::weighted(0.1, any::<Index>()),
    ) {
        let csr = damage(&samples().csr, &places, cut);
        prop_assume!(csr != samples().csr);
        // The parser is lenient about the algorithm after the signed part, which cannot matter: what is signed decides.
        let signed = |csr: &[u8]| csr[..3 + 3 + usize::from(samples().csr[5])].to_vec();
        match issue(&csr) {
            Err(IssueRefusal::Request(_)) => {}
            Ok(()) => prop_assert_eq!(signed(&csr), signed(&samples().csr)),
            Err(other) => prop_assert!(false, "{}", other),
        }
    }

    #[test]
    fn any_bytes_are_no_certificate_and_no_request(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(peer_identity(&[CertificateDer::from(bytes.clone())]).is_err());
        prop_assert!(matches!(issue(&bytes), Err(IssueRefusal::Request(_))));
    }

    #[test]
    fn a_damaged_state_opens_or_is_refused(
        places in proptest::collection::vec((any::<Index>(), any::<u8>()), 1..6),
    ) {
        let state = damage(&samples().state, &places, None);
        let sealed = seal_key().seal("authority state", &state).unwrap();
        let store = MemoryStore::holding(sealed);
        if let Ok(authority) = Authority::open(AuthorityConfig::new(domain()), store, &seal_key(), now()) {
            let _ = authority.tick(now(), &[]);
        }
    }
}

#[test]
fn the_undamaged_samples_are_good() {
    assert!(peer_identity(&[CertificateDer::from(samples().leaf.clone())]).is_ok());
    issue(&samples().csr).unwrap();
}
