//! Load that no well-kept tool makes: TCP ping-pong, bulk, new connections, idle connections, scrapes. Fixed rates are
//! in `fixed`.

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// What a load did.
pub(super) struct Done {
    /// Requests, round trips, connections, or bytes.
    pub(super) count: u64,
    /// How long it took.
    pub(super) time: Duration,
    /// Microseconds from the moment each was due; empty where latency is not measured.
    pub(super) latency: Option<Histogram<u64>>,
}

/// A GET as browsers and libraries send it: eight fields.
const GET: &[u8] = b"GET /items?page=1 HTTP/1.1\r\nHost: server\r\nUser-Agent: bench\r\nAccept: application/json\r\n\
Accept-Encoding: gzip\r\nAccept-Language: en\r\nX-Request-Id: 0123456789abcdef\r\nCache-Control: no-cache\r\n\r\n";
/// How long a single connection waits for an answer while things come up.
const ANSWER_WAIT: Duration = Duration::from_secs(1);

/// Runs a future on a runtime of its own.
pub(super) fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

#[expect(clippy::disallowed_methods, reason = "a load generator owns its clock")]
fn now() -> Instant {
    Instant::now()
}

/// One GET on a new connection, again and again, from 8 clients.
pub(super) async fn new_http(address: SocketAddr, time: Duration) -> Result<Done> {
    in_parallel(8, time, move |until| async move {
        let mut count = 0;
        while now() < until {
            get(&mut connect(address).await?).await?;
            count += 1;
        }
        Ok(count)
    })
    .await
}

/// One round trip on a new connection, again and again, from 8 clients.
pub(super) async fn new_tcp(address: SocketAddr, time: Duration) -> Result<Done> {
    in_parallel(8, time, move |until| async move {
        let mut count = 0;
        while now() < until {
            round_trip(&mut connect(address).await?).await?;
            count += 1;
        }
        Ok(count)
    })
    .await
}

/// Round trips of 64 bytes over kept connections.
pub(super) async fn ping_pong(address: SocketAddr, connections: usize, time: Duration) -> Result<Done> {
    in_parallel(connections, time, move |until| async move {
        let mut stream = connect(address).await?;
        let mut count = 0;
        while now() < until {
            round_trip(&mut stream).await?;
            count += 1;
        }
        Ok(count)
    })
    .await
}

/// The direction of bulk bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// To the server.
    Up,
    /// To the client.
    Down,
}

/// Bytes in one direction over one connection.
pub(super) async fn bulk(address: SocketAddr, way: Way, time: Duration) -> Result<Done> {
    in_parallel(1, time, move |until| async move {
        let mut stream = connect(address).await?;
        let mut buffer = vec![b'D'; 64 * 1024];
        if way == Way::Down {
            stream.write_all(b"U").await?;
        }
        let mut count = 0;
        while now() < until {
            let moved =
                if way == Way::Up { stream.write(&buffer).await? } else { stream.read(&mut buffer).await? };
            if moved == 0 {
                bail!("the connection ended after {count} bytes");
            }
            count += u64::try_from(moved)?;
        }
        Ok(count)
    })
    .await
}

async fn in_parallel<F>(clients: usize, time: Duration, work: impl Fn(Instant) -> F) -> Result<Done>
where
    F: Future<Output = Result<u64>> + Send + 'static,
{
    let started = now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..clients {
        tasks.spawn(work(started + time));
    }
    let mut count = 0;
    while let Some(one) = tasks.join_next().await {
        count += one??;
    }
    Ok(Done { count, time: started.elapsed(), latency: None })
}

/// What is said once on a connection before it idles.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    /// A GET and its answer.
    Get,
    /// A round trip of 64 bytes.
    Echo,
}

/// Opens connections until there are `wanted`, 16 at a time, each used once.
pub(super) async fn open_idle(
    address: SocketAddr,
    word: Word,
    wanted: usize,
    idle: &mut Vec<TcpStream>,
) -> Result<()> {
    let mut opening = tokio::task::JoinSet::new();
    while idle.len() < wanted {
        while opening.len() < 16 && idle.len() + opening.len() < wanted {
            opening.spawn(async move {
                let mut stream = connect(address).await?;
                match word {
                    Word::Get => get(&mut stream).await?,
                    Word::Echo => round_trip(&mut stream).await?,
                }
                anyhow::Ok(stream)
            });
        }
        if let Some(opened) = opening.join_next().await {
            let count = idle.len();
            idle.push(opened?.with_context(|| format!("with {count} connections open"))?);
        }
    }
    Ok(())
}

async fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn round_trip(stream: &mut TcpStream) -> Result<()> {
    let mut buffer = [b'p'; 64];
    stream.write_all(&buffer).await?;
    stream.read_exact(&mut buffer).await?;
    Ok(())
}

/// One GET; reads until the whole answer is there.
async fn get(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(GET).await?;
    let mut buffer = Vec::with_capacity(2048);
    while !is_whole(&buffer)? {
        if stream.read_buf(&mut buffer).await? == 0 {
            bail!("the connection ended within an answer");
        }
    }
    Ok(())
}

/// One GET on a blocking connection.
pub(super) fn get_blocking(stream: &mut std::net::TcpStream) -> Result<()> {
    stream.write_all(GET)?;
    let mut buffer = [0_u8; 4096];
    let mut filled = 0;
    while !is_whole(buffer.get(..filled).unwrap_or_default())? {
        let read = stream.read(buffer.get_mut(filled..).unwrap_or_default())?;
        if read == 0 {
            bail!("the connection ended within an answer");
        }
        filled += read;
    }
    Ok(())
}

/// A connection whose reads and writes block.
pub(super) fn connect_blocking(address: SocketAddr) -> Result<std::net::TcpStream> {
    let stream = std::net::TcpStream::connect_timeout(&address, ANSWER_WAIT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_WAIT))?;
    Ok(stream)
}

/// Whether a GET on a new connection is answered.
pub(super) fn answers(address: SocketAddr) -> Result<()> {
    get_blocking(&mut connect_blocking(address)?)
}

/// Whether bytes on a new connection come back.
pub(super) fn echoes(address: SocketAddr) -> Result<()> {
    let mut stream = connect_blocking(address)?;
    stream.write_all(b"ping")?;
    Ok(stream.read_exact(&mut [0; 4])?)
}

/// Whether an answer with 200 and the length that its head says is complete.
fn is_whole(answer: &[u8]) -> Result<bool> {
    let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(false) };
    let head = answer.get(..end).unwrap_or_default();
    if !head.starts_with(b"HTTP/1.1 200") {
        bail!("the answer is {}", String::from_utf8_lossy(head));
    }
    let length = head.split(|byte| *byte == b'\n').find_map(|line| {
        let (name, value) = line.split_at_checked("content-length:".len())?;
        let value = std::str::from_utf8(value).ok()?;
        name.eq_ignore_ascii_case(b"content-length:").then(|| value.trim().parse::<usize>().ok())?
    });
    Ok(answer.len() >= end + 4 + length.context("the answer says no length")?)
}

/// Asks for metrics; the bytes of the answer.
pub(super) async fn scrape(address: SocketAddr, path: &str) -> Result<usize> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    if !answer.starts_with(b"HTTP/1.1 200") && !answer.starts_with(b"HTTP/1.0 200") {
        bail!("{}", String::from_utf8_lossy(answer.get(..answer.len().min(200)).unwrap_or_default()));
    }
    Ok(answer.len())
}
