//! Certificates of peers, of which only the public key is read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use waypost::dial::public_key;

fuzz_target!(|bytes: &[u8]| {
    let _ = public_key(&bytes.to_vec().into());
});
