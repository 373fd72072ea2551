//! What a pod's annotations ask of its proxy.

use super::{INJECTED, Problem, RESERVED};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use mesh_proto::net::Cidr;

/// The prefix of all annotations of ours.
const PREFIX: &str = "meshctl.io/";
const SKIP_INBOUND: &str = "meshctl.io/skip-inbound-ports";
const SKIP_OUTBOUND: &str = "meshctl.io/skip-outbound-ports";
const SKIP_CIDRS: &str = "meshctl.io/skip-outbound-cidrs";
const CPU: &str = "meshctl.io/proxy-cpu";
const MEMORY: &str = "meshctl.io/proxy-memory";
const LOG: &str = "meshctl.io/log-level";
/// What may be written, for who mistypes one.
const KNOWN: [&str; 6] = [SKIP_INBOUND, SKIP_OUTBOUND, SKIP_CIDRS, CPU, MEMORY, LOG];
/// Entries of a list: more is no exception any more but another network.
const ENTRIES_MAX: usize = 64;
/// A proxy of one thread starts with 10 MiB.
const MEMORY_MIB: std::ops::RangeInclusive<u64> = 16..=65_536;
const CPU_MILLIS: std::ops::RangeInclusive<u64> = 1..=64_000;

/// What was asked, as it goes on to the containers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Settings {
    pub(super) skip_inbound: Vec<u16>,
    pub(super) skip_outbound: Vec<u16>,
    pub(super) skip_cidrs: Vec<String>,
    /// As written, and in thousandths of a core.
    pub(super) cpu: Option<(String, u64)>,
    /// As written.
    pub(super) memory: Option<String>,
    pub(super) log: Option<String>,
}

impl Settings {
    pub(super) fn read(metadata: &ObjectMeta, problems: &mut Vec<Problem>) -> Self {
        let mut settings = Self::default();
        let ours = metadata.annotations.iter().flatten().filter(|(key, _)| key.starts_with(PREFIX));
        for (key, value) in ours {
            let read = match key.as_str() {
                INJECTED => Ok(()),
                SKIP_INBOUND => ports(value).map(|ports| settings.skip_inbound = ports),
                SKIP_OUTBOUND => ports(value).map(|ports| settings.skip_outbound = ports),
                SKIP_CIDRS => cidrs(value).map(|cidrs| settings.skip_cidrs = cidrs),
                CPU => cpu(value).map(|millis| settings.cpu = Some((value.clone(), millis))),
                MEMORY => memory(value).map(|()| settings.memory = Some(value.clone())),
                LOG => log(value).map(|()| settings.log = Some(value.clone())),
                _ => Err(format!("there is no such annotation; there are {}", KNOWN.join(", "))),
            };
            if let Err(allowed) = read {
                problems.push(Problem::new(format!("metadata.annotations[{key}]"), value, allowed));
            }
        }
        settings
    }
}

fn entries(text: &str) -> Result<Vec<&str>, String> {
    let entries: Vec<&str> = text.split(',').map(str::trim).collect();
    if entries.len() > ENTRIES_MAX {
        return Err(format!("at most {ENTRIES_MAX} entries are allowed"));
    }
    Ok(entries)
}

fn ports(text: &str) -> Result<Vec<u16>, String> {
    const ALLOWED: &str = "write ports from 1 to 65535 with commas between, for instance 9090,9091";
    let mut ports = Vec::new();
    for entry in entries(text)? {
        let port = entry.parse().ok().filter(|port| *port > 0).ok_or(ALLOWED)?;
        if RESERVED.contains(&port) {
            return Err(format!("{port} is a port of the proxy itself; {ALLOWED}"));
        }
        if !ports.contains(&port) {
            ports.push(port);
        }
    }
    Ok(ports)
}

fn cidrs(text: &str) -> Result<Vec<String>, String> {
    let cidr = |entry: &str| match entry.parse::<Cidr>() {
        Ok(_) => Ok(entry.to_owned()),
        Err(error) => Err(format!("{error}; several are written with commas between")),
    };
    entries(text)?.into_iter().map(cidr).collect()
}

/// Thousandths of a core (Kubernetes API reference, `Quantity`).
fn cpu(text: &str) -> Result<u64, String> {
    let millis = match text.strip_suffix('m') {
        Some(millis) => digits(millis),
        None => {
            let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
            let thousandths = Some(part).filter(|part| part.len() <= 3).and_then(digits);
            let scale = 10_u64.checked_pow(3_u32.saturating_sub(u32::try_from(part.len()).unwrap_or(3)));
            let part = thousandths.zip(scale).and_then(|(part, scale)| part.checked_mul(scale));
            digits(whole).and_then(|whole| whole.checked_mul(1000)?.checked_add(part?))
        }
    };
    millis.filter(|millis| CPU_MILLIS.contains(millis)).ok_or_else(|| {
        "write cores or thousandths of one, from 1m to 64, for instance 100m or 0.5".to_owned()
    })
}

fn memory(text: &str) -> Result<(), String> {
    const UNITS: [(&str, u64); 7] = [
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("k", 1000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("", 1),
    ];
    let unit = UNITS.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)));
    let bytes = unit.and_then(|(number, factor)| digits(number)?.checked_mul(factor));
    let is_good = bytes.is_some_and(|bytes| MEMORY_MIB.contains(&(bytes >> 20)));
    is_good.then_some(()).ok_or_else(|| "write an amount from 16Mi to 64Gi, for instance 128Mi".to_owned())
}

/// Only digits: `parse` would take a sign as well.
fn digits(text: &str) -> Option<u64> {
    let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_plain.then(|| text.parse().ok()).flatten()
}

fn log(text: &str) -> Result<(), String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let is_target = |target: &str| {
        !target.is_empty() && target.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_:".contains(&byte))
    };
    let is_directive = |directive: &str| match directive.rsplit_once('=') {
        None => LEVELS.contains(&directive),
        Some((target, level)) => is_target(target) && LEVELS.contains(&level),
    };
    let is_good = text.split(',').all(is_directive);
    is_good.then_some(()).ok_or_else(|| {
        format!("write one of {}, or target=level pairs such as info,mesh_proxy=debug", LEVELS.join(", "))
    })
}
