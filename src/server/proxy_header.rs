//! The line that C tor puts before what a caller of its onion service says, where `HiddenServiceExportCircuitID haproxy`
//! is set: version 1 of the PROXY protocol, with the circuit's number in an address that nobody has.

use std::net::Ipv6Addr;

use ipnet::Ipv6Net;

/// The longest that the PROXY protocol allows.
pub const MAX_HEADER_BYTES: usize = 107;

const PREFIX: &[u8] = b"PROXY ";

/// The addresses in which Tor puts a circuit's number.
const CIRCUIT_NET: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfc00, 0xdead, 0xbeef, 0x4dad, 0, 0, 0, 0), 64);

/// What the first bytes of a stream are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyHeader {
    /// Not such a line.
    None,
    /// Perhaps the beginning of one.
    Incomplete,
    /// One of so many bytes, and the circuit that it names, if it names one.
    Line { length: usize, circuit: Option<u64> },
}

/// Reads the first bytes of a stream, of which `MAX_HEADER_BYTES` are enough.
pub fn parse_proxy_header(bytes: &[u8]) -> ProxyHeader {
    if !bytes.starts_with(PREFIX) {
        return if PREFIX.starts_with(bytes) { ProxyHeader::Incomplete } else { ProxyHeader::None };
    }
    let Some(end) = bytes.windows(2).take(MAX_HEADER_BYTES).position(|pair| pair == b"\r\n") else {
        return if bytes.len() < MAX_HEADER_BYTES { ProxyHeader::Incomplete } else { ProxyHeader::None };
    };
    let line = bytes.get(..end).and_then(|line| std::str::from_utf8(line).ok()).unwrap_or_default();
    let source = line.split(' ').nth(2).and_then(|source| source.parse::<Ipv6Addr>().ok());
    let circuit = source.filter(|source| CIRCUIT_NET.contains(source)).map(|source| {
        let [.., a, b, c, d] = source.segments();
        [a, b, c, d].into_iter().fold(0, |number, part| (number << 16) | u64::from(part))
    });
    ProxyHeader::Line { length: end + 2, circuit }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tor_header_yields_circuit() {
        let line = b"PROXY TCP6 fc00:dead:beef:4dad::1:2 ::1 65535 42\r\n{\"id\"";
        assert_eq!(parse_proxy_header(line), ProxyHeader::Line { length: 50, circuit: Some(0x0001_0002) });
        assert_eq!(
            parse_proxy_header(b"PROXY TCP4 5.9.0.1 127.0.0.1 1 2\r\n"),
            ProxyHeader::Line { length: 34, circuit: None }
        );
        assert_eq!(parse_proxy_header(b"PROXY UNKNOWN\r\n"), ProxyHeader::Line { length: 15, circuit: None });
    }

    #[test]
    fn other_input_is_none_or_incomplete() {
        for bytes in [&b""[..], b"PRO", b"PROXY ", b"PROXY TCP6 fc00:"] {
            assert_eq!(parse_proxy_header(bytes), ProxyHeader::Incomplete);
        }
        assert_eq!(parse_proxy_header(b"{\"id\":1}\r\n"), ProxyHeader::None);
        assert_eq!(parse_proxy_header(&[PREFIX, &[b'x'; 200]].concat()), ProxyHeader::None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = parse_proxy_header(&bytes);
            let _ = parse_proxy_header(&[PREFIX, &bytes, b"\r\n"].concat());
        }
    }
}
