//! Classification of IP addresses: public or not, and nested ranges of one network.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Range of addresses that probably belongs to one operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Netgroup(IpNet);

impl Netgroup {
    /// Returns the range that shares rate limits: an IPv4 /24 or an IPv6 /48.
    pub fn rate_limit_subnet(ip: IpAddr) -> Netgroup {
        Netgroup::truncated(ip, 24, 48)
    }

    /// Returns the ranges that an address belongs to, from the address itself to the widest.
    ///
    /// IPv4: /32, /24 and /16. IPv6: /128, /64, /56, /48 and /32. A provider assigns a customer an address or
    /// one of these ranges; a /16 or an IPv6 /32 is the size of a whole provider's network.
    pub fn nested(ip: IpAddr) -> impl Iterator<Item = Netgroup> {
        let lengths: &[u8] = if canonical(ip).is_ipv4() { &[32, 24, 16] } else { &[128, 64, 56, 48, 32] };
        lengths.iter().map(move |bits| Netgroup::truncated(ip, *bits, *bits))
    }

    /// Returns the IPv4 /16 or IPv6 /32 that contains the range.
    pub fn allocation_of(self) -> Netgroup {
        Netgroup::allocation(self.0.network())
    }

    /// Returns whether the range is a single address.
    pub fn is_single_address(self) -> bool {
        self.0.prefix_len() == self.0.max_prefix_len()
    }

    /// Returns the number of leading bits that all addresses of the range share.
    pub fn prefix_len(self) -> u8 {
        self.0.prefix_len()
    }

    /// Returns the range of one provider or customer: an IPv4 /16 or an IPv6 /32.
    ///
    /// A /32 is the smallest IPv6 allocation to a provider (RIPE-738, section 5.1).
    pub fn allocation(ip: IpAddr) -> Netgroup {
        Netgroup::truncated(ip, 16, 32)
    }

    fn truncated(ip: IpAddr, v4_bits: u8, v6_bits: u8) -> Netgroup {
        let (ip, bits) = match canonical(ip) {
            ip @ IpAddr::V4(_) => (ip, v4_bits),
            ip @ IpAddr::V6(_) => (ip, v6_bits),
        };
        Netgroup(IpNet::new_assert(ip, bits).trunc())
    }
}

impl fmt::Display for Netgroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Well-known prefix of NAT64 (RFC 6052, section 2.1). The last 32 bits are an IPv4 address.
const NAT64: Ipv6Net = v6([0x64, 0xff9b, 0], 96);

/// Converts an IPv4-mapped or NAT64 address to its IPv4 address.
///
/// Groups, bans, comparisons and published addresses use this form, so that each IPv4 address has
/// one form. The local NAT64 prefix 64:ff9b:1::/48 (RFC 8215) is not converted: the position of the
/// IPv4 address in it is not known, and it may lead into private networks.
pub fn canonical(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) if NAT64.contains(&ip) => {
            let [.., a, b, c, d] = ip.octets();
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        }
        ip => ip,
    }
}

/// Returns whether two addresses are the same, in any form.
pub fn is_same(one: IpAddr, other: IpAddr) -> bool {
    canonical(one) == canonical(other)
}

/// Returns whether an address is reachable from the whole internet.
pub fn is_public(ip: IpAddr) -> bool {
    match canonical(ip) {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

/// Rejects IANA's special-purpose IPv4 ranges that are not globally reachable, and multicast.
fn is_public_v4(ip: Ipv4Addr) -> bool {
    const NON_GLOBAL: [Ipv4Net; 15] = [
        v4([0, 0, 0, 0], 8),
        v4([10, 0, 0, 0], 8),
        v4([100, 64, 0, 0], 10),
        v4([127, 0, 0, 0], 8),
        v4([169, 254, 0, 0], 16),
        v4([172, 16, 0, 0], 12),
        v4([192, 0, 0, 0], 24),
        v4([192, 0, 2, 0], 24),
        v4([192, 88, 99, 0], 24),
        v4([192, 168, 0, 0], 16),
        v4([198, 18, 0, 0], 15),
        v4([198, 51, 100, 0], 24),
        v4([203, 0, 113, 0], 24),
        v4([224, 0, 0, 0], 4),
        v4([240, 0, 0, 0], 4),
    ];
    !NON_GLOBAL.iter().any(|net| net.contains(&ip))
}

/// Accepts 2000::/3, the global unicast range, without its special-purpose ranges.
///
/// Teredo and 6to4 wrap an IPv4 address; the other two ranges are for protocols and documentation.
fn is_public_v6(ip: Ipv6Addr) -> bool {
    const GLOBAL: Ipv6Net = v6([0x2000, 0, 0], 3);
    const NON_GLOBAL: [Ipv6Net; 4] =
        [v6([0x2001, 0, 0], 23), v6([0x2001, 0xdb8, 0], 32), v6([0x2002, 0, 0], 16), v6([0x3fff, 0, 0], 20)];
    GLOBAL.contains(&ip) && !NON_GLOBAL.iter().any(|net| net.contains(&ip))
}

const fn v4(octets: [u8; 4], bits: u8) -> Ipv4Net {
    let [a, b, c, d] = octets;
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), bits)
}

const fn v6(segments: [u16; 3], bits: u8) -> Ipv6Net {
    let [a, b, c] = segments;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn special_addresses_in_any_form_are_not_public() {
        for text in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "172.31.255.255",
            "192.168.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8%0".trim_end_matches("%0"),
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "64:ff9b::7f00:1",
            "64:ff9b::a00:1",
            "64:ff9b::c0a8:101",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b::",
            "64:ff9b::1:509:1",
            "64:ff9b:1::1",
            "64:ff9b:1::509:1",
            "2002:7f00:1::1",
            "2001:0::1",
            "2001:db8::1",
            "100::1",
        ] {
            let expected = text == "::ffff:8.8.8.8";
            assert_eq!(is_public(ip(text)), expected, "{text}");
        }
        for text in ["5.9.0.1", "172.32.0.1", "88.99.0.2", "2a01:4f8::1", "2606:4700::1"] {
            assert!(is_public(ip(text)), "{text}");
        }
    }

    #[test]
    fn nat64_address_is_the_embedded_ipv4_address() {
        assert_eq!(canonical(ip("64:ff9b::509:1")), ip("5.9.0.1"));
        assert_eq!(canonical(ip("::ffff:5.9.0.1")), ip("5.9.0.1"));
        assert_eq!(canonical(ip("64:ff9b:1::509:1")), ip("64:ff9b:1::509:1"));
        assert!(is_public(ip("64:ff9b::509:1")));
        // Both forms of an address belong to the same group.
        assert_eq!(Netgroup::rate_limit_subnet(ip("64:ff9b::509:1")), Netgroup::rate_limit_subnet(ip("5.9.0.200")));
        assert_eq!(Netgroup::allocation(ip("64:ff9b::509:1")), Netgroup::allocation(ip("5.9.200.1")));
    }

    #[test]
    fn addresses_of_one_range_share_a_group() {
        assert_eq!(Netgroup::allocation(ip("5.9.1.1")), Netgroup::allocation(ip("::ffff:5.9.200.7")));
        let nested = |text| Netgroup::nested(ip(text)).map(|range| range.to_string()).collect::<Vec<_>>().join(" ");
        assert_eq!(nested("5.9.1.1"), "5.9.1.1/32 5.9.1.0/24 5.9.0.0/16");
        assert!(nested("2a01:4f8:1:ff01::1").ends_with(" 2a01:4f8:1:ff00::/56 2a01:4f8:1::/48 2a01:4f8::/32"));
        assert_ne!(Netgroup::rate_limit_subnet(ip("5.9.1.1")), Netgroup::rate_limit_subnet(ip("5.9.2.1")));
        assert_eq!(Netgroup::rate_limit_subnet(ip("2a01:4f8:1::1")).to_string(), "2a01:4f8:1::/48");
        assert_eq!(Netgroup::allocation(ip("2a01:4f8:1::1")).to_string(), "2a01:4f8::/32");
    }
}
