//! Lines from a peer during a verification, raw or as results of the pending request.
#![no_main]

use libfuzzer_sys::fuzz_target;
use waypost::electrum::prober::{ChainProof, FeaturesStep, ProbeExpectations, Prober, ProberAction};
use waypost::chain::Chain;

fuzz_target!(|bytes: &[u8]| {
    let network = Chain::BITCOIN;
    let expected = ProbeExpectations {
        host: "a.example".parse().ok(),
        chain: Chain::BITCOIN,
        proof: ChainProof::Required,
        features: FeaturesStep::Included,
        announce: None,
        checkpoint_height: None,
        reference: None,
    };
    let (mut client, _) = Prober::new(expected);
    let mut id = 0;
    for line in bytes.split(|byte| *byte == b'\n') {
        let Ok(line) = std::str::from_utf8(line) else { return };
        // The fuzzer need not guess the id of a result.
        let line = match line.strip_prefix('=') {
            Some(result) => format!("{{\"id\":{id},\"result\":{result}}}"),
            None => line.to_owned(),
        };
        match client.handle_line(&line) {
            Ok(ProberAction::Send(_)) => id += 1,
            Ok(ProberAction::Wait) => {}
            Ok(ProberAction::Done(report)) => {
                assert!(report.software.is_none_or(|software| !software.chars().any(char::is_control)));
                return;
            }
            Ok(ProberAction::Unproven) | Err(_) => return,
        }
    }
});
