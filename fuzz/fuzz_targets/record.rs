//! A record as the store has it on disk, which may be damaged.
#![no_main]

use libfuzzer_sys::fuzz_target;
use waypost::book::Entry;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(entry) = postcard::from_bytes::<Entry>(bytes) {
        let written = postcard::to_stdvec(&entry).expect("a record");
        postcard::from_bytes::<Entry>(&written).expect("what we wrote");
    }
});
