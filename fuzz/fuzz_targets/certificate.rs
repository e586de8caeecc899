//! A peer's certificate, of which we want the key alone.
#![no_main]

use libfuzzer_sys::fuzz_target;
use waypost::dial::public_key;

fuzz_target!(|bytes: &[u8]| {
    let _ = public_key(&bytes.to_vec().into());
});
