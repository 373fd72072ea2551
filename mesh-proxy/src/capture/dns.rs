//! The name server of a captured workload: the mesh's services and nothing else.
//!
//! `app` runs [`serve_udp`] and [`serve_tcp`] on sockets inside the namespace, to which every query of the workload is
//! redirected, whatever server it was meant for. A service gets a virtual address; every other name does not exist (the
//! workload could not reach it anyway). Never asks a real name server, never tells one workload what another asked.

use super::vip::{Pair, VirtualAddresses};
use futures_util::stream::{FuturesUnordered, StreamExt};
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use mesh_proto::identity::TrustDomain;
use mesh_proto::name::{Namespace, ServiceRef};
use std::future::Future;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// How long a program may keep an answer, in seconds. Addresses never change while the proxy lives.
const TTL_SECONDS: u32 = 30;
/// The largest query that is read; real ones are below 512 bytes.
const QUERY_BYTES_MAX: usize = 4096;
/// Queries in progress at once; more wait in the socket's buffer.
const QUERIES_MAX: usize = 64;
/// TCP connections at once; more wait in the listener's queue.
const CONNECTIONS_MAX: usize = 16;
/// How long a TCP connection may say nothing.
const IDLE: Duration = Duration::from_secs(10);

/// Whether the mesh has a service. Asked once for each query.
pub trait Services: Sync {
    /// Bounded in time by the one who answers.
    fn exists(&self, service: &ServiceRef) -> impl Future<Output = bool> + Send;
}

/// What a name server of one workload stands on.
pub struct NameServer<S> {
    /// Short names mean this namespace.
    pub namespace: Namespace,
    /// Names may end in it.
    pub trust_domain: TrustDomain,
    /// Who knows which services there are.
    pub services: S,
    /// Who gives out addresses.
    pub addresses: std::sync::Arc<VirtualAddresses>,
}

impl<S: Services> NameServer<S> {
    /// The answer to one query; `None` when the bytes are no query at all.
    pub async fn answer(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let request = Message::from_vec(bytes).ok()?;
        if request.metadata.message_type != MessageType::Query {
            return None;
        }
        let mut response = Message::response(request.metadata.id, request.metadata.op_code);
        response.metadata.recursion_desired = request.metadata.recursion_desired;
        response.metadata.recursion_available = true;
        response.metadata.authoritative = true;
        let [query] = request.queries.as_slice() else {
            response.metadata.response_code = ResponseCode::FormErr;
            return response.to_vec().ok();
        };
        response.add_query(query.clone());
        if request.metadata.op_code != OpCode::Query || query.query_class() != DNSClass::IN {
            response.metadata.response_code = ResponseCode::NotImp;
            return response.to_vec().ok();
        }
        match self.look_up(query.name()).await {
            Some(pair) => response.add_answers(record(query, pair)),
            None => {
                response.metadata.response_code = ResponseCode::NXDomain;
                &mut response
            }
        };
        response.to_vec().ok()
    }

    async fn look_up(&self, name: &Name) -> Option<Pair> {
        let service = self.service(&name.to_lowercase().to_ascii())?;
        if !self.services.exists(&service).await {
            return None;
        }
        self.addresses.of(&service)
    }

    /// The service that a name means: `web`, `web.shop`, `web.shop.svc`, `web.shop.svc.cluster.local`, `web.shop.<domain>`.
    fn service(&self, name: &str) -> Option<ServiceRef> {
        let name = name.trim_end_matches('.');
        let Some((first, rest)) = name.split_once('.') else {
            return Some(ServiceRef { namespace: self.namespace.clone(), name: name.parse().ok()? });
        };
        let (namespace, suffix) = rest.split_once('.').unwrap_or((rest, "svc"));
        let known = ["svc", "svc.cluster.local", self.trust_domain.as_str()];
        if !known.contains(&suffix) {
            return None;
        }
        Some(ServiceRef { namespace: namespace.parse().ok()?, name: first.parse().ok()? })
    }
}

/// The record asked for; an empty answer (the name exists) for every other type.
fn record(query: &Query, pair: Pair) -> Option<Record> {
    let data = match query.query_type() {
        RecordType::A => RData::A(A(pair.v4)),
        RecordType::AAAA => RData::AAAA(AAAA(pair.v6)),
        _ => return None,
    };
    Some(Record::from_rdata(query.name().clone(), TTL_SECONDS, data))
}

/// Answers queries over UDP until the socket fails.
///
/// # Errors
/// What the socket says.
pub async fn serve_udp<S: Services>(server: &NameServer<S>, socket: &UdpSocket) -> io::Result<()> {
    let mut answers = FuturesUnordered::new();
    let mut buffer = [0_u8; QUERY_BYTES_MAX];
    loop {
        // Both branches may be dropped at any time: `recv_from` takes nothing unless it completes, and an answer is only
        // taken from the set when it is whole.
        tokio::select! {
            received = socket.recv_from(&mut buffer), if answers.len() < QUERIES_MAX => {
                let (length, from) = received?;
                let query = buffer.get(..length).unwrap_or_default().to_vec();
                answers.push(async move { (server.answer(&query).await, from) });
            }
            Some((answer, to)) = answers.next(), if !answers.is_empty() => {
                if let Some(bytes) = answer
                    && let Err(error) = socket.send_to(&bytes, to).await
                {
                    tracing::debug!(%to, %error, "a DNS answer could not be sent");
                }
            }
        }
    }
}

/// Answers queries over TCP (RFC 7766) until the listener fails.
///
/// # Errors
/// What the listener says.
pub async fn serve_tcp<S: Services>(server: &NameServer<S>, listener: &TcpListener) -> io::Result<()> {
    let mut connections = FuturesUnordered::new();
    loop {
        // Dropping `accept` loses no connection; a connection leaves the set only when it is done.
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => {
                connections.push(converse(server, accepted?.0));
            }
            Some(ended) = connections.next(), if !connections.is_empty() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a DNS connection ended");
                }
            }
        }
    }
}

async fn converse<S: Services>(server: &NameServer<S>, mut stream: TcpStream) -> io::Result<()> {
    loop {
        let length = tokio::time::timeout(IDLE, stream.read_u16()).await??;
        let mut query = vec![0; usize::from(length).min(QUERY_BYTES_MAX)];
        tokio::time::timeout(IDLE, stream.read_exact(&mut query)).await??;
        let Some(answer) = server.answer(&query).await else { return Ok(()) };
        let Ok(length) = u16::try_from(answer.len()) else { return Ok(()) };
        stream.write_u16(length).await?;
        stream.write_all(&answer).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;
    use std::sync::Arc;

    struct Only(&'static str);

    impl Services for Only {
        async fn exists(&self, service: &ServiceRef) -> bool {
            service.to_string() == self.0
        }
    }

    fn server() -> NameServer<Only> {
        NameServer {
            namespace: "shop".parse().unwrap(),
            trust_domain: "mesh.local".parse().unwrap(),
            services: Only("shop/web"),
            addresses: Arc::new(VirtualAddresses::default()),
        }
    }

    async fn ask(server: &NameServer<Only>, name: &str, kind: RecordType) -> (ResponseCode, Vec<IpAddr>) {
        let mut query = Message::query();
        query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        let bytes = server.answer(&query.to_vec().unwrap()).await.unwrap();
        let response = Message::from_vec(&bytes).unwrap();
        assert_eq!(response.metadata.id, query.metadata.id);
        let addresses = response.answers.iter().filter_map(|record| record.data.ip_addr()).collect();
        (response.metadata.response_code, addresses)
    }

    #[tokio::test]
    async fn every_spelling_of_a_service_has_the_same_address() {
        let server = server();
        let names = [
            "web",
            "web.shop",
            "WEB.shop.",
            "web.shop.svc",
            "web.shop.svc.cluster.local",
            "web.shop.mesh.local",
        ];
        for name in names {
            let (code, v4) = ask(&server, name, RecordType::A).await;
            assert_eq!((code, v4), (ResponseCode::NoError, vec!["240.240.0.1".parse().unwrap()]), "{name}");
        }
        let (_, v6) = ask(&server, "web", RecordType::AAAA).await;
        assert_eq!(v6, ["fd00:6d65:7368:1::1".parse::<IpAddr>().unwrap()]);
        assert_eq!(ask(&server, "web", RecordType::MX).await, (ResponseCode::NoError, vec![]));
        assert_eq!(server.addresses.service(v6[0]).unwrap().to_string(), "shop/web");
    }

    #[tokio::test]
    async fn other_names_do_not_exist() {
        let server = server();
        for name in ["db", "web.other", "example.com", "web.shop.example.com", "a.web.shop.svc", "_web", "."]
        {
            assert_eq!(ask(&server, name, RecordType::A).await.0, ResponseCode::NXDomain, "{name}");
        }
    }

    #[tokio::test]
    async fn garbage_is_answered_with_nothing() {
        let server = server();
        for bytes in [&b""[..], b"x", &[0; 12], &[0xff; 600]] {
            // Either no answer at all, or one that is itself a valid refusal.
            if let Some(answer) = server.answer(bytes).await {
                assert_ne!(Message::from_vec(&answer).unwrap().metadata.response_code, ResponseCode::NoError);
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..600)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            drop(runtime.block_on(server().answer(&bytes)));
        }
    }
}
