//! PROXY protocol version 1, as C tor sends it to onion services.
//!
//! With `HiddenServiceExportCircuitID haproxy`, Tor encodes the circuit id in an IPv6 address.

use std::net::Ipv6Addr;

use ipnet::Ipv6Net;

/// Longest header in bytes, from the specification of the PROXY protocol.
pub(super) const MAX_HEADER_BYTES: usize = 107;

const PREFIX: &[u8] = b"PROXY ";

/// Network whose interface ids are Tor's circuit ids.
const CIRCUIT_NET: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfc00, 0xdead, 0xbeef, 0x4dad, 0, 0, 0, 0), 64);

/// Result of parsing the first bytes of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyHeader {
    /// The stream has no header.
    None,
    /// More bytes are needed.
    Incomplete,
    /// The stream has a header.
    Line {
        /// Length of the header in bytes, with its line break.
        length: usize,
        /// Circuit id. `None` for any other address.
        circuit: Option<u64>,
    },
}

/// Parses the first bytes of a stream, of which `MAX_HEADER_BYTES` suffice.
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
