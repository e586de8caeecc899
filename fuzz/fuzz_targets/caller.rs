//! Lines of a client: lines, of which each is answered in JSON or ends the connection.
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
    let caller = if first % 2 == 0 { Ingress::Clearnet } else { Ingress::Onion };
    let mut session = Responder::new(Arc::new(LocalIdentity::new(Identity::default())), caller, first % 4 > 1);
    let (snapshot, mut rng) = (Snapshot::default(), StdRng::seed_from_u64(1));
    for line in rest.split(|byte| *byte == b'\n') {
        let Ok(line) = std::str::from_utf8(line) else { return };
        let turn = session.handle_line(parse_line(line), 64, &snapshot, Time::default(), &mut rng);
        let answers = turn.parts.into_iter().filter_map(|part| match part {
            ReplyPart::Ready(answer) => Some(answer),
            ReplyPart::Forward(_) => None,
            ReplyPart::AddPeer(introduction) => {
                let _ = introduction.features.real_names().count();
                introduction.answer(true)
            }
        });
        if let Some(answer) = encode_line(answers, turn.batch) {
            let length = answer.len();
            let answer = answer.to_vec();
            assert!(length == answer.len() && length.is_power_of_two() && answer.ends_with(b"\n"));
            // An id goes back as it came, be it a number that nobody can hold.
            serde_json::from_slice::<IgnoredAny>(&answer).expect("an answer in JSON");
        }
        if turn.close {
            return;
        }
    }
});
