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
pub(crate) mod tests {
    use super::*;

    /// Encodes a map of IPv4 ranges: the first `bits` bits of an address, and the system of that range.
    ///
    /// Ranges must not overlap. Numbers up to 32,768 can be encoded.
    pub(crate) fn encode(ranges: &[([u8; 4], u32, u32)]) -> Vec<u8> {
        let path = |address: [u8; 4], bits: u32| -> Vec<bool> {
            let mapped = (0xffff_u128 << 32) | u128::from(u32::from_be_bytes(address));
            (0..96 + bits).map(|bit| mapped >> (127 - bit) & 1 == 1).collect()
        };
        let ranges: Vec<(Vec<bool>, u32)> =
            ranges.iter().map(|(address, bits, number)| (path(*address, *bits), *number)).collect();
        let mut bits = encode_trie(&ranges, 0);
        while !bits.len().is_multiple_of(8) {
            bits.push(false);
        }
        bits.chunks(8).map(|byte| byte.iter().enumerate().fold(0, |sum, (n, bit)| sum | u8::from(*bit) << n)).collect()
    }

    fn encode_trie(ranges: &[(Vec<bool>, u32)], depth: usize) -> Vec<bool> {
        match ranges {
            // An address without a system leads to the default, number zero, which has no code of its own.
            [] => encode_default(),
            [(path, number)] if path.len() == depth => encode_return(*number),
            _ => {
                let side = |bit: bool| -> Vec<(Vec<bool>, u32)> {
                    ranges.iter().filter(|(path, _)| path[depth] == bit).cloned().collect()
                };
                let (left, right) = (encode_trie(&side(false), depth + 1), encode_trie(&side(true), depth + 1));
                // Instruction JUMP, and the length of the left part.
                [vec![true, false], encode_jump(left.len()), left, right].concat()
            }
        }
    }

    /// Encodes a number as a class in unary, and the offset in that class, most significant bit first.
    fn encode_number(value: usize, least: usize, classes: &[u32]) -> Vec<bool> {
        let mut offset = value - least;
        let mut bits = Vec::new();
        for (n, size) in classes.iter().enumerate() {
            let is_last = n + 1 == classes.len();
            if offset < 1 << size {
                if !is_last {
                    bits.push(false);
                }
                bits.extend((0..*size).rev().map(|bit| offset >> bit & 1 == 1));
                return bits;
            }
            offset -= 1 << size;
            bits.push(true);
        }
        panic!("{value} is too large");
    }

    fn encode_return(number: u32) -> Vec<bool> {
        let classes: Vec<u32> = (15..=24).collect();
        [vec![false], encode_number(number as usize, 1, &classes)].concat()
    }

    fn encode_default() -> Vec<bool> {
        encode_return(64_000)
    }

    fn encode_jump(distance: usize) -> Vec<bool> {
        let classes: Vec<u32> = (5..=30).collect();
        encode_number(distance, 17, &classes)
    }

    #[test]
    fn encoded_map_is_read() {
        let bytes = encode(&[([5, 9, 0, 0], 16, 24_940), ([88, 99, 0, 0], 24, 7)]);
        let map = AsMap::parse(bytes).unwrap();
        let asn = |ip: &str| map.asn(ip.parse().unwrap());
        assert_eq!(asn("5.9.200.1"), Some(Asn(24_940)));
        assert_eq!(asn("64:ff9b::509:1"), Some(Asn(24_940)), "behind NAT64");
        assert_eq!(asn("88.99.0.200"), Some(Asn(7)));
        assert_ne!(asn("88.99.1.1"), Some(Asn(7)));
    }

    #[test]
    fn damaged_map_is_an_error() {
        let bytes = encode(&[([5, 9, 0, 0], 16, 24_940)]);
        assert!(AsMap::parse(bytes[..bytes.len() / 2].to_vec()).is_err());
        assert!(AsMap::parse(Vec::new()).is_err());
        assert!(AsMap::parse(b"# text\n".repeat(100)).is_err());
    }
}
