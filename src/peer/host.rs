//! Host of a server: an onion service, a DNS name or an IP address.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use data_encoding::BASE32_NOPAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha3::{Digest, Sha3_256};

use crate::netgroup;

/// Normalized name or address of a peer.
///
/// Equal hosts compare equal: names are lower case without a final dot, and the IPv4-mapped and
/// NAT64 forms of an IPv4 address become that address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// Onion service of version 3.
    Onion(OnionAddress),
    /// DNS name.
    Dns(DnsName),
    /// IP address in its canonical form.
    Ip(IpAddr),
}

/// Address of a version 3 onion service, stored as its public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OnionAddress([u8; 32]);

/// DNS name in ASCII (IDNA) form. Cloning is cheap, since the book stores each name several times.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DnsName(Arc<str>);

/// Reason why a text is not a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// The name is empty.
    #[error("an empty host name")]
    Empty,
    /// A label contains invalid characters or has an invalid length.
    #[error("not a host name")]
    Malformed,
    /// The name exceeds 253 characters, the limit of DNS.
    #[error("a host name of more than 253 characters")]
    TooLong,
    /// The last label is a number, which resolvers read as an address.
    #[error("a number that is not an IP address")]
    Number,
    /// The onion address has another version than 3.
    #[error("an onion address that is not of version 3")]
    OnionVersion,
    /// The checksum of the onion address does not match.
    #[error("an onion address with a wrong checksum")]
    OnionChecksum,
}

impl Host {
    /// Returns whether the host is an onion service.
    pub fn is_onion(&self) -> bool {
        matches!(self, Host::Onion(_))
    }

    /// Returns whether the host can be reached from the whole internet.
    ///
    /// False for addresses and names of this machine or a local network. DNS names are not
    /// resolved.
    pub fn is_public(&self) -> bool {
        match self {
            Host::Onion(_) => true,
            Host::Dns(name) => name.is_public(),
            Host::Ip(ip) => netgroup::is_public(*ip),
        }
    }
}

impl FromStr for Host {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Host, HostError> {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if let Ok(ip) = bare.unwrap_or(text).parse::<Ipv6Addr>() {
            return Ok(Host::Ip(netgroup::canonical(IpAddr::V6(ip))));
        }
        let name = normalize(text)?;
        // Only IPv4: a text that is no IPv6 address does not become one by removing a final dot.
        if let Ok(ip) = name.parse::<Ipv4Addr>() {
            return Ok(Host::Ip(IpAddr::V4(ip)));
        }
        match name.strip_suffix(".onion") {
            Some(label) => OnionAddress::from_label(label).map(Host::Onion),
            None => DnsName::from_ascii(name).map(Host::Dns),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Onion(onion) => onion.fmt(f),
            Host::Dns(name) => f.write_str(&name.0),
            Host::Ip(ip) => ip.fmt(f),
        }
    }
}

impl Serialize for Host {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Host {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Host, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl OnionAddress {
    const VERSION: u8 = 3;

    /// Creates the address of a public key.
    pub const fn from_public_key(key: [u8; 32]) -> OnionAddress {
        OnionAddress(key)
    }

    fn from_label(label: &str) -> Result<OnionAddress, HostError> {
        if label.len() != 56 {
            return Err(HostError::OnionVersion);
        }
        let bytes = BASE32_NOPAD.decode(label.to_ascii_uppercase().as_bytes()).map_err(|_| HostError::Malformed)?;
        let (key, tail) = bytes.split_first_chunk::<32>().ok_or(HostError::Malformed)?;
        let onion = OnionAddress(*key);
        match tail {
            [_, _, version] if *version != Self::VERSION => Err(HostError::OnionVersion),
            [a, b, _] if [*a, *b] == onion.checksum() => Ok(onion),
            _ => Err(HostError::OnionChecksum),
        }
    }

    /// Computes the checksum of rend-spec-v3, section 6.
    fn checksum(&self) -> [u8; 2] {
        let hash = Sha3_256::new()
            .chain_update(b".onion checksum")
            .chain_update(self.0)
            .chain_update([Self::VERSION])
            .finalize();
        let [a, b, ..]: [u8; 32] = hash.into();
        [a, b]
    }
}

impl fmt::Display for OnionAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0; 35];
        bytes[..32].copy_from_slice(&self.0);
        bytes[32..34].copy_from_slice(&self.checksum());
        bytes[34] = Self::VERSION;
        let mut label = BASE32_NOPAD.encode(&bytes);
        label.make_ascii_lowercase();
        write!(f, "{label}.onion")
    }
}

impl DnsName {
    /// Returns the name in lower case ASCII.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the name and all its parent domains, longest first.
    pub fn ancestors(&self) -> impl Iterator<Item = DnsName> {
        let starts = std::iter::once(0).chain(self.0.match_indices('.').map(|(dot, _)| dot + 1));
        starts.filter_map(|start| self.0.get(start..)).map(|domain| DnsName(domain.into()))
    }

    /// Returns the registrable domain by the Public Suffix List.
    ///
    /// `a.b.example.co.uk` gives `example.co.uk`.
    pub fn registrable(&self) -> DnsName {
        let domain = psl::domain_str(&self.0).unwrap_or(&self.0);
        DnsName(domain.into())
    }

    fn from_ascii(name: String) -> Result<DnsName, HostError> {
        // Underscores are no part of host names, but resolvers accept them, and servers use them.
        let well_formed = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if !name.split('.').all(well_formed) {
            return Err(HostError::Malformed);
        }
        // Resolvers read `127.1`, `2130706433` and `0x7f000001` as addresses, so a last label that
        // is a number is rejected.
        let last = name.rsplit('.').next().unwrap_or_default();
        if last.contains('_') {
            return Err(HostError::Malformed);
        }
        let hexadecimal = last.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        if hexadecimal || last.bytes().all(|b| b.is_ascii_digit()) {
            return Err(HostError::Number);
        }
        Ok(DnsName(name.into()))
    }

    fn is_public(&self) -> bool {
        // RFC 6761, RFC 6762, RFC 7686, RFC 8375, RFC 9476 and ICANN's `internal`. `example` is
        // left out: it is harmless, and test networks use it.
        const SPECIAL: [&str; 9] =
            ["localhost", "local", "internal", "invalid", "test", "onion", "alt", "home.arpa", "localdomain"];
        let name = self.as_str();
        let is_within = |zone: &str| name.strip_suffix(zone).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        name.contains('.') && !SPECIAL.into_iter().any(is_within)
    }
}

/// Converts a name to lower case ASCII without a final dot.
///
/// IDNA's mapping comes first, since it turns full-width digits and dots into those of addresses.
fn normalize(text: &str) -> Result<String, HostError> {
    let name = if text.is_ascii() {
        text.to_ascii_lowercase()
    } else if text.len() > 1024 {
        return Err(HostError::TooLong);
    } else {
        idna::domain_to_ascii(text).map_err(|_| HostError::Malformed)?
    };
    let name = name.strip_suffix('.').unwrap_or(&name);
    match name.len() {
        0 => Err(HostError::Empty),
        254.. => Err(HostError::TooLong),
        _ => Ok(name.to_owned()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn any_host() -> impl Strategy<Value = Host> {
        prop_oneof![
            any::<[u8; 32]>().prop_map(|key| Host::Onion(OnionAddress::from_public_key(key))),
            any::<IpAddr>().prop_map(|ip| Host::Ip(netgroup::canonical(ip))),
            "[a-z][a-z0-9]{0,12}(-[a-z0-9]{1,5})?(\\.[a-z][a-z0-9]{0,8}){0,3}"
                .prop_filter_map("reserved for onions", |name| name.parse().ok()),
        ]
    }

    fn parse(text: &str) -> Result<Host, HostError> {
        text.parse()
    }

    proptest! {
        #[test]
        fn parse_undoes_print(host in any_host()) {
            prop_assert_eq!(parse(&host.to_string()), Ok(host));
        }

        #[test]
        fn parsed_host_round_trips_through_text(text in "\\PC{0,80}") {
            if let Ok(host) = parse(&text) {
                prop_assert_eq!(parse(&host.to_string()), Ok(host));
            }
        }
    }

    #[test]
    fn onion_address_with_wrong_checksum_or_version_is_rejected() {
        let good = "explorerzydxu5ecjrkwceayqybizmpjjznk5izmitf2modhcusuqlid.onion";
        assert_eq!(parse(good).unwrap().to_string(), good);
        assert_eq!(parse(&good.to_ascii_uppercase()).unwrap().to_string(), good);
        assert_eq!(parse(&good.replace("explorer", "explorex")), Err(HostError::OnionChecksum));
        assert_eq!(parse("expyuzz4wqqyqhjn.onion"), Err(HostError::OnionVersion));
        assert_eq!(parse(&format!("www.{good}")), Err(HostError::OnionVersion));
        assert_eq!(parse(&good.replace("lid.onion", "lif.onion")), Err(HostError::OnionVersion));
    }

    #[test]
    fn spellings_of_one_host_are_equal() {
        assert_eq!(parse("Electrum.Example.ORG."), parse("electrum.example.org"));
        assert_eq!(parse("[2001:DB8:0::1]"), parse("2001:db8::1"));
        assert_eq!(parse("::ffff:5.9.0.1"), parse("5.9.0.1"));
        assert_eq!(parse("bücher.example"), parse("xn--bcher-kva.example"));
        assert_eq!(parse("１２７.0.0.1"), parse("127.0.0.1"));
    }

    #[test]
    fn labels_may_have_underscores() {
        for text in ["electrum_abc.example.net", "_electrum._tcp.example", "a_.example"] {
            let host = parse(text).unwrap();
            assert!(host.is_public() && rustls::pki_types::ServerName::try_from(text).is_ok(), "{text}");
            assert_eq!(host.to_string(), text);
        }
    }

    #[test]
    fn invalid_hosts_are_rejected() {
        for text in [
            "",
            ".",
            "a..b",
            "-a.example",
            "a-.example",
            "tcp_port",
            "a.b_c",
            "a b",
            "a/b",
            "a\0b",
            "fe80::1%eth0",
            "::ffff:10.0.0.1.",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
        for text in ["127.1", "2130706433", "0x7f000001", "0x7f.0x1", "1.2.3.4.5", "256.1.1.1", "0177.0.0.1"] {
            assert_eq!(parse(text), Err(HostError::Number), "{text:?}");
        }
        assert_eq!(parse(&"a.".repeat(200)), Err(HostError::TooLong));
    }

    #[test]
    fn local_names_are_not_public() {
        for text in
            ["localhost", "LOCALHOST.", "db.localhost", "nas.local", "router", "127.0.0.1", "::1", "::ffff:10.0.0.1"]
        {
            assert!(!parse(text).unwrap().is_public(), "{text:?}");
        }
        for text in ["electrum.emzy.de", "notlocal.org", "5.9.0.1", "2a01:4f8::1"] {
            assert!(parse(text).unwrap().is_public(), "{text:?}");
        }
    }
}
