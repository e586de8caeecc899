//! Peer lists and features from peers.
#![no_main]

use libfuzzer_sys::fuzz_target;
use waypost::chain::Chain;
use waypost::peer::{Features, MAX_PEER_LIST_ENTRIES, PeerList};

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(list) = PeerList::parse(text, Chain::BITCOIN.default_ports) {
        assert!(list.0.len() <= MAX_PEER_LIST_ENTRIES);
    }
    if let Ok(features) = serde_json::from_str::<Features>(text) {
        for name in features.real_names() {
            let _ = features.ports_for(&name.host);
        }
        let json = serde_json::to_string(&features).expect("features in JSON");
        serde_json::from_str::<Features>(&json).expect("encoded features can be parsed");
    }
});
