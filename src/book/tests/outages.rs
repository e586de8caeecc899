//! Verdicts on Tor and the network in spite of peers that vanish together.

use super::attacks::{Network, answer_of, candidate, onion_host};
use super::*;

const DAY: Duration = Duration::from_hours(24);

/// Creates a peer that was up for so many days. Its number determines the time of its next visit.
fn known(host: Host, days: u32, n: u16) -> Entry {
    let mut entry = candidate(host);
    entry.first_seen = START - DAY * days;
    for hour in 0..24 * u64::from(days) {
        entry.uptime.record_result(true, entry.first_seen + Duration::from_hours(hour));
    }
    (entry.last_try, entry.last_success) = (Some(START - DAY / 2), Some(START - DAY / 2));
    entry.next_probe_at = START + Duration::from_mins(15 * u64::from(n));
    if days >= 14 { promoted(entry) } else { entry }
}

/// Returns in how many minutes of a day Tor counts as ready, while those hosts answer.
fn minutes_ready(entries: Vec<Entry>, answers: impl Fn(&Host, Time) -> bool) -> u64 {
    let mut network = Network::new(entries);
    network.harness.handle(Event::Tor(TorProbe::Reachable));
    let mut answer = |target: &ProbeTarget, now: Time| match answers(&target.host, now) {
        true => (Duration::from_secs(6), answer_of(target)),
        false => (Duration::from_secs(45), Err(ProbeError::OnionDescriptorNotFound)),
    };
    network.run(Event::TorPathProven, START, &mut answer);
    let mut ready = 0;
    for minute in 0..24 * 60 {
        network.run(Event::Tick, START + Duration::from_mins(minute), &mut answer);
        ready += u64::from(network.harness.book.tor().is_ready());
    }
    ready
}

#[test]
fn tor_stays_ready_while_a_few_of_many_onions_answer() {
    // The vanishing ones are as old as the others, or newer.
    for days in [30, 3] {
        let entries = (0..70).map(|n| known(onion_host(n), if n < 10 { 30 } else { days }, n)).collect();
        let few: Vec<Host> = (0..10).map(onion_host).collect();
        let ready = minutes_ready(entries, |host, _| few.contains(host));
        assert!(ready >= 24 * 60 - 15, "{days} days: {ready}");
    }
    // All are new.
    let few: Vec<Host> = (0..10).map(onion_host).collect();
    let ready = minutes_ready((0..70).map(|n| known(onion_host(n), 3, n)).collect(), |host, _| few.contains(host));
    assert!(ready >= 24 * 60 - 15, "{ready}");
}

#[test]
fn outage_of_tor_is_found_and_its_end_too() {
    let (from, until) = (START + DAY / 4, START + DAY / 2);
    let entries = (0..70).map(|n| known(onion_host(n), 30, n)).collect();
    let ready = minutes_ready(entries, |_, now| now < from || now >= until);
    // It lasts six hours. The next regular visit finds its start, and a trial its end.
    assert!((17 * 60 + 40..=18 * 60 + 45).contains(&ready), "{ready}");
}

#[test]
fn single_free_onion_does_not_keep_tor_ready_in_an_outage() {
    let entries = (0..40).map(|n| known(onion_host(n), if n < 39 { 30 } else { 3 }, n)).collect();
    let free = onion_host(39);
    let ready = minutes_ready(entries, |host, _| *host == free);
    assert!(ready < 60, "{ready}");
}

#[test]
fn failures_in_one_network_do_not_mark_it_down() {
    let ip = |a: u8, b: u8| Host::Ip([a, 9, b, 1].into());
    let mut entries: Vec<Entry> = (0..60).map(|n| known(ip(5, n), 30, n.into())).collect();
    entries.extend((0..3).map(|n| known(ip(90 + n, 0), 30, n.into())));
    let mut network = Network::new(entries);
    let mut down = 0;
    for minute in 0..24 * 60 {
        network.run(
            Event::Tick,
            START + Duration::from_mins(minute),
            &mut |target, _| match matches!(target.host, Host::Ip(IpAddr::V4(ip)) if ip.octets()[0] == 5) {
                true => (Duration::from_secs(10), Err(ProbeError::Unreachable)),
                false => (Duration::from_secs(1), answer_of(target)),
            },
        );
        down += usize::from(network.harness.book.network_is_down());
    }
    assert_eq!(down, 0);
}
