//! Records of peers in a damaged or modified store. A valid record is added to a book, which must accept it.

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

/// Largest working time of a path that a store can contain.
const MAX_UPTIME: Duration = Duration::from_millis(u64::MAX);

fuzz_target!(|record: &[u8]| {
    let Ok(entry) = postcard::from_bytes::<Entry>(record) else { return };
    let encoded = postcard::to_stdvec(&entry).expect("an entry can be encoded");
    assert_eq!(postcard::from_bytes::<Entry>(&encoded).expect("an encoded entry can be decoded"), entry);
    assert!(entry.ports.iter().next().is_some(), "an entry has a port");
    let _ = (entry.latency(), entry.source.to_string());

    let mut rng = StdRng::seed_from_u64(1);
    let settings = BookConfig { seeds: Vec::new(), ..BookConfig::default() };
    let mut book = PeerBook::new(settings, vec![entry], PerRoute { direct: MAX_UPTIME, tor: MAX_UPTIME }, NOW);
    book.handle(Event::Tor(TorProbe::Reachable), NOW, &mut rng);
    book.handle(Event::TorPathProven, NOW, &mut rng);
    for later in [Duration::ZERO, Duration::from_hours(2), Duration::from_hours(24 * 365)] {
        let now = NOW + later;
        book.handle(Event::Tick, now, &mut rng);
        let _ = (book.next_wakeup(), book.counts(now));
        let snapshot = book.snapshot(now, &mut rng);
        for ingress in [Ingress::Clearnet, Ingress::Onion] {
            let list = snapshot.peers(ingress, now, &mut rng);
            serde_json::from_slice::<IgnoredAny>(&list.to_vec()).expect("the list is JSON");
        }
    }
});
