//! Times stored while the clock of the machine was wrong.

use super::*;
use crate::book::entry::ProbeRecord;

const MONTH: Duration = Duration::from_hours(30 * 24);

/// Creates an entry with all times set to this one.
fn verified_at(at: Time) -> Entry {
    let name = RealName::parse("5.9.0.1 t50001", Chain::BITCOIN.default_ports).unwrap();
    let mut entry = Entry::new(name, Source::Seed, Duration::ZERO, at);
    (entry.last_try, entry.last_success, entry.last_announced_at) = (Some(at), Some(at), Some(at));
    entry.key = Some(PinnedKey { sha256: [1; 32], since: at, rotation_count: 0 });
    entry.history.push_back(ProbeRecord { at, failure: None, duration_ms: 80 });
    entry.uptime.record_result(true, at);
    entry.next_probe_at = at + Duration::from_hours(16);
    entry
}

fn loaded(entry: Entry) -> PeerBook {
    let settings = BookConfig { seeds: Vec::new(), ..BookConfig::default() };
    PeerBook::new(settings, vec![entry], PerRoute::default(), START)
}

#[test]
fn entry_stored_while_the_clock_was_ahead_is_corrected_in_every_field() {
    let book = loaded(verified_at(START + MONTH));
    let entry = book.entries().next().unwrap().clone();
    let mut expected = verified_at(START);
    // The age is unknown, so the peer is probed at once.
    expected.next_probe_at = START;
    assert_eq!(entry, expected);
}

#[test]
fn entry_stored_by_a_slightly_fast_clock_keeps_its_schedule() {
    let book = loaded(verified_at(START + Duration::from_secs(2)));
    let entry = book.entries().next().unwrap();
    assert_eq!(
        (entry.last_success, entry.next_probe_at),
        (Some(START), START + Duration::from_hours(16) + Duration::from_secs(2))
    );
}

#[test]
fn entry_stored_by_a_correct_clock_is_unchanged() {
    let entry = verified_at(START - Duration::from_hours(3));
    let book = loaded(entry.clone());
    assert_eq!(book.entries().next(), Some(&entry));
}
