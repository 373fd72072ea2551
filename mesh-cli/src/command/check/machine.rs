//! What a control plane and sidecars need of this machine.

use super::Finding;
use crate::command::restore::{SEAL_KEY_NAME, STORE_NAME};
use crate::config;
use crate::output;
use crate::session::Session;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Below this the store soon refuses writes.
const DISK_BYTES_MIN: u64 = 64 << 20;
/// Below this somebody should look.
const DISK_BYTES_GOOD: u64 = 1 << 30;
/// A connection through a sidecar takes two descriptors; 1,024 are soon used up.
const FILES_GOOD: u64 = 4_096;
/// A control plane and a handful of sidecars.
const MEMORY_KIB_GOOD: u64 = 128 << 10;
/// A Unix socket's path has room for 107 bytes (unix(7)); some are left for temporary names.
const SOCKET_PATH_BYTES_MAX: usize = 100;
/// 2026-01-01T00:00:00Z: this program is younger, so a clock before is wrong.
const CLOCK_MS_MIN: u64 = 1_767_225_600_000;
/// Every proxied connection takes a local port.
const LOCAL_PORTS_GOOD: u32 = 10_000;

/// All checks of the machine.
pub(super) fn check(session: &Session) -> Vec<Finding> {
    let dir = session.state_dir.as_path();
    vec![
        state_dir(dir),
        state_dir_mode(dir),
        socket_path(&session.socket()),
        seal_key(&dir.join(SEAL_KEY_NAME), &dir.join(STORE_NAME)),
        disk(dir),
        open_files(),
        memory(),
        clock(),
        clock_against_files(&dir.join(STORE_NAME)),
        loopback(),
        loopback_v6(),
        local_ports(),
        backlog(),
        transparent(),
    ]
}

fn state_dir(dir: &Path) -> Finding {
    const ABOUT: &str = "state directory";
    let make = format!("mkdir -p {0} && test -w {0}", dir.display());
    match std::fs::metadata(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => match existing_parent(dir) {
            Some(parent) if is_writable(&parent) => {
                Finding::pass(ABOUT, format!("{} is made at the first start", dir.display()))
            }
            _ => Finding::fail(
                ABOUT,
                format!("{} cannot be made by this user", dir.display()),
                "meshctl --state-dir DIR check",
            ),
        },
        Err(error) => Finding::fail(ABOUT, format!("{}: {error}", dir.display()), make),
        Ok(about) if !about.is_dir() => Finding::fail(
            ABOUT,
            format!("{} is not a directory", dir.display()),
            "meshctl --state-dir DIR check",
        ),
        Ok(_) if !is_writable(dir) => Finding::fail(
            ABOUT,
            format!("{} cannot be written to by this user", dir.display()),
            format!("ls -ld {}", dir.display()),
        ),
        Ok(_) => Finding::pass(ABOUT, format!("{} can be written to", dir.display())),
    }
}

fn state_dir_mode(dir: &Path) -> Finding {
    const ABOUT: &str = "directory mode";
    match std::fs::metadata(dir) {
        Ok(about) if about.permissions().mode() & 0o022 != 0 => Finding::fail(
            ABOUT,
            format!("others may write to {} (mode {:o})", dir.display(), about.permissions().mode() & 0o777),
            format!("chmod go-w {}", dir.display()),
        ),
        Ok(about) => Finding::pass(
            ABOUT,
            format!("{:o}: only its owner may write", about.permissions().mode() & 0o777),
        ),
        Err(_) => Finding::skip(ABOUT, "the directory does not exist yet"),
    }
}

fn socket_path(socket: &Path) -> Finding {
    const ABOUT: &str = "socket path";
    let bytes = socket.as_os_str().len();
    if bytes > SOCKET_PATH_BYTES_MAX {
        let found = format!("{} has {bytes} bytes; at most {SOCKET_PATH_BYTES_MAX}", socket.display());
        return Finding::fail(ABOUT, found, "meshctl --state-dir SHORTER-DIR up");
    }
    Finding::pass(ABOUT, format!("{bytes} of at most {SOCKET_PATH_BYTES_MAX} bytes"))
}

fn seal_key(key: &Path, store: &Path) -> Finding {
    const ABOUT: &str = "seal key";
    match std::fs::metadata(key) {
        Err(_) if store.exists() => Finding::warn(
            ABOUT,
            format!("{} is not there, but a store is; it opens with its own key only", key.display()),
            "meshctl up --seal-key FILE   # if it is kept elsewhere",
        ),
        Err(_) => Finding::skip(ABOUT, "made at the first start"),
        Ok(about) if about.permissions().mode() & 0o077 != 0 => Finding::fail(
            ABOUT,
            format!("others may read {}", key.display()),
            format!("chmod 600 {}", key.display()),
        ),
        Ok(_) => Finding::pass(
            ABOUT,
            "readable by its owner only; keep a copy elsewhere, backups open with it alone",
        ),
    }
}

fn disk(dir: &Path) -> Finding {
    const ABOUT: &str = "disk space";
    let Some(place) = existing_parent(dir) else { return Finding::skip(ABOUT, "no place to look at") };
    match rustix::fs::statvfs(&place) {
        Err(error) => Finding::skip(ABOUT, format!("cannot be asked: {error}")),
        Ok(about) => {
            let free = about.f_bavail.saturating_mul(about.f_frsize);
            let found = format!("{} MiB free at {}", free >> 20, place.display());
            let mend = format!("df -h {}", place.display());
            match free {
                ..DISK_BYTES_MIN => Finding::fail(ABOUT, found, mend),
                DISK_BYTES_MIN..DISK_BYTES_GOOD => Finding::warn(ABOUT, found, mend),
                _ => Finding::pass(ABOUT, found),
            }
        }
    }
}

fn open_files() -> Finding {
    const ABOUT: &str = "open files";
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    match limit {
        Some(limit) if limit < FILES_GOOD => Finding::warn(
            ABOUT,
            format!("at most {limit} for each process; a busy sidecar needs two for each connection"),
            format!("ulimit -n {FILES_GOOD}   # or LimitNOFILE= in a systemd unit"),
        ),
        Some(limit) => Finding::pass(ABOUT, format!("up to {limit} for each process")),
        None => Finding::pass(ABOUT, "no limit"),
    }
}

fn memory() -> Finding {
    const ABOUT: &str = "memory";
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let available =
        line.and_then(|rest| rest.trim().strip_suffix("kB")).and_then(|kib| kib.trim().parse::<u64>().ok());
    match available {
        None => Finding::skip(ABOUT, "the system does not say"),
        Some(kib) if kib < MEMORY_KIB_GOOD => {
            Finding::warn(ABOUT, format!("{} MiB available", kib >> 10), "free -m")
        }
        Some(kib) => Finding::pass(ABOUT, format!("{} MiB available", kib >> 10)),
    }
}

fn clock() -> Finding {
    const ABOUT: &str = "clock";
    let now = output::now_ms();
    if now < CLOCK_MS_MIN {
        let found = format!(
            "it shows {}, before this program was made; certificates will not be valid",
            output::time(now)
        );
        return Finding::fail(ABOUT, found, "timedatectl set-ntp true");
    }
    Finding::pass(ABOUT, output::time(now))
}

/// A clock that went back makes fresh certificates "not yet valid".
fn clock_against_files(store: &Path) -> Finding {
    const ABOUT: &str = "clock steps";
    match std::fs::metadata(store) {
        Err(_) => Finding::skip(ABOUT, "no store to compare with"),
        Ok(about) => {
            let written = u64::try_from(about.mtime()).unwrap_or_default().saturating_mul(1_000);
            match written.checked_sub(output::now_ms()) {
                Some(ahead) if ahead > 60_000 => Finding::fail(
                    ABOUT,
                    format!("the store was written at {}, which is in the future", output::time(written)),
                    "timedatectl set-ntp true",
                ),
                _ => Finding::pass(ABOUT, "it has not gone back since the store was made"),
            }
        }
    }
}

fn loopback() -> Finding {
    const ABOUT: &str = "loopback";
    match TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))) {
        Ok(_) => Finding::pass(ABOUT, "127.0.0.1 can be listened on"),
        Err(error) => {
            Finding::fail(ABOUT, format!("127.0.0.1 cannot be listened on: {error}"), "ip link set lo up")
        }
    }
}

fn loopback_v6() -> Finding {
    const ABOUT: &str = "loopback IPv6";
    match TcpListener::bind(SocketAddr::from((Ipv6Addr::LOCALHOST, 0))) {
        Ok(_) => Finding::pass(ABOUT, "::1 can be listened on"),
        Err(error) => {
            Finding::skip(ABOUT, format!("::1 cannot be listened on ({error}); IPv4 alone is used"))
        }
    }
}

fn local_ports() -> Finding {
    const ABOUT: &str = "local ports";
    const FILE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
    let text = std::fs::read_to_string(FILE).unwrap_or_default();
    let mut words = text.split_whitespace().map(str::parse::<u32>);
    match (words.next(), words.next()) {
        (Some(Ok(first)), Some(Ok(last))) => {
            let count = last.saturating_sub(first).saturating_add(1);
            let found = format!("{count} for outgoing connections ({first} to {last})");
            match count < LOCAL_PORTS_GOOD {
                true => Finding::warn(ABOUT, found, "sysctl net.ipv4.ip_local_port_range='32768 60999'"),
                false => Finding::pass(ABOUT, found),
            }
        }
        _ => Finding::skip(ABOUT, "the system does not say"),
    }
}

fn backlog() -> Finding {
    const ABOUT: &str = "backlog";
    let text = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap_or_default();
    match text.trim().parse::<u32>() {
        Err(_) => Finding::skip(ABOUT, "the system does not say"),
        Ok(most) if most < 1_024 => Finding::warn(
            ABOUT,
            format!("{most} connections may wait to be accepted"),
            "sysctl net.core.somaxconn=4096",
        ),
        Ok(most) => Finding::pass(ABOUT, format!("{most} connections may wait to be accepted")),
    }
}

fn transparent() -> Finding {
    const ABOUT: &str = "transparent mode";
    if !rustix::process::geteuid().is_root() {
        return Finding::skip(ABOUT, "needs root; explicit ports (--port, --to) do not");
    }
    let missing: Vec<&str> =
        ["ip", "nft"].into_iter().filter(|program| config::find_program(program).is_none()).collect();
    match missing.is_empty() {
        true => Finding::pass(ABOUT, "ip and nft are there"),
        false => Finding::skip(
            ABOUT,
            format!("{} not found; explicit ports (--port, --to) need neither", missing.join(" and ")),
        ),
    }
}

fn existing_parent(path: &Path) -> Option<PathBuf> {
    path.ancestors().find(|ancestor| ancestor.exists()).map(Path::to_path_buf)
}

/// Asked of the kernel, without leaving a trace.
fn is_writable(dir: &Path) -> bool {
    rustix::fs::access(dir, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).is_ok()
}
