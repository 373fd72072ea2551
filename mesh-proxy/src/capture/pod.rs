//! Transparent capture in a pod: the packet rules that lead the pod's connections into its proxy.
//!
//! `mesh-proxy redirect` writes them once, in an init container that alone holds NET_ADMIN, with the `nft` program of its
//! image. The proxy shares the pod's network namespace, so its own packets are told apart by its user id. That is no
//! security boundary: a program that runs as the proxy's user reaches the network as it is, and there meets the peers'
//! proxies, which believe certificates and nothing else.
//!
//! UDP is left alone: names are the cluster's to resolve.

use super::namespace::CaptureError;
use crate::ports::{ADMIN_PORT, HEALTH_PORT, INBOUND_PORT, MESH_PORT, OUTBOUND_PORT, PROXY_UID};
use ipnet::IpNet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

/// What is not redirected.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Exempt {
    /// Ports of the pod that callers reach without the proxy.
    pub inbound_ports: Vec<u16>,
    /// Ports that the pod calls without the proxy.
    pub outbound_ports: Vec<u16>,
    /// Networks that the pod calls without the proxy.
    pub outbound_cidrs: Vec<IpNet>,
}

/// The rule set, as text for `nft -f`. Pure.
///
/// Replaces a set of before, so that a container that is started twice does no harm.
pub fn ruleset(exempt: &Exempt) -> String {
    let ports = |ports: &[u16]| ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
    let mut out = String::from("table inet meshctl {}\ndelete table inet meshctl\ntable inet meshctl {\n");
    // Writing into a `String` cannot fail.
    let mut line = |text: std::fmt::Arguments<'_>| {
        let _ = writeln!(out, "{text}");
    };
    line(format_args!("  chain outbound {{"));
    line(format_args!("    type nat hook output priority -100; policy accept;"));
    line(format_args!("    meta skuid {PROXY_UID} return"));
    line(format_args!("    fib daddr type local return"));
    if !exempt.outbound_ports.is_empty() {
        line(format_args!("    tcp dport {{ {} }} return", ports(&exempt.outbound_ports)));
    }
    for network in &exempt.outbound_cidrs {
        let family = if network.addr().is_ipv4() { "ip" } else { "ip6" };
        line(format_args!("    {family} daddr {} return", network.trunc()));
    }
    line(format_args!("    meta l4proto tcp redirect to :{OUTBOUND_PORT}"));
    line(format_args!("  }}"));
    line(format_args!("  chain inbound {{"));
    line(format_args!("    type nat hook prerouting priority -100; policy accept;"));
    line(format_args!("    iifname \"lo\" return"));
    line(format_args!("    tcp dport {{ {MESH_PORT}, {HEALTH_PORT} }} return"));
    if !exempt.inbound_ports.is_empty() {
        line(format_args!("    tcp dport {{ {} }} return", ports(&exempt.inbound_ports)));
    }
    line(format_args!("    meta l4proto tcp redirect to :{INBOUND_PORT}"));
    line(format_args!("  }}"));
    // Whoever dials the redirected ports themselves would have no original destination.
    line(format_args!("  chain guard {{"));
    line(format_args!("    type filter hook input priority 0; policy accept;"));
    line(format_args!(
        "    tcp dport {{ {OUTBOUND_PORT}, {INBOUND_PORT} }} ct status & dnat == 0 reject with tcp reset"
    ));
    line(format_args!("    iifname != \"lo\" tcp dport {ADMIN_PORT} reject with tcp reset"));
    line(format_args!("  }}"));
    line(format_args!("}}"));
    out
}

/// Puts the rules in force in the network namespace of this process.
///
/// # Errors
/// Says what `nft` answered.
pub fn redirect(exempt: &Exempt) -> Result<(), CaptureError> {
    let program = |source| CaptureError::Program { program: "nft", source };
    let mut nft = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(program)?;
    if let Some(mut input) = nft.stdin.take() {
        // Whatever `nft` did not read it complains of.
        let _ = input.write_all(ruleset(exempt).as_bytes());
    }
    let ended = nft.wait_with_output().map_err(program)?;
    if ended.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ended.stderr).trim().to_owned();
    Err(CaptureError::Refused { command: "nft -f -".to_owned(), said })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_tcp_is_redirected_but_the_proxys_own() {
        let rules = ruleset(&Exempt::default());
        let expected = "table inet meshctl {}
delete table inet meshctl
table inet meshctl {
  chain outbound {
    type nat hook output priority -100; policy accept;
    meta skuid 1774 return
    fib daddr type local return
    meta l4proto tcp redirect to :15001
  }
  chain inbound {
    type nat hook prerouting priority -100; policy accept;
    iifname \"lo\" return
    tcp dport { 15008, 15020 } return
    meta l4proto tcp redirect to :15006
  }
  chain guard {
    type filter hook input priority 0; policy accept;
    tcp dport { 15001, 15006 } ct status & dnat == 0 reject with tcp reset
    iifname != \"lo\" tcp dport 15000 reject with tcp reset
  }
}
";
        assert_eq!(rules, expected);
    }

    #[test]
    fn what_is_exempt_is_left_alone() {
        let exempt = Exempt {
            inbound_ports: vec![9090],
            outbound_ports: vec![25, 587],
            outbound_cidrs: vec!["10.1.2.3/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
        };
        let rules = ruleset(&exempt);
        for line in [
            "    tcp dport { 25, 587 } return\n    ip daddr 10.0.0.0/8 return\n    ip6 daddr fd00::/8 return\n    meta l4proto tcp redirect to :15001",
            "    tcp dport { 9090 } return\n    meta l4proto tcp redirect to :15006",
        ] {
            assert!(rules.contains(line), "{rules}");
        }
    }
}
