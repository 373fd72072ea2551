//! The small languages of `--port`, `--to`, `--label`, `--admin` and `--access-log`.
//!
//! Parsed once, here, by clap; each error says what is allowed.

use crate::failure::Failure;
use mesh_proto::name::{Namespace, ObjectName, Port, ServiceRef};
use mesh_proto::policy::model::Protocol;
use mesh_proxy::{AccessLogTarget, ExplicitListener, InboundPort};
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};

const PROTOCOLS: [Protocol; 5] =
    [Protocol::Http1, Protocol::Http2, Protocol::Grpc, Protocol::Tls, Protocol::Tcp];

/// One `--to`, with the service as it was typed, for the child's environment.
#[derive(Clone, Debug)]
pub(crate) struct Outbound {
    /// As typed before the `=`, without the port.
    pub(crate) typed: String,
    /// As typed; see [`Outbound::listener_in`].
    pub(crate) listener: ExplicitListener,
}

/// `--admin`: an address, or nowhere.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Admin(pub(crate) Option<SocketAddr>);

/// `[NAME:]PORT[=PROTOCOL][@ADDRESS]`.
pub(crate) fn inbound(text: &str) -> Result<InboundPort, String> {
    let (rest, app) = match text.split_once('@') {
        Some((rest, app)) => (rest, Some(address(app)?)),
        None => (text, None),
    };
    let (rest, protocol) = match rest.split_once('=') {
        Some((rest, word)) => (rest, Some(protocol(word)?)),
        None => (rest, None),
    };
    let (name, port) = match rest.split_once(':') {
        Some((name, port)) => (Some(name.parse::<ObjectName>().map_err(|e| e.to_string())?), port),
        None => (None, rest),
    };
    let port: Port = port.parse().map_err(|e: mesh_proto::name::PortError| {
        format!("{e}; write for instance 8080, 8080=http1 or web:8080=http1@127.0.0.1:3000")
    })?;
    let app = app.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, port.number())));
    if app.port() == 0 {
        return Err("the program's own port cannot be 0: the sidecar must know where it listens".to_owned());
    }
    Ok(InboundPort { port, protocol, name, app })
}

/// `SERVICE[:PORT]=ADDRESS[/PROTOCOL]`.
pub(crate) fn outbound(text: &str) -> Result<Outbound, String> {
    let shape =
        || format!("{text:?} is not SERVICE[:PORT]=ADDRESS[/PROTOCOL], for instance payments=127.0.0.1:9001");
    let (target, place) = text.split_once('=').ok_or_else(shape)?;
    let (listen, protocol) = match place.split_once('/') {
        Some((listen, word)) => (address(listen)?, Some(protocol(word)?)),
        None => (address(place)?, None),
    };
    let (service, port) = match target.split_once(':') {
        Some((service, port)) => (service, Some(port.parse::<Port>().map_err(|e| e.to_string())?)),
        None => (target, None),
    };
    let parsed: ServiceRef = service.parse().map_err(|e: mesh_proto::name::NameError| e.to_string())?;
    let listener = ExplicitListener { service: parsed, port, listen, protocol };
    Ok(Outbound { typed: service.to_owned(), listener })
}

/// `KEY=VALUE`.
pub(crate) fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() && key.len() <= 253 && value.len() <= 63 => {
            Ok((key.to_owned(), value.to_owned()))
        }
        _ => Err(format!("{text:?} is not KEY=VALUE (key up to 253 bytes, value up to 63)")),
    }
}

impl Outbound {
    /// What the proxy is told; a service typed without a namespace is one of the workload's own.
    pub(crate) fn listener_in(&self, namespace: &Namespace) -> ExplicitListener {
        let mut listener = self.listener.clone();
        if !self.typed.contains('/') {
            listener.service.namespace = namespace.clone();
        }
        listener
    }
}

/// An address, or `off`.
pub(crate) fn admin(text: &str) -> Result<Admin, String> {
    if text == "off" { Ok(Admin(None)) } else { address(text).map(|address| Admin(Some(address))) }
}

/// `off`, `stderr`, or a file.
#[expect(clippy::unnecessary_wraps, reason = "the shape clap asks of a parser")]
pub(crate) fn access_log(text: &str) -> Result<AccessLogTarget, String> {
    Ok(match text {
        "off" => AccessLogTarget::Off,
        "stderr" => AccessLogTarget::Stderr,
        file => AccessLogTarget::File(file.into()),
    })
}

/// An address with a port; a bare port is on the loopback.
pub(crate) fn address(text: &str) -> Result<SocketAddr, String> {
    let text = text.strip_prefix("localhost:").unwrap_or(text);
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(port) if plain => Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        _ => Err(format!(
            "{text:?} is not an address with a port, for instance 127.0.0.1:9001, [::1]:9001 or 9001"
        )),
    }
}

fn protocol(word: &str) -> Result<Protocol, String> {
    PROTOCOLS.into_iter().find(|protocol| protocol.as_str() == word).ok_or_else(|| {
        let known: Vec<&str> = PROTOCOLS.iter().map(|protocol| protocol.as_str()).collect();
        format!("{word:?} is not a protocol; allowed are {}", known.join(", "))
    })
}

/// Refuses what would fail later in a less obvious way: a port given twice, one listener for two services, and a listener
/// on the address where the program itself listens.
///
/// # Errors
/// Names the options that contradict each other.
pub(crate) fn check_distinct(ports: &[InboundPort], to: &[Outbound]) -> Result<(), Failure> {
    let mut numbers = BTreeSet::new();
    if let Some(twice) = ports.iter().find(|port| !numbers.insert(port.port)) {
        return Err(Failure::usage(format!("--port {} is given twice", twice.port)));
    }
    let apps: BTreeSet<SocketAddr> = ports.iter().map(|port| port.app).collect();
    let mut listeners = BTreeSet::new();
    for outbound in to {
        let listen = outbound.listener.listen;
        if listen.port() == 0 {
            continue;
        }
        if !listeners.insert(listen) {
            return Err(Failure::usage(format!(
                "--to uses {listen} for two services; give each its own port, or 0"
            )));
        }
        if apps.contains(&listen) {
            return Err(Failure::usage(format!(
                "--to {}={listen} is where the program itself listens (--port); give it another port, or 0",
                outbound.typed
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inbound_ports_in_every_spelling() {
        for (text, want) in [
            ("8080", "8080 None None 127.0.0.1:8080"),
            ("8080=http1", "8080 Some(Http1) None 127.0.0.1:8080"),
            ("8080=http1@127.0.0.1:3000", "8080 Some(Http1) None 127.0.0.1:3000"),
            ("8080@3000", "8080 None None 127.0.0.1:3000"),
            ("web:8080=grpc@[::1]:3000", "8080 Some(Grpc) Some(\"web\") [::1]:3000"),
        ] {
            let port = inbound(text).expect(text);
            let got = format!("{} {:?} {:?} {}", port.port, port.protocol, port.name, port.app);
            assert_eq!(got, want, "{text}");
        }
        for text in [
            "",
            "0",
            "65536",
            "http",
            "8080=ftp",
            "8080=",
            "8080@x",
            "8080@0",
            "Web:80",
            "8080=http1=x",
            "+80",
        ] {
            assert!(inbound(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn outbound_services_in_every_spelling() {
        for (text, want) in [
            ("payments=127.0.0.1:9001", "payments default/payments None 127.0.0.1:9001 None"),
            ("payments=9001/http2", "payments default/payments None 127.0.0.1:9001 Some(Http2)"),
            (
                "shop/payments:443=localhost:9001",
                "shop/payments shop/payments Some(Port(443)) 127.0.0.1:9001 None",
            ),
            ("store=[::1]:0/tcp", "store default/store None [::1]:0 Some(Tcp)"),
        ] {
            let to = outbound(text).expect(text);
            let ExplicitListener { service, port, listen, protocol } = to.listener;
            assert_eq!(format!("{} {service} {port:?} {listen} {protocol:?}", to.typed), want, "{text}");
        }
        for text in
            ["", "payments", "payments=", "=9001", "payments=x", "payments=9001/x", "a/b/c=9001", "p:0=9001"]
        {
            assert!(outbound(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_service_without_a_namespace_is_in_the_workloads_own() {
        let namespace = "shop".parse().expect("a namespace");
        let service = |text| outbound(text).expect(text).listener_in(&namespace).service.to_string();
        assert_eq!(service("payments=9001"), "shop/payments");
        assert_eq!(service("default/payments=9001"), "default/payments");
    }

    #[test]
    fn options_that_contradict_each_other_are_refused() {
        let port = |text| inbound(text).expect(text);
        let to = |text| outbound(text).expect(text);
        assert!(check_distinct(&[port("80"), port("80=tcp")], &[]).is_err());
        assert!(check_distinct(&[], &[to("a=9001"), to("b=9001")]).is_err());
        assert!(check_distinct(&[port("9001")], &[to("a=9001")]).is_err());
        assert!(check_distinct(&[port("9001")], &[to("a=0"), to("b=0"), to("c=9002")]).is_ok());
    }
}
