//! A peer's record in the store: from a disk that forgets, or a file that somebody meddled with. What can be read goes
//! into a book, which must get by with it.

#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::de::IgnoredAny;
use waypost::book::{BookConfig, Entry, Event, Ingress, PeerBook};
use waypost::clock::Time;
use waypost::route::PerRoute;
use waypost::tor_state::TorProbe;

const NOW: Time = Time::from_secs(1_700_000_000);

/// The most that a store can say of how long a way has worked.
const LONGEST: Duration = Duration::from_millis(u64::MAX);

fuzz_target!(|record: &[u8]| {
    let Ok(entry) = postcard::from_bytes::<Entry>(record) else { return };
    let again = postcard::to_stdvec(&entry).expect("an entry can be written");
    assert_eq!(postcard::from_bytes::<Entry>(&again).expect("what we write is a record"), entry);
    assert!(entry.ports.iter().next().is_some(), "no ports are none");
    let _ = (entry.latency(), entry.source.to_string());

    let mut rng = StdRng::seed_from_u64(1);
    let settings = BookConfig { seeds: Vec::new(), ..BookConfig::default() };
    let mut book = PeerBook::new(settings, vec![entry], PerRoute { direct: LONGEST, tor: LONGEST }, NOW);
    book.handle(Event::Tor(TorProbe::Reachable), NOW, &mut rng);
    book.handle(Event::TorPathProven, NOW, &mut rng);
    for later in [Duration::ZERO, Duration::from_hours(2), Duration::from_hours(24 * 365)] {
        let now = NOW + later;
        book.handle(Event::Tick, now, &mut rng);
        let _ = (book.next_wakeup(), book.counts(now));
        let snapshot = book.snapshot(now, &mut rng);
        for caller in [Ingress::Clearnet, Ingress::Onion] {
            let list = snapshot.peers(caller, now, &mut rng);
            serde_json::from_slice::<IgnoredAny>(&list.to_vec()).expect("the list is JSON");
        }
    }
});
