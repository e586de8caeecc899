//! First bytes of a connection that a proxy or an external Tor forwards.
#![no_main]

use libfuzzer_sys::fuzz_target;
use waypost::server::{HeaderVersions, ProxyHeader, parse_proxy_header};

fuzz_target!(|bytes: &[u8]| {
    for versions in [HeaderVersions::One, HeaderVersions::OneAndTwo] {
        if let ProxyHeader::Complete { length, .. } = parse_proxy_header(bytes, versions) {
            assert!(length <= bytes.len());
        }
    }
});
