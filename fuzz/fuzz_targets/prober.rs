//! Lines from a peer during a verification, raw or as results of the pending request.
#![no_main]

use libfuzzer_sys::fuzz_target;
use waypost::electrum::prober::{ChainProof, FeaturesStep, ProbeExpectations, Prober, ProberAction, RequestOrder};
use waypost::chain::Chain;

fuzz_target!(|bytes: &[u8]| {
    let expected = ProbeExpectations {
        host: "a.example".parse().ok(),
        chain: Chain::BITCOIN,
        proof: ChainProof::Required,
        features: FeaturesStep::Included,
        order: RequestOrder::Together,
        announce: None,
        checkpoint_height: None,
        reference: None,
    };
    let (mut client, _) = Prober::new(expected);
    let mut id = 0_u64;
    for line in bytes.split(|byte| *byte == b'\n') {
        let Ok(line) = std::str::from_utf8(line) else { return };
        // The fuzzer need not guess the id of a result.
        let line = match line.strip_prefix('=') {
            Some(result) => format!("{{\"id\":{id},\"result\":{result}}}"),
            None => line.to_owned(),
        };
        let action = client.handle_line(&line);
        id += u64::from(client.answered().is_some());
        match action {
            Ok(ProberAction::Send(_) | ProberAction::Wait) => {}
            Ok(ProberAction::Done(report)) => {
                assert!(report.software.is_none_or(|software| !software.chars().any(char::is_control)));
                return;
            }
            Ok(ProberAction::Unproven) | Err(_) => return,
        }
    }
});
