//! PROXY protocol: the header in which a proxy names the source of a connection.
//!
//! Balancers send versions 1 and 2. C tor sends version 1 to onion services: with `HiddenServiceExportCircuitID
//! haproxy`, it encodes the circuit id in an IPv6 address.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::Ipv6Net;
use proxy_header::{Error, ParseConfig, Protocol, ProxyHeader as ParsedHeader};

/// Longest accepted header in bytes, as in nginx. Extensions of version 2, such as certificates, may be long.
const MAX_HEADER_BYTES: usize = 4096;

/// Longest header of version 1 in bytes, from the specification of the PROXY protocol.
const MAX_V1_HEADER_BYTES: usize = 107;

/// First bytes of a header of version 1.
const V1_SIGNATURE: &[u8] = b"PROXY ";

/// First bytes of a header of version 2.
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Network whose interface ids are Tor's circuit ids.
const CIRCUIT_NET: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfc00, 0xdead, 0xbeef, 0x4dad, 0, 0, 0, 0), 64);

/// Versions of the header that a listener accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderVersions {
    /// Version 1, which C tor sends.
    One,
    /// Versions 1 and 2.
    OneAndTwo,
}

impl HeaderVersions {
    /// Returns the length of the longest accepted header in bytes.
    pub(super) fn max_header_bytes(self) -> usize {
        match self {
            HeaderVersions::One => MAX_V1_HEADER_BYTES,
            HeaderVersions::OneAndTwo => MAX_HEADER_BYTES,
        }
    }
}

/// Result of parsing the first bytes of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyHeader {
    /// The stream has no valid header.
    None,
    /// More bytes are needed.
    Incomplete,
    /// The stream has a header.
    Complete {
        /// Length of the header in bytes.
        length: usize,
        /// Source of the connection.
        source: ProxiedSource,
    },
}

/// Source of a connection, as its header names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxiedSource {
    /// The proxy itself, for example a health check (LOCAL or UNKNOWN).
    Proxy,
    /// Address of a client. IPv4-mapped addresses are converted to IPv4.
    Client(IpAddr),
    /// Circuit of an onion service.
    Circuit(u64),
}

/// Parses the first bytes of a stream, of which as many as the longest header suffice.
pub fn parse_proxy_header(bytes: &[u8], versions: HeaderVersions) -> ProxyHeader {
    let signatures: &[&[u8]] = match versions {
        HeaderVersions::One => &[V1_SIGNATURE],
        HeaderVersions::OneAndTwo => &[V1_SIGNATURE, V2_SIGNATURE],
    };
    if !signatures.iter().any(|signature| bytes.starts_with(signature)) {
        let is_start = signatures.iter().any(|signature| signature.starts_with(bytes));
        return if is_start { ProxyHeader::Incomplete } else { ProxyHeader::None };
    }
    let config = ParseConfig { include_tlvs: false, allow_v1: true, allow_v2: versions == HeaderVersions::OneAndTwo };
    match ParsedHeader::parse(bytes, config) {
        Ok((header, length)) => {
            let source = match header.proxied_address() {
                None => Some(ProxiedSource::Proxy),
                Some(address) if address.protocol == Protocol::Stream => client_source(address.source.ip()),
                Some(_) => None,
            };
            source.map_or(ProxyHeader::None, |source| ProxyHeader::Complete { length, source })
        }
        // The crate searches for missing fields of version 1 beyond the end of the line.
        Err(Error::BufferTooShort) if bytes.starts_with(V1_SIGNATURE) && bytes.contains(&b'\n') => ProxyHeader::None,
        Err(Error::BufferTooShort) if bytes.len() < versions.max_header_bytes() => ProxyHeader::Incomplete,
        Err(_) => ProxyHeader::None,
    }
}

/// Returns whether the first bytes of a stream are those of a header.
pub(super) fn starts_with_header(bytes: &[u8]) -> bool {
    bytes.starts_with(V1_SIGNATURE) || bytes.starts_with(V2_SIGNATURE)
}

/// Classifies the source address of a header. `None` for addresses that no client can have.
fn client_source(ip: IpAddr) -> Option<ProxiedSource> {
    match ip.to_canonical() {
        IpAddr::V6(ip) if CIRCUIT_NET.contains(&ip) => {
            let [.., a, b, c, d] = ip.segments();
            let circuit = [a, b, c, d].into_iter().fold(0, |number, part| (number << 16) | u64::from(part));
            Some(ProxiedSource::Circuit(circuit))
        }
        IpAddr::V4(ip) if ip.is_broadcast() => None,
        ip if ip.is_unspecified() || ip.is_multicast() => None,
        ip => Some(ProxiedSource::Client(ip)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(bytes: &[u8]) -> ProxyHeader {
        parse_proxy_header(bytes, HeaderVersions::OneAndTwo)
    }

    fn complete(length: usize, source: ProxiedSource) -> ProxyHeader {
        ProxyHeader::Complete { length, source }
    }

    fn client(length: usize, ip: &str) -> ProxyHeader {
        complete(length, ProxiedSource::Client(ip.parse().unwrap()))
    }

    /// Header of version 2 with this command, family and payload.
    fn v2(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
        [V2_SIGNATURE, &[command, family], &length, payload].concat()
    }

    #[test]
    fn tor_header_yields_circuit() {
        let line = b"PROXY TCP6 fc00:dead:beef:4dad::1:2 ::1 65535 42\r\n{\"id\"";
        for versions in [HeaderVersions::One, HeaderVersions::OneAndTwo] {
            assert_eq!(parse_proxy_header(line, versions), complete(50, ProxiedSource::Circuit(0x0001_0002)));
        }
    }

    #[test]
    fn header_of_version_1_yields_client() {
        assert_eq!(parse(b"PROXY TCP4 5.9.0.1 127.0.0.1 1 2\r\n"), client(34, "5.9.0.1"));
        assert_eq!(parse(b"PROXY TCP6 2a01:4f8::1 ::1 1 2\r\nrest"), client(32, "2a01:4f8::1"));
        assert_eq!(parse(b"PROXY TCP6 ::ffff:5.9.0.1 ::1 1 2\r\n"), client(35, "5.9.0.1"));
        assert_eq!(parse(b"PROXY UNKNOWN\r\n"), complete(15, ProxiedSource::Proxy));
        assert_eq!(parse(b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n"), complete(35, ProxiedSource::Proxy));
    }

    #[test]
    fn header_of_version_2_yields_client_or_proxy() {
        let v4 = v2(0x21, 0x11, &[5, 9, 0, 1, 127, 0, 0, 1, 0, 1, 0, 2]);
        assert_eq!(parse(&v4), client(28, "5.9.0.1"));
        assert_eq!(parse_proxy_header(&v4, HeaderVersions::One), ProxyHeader::None);
        let mapped: Vec<u8> = [&[0; 10][..], &[0xff, 0xff, 5, 9, 0, 1], &[0; 20]].concat();
        assert_eq!(parse(&v2(0x21, 0x21, &mapped)), client(52, "5.9.0.1"));
        // An extension of type NOOP, and the start of the client's data.
        let extended = v2(0x21, 0x11, &[5, 9, 0, 1, 127, 0, 0, 1, 0, 1, 0, 2, 4, 0, 1, 0]);
        assert_eq!(parse(&[&extended[..], b"{\"id\":1"].concat()), client(32, "5.9.0.1"));
        for local in [v2(0x20, 0, &[]), v2(0x20, 0x11, &[5; 12]), v2(0x21, 0, &[]), v2(0x21, 0x31, &[1; 216])] {
            assert_eq!(parse(&local), complete(local.len(), ProxiedSource::Proxy), "{local:?}");
        }
    }

    #[test]
    fn impossible_source_and_unknown_form_are_invalid() {
        for ip in ["0.0.0.0", "224.0.0.1", "255.255.255.255", "5.9.0.256", "::1", "5.9.0.1:1"] {
            assert_eq!(parse(format!("PROXY TCP4 {ip} 127.0.0.1 1 2\r\n").as_bytes()), ProxyHeader::None, "{ip}");
        }
        for line in
            ["PROXY TCP6 :: ::1 1 2\r\n", "PROXY UDP4 5.9.0.1 5.9.0.2 1 2\r\n", "PROXY TCP4 5.9.0.1 5.9.0.2 1\r\n"]
        {
            assert_eq!(parse(line.as_bytes()), ProxyHeader::None, "{line}");
        }
        let addresses = [5, 9, 0, 1, 127, 0, 0, 1, 0, 1, 0, 2];
        for header in [v2(0x21, 0x12, &addresses), v2(0x31, 0x11, &addresses), v2(0x22, 0x11, &addresses)] {
            assert_eq!(parse(&header), ProxyHeader::None, "{header:?}");
        }
        assert_eq!(parse(&[V1_SIGNATURE, &[b'x'; 200]].concat()), ProxyHeader::None);
        assert_eq!(parse(&v2(0x21, 0x11, &[1; MAX_HEADER_BYTES])[..MAX_HEADER_BYTES]), ProxyHeader::None, "too long");
    }

    #[test]
    fn other_input_is_none_or_incomplete() {
        let v4 = v2(0x21, 0x11, &[5, 9, 0, 1, 127, 0, 0, 1, 0, 1, 0, 2]);
        for length in 0..v4.len() {
            assert_eq!(parse(&v4[..length]), ProxyHeader::Incomplete);
        }
        for bytes in [&b"PRO"[..], b"PROXY ", b"PROXY TCP6 fc00:", b"PROXY TCP4 5.9.0.1 5.9.0.2 1 2\r"] {
            assert_eq!(parse(bytes), ProxyHeader::Incomplete);
        }
        for bytes in [&b"{\"id\":1}\r\n"[..], b"POST / HTTP/1.1\r\n", b"\r\n{", &[0x16, 0x03, 0x01]] {
            assert_eq!(parse(bytes), ProxyHeader::None);
            assert!(!starts_with_header(bytes));
        }
        assert!(starts_with_header(&v4) && starts_with_header(b"PROXY TCP4 5.9.0.1") && !starts_with_header(b"PROX"));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..300), signature in 0..3_usize, line in "[ .:0-9A-FTUNKOW\r\n]{0,120}"
        ) {
            for bytes in [[[V1_SIGNATURE, V2_SIGNATURE, b""][signature], &bytes].concat(), [V1_SIGNATURE, line.as_bytes()].concat()] {
                if let ProxyHeader::Complete { length, .. } = parse(&bytes) {
                    prop_assert!(length <= bytes.len());
                }
            }
        }
    }
}
