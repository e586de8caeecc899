//! Encoder of AS maps in the format of Bitcoin Core.
//!
//! The format is a trie of instructions, read bit by bit: RETURN a number, or JUMP over the branch for a zero bit of
//! the address. IPv4 addresses are those of ::ffff:0:0/96.

use std::net::IpAddr;

/// Encodes a map of ranges: an address, the length of its prefix, and the autonomous system.
///
/// Ranges must not overlap. Addresses outside of them get the system 64,000.
pub(crate) fn encode(ranges: &[(IpAddr, u8, u32)]) -> Vec<u8> {
    let path = |address: IpAddr, length: u8| -> Vec<bool> {
        let (bits, length) = match address {
            IpAddr::V4(ip) => (u128::from(ip.to_ipv6_mapped()), 96 + length),
            IpAddr::V6(ip) => (u128::from(ip), length),
        };
        (0..length).map(|bit| bits >> (127 - bit) & 1 == 1).collect()
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
