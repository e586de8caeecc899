//! Lines from a client. Each gets a JSON response or ends the connection.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::de::IgnoredAny;
use waypost::book::{Ingress, Snapshot};
use waypost::clock::Time;
use waypost::electrum::identity::{Identity, LocalIdentity};
use waypost::electrum::responder::{ReplyPart, Responder, encode_line};
use waypost::jsonrpc::parse_line;

fuzz_target!(|bytes: &[u8]| {
    let Some((first, rest)) = bytes.split_first() else { return };
    let ingress = if first % 2 == 0 { Ingress::Clearnet } else { Ingress::Onion };
    let mut session = Responder::new(Arc::new(LocalIdentity::new(Identity::default())), ingress, first % 4 > 1);
    let (snapshot, mut rng) = (Snapshot::default(), StdRng::seed_from_u64(1));
    for line in rest.split(|byte| *byte == b'\n') {
        let Ok(line) = std::str::from_utf8(line) else { return };
        let turn = session.handle_line(parse_line(line), 64, &snapshot, Time::default(), &mut rng);
        let responses = turn.parts.into_iter().filter_map(|part| match part {
            ReplyPart::Ready(response) => Some(response),
            ReplyPart::Forward(_) => None,
            ReplyPart::AddPeer(request) => {
                let _ = request.features.real_names().count();
                request.answer(true)
            }
        });
        if let Some(response) = encode_line(responses, turn.batch) {
            let length = response.len();
            let response = response.to_vec();
            assert!(length == response.len() && length.is_power_of_two() && response.ends_with(b"\n"));
            // An id is echoed unchanged, even a number that fits no type.
            serde_json::from_slice::<IgnoredAny>(&response).expect("the response is JSON");
        }
        if turn.close {
            return;
        }
    }
});
