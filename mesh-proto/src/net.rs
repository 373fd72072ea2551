//! Addresses as policies speak of them: CIDR blocks and port ranges.

use crate::name::Port;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// A block of addresses, for sources that are not in the mesh; meshed peers are known by identity only.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Cidr(ipnet::IpNet);

/// Why a text is not a CIDR block.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not a CIDR block{problem}; write {instead}")]
pub struct CidrError {
    /// The offending text, cut to 80 bytes.
    pub value: String,
    /// Empty, or what is wrong beyond the shape.
    pub problem: &'static str,
    /// What may have been meant, or an example.
    pub instead: String,
}

impl Cidr {
    /// Whether the address lies in the block. An IPv4-mapped IPv6 address counts as its IPv4 address.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.contains(&ip.to_canonical())
    }

    /// Whether every address of `other` lies in this block.
    pub fn covers(&self, other: &Self) -> bool {
        self.0.contains(&other.0)
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    /// Parses `address/length`. Host bits beyond the length are an error: they are a typing mistake.
    fn from_str(text: &str) -> Result<Self, CidrError> {
        let error = |problem, instead| CidrError { value: text.chars().take(80).collect(), problem, instead };
        let whole = |address: IpAddr| ipnet::IpNet::from(address);
        let net: ipnet::IpNet = text.parse().map_err(|_| match text.parse() {
            Ok(address) => error(": it has no length", format!("{} for this one address", whole(address))),
            Err(_) => error("", "for instance 10.1.0.0/16 or fd00:1::/64".to_owned()),
        })?;
        if net.trunc() != net {
            let instead =
                format!("{} for the block, {} for this one address", net.trunc(), whole(net.addr()));
            return Err(error(": it has address bits beyond its length", instead));
        }
        Ok(Self(net))
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Ports from `first` to `last`, both included.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PortRange {
    first: Port,
    last: Port,
}

/// Why a text is not a range of ports.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("ports {0:?} are not a port or a range such as 8080 or 8000-8099, from 1 to 65535")]
pub struct PortRangeError(pub String);

impl PortRange {
    /// `None` when the range is reversed.
    pub fn new(first: Port, last: Port) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    /// The lowest port.
    pub fn first(self) -> Port {
        self.first
    }

    /// The highest port.
    pub fn last(self) -> Port {
        self.last
    }

    /// Whether the port lies in the range.
    pub fn contains(self, port: Port) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl From<Port> for PortRange {
    fn from(port: Port) -> Self {
        Self { first: port, last: port }
    }
}

impl FromStr for PortRange {
    type Err = PortRangeError;

    fn from_str(text: &str) -> Result<Self, PortRangeError> {
        let error = || PortRangeError(text.chars().take(40).collect());
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let first = first.parse().map_err(|_| error())?;
        let last = last.parse().map_err(|_| error())?;
        Self::new(first, last).ok_or_else(error)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { self.first.fmt(f) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}
