//! Virtual addresses: what a captured workload's DNS answers say, and which service a connection to one means.
//!
//! Given out when a name is first asked for, stable for the life of the proxy, known to this proxy alone. Never routed:
//! a connection to one is redirected before it leaves.

use mesh_proto::name::ServiceRef;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};

/// The most services one workload can name: the hosts of 240.240.0.0/16. More get no address.
pub const SERVICES_MAX: u16 = u16::MAX - 1;

/// A service's two addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pair {
    /// In 240.240.0.0/16, which no network uses (RFC 1112, class E).
    pub v4: Ipv4Addr,
    /// In fd00:6d65:7368:1::/64 (RFC 4193).
    pub v6: Ipv6Addr,
}

impl Pair {
    fn of(number: u16) -> Self {
        let [high, low] = number.to_be_bytes();
        Self {
            v4: Ipv4Addr::new(240, 240, high, low),
            v6: Ipv6Addr::new(0xfd00, 0x6d65, 0x7368, 1, 0, 0, 0, number),
        }
    }
}

/// The addresses that one proxy has given out.
#[derive(Default, Debug)]
pub struct VirtualAddresses {
    /// Never held across an await; touched at a DNS query and at a new connection, not at a request.
    table: Mutex<Table>,
}

#[derive(Default, Debug)]
struct Table {
    numbers: HashMap<ServiceRef, u16>,
    services: Vec<ServiceRef>,
}

impl VirtualAddresses {
    /// The addresses of a service, the same at every call; `None` when all are given out.
    pub fn of(&self, service: &ServiceRef) -> Option<Pair> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = table.numbers.get(service) {
            return Some(Pair::of(*number));
        }
        let number =
            u16::try_from(table.services.len()).ok()?.checked_add(1).filter(|n| *n <= SERVICES_MAX)?;
        table.numbers.insert(service.clone(), number);
        table.services.push(service.clone());
        Some(Pair::of(number))
    }

    /// The service that an address means; `None` for every address that was not given out.
    pub fn service(&self, address: IpAddr) -> Option<ServiceRef> {
        let number = match address.to_canonical() {
            IpAddr::V4(v4) => match v4.octets() {
                [240, 240, high, low] => u16::from_be_bytes([high, low]),
                _ => return None,
            },
            IpAddr::V6(v6) => match v6.segments() {
                [0xfd00, 0x6d65, 0x7368, 1, 0, 0, 0, number] => number,
                _ => return None,
            },
        };
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.services.get(usize::from(number.checked_sub(1)?)).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_means_the_service_it_was_given_to_and_no_other() {
        let addresses = VirtualAddresses::default();
        let (web, db): (ServiceRef, ServiceRef) = ("shop/web".parse().unwrap(), "shop/db".parse().unwrap());
        let pair = addresses.of(&web).unwrap();
        assert_eq!(addresses.of(&web), Some(pair));
        let other = addresses.of(&db).unwrap();
        assert_ne!(pair, other);
        for ip in [IpAddr::V4(pair.v4), IpAddr::V6(pair.v6), IpAddr::V6(pair.v4.to_ipv6_mapped())] {
            assert_eq!(addresses.service(ip), Some(web.clone()), "{ip}");
        }
        for ip in ["240.240.0.0", "240.240.0.3", "240.241.0.1", "10.0.0.1", "fd00:6d65:7368:1::", "::1"] {
            assert_eq!(addresses.service(ip.parse().unwrap()), None, "{ip}");
        }
    }

    #[test]
    fn addresses_run_out_instead_of_being_shared() {
        let addresses = VirtualAddresses::default();
        for number in 0..u32::from(SERVICES_MAX) {
            assert!(addresses.of(&format!("n/s{number}").parse().unwrap()).is_some(), "{number}");
        }
        assert_eq!(addresses.of(&"n/more".parse().unwrap()), None);
        assert!(addresses.of(&"n/s0".parse().unwrap()).is_some());
    }
}
