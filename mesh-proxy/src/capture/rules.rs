//! The packet rules of a captured namespace, as text for `nft -f`. Pure.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Where redirected TCP connections arrive.
pub const OUTBOUND_PORT: u16 = 15001;
/// Where redirected DNS queries arrive, over UDP and TCP.
pub const DNS_PORT: u16 = 15053;
/// The workload's own address, by which it calls itself and which it sees as its source.
pub const ADDRESS_V4: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 1);
/// The same for IPv6.
pub const ADDRESS_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x6d65, 0x7368, 0, 0, 0, 0, 1);

/// The rule set: redirect DNS and TCP, leave the workload's talk with itself alone, refuse all else.
///
/// Numeric priorities (-100 is `dstnat`, 0 is `filter`), because older `nft` does not know the words in every hook.
/// Refusals are answered (RST, ICMP) so that a program fails at once instead of waiting.
pub fn ruleset() -> String {
    format!(
        "table inet mesh {{
  chain capture {{
    type nat hook output priority -100; policy accept;
    meta l4proto udp udp dport 53 redirect to :{DNS_PORT}
    meta l4proto tcp tcp dport 53 redirect to :{DNS_PORT}
    fib daddr type local return
    meta l4proto tcp redirect to :{OUTBOUND_PORT}
  }}
  chain confine {{
    type filter hook output priority 0; policy drop;
    ct status dnat accept
    fib daddr type local accept
    meta l4proto tcp reject with tcp reset
    reject with icmpx type admin-prohibited
  }}
}}
"
    )
}

/// The `ip` commands that give the namespace its addresses and routes; each is the arguments after `ip -n NAME`.
pub fn links() -> [Vec<String>; 7] {
    let words = |line: &str| line.split(' ').map(str::to_owned).collect();
    [
        words("link set lo up"),
        // Both ends stay inside: the pair gives the routes a device to name and leads nowhere.
        words("link add mesh0 type veth peer name mesh1"),
        words(&format!("addr add {ADDRESS_V4}/32 dev mesh0")),
        words(&format!("-6 addr add {ADDRESS_V6}/128 dev mesh0 nodad")),
        words("link set mesh0 up"),
        words("link set mesh1 up"),
        words("route add default dev mesh0"),
    ]
}

/// The IPv6 default route, apart because a machine without IPv6 refuses it.
pub fn route_v6() -> Vec<String> {
    ["-6", "route", "add", "default", "dev", "mesh0"].map(str::to_owned).to_vec()
}
