//! A hostile application against its own sidecar: memory stays bounded, the others do not notice, memory comes back.

use integration_tests::frames::{Connection, END_HEADERS, END_STREAM, frame, get_block, kind, literal};
use integration_tests::programs;
use integration_tests::wait;
use integration_tests::world::{World, allow, free_port, loopback};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

/// Resident memory may grow to twice the normal and this much, in KiB.
const GROWTH_KIB_MAX: u64 = 64 * 1024;

/// A sidecar `caller` in front of nghttpd; hostile frames go to the port of `--to`.
struct Target {
    world: World,
    caller: usize,
    to: u16,
    resident: u64,
}

impl Target {
    fn start() -> Self {
        let mut world = World::start();
        let (app, to) = (free_port(), free_port());
        let folder = world.folder().join("root");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("index.html"), "fine\n").unwrap();
        world.apply(&allow("caller", "pages"));
        let (nghttpd, port) = (programs::system("nghttpd"), app.to_string());
        let command = [
            &*nghttpd.to_string_lossy(),
            "--no-tls",
            "-a",
            "127.0.0.1",
            "-d",
            &folder.to_string_lossy(),
            &port,
        ];
        world.run("pages", &["--port", &port], &command);
        wait::for_listener("nghttpd", loopback(app));
        let caller = world.run("caller", &["--to", &format!("pages=127.0.0.1:{to}")], &[]);
        let mut target = Self { world, caller, to, resident: 0 };
        assert!(target.serves(), "before the flood");
        target.resident = target.memory();
        target
    }

    /// Resident memory of the sidecar, in KiB.
    fn memory(&mut self) -> u64 {
        let id = self.world.workload(self.caller).id();
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Whether a well-behaved client gets its page.
    fn serves(&self) -> bool {
        let url = format!("http://127.0.0.1:{}/index.html", self.to);
        let output = Command::new(programs::system("curl"))
            .args(["-s", "--http2-prior-knowledge", "--max-time", "10", &url])
            .output()
            .unwrap();
        output.stdout == b"fine\n"
    }

    /// Floods while a well-behaved client goes on, then looks at memory and whether the sidecar still serves.
    fn survives(&mut self, what: &str, flood: impl FnOnce(u16) + Send) {
        let to = self.to;
        let mut good = 0;
        std::thread::scope(|scope| {
            let flooding = scope.spawn(move || flood(to));
            while !flooding.is_finished() {
                assert!(self.serves(), "{what}: a well-behaved client was not served");
                good += 1;
            }
            flooding.join().unwrap();
        });
        let peak = self.memory();
        assert!(
            peak <= 2 * self.resident + GROWTH_KIB_MAX,
            "{what}: {} KiB before, {peak} KiB after",
            self.resident
        );
        assert!(self.serves(), "{what}: afterwards, {good} served meanwhile");
    }
}

/// Opens a connection and sends until told enough; a peer that ends it has defended itself.
fn flood(to: u16, rounds: usize, mut bytes: impl FnMut(usize) -> Vec<u8>) {
    let mut connection = Connection::open(loopback(to)).unwrap();
    for round in 0..rounds {
        if connection.send(&bytes(round)).is_err() {
            return;
        }
    }
}

fn stream_id(round: usize) -> u32 {
    u32::try_from(round * 2 + 1).unwrap()
}

#[test]
fn http2_floods_cost_bounded_memory_and_nobody_else() {
    let mut target = Target::start();
    target.survives("rapid reset", |to| {
        flood(to, 50_000, |round| {
            let mut bytes =
                frame(kind::HEADERS, END_HEADERS | END_STREAM, stream_id(round), &get_block("pages"));
            bytes.extend(frame(kind::RST_STREAM, 0, stream_id(round), &8_u32.to_be_bytes()));
            bytes
        });
    });
    target.survives("continuation without end", |to| {
        let mut block = get_block("pages");
        for _ in 0..100 {
            literal(&mut block, "x-filler", &"f".repeat(100));
        }
        flood(to, 20_000, |round| match round {
            0 => frame(kind::HEADERS, END_STREAM, 1, &get_block("pages")),
            _ => frame(kind::CONTINUATION, 0, 1, &block[3..]),
        });
    });
    target.survives("empty data", |to| {
        flood(to, 200_000, |round| match round {
            0 => frame(kind::HEADERS, END_HEADERS, 1, &get_block("pages")),
            _ => frame(kind::DATA, 0, 1, &[]),
        });
    });
    target.survives("settings", |to| flood(to, 200_000, |_| frame(kind::SETTINGS, 0, 0, &[])));
    target.survives("ping", |to| flood(to, 200_000, |_| frame(kind::PING, 0, 0, &[7; 8])));
    target.survives("cookie crumbs", |to| {
        // One entry of the dynamic table, then thousands of one-byte references to it.
        let mut block = get_block("pages");
        block.extend([0x40, 6]);
        block.extend(b"cookie");
        block.push(100);
        block.extend([b'c'; 100]);
        block.extend(vec![0xbe; 15_000]);
        flood(to, 200, |round| frame(kind::HEADERS, END_HEADERS | END_STREAM, stream_id(round), &block));
    });
}

#[test]
fn slow_and_oversized_http1_clients_cost_bounded_memory_and_nobody_else() {
    let mut target = Target::start();
    target.survives("500 clients that never finish their head", |to| {
        let clients: Vec<TcpStream> = (0..500)
            .filter_map(|_| {
                let mut stream = TcpStream::connect(loopback(to)).ok()?;
                stream.write_all(b"GET / HTTP/1.1\r\nHost: pages\r\nX-Slow: ").ok()?;
                Some(stream)
            })
            .collect();
        assert!(clients.len() > 100, "only {} connections were accepted", clients.len());
        // Each is ended by the sidecar's deadline, not by us.
        for mut stream in clients {
            stream.set_read_timeout(Some(wait::DEADLINE)).unwrap();
            let mut answer = Vec::new();
            let ended = stream.read_to_end(&mut answer);
            assert!(ended.is_ok() || ended.unwrap_err().kind() == std::io::ErrorKind::ConnectionReset);
        }
    });
    target.survives("a head without end", |to| {
        let mut stream = TcpStream::connect(loopback(to)).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: pages\r\n").unwrap();
        for number in 0..200_000 {
            if stream.write_all(format!("X-{number}: {number}\r\n").as_bytes()).is_err() {
                return;
            }
        }
        panic!("200,000 fields were taken");
    });
    target.survives("garbage", |to| {
        for seed in 0..300_u32 {
            let Ok(mut stream) = TcpStream::connect(loopback(to)) else { continue };
            let bytes: Vec<u8> =
                (0..2000_u32).map(|at| (at.wrapping_mul(seed | 1) >> 3).to_le_bytes()[0]).collect();
            drop(stream.write_all(&bytes));
        }
    });
}
