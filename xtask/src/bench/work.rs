//! The works that are measured.

use super::load::{self, Done, Way};
use anyhow::{Context, Result, bail};
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

/// One kind of load.
#[derive(Clone, Copy)]
pub(super) enum Work {
    /// HTTP/1.1 keep-alive GET over this many connections.
    Http1Get(u32),
    /// HTTP/1.1 POST of this many bytes, echoed, over 32 connections.
    Http1Post(u32),
    /// HTTP/2 GET, 8 connections of 8 streams.
    Http2Get,
    /// gRPC unary, 8 connections of 8 streams.
    Grpc,
    /// HTTP/1.1 GET at this many a second.
    Fixed(u32),
    /// Bytes up or down over one connection.
    TcpBulk(Way),
    /// Round trips over this many connections.
    TcpPingPong(usize),
    /// A connection for each round trip.
    NewTcp,
    /// A connection for each request.
    NewHttp,
    /// A handshake for each round trip: nothing shared, nothing resumed.
    Handshake,
    /// HTTP/1.1 GET over 64 connections, among few and among many access rules.
    Rules,
}

/// Which port of a contestant a work needs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    Http1,
    Http2,
    Tcp,
    /// TCP where each connection has a full handshake of its own.
    Handshake,
    /// HTTP/1.1 among a number of rules that is compared.
    Rules,
}

impl Work {
    /// In the order in which they are run and shown.
    pub(super) const ALL: [Self; 16] = [
        Self::Http1Get(64),
        Self::Http1Get(1),
        Self::Http1Post(1024),
        Self::Http1Post(64 * 1024),
        Self::Http2Get,
        Self::Grpc,
        Self::Fixed(1000),
        Self::Fixed(2000),
        Self::TcpBulk(Way::Up),
        Self::TcpBulk(Way::Down),
        Self::TcpPingPong(1),
        Self::TcpPingPong(32),
        Self::NewTcp,
        Self::NewHttp,
        Self::Handshake,
        Self::Rules,
    ];

    /// Only when they are named in full: where in between something changes.
    pub(super) const MORE: [Self; 4] =
        [Self::Http1Get(4), Self::Http1Get(8), Self::Http1Get(16), Self::Http1Get(128)];

    pub(super) fn name(self) -> String {
        match self {
            Self::Http1Get(connections) => format!("http1-get-{connections}"),
            Self::Http1Post(bytes) => format!("http1-post-{bytes}"),
            Self::Http2Get => "http2-get-8x8".to_owned(),
            Self::Grpc => "grpc-8x8".to_owned(),
            Self::Fixed(rate) => format!("fixed-{rate}"),
            Self::TcpBulk(Way::Up) => "tcp-bulk-up".to_owned(),
            Self::TcpBulk(Way::Down) => "tcp-bulk-down".to_owned(),
            Self::TcpPingPong(connections) => format!("tcp-ping-pong-{connections}"),
            Self::NewTcp => "new-tcp".to_owned(),
            Self::NewHttp => "new-http".to_owned(),
            Self::Handshake => "handshake".to_owned(),
            Self::Rules => "rules".to_owned(),
        }
    }

    /// Whether a quick run has it.
    pub(super) fn is_quick(self) -> bool {
        matches!(
            self,
            Self::Http1Get(64)
                | Self::Http2Get
                | Self::Grpc
                | Self::Fixed(2000)
                | Self::NewTcp
                | Self::TcpPingPong(32)
        )
    }

    pub(super) fn needs(self) -> Needs {
        match self {
            Self::Http1Get(_) | Self::Http1Post(_) | Self::Fixed(_) | Self::NewHttp => Needs::Http1,
            Self::Http2Get | Self::Grpc => Needs::Http2,
            Self::TcpBulk(_) | Self::TcpPingPong(_) | Self::NewTcp => Needs::Tcp,
            Self::Handshake => Needs::Handshake,
            Self::Rules => Needs::Rules,
        }
    }

    /// Whether it is a work of contestants that are set up for it alone.
    pub(super) fn is_apart(self) -> bool {
        matches!(self, Self::Handshake | Self::Rules)
    }

    /// What CPU time in µs for each thing counted is multiplied by to be shown: for bulk, which counts bytes, so that the
    /// figure is ms for each GB.
    pub(super) fn unit(self) -> f64 {
        if matches!(self, Self::TcpBulk(_)) { 1e6 } else { 1.0 }
    }

    /// Loads one address for a while.
    pub(super) fn run(self, address: SocketAddr, time: Duration) -> Result<Done> {
        match self {
            Self::Rules => wrk(address, 64, None, time),
            Self::Http1Get(connections) => wrk(address, connections, None, time),
            Self::Http1Post(bytes) => wrk(address, 32, Some(bytes), time),
            Self::Http2Get => h2load(address, &[], time),
            Self::Grpc => {
                let message = tempfile::NamedTempFile::new()?;
                std::fs::write(message.path(), b"\0\0\0\0\x0cbench-message")?;
                let path = message.path().to_string_lossy().into_owned();
                h2load(
                    address,
                    &["-d", &path, "-H", "content-type: application/grpc", "-H", "te: trailers"],
                    time,
                )
            }
            Self::Fixed(rate) => super::fixed::run(address, rate, time),
            Self::TcpBulk(way) => load::block_on(load::bulk(address, way, time)),
            Self::TcpPingPong(connections) => load::block_on(load::ping_pong(address, connections, time)),
            Self::NewTcp | Self::Handshake => load::block_on(load::new_tcp(address, time)),
            Self::NewHttp => load::block_on(load::new_http(address, time)),
        }
    }
}

fn wrk(address: SocketAddr, connections: u32, post: Option<u32>, time: Duration) -> Result<Done> {
    let mut command = Command::new("wrk");
    command.args(["-t", "1", "-c", &connections.to_string(), "-d", &format!("{}s", time.as_secs())]);
    for header in
        ["User-Agent: bench", "Accept: application/json", "Accept-Encoding: gzip", "Accept-Language: en"]
    {
        command.args(["-H", header]);
    }
    let script = tempfile::NamedTempFile::new()?;
    if let Some(bytes) = post {
        let text = format!("wrk.method = \"POST\"\nwrk.body = string.rep(\"x\", {bytes})\n");
        std::fs::write(script.path(), text)?;
        command.arg("-s").arg(script.path());
    }
    let output = command.arg(format!("http://{address}/items?page=1")).output().context("wrk")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if said.contains("Non-2xx") || said.contains("Socket errors") {
        bail!("{said}");
    }
    let line = said.lines().find(|line| line.contains(" requests in ")).with_context(|| said.clone())?;
    let count =
        line.split_whitespace().next().and_then(|first| first.parse().ok()).with_context(|| said.clone())?;
    Ok(Done { count, time, latency: None })
}

fn h2load(address: SocketAddr, args: &[&str], time: Duration) -> Result<Done> {
    let output = Command::new("h2load")
        .args(["-c", "8", "-m", "8", "-t", "1", "-D", &time.as_secs().to_string()])
        .args(args)
        .arg(format!("http://{address}/test.Bench/Echo"))
        .output()
        .context("h2load")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = said.lines().find(|line| line.starts_with("requests:")).with_context(|| said.clone())?;
    let number = |word: &str| -> Option<u64> {
        let part = line.split(',').find(|part| part.contains(word))?;
        part.split_whitespace().find_map(|text| text.parse().ok())
    };
    let count = number("succeeded").with_context(|| said.clone())?;
    if number("failed") != Some(0) || count == 0 {
        bail!("{said}");
    }
    Ok(Done { count, time, latency: None })
}
