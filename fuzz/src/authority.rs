//! Bytes that reach the certificate authority: requests, tokens, and what its store gives back.

use mesh_ca::authority::attest::join_token::Bearer;
use mesh_ca::authority::{Authority, AuthorityConfig, AuthorityStore, Order};
use mesh_ca::seal::SealKey;
use mesh_proto::identity::SpiffeId;
use mesh_proto::name::InstanceName;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime};

/// What the state is sealed for.
const CONTEXT: &str = "authority state";

/// Holds the last state only.
#[derive(Default)]
struct Memory(Mutex<Option<Vec<u8>>>);

impl AuthorityStore for Memory {
    fn load(&self) -> Result<Option<Vec<u8>>, String> {
        Ok(self.0.lock().map_err(|error| error.to_string())?.clone())
    }

    fn save(&self, state: &[u8]) -> Result<(), String> {
        *self.0.lock().map_err(|error| error.to_string())? = Some(state.to_vec());
        Ok(())
    }
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn key() -> SealKey {
    SealKey::from_bytes(&[7; 32])
}

fn open(state: Option<Vec<u8>>) -> Result<(Authority, Arc<Memory>), String> {
    mesh_ca::install_crypto();
    let store = Arc::new(Memory(Mutex::new(state)));
    let config = AuthorityConfig::new("mesh.local".parse().expect("a trust domain"));
    let opened = Authority::open(config, store.clone(), &key(), now()).map_err(|error| error.to_string())?;
    Ok((opened, store))
}

fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    AUTHORITY.get_or_init(|| open(None).expect("a new authority opens").0)
}

fn id() -> SpiffeId {
    "spiffe://mesh.local/ns/default/sa/fuzz".parse().expect("an identity")
}

/// A request for a certificate: whatever it asks for, the name in the certificate is the one that was attested.
pub fn csr(data: &[u8]) {
    let instance: InstanceName = "fuzz".parse().expect("a name");
    let id = id();
    let order = Order { csr_der: data, id: &id, instance: &instance, lifetime: None, attestor: "fuzz" };
    if let Ok(issued) = authority().issue(&order, now()) {
        let chain: Vec<_> = issued.chain_der.into_iter().map(Into::into).collect();
        let peer = mesh_ca::verify::peer_identity(&chain).expect("what was issued can be read");
        assert_eq!(peer.id, id);
    }
}

/// A join token: none was made, so none is taken.
pub fn join_token(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let instance: InstanceName = "fuzz".parse().expect("a name");
    let bearer = Bearer { key_sha256: [1; 32], instance: &instance };
    assert!(authority().redeem_join_token(&text, &bearer, now()).is_err());
}

/// The authority's own state, sealed by whoever wrote it: it opens and goes on, or is refused.
pub fn authority_state(data: &[u8]) {
    let sealed = key().seal(CONTEXT, data).expect("bytes are sealed");
    let Ok((authority, store)) = open(Some(sealed)) else { return };
    let _ = authority.tick(now(), &[]);
    // What it saved, it opens again.
    let saved = store.load().expect("memory holds");
    assert!(open(saved).is_ok(), "its own state");
}

/// A sealed blob that nobody sealed, and one that was changed: neither opens.
pub fn sealed(data: &[u8]) {
    assert!(key().open(CONTEXT, data).is_err());
    let sealed = key().seal(CONTEXT, data).expect("bytes are sealed");
    let opened = key().open(CONTEXT, &sealed).expect("what was sealed opens");
    assert_eq!(opened.as_slice(), data);
    assert!(key().open("another context", &sealed).is_err());
    let mut changed = sealed;
    let at = data.first().map_or(0, |byte| usize::from(*byte)) % changed.len();
    changed[at] ^= 1;
    assert!(key().open(CONTEXT, &changed).is_err(), "byte {at} was changed");
}
