//! First bytes of a connection that an external Tor forwards.
#![no_main]

use libfuzzer_sys::fuzz_target;
use waypost::server::{Header, circuit};

fuzz_target!(|bytes: &[u8]| {
    if let Header::Line { length, .. } = circuit(bytes) {
        assert!(length <= bytes.len());
    }
});
