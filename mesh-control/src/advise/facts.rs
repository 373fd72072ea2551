//! From the words of a request to the canonical request that the callee's proxy would judge.

use super::names::Callee;
use mesh_proto::matching::{Fields, canonical_host, canonical_path, split_target};
use mesh_proto::name::Port;
use mesh_proto::policy::model::Protocol;
use mesh_proto::wire::discovery::{optional_protocol, port};
use mesh_proto::wire::v1;
use tonic::Status;

/// Headers in one question.
const HEADERS_MAX: usize = 100;

/// A request as a user describes it.
pub(super) struct Words {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) host: String,
    pub(super) port: u32,
    pub(super) protocol: String,
    pub(super) headers: Vec<String>,
}

/// A request as a proxy judges it.
pub(super) struct Asked {
    pub(super) port: Port,
    pub(super) protocol: Protocol,
    pub(super) sni: Option<String>,
    pub(super) host: String,
    pub(super) method: String,
    pub(super) path: String,
    pub(super) headers: Headers,
    /// What was assumed.
    pub(super) notes: Vec<String>,
}

impl Asked {
    pub(super) fn is_http(&self) -> bool {
        matches!(self.protocol, Protocol::Http1 | Protocol::Http2 | Protocol::Grpc)
    }
}

/// Header fields of a question; names in lower case.
#[derive(Default)]
pub(super) struct Headers(Vec<(String, String)>);

impl Headers {
    pub(super) fn names(&self) -> Vec<String> {
        self.0.iter().map(|(name, _)| name.clone()).collect()
    }
}

impl Fields for Headers {
    fn each(&self, name: &str, visit: &mut dyn FnMut(&[u8])) {
        for (_, value) in self.0.iter().filter(|(known, _)| known == name) {
            visit(value.as_bytes());
        }
    }
}

/// Reads a hypothetical request.
///
/// # Errors
/// What the proxy would refuse before any rule is asked, and words that mean nothing.
pub(super) fn read(words: &Words, callee: &Callee<'_>) -> Result<Asked, Status> {
    let mut notes = Vec::new();
    let (port, declared) = find_port(words.port, callee, &mut notes)?;
    let invalid = |error: &dyn std::fmt::Display| Status::invalid_argument(error.to_string());
    let given =
        optional_protocol("protocol", &words.protocol.to_ascii_lowercase()).map_err(|e| invalid(&e))?;
    let protocol = given.or(declared).unwrap_or(Protocol::Http1);
    let is_http = matches!(protocol, Protocol::Http1 | Protocol::Http2 | Protocol::Grpc);
    let says_http = !words.method.is_empty() || !words.path.is_empty();
    if says_http && !is_http {
        notes.push(format!(
            "port {port} speaks {}, so the method and the path are not judged",
            protocol.as_str()
        ));
    }
    let default_host = callee
        .service
        .as_ref()
        .map_or_else(|| callee.target().workload.to_string(), |service| service.name.to_string());
    let host = if words.host.is_empty() { &default_host } else { &words.host };
    let default_port = if protocol == Protocol::Tls { 443 } else { 80 };
    let host = canonical_host(host.as_bytes(), Some(default_port)).map_err(|problem| {
        Status::invalid_argument(format!(
            "host: {problem}; the proxy refuses such a request ({})",
            problem.code()
        ))
    })?;
    let path = if words.path.is_empty() { "/" } else { &words.path };
    let canonical = split_target(path.as_bytes()).and_then(|(path, _)| canonical_path(path));
    let canonical = canonical.map_err(|problem| {
        Status::invalid_argument(format!(
            "path: {problem}; the proxy refuses such a request ({})",
            problem.code()
        ))
    })?;
    Ok(Asked {
        port,
        protocol,
        sni: (protocol == Protocol::Tls).then(|| host.host().to_owned()),
        host: host.host().to_owned(),
        method: if words.method.is_empty() { default_method(protocol) } else { words.method.clone() },
        path: canonical.into_owned(),
        headers: read_headers(&words.headers)?,
        notes,
    })
}

/// The request of a past decision.
///
/// # Errors
/// The record is not one that a proxy would make.
pub(super) fn recorded(decision: &v1::Decision) -> Result<Asked, Status> {
    let unread =
        |error: &dyn std::fmt::Display| Status::internal(format!("the record of the decision: {error}"));
    let protocol = optional_protocol("protocol", &decision.protocol).map_err(|error| unread(&error))?;
    Ok(Asked {
        port: port("port", decision.port).map_err(|error| unread(&error))?,
        protocol: protocol.unwrap_or(Protocol::Tcp),
        sni: (!decision.sni.is_empty()).then(|| decision.sni.clone()),
        // Proxies record the authority as it came, with its port; rules judge the host alone.
        host: match canonical_host(decision.host.as_bytes(), None) {
            Ok(host) => host.host().to_owned(),
            Err(_) => decision.host.clone(),
        },
        method: decision.method.clone(),
        path: decision.path.clone(),
        headers: Headers::default(),
        notes: Vec::new(),
    })
}

fn default_method(protocol: Protocol) -> String {
    if protocol == Protocol::Grpc { "POST".to_owned() } else { "GET".to_owned() }
}

/// The port at the workload, and what it is declared to speak.
fn find_port(
    number: u32,
    callee: &Callee<'_>,
    notes: &mut Vec<String>,
) -> Result<(Port, Option<Protocol>), Status> {
    let ports = callee.ports();
    if number == 0 {
        return match ports.as_slice() {
            [] => {
                notes.push("no port is known; 8080 is assumed (say another with --port)".to_owned());
                // Not zero, so always a port.
                let assumed = port("port", 8080).map_err(|error| Status::internal(error.to_string()))?;
                Ok((assumed, None))
            }
            [only] => Ok((only.target, only.protocol)),
            [first, ..] => {
                notes.push(format!("of several ports, {} is assumed (say another with --port)", first.port));
                Ok((first.target, first.protocol))
            }
        };
    }
    let wanted = port("port", number).map_err(|error| Status::invalid_argument(error.to_string()))?;
    let known = ports.iter().find(|known| known.port == wanted);
    match known.or_else(|| ports.iter().find(|known| known.target == wanted)) {
        Some(known) => Ok((known.target, known.protocol)),
        None => {
            if !ports.is_empty() {
                let all: Vec<String> = ports.iter().map(|known| known.port.to_string()).collect();
                notes.push(format!(
                    "{wanted} is not among the declared ports ({}); the proxy refuses it in any case",
                    all.join(", ")
                ));
            }
            Ok((wanted, None))
        }
    }
}

fn read_headers(lines: &[String]) -> Result<Headers, Status> {
    if lines.len() > HEADERS_MAX {
        return Err(Status::invalid_argument(format!(
            "{} headers; at most {HEADERS_MAX} are taken",
            lines.len()
        )));
    }
    let read = lines.iter().map(|line| {
        let shown = || line.chars().take(80).collect::<String>();
        let (name, value) = line.split_once(':').ok_or_else(|| {
            Status::invalid_argument(format!("the header {:?} is not NAME: VALUE", shown()))
        })?;
        Ok((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
    });
    read.collect::<Result<_, _>>().map(Headers)
}
