//! What certificates cost: issuing, the handshake of two SVIDs, and saving the authority with many records.
//!
//! `cargo bench -p mesh-ca --profile quick`. The figures stand in `mesh_ca::authority` and `mesh_ca::tls`.
#![expect(clippy::unwrap_used, reason = "a broken bench may panic")]

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use mesh_ca::authority::{Authority, AuthorityConfig, AuthorityStore, Issued, Order};
use mesh_ca::bundle::TrustBundles;
use mesh_ca::csr::WorkloadKey;
use mesh_ca::seal::SealKey;
use mesh_ca::svid::Svid;
use mesh_ca::tls::{self, Alpn, Credentials};
use mesh_proto::identity::SpiffeId;
use mesh_proto::name::InstanceName;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

struct Nowhere;

impl AuthorityStore for Nowhere {
    fn load(&self) -> Result<Option<Vec<u8>>, String> {
        Ok(None)
    }

    fn save(&self, state: &[u8]) -> Result<(), String> {
        black_box(state);
        Ok(())
    }
}

#[expect(clippy::disallowed_methods, reason = "rustls judges certificates by the system's clock")]
fn now() -> SystemTime {
    SystemTime::now()
}

fn authority() -> Authority {
    let config = AuthorityConfig::new("mesh.local".parse().unwrap());
    Authority::open(config, Arc::new(Nowhere), &SealKey::from_bytes(&[1; 32]), now()).unwrap()
}

/// Issues to the n-th of many identities, so that nobody's pace is exceeded.
fn issue(authority: &Authority, csr: &[u8], n: u32, at: SystemTime) -> Issued {
    let id: SpiffeId = format!("spiffe://mesh.local/ns/default/sa/w{n}").parse().unwrap();
    let instance: InstanceName = format!("w{n}").parse().unwrap();
    let order = Order { csr_der: csr, id: &id, instance: &instance, lifetime: None, attestor: "bench" };
    authority.issue(&order, at).unwrap()
}

fn credentials(authority: &Authority, n: u32) -> Credentials {
    let key = WorkloadKey::generate().unwrap();
    let csr = key.csr_der(&"w".parse().unwrap()).unwrap();
    let issued = issue(authority, &csr, n, now());
    let bundles = authority.bundles().into_iter().map(|b| (b.trust_domain.clone(), b)).collect();
    Credentials {
        svid: Arc::new(Svid::new(issued.chain_der, key).unwrap()),
        bundles: Arc::new(TrustBundles::from_config(&bundles).unwrap()),
        revocations: Arc::default(),
    }
}

fn issuing(c: &mut Criterion) {
    let csr = WorkloadKey::generate().unwrap().csr_der(&"w".parse().unwrap()).unwrap();
    let (authority, at) = (authority(), now());
    let mut n = 0_u32;
    c.bench_function("issue", |b| {
        b.iter(|| {
            n += 1;
            issue(&authority, &csr, n % 100_000, at)
        });
    });
    c.bench_function("key and request", |b| {
        let instance: InstanceName = "w".parse().unwrap();
        b.iter(|| WorkloadKey::generate().unwrap().csr_der(&instance).unwrap());
    });
}

fn saving(c: &mut Criterion) {
    let csr = WorkloadKey::generate().unwrap().csr_der(&"w".parse().unwrap()).unwrap();
    let (authority, at) = (authority(), now());
    for n in 0..15_000 {
        issue(&authority, &csr, n, at);
    }
    c.bench_function("save with 15,000 records", |b| b.iter(|| authority.rotate_intermediate(at).unwrap()));
}

fn handshake(c: &mut Criterion) {
    let authority = authority();
    let (a, b) = (credentials(&authority, 1), credentials(&authority, 2));
    let server = b.server_config().unwrap();
    let client = a.client_config(b.svid.id(), Alpn::MeshH1).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    c.bench_function("handshake, both ends", |bench| {
        bench.iter_batched(
            || tokio::io::duplex(64 * 1024),
            |(near, far)| {
                runtime.block_on(async {
                    let name = tls::control_server_name();
                    let (accepted, connected) = tokio::join!(
                        tls::accept(server.clone(), near),
                        tls::connect(client.clone(), name, far)
                    );
                    (accepted.unwrap(), connected.unwrap())
                })
            },
            BatchSize::SmallInput,
        );
    });
    c.bench_function("client configuration", |bench| {
        bench.iter(|| a.client_config(b.svid.id(), Alpn::MeshH1).unwrap());
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().measurement_time(Duration::from_secs(3)).sample_size(20);
    targets = issuing, handshake, saving
}
criterion_main!(benches);
