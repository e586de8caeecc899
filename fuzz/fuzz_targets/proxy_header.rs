//! First bytes of a connection that an external Tor forwards.
#![no_main]

use libfuzzer_sys::fuzz_target;
use waypost::server::{ProxyHeader, parse_proxy_header};

fuzz_target!(|bytes: &[u8]| {
    if let ProxyHeader::Line { length, .. } = parse_proxy_header(bytes) {
        assert!(length <= bytes.len());
    }
});
