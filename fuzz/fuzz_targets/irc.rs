//! Lines from an IRC server. Few lines are sent back, none with a line break.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use rand::SeedableRng;
use rand::rngs::StdRng;
use waypost::electrum::irc::{IrcAction, IrcSession, IrcVisitConfig};
use waypost::chain::Chain;

fuzz_target!(|bytes: &[u8]| {
    let Some((first, rest)) = bytes.split_first() else { return };
    let config = IrcVisitConfig {
        channel: "#electrum".to_owned(),
        nick_prefix: "E_".to_owned(),
        password: None,
        sasl: (first % 2 == 1).then(|| ("user".to_owned(), waypost::secret::Secret::new("password"))),
        advertise: None,
        persistent: first % 4 > 1,
        default_ports: Chain::BITCOIN.default_ports,
    };
    let mut rng = StdRng::seed_from_u64(u64::from(*first));
    let (mut visit, _) = IrcSession::new(Arc::new(config), &mut rng);
    let mut who_requests = 0;
    for line in rest.split(|byte| *byte == b'\n') {
        let actions = visit.handle_line(&String::from_utf8_lossy(line), &mut rng);
        let newcomer = visit.next_who();
        for action in actions.into_iter().chain(newcomer) {
            match action {
                IrcAction::Send(line) => {
                    assert!(!line.contains(['\r', '\n', '\0']), "{line:?}");
                    who_requests += u32::from(line.starts_with("WHO #"));
                }
                IrcAction::End(_) => return,
                IrcAction::Found(_) | IrcAction::Rejected(_) | IrcAction::WhoComplete => {}
            }
        }
    }
    assert!(who_requests <= 1, "{who_requests} WHO requests");
});
