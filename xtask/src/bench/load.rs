//! Load that no well-kept tool makes: fixed rates with honest latencies, TCP ping-pong, bulk, new connections.

use anyhow::{Result, bail};
use hdrhistogram::Histogram;
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

const GET: &[u8] = b"GET /items?page=1 HTTP/1.1\r\nHost: server\r\nUser-Agent: bench\r\nAccept: application/json\r\n\
Accept-Encoding: gzip\r\nAccept-Language: en\r\nX-Request-Id: 0123456789abcdef\r\nCache-Control: no-cache\r\n\r\n";

/// Runs a future on a runtime of its own.
pub(super) fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

#[expect(clippy::disallowed_methods, reason = "a load generator owns its clock")]
fn now() -> Instant {
    Instant::now()
}

/// GETs at a fixed rate over 16 connections; a request that had to wait for its turn counts from when it was due.
pub(super) async fn fixed_rate(address: SocketAddr, per_second: u64, time: Duration) -> Result<Done> {
    const CONNECTIONS: u64 = 16;
    let started = now();
    let pause = Duration::from_secs(1) * u32::try_from(CONNECTIONS)? / u32::try_from(per_second)?;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..CONNECTIONS {
        tasks.spawn(async move {
            let mut stream = connect(address).await?;
            let mut latency = Histogram::<u64>::new(3)?;
            let mut due = started + pause * u32::try_from(number)? / u32::try_from(CONNECTIONS)?;
            while due.duration_since(started) < time {
                tokio::time::sleep_until(due).await;
                get(&mut stream).await?;
                latency.record(u64::try_from((now() - due).as_micros())?)?;
                due += pause;
            }
            anyhow::Ok(latency)
        });
    }
    let mut all = Histogram::<u64>::new(3)?;
    while let Some(one) = tasks.join_next().await {
        all.add(one??)?;
    }
    Ok(Done { count: all.len(), time: started.elapsed(), latency: Some(all) })
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

/// One GET; reads until the whole answer, whose length its head says, is there.
async fn get(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(GET).await?;
    let mut buffer = Vec::with_capacity(2048);
    loop {
        if stream.read_buf(&mut buffer).await? == 0 {
            bail!("the connection ended within an answer");
        }
        let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(buffer.get(..end).unwrap_or_default()).to_ascii_lowercase();
        if !head.starts_with("http/1.1 200") {
            bail!("the answer is {head}");
        }
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        if buffer.len() >= end + 4 + length {
            return Ok(());
        }
    }
}
