//! Sets of addresses that an operator configures: single addresses and networks.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

/// Length in bits of the prefix of IPv4-mapped IPv6 addresses (RFC 4291, section 2.5.5.2).
const MAPPED_BITS: u8 = 96;

/// Set of networks; a single address is a network of one. Empty by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks(Vec<IpNet>);

impl Networks {
    /// Returns whether an address belongs to one of the networks.
    ///
    /// An IPv4-mapped IPv6 address is its IPv4 address.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.0.iter().any(|net| net.contains(&ip))
    }
}

impl FromIterator<IpNet> for Networks {
    fn from_iter<I: IntoIterator<Item = IpNet>>(nets: I) -> Networks {
        Networks(nets.into_iter().collect())
    }
}

/// Parses an address or a network, such as `10.0.0.0/8`. `None` if the text is neither.
///
/// Host bits are cleared, and IPv4-mapped IPv6 networks become IPv4 networks.
pub fn parse_network(text: &str) -> Option<IpNet> {
    let net = text.parse::<IpNet>().ok().or_else(|| Some(IpNet::from(text.parse::<IpAddr>().ok()?)))?;
    let IpNet::V6(v6) = net else { return Some(net.trunc()) };
    match (v6.addr().to_ipv4_mapped(), v6.prefix_len().checked_sub(MAPPED_BITS)) {
        (Some(ip), Some(bits)) => mapped(ip, bits),
        _ => Some(net.trunc()),
    }
}

fn mapped(ip: Ipv4Addr, bits: u8) -> Option<IpNet> {
    Some(IpNet::V4(Ipv4Net::new(ip, bits).ok()?.trunc()))
}

/// Writes a network as it is configured: an address without its prefix length if it is a single one.
pub fn format_network(net: IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contains(net: &str, ip: &str) -> bool {
        Networks::from_iter(parse_network(net)).contains(ip.parse().unwrap())
    }

    #[test]
    fn network_contains_its_addresses_in_any_form() {
        assert!(contains("10.0.0.0/8", "10.255.0.1") && contains("10.0.0.0/8", "::ffff:10.1.1.1"));
        assert!(
            contains("127.0.0.1", "127.0.0.1") && contains("::1", "::1") && contains("2a01:4f8::/32", "2a01:4f8::9")
        );
        assert!(contains("::ffff:10.0.0.0/104", "10.9.9.9") && contains("::ffff:127.0.0.1", "127.0.0.1"));
        assert!(contains("0.0.0.0/0", "5.9.0.1") && !contains("0.0.0.0/0", "2a01:4f8::1"));
        assert!(!contains("127.0.0.1", "127.0.0.2") && !contains("10.0.0.0/8", "11.0.0.1"));
        assert!(!Networks::default().contains("127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn network_is_written_in_its_shortest_form() {
        for (text, expected) in [("10.1.2.3/8", "10.0.0.0/8"), ("::1/128", "::1"), ("::ffff:5.9.0.1", "5.9.0.1")] {
            assert_eq!(format_network(parse_network(text).unwrap()), expected);
        }
        for text in ["", "10.0.0.0/33", "localhost", "10.0.0", "127.0.0.1:80", "10.0.0.0/ 8"] {
            assert_eq!(parse_network(text), None, "{text}");
        }
    }
}
