//! What a peer answers while we verify it: lines as they come, and as answers to the question that was asked.
#![no_main]

use libfuzzer_sys::fuzz_target;
use waypost::electrum::prober::{Client, Expected, Next};
use waypost::network::Network;

fuzz_target!(|bytes: &[u8]| {
    let network = Network::Bitcoin;
    let expected = Expected {
        host: "a.example".parse().ok(),
        genesis_hash: network.genesis_hash(),
        default_ports: network.default_ports(),
        announce: None,
        compare: None,
    };
    let (mut client, _) = Client::new(expected);
    let mut id = 0;
    for line in bytes.split(|byte| *byte == b'\n') {
        let Ok(line) = std::str::from_utf8(line) else { return };
        // Without this the fuzzer would have to find out about ids first.
        let line = match line.strip_prefix('=') {
            Some(result) => format!("{{\"id\":{id},\"result\":{result}}}"),
            None => line.to_owned(),
        };
        match client.line(&line) {
            Ok(Next::Send(_)) => id += 1,
            Ok(Next::Wait) => {}
            Ok(Next::Done(report)) => {
                assert!(report.software.is_none_or(|software| !software.chars().any(char::is_control)));
                return;
            }
            Err(_) => return,
        }
    }
});
