//! Map from IP addresses to the autonomous systems that announce them.

use std::fmt;
use std::net::IpAddr;

use asmap::Asmap;

use crate::netgroup;

/// Number of an autonomous system, the network of one internet provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Asn(pub u32);

impl fmt::Display for Asn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AS{}", self.0)
    }
}

/// Map in the binary format of Bitcoin Core's `-asmap`.
pub struct AsMap(Asmap);

/// Content of a file that is not a valid map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no valid AS map; a file in the binary format of Bitcoin Core's -asmap is expected")]
pub struct InvalidAsMap;

impl AsMap {
    /// Checks the content of a file completely.
    ///
    /// # Errors
    /// If the content is no map that covers every address.
    pub fn parse(bytes: Vec<u8>) -> Result<AsMap, InvalidAsMap> {
        Asmap::from_bytes(bytes).map(AsMap).map_err(|_| InvalidAsMap)
    }

    /// Returns the autonomous system of an address; `None` if the map has none.
    pub fn asn(&self, ip: IpAddr) -> Option<Asn> {
        Some(self.0.lookup(netgroup::canonical(ip))).filter(|number| *number != 0).map(Asn)
    }
}

impl PartialEq for AsMap {
    fn eq(&self, other: &AsMap) -> bool {
        self.0.as_bytes() == other.0.as_bytes()
    }
}

impl fmt::Debug for AsMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AsMap({} bytes)", self.0.as_bytes().len())
    }
}

#[cfg(test)]
#[path = "../tests/it/support/as_map_encoder.rs"]
pub(crate) mod encoder;

#[cfg(test)]
mod tests {
    use super::encoder::encode;
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn encoded_map_is_read() {
        let bytes = encode(&[(ip("5.9.0.0"), 16, 24_940), (ip("88.99.0.0"), 24, 7), (ip("2a01:4f8::"), 32, 24_940)]);
        let map = AsMap::parse(bytes).unwrap();
        let asn = |text: &str| map.asn(ip(text));
        assert_eq!(asn("5.9.200.1"), Some(Asn(24_940)));
        assert_eq!(asn("64:ff9b::509:1"), Some(Asn(24_940)), "behind NAT64");
        assert_eq!(asn("2a01:4f8:7::1"), Some(Asn(24_940)));
        assert_eq!(asn("88.99.0.200"), Some(Asn(7)));
        assert_ne!(asn("88.99.1.1"), Some(Asn(7)));
    }

    #[test]
    fn damaged_map_is_an_error() {
        let bytes = encode(&[(ip("5.9.0.0"), 16, 24_940)]);
        assert!(AsMap::parse(bytes[..bytes.len() / 2].to_vec()).is_err());
        assert!(AsMap::parse(Vec::new()).is_err());
        assert!(AsMap::parse(b"# text\n".repeat(100)).is_err());
    }
}
