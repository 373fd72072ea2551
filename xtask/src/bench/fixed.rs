//! GETs at a fixed rate, with latencies that count from when each request was due.
//!
//! # Why
//! Threads with blocking sockets rather than tasks: a runtime's timer wakes in whole milliseconds, which is more than a
//! proxy adds. No well-kept tool that Debian has corrects for coordinated omission (wrk and h2load do not).

use super::load::{Done, connect_blocking, get_blocking};
use anyhow::{Result, anyhow};
use hdrhistogram::Histogram;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Connections that take turns: a request waits for its turn only if 16 before it are late.
const CONNECTIONS: u32 = 16;

/// Keeps up the rate for a while.
#[expect(clippy::disallowed_methods, reason = "a load generator owns its clock")]
pub(super) fn run(address: SocketAddr, per_second: u32, time: Duration) -> Result<Done> {
    let pause = Duration::from_secs(1) * CONNECTIONS / per_second;
    // All connections are open before the first request is due.
    let started = Instant::now() + Duration::from_millis(50);
    let mut all = Histogram::<u64>::new(3)?;
    let parts = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..CONNECTIONS)
            .map(|number| {
                let first = started + pause * number / CONNECTIONS;
                scope.spawn(move || one(address, first, pause, started + time))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join()).collect::<Vec<_>>()
    });
    for part in parts {
        all.add(part.map_err(|_| anyhow!("a load thread panicked"))??)?;
    }
    Ok(Done { count: all.len(), time: started.elapsed(), latency: Some(all) })
}

/// What one connection saw.
#[expect(clippy::disallowed_methods, reason = "a load generator owns its clock and its pauses")]
fn one(address: SocketAddr, first: Instant, pause: Duration, until: Instant) -> Result<Histogram<u64>> {
    let mut stream = connect_blocking(address)?;
    let mut latency = Histogram::<u64>::new(3)?;
    let mut due = first;
    while due < until {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        get_blocking(&mut stream)?;
        latency.record(u64::try_from(due.elapsed().as_micros())?)?;
        due += pause;
    }
    Ok(latency)
}
