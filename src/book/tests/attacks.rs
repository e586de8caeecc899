//! Attacks with free names, foreign domains and slow answers.

use std::collections::{BTreeMap, HashSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use super::*;
use crate::book::slot_budget::ProbeClass;
use crate::peer::OnionAddress;

/// Result of a probe.
pub(super) type Outcome = Result<Verified, ProbeError>;

/// Book whose probes end by themselves.
pub(super) struct Network {
    pub harness: BookHarness,
    running: BTreeMap<(Time, u32), (Host, Box<Outcome>)>,
    started: u32,
}

impl Network {
    /// Creates a network around a book with these entries.
    pub(super) fn new(entries: Vec<Entry>) -> Network {
        let settings = BookConfig { seeds: Vec::new(), ..BookConfig::default() };
        let book = PeerBook::new(settings, entries, PerRoute::default(), START);
        let harness = BookHarness { book, rng: StdRng::seed_from_u64(5), now: START, actions: Vec::new() };
        Network { harness, running: BTreeMap::new(), started: 0 }
    }

    /// Handles an event, and runs the resulting probes until `end`.
    ///
    /// `answer` gives the duration and the result of each probe.
    pub(super) fn run(
        &mut self,
        event: Event,
        end: Time,
        answer: &mut dyn FnMut(&ProbeTarget, Time) -> (Duration, Outcome),
    ) {
        let mut earlier = std::mem::take(&mut self.harness.actions);
        self.harness.handle(event);
        self.harness.actions.append(&mut earlier);
        loop {
            for action in std::mem::take(&mut self.harness.actions) {
                if let Action::Probe(target) = action {
                    let (held, outcome) = answer(&target, self.harness.now);
                    self.started += 1;
                    let key = (self.harness.now + held, self.started);
                    self.running.insert(key, (target.host, Box::new(outcome)));
                }
            }
            let next = self.running.first_key_value().map_or(end, |((at, _), _)| *at);
            let wakeup = self.harness.book.next_wakeup();
            self.harness.now = next.min(wakeup).min(end).max(self.harness.now);
            match self.running.first_entry().filter(|first| first.key().0 <= self.harness.now) {
                Some(first) => {
                    let (host, outcome) = first.remove();
                    self.harness.handle(Event::Probed { host, outcome });
                }
                None if self.harness.now >= end => return,
                None => self.harness.handle(Event::Tick),
            }
        }
    }
}

/// Returns a success at the first endpoint of a target.
pub(super) fn answer_of(target: &ProbeTarget) -> Result<Verified, ProbeError> {
    let verified = success("[]", None)?;
    let (transport, port) = target.endpoints[0];
    Ok(Verified { transport, port, ip: target.addresses.first().copied(), ..verified })
}

/// Returns an unverified entry.
pub(super) fn candidate(host: Host) -> Entry {
    let name = RealName { host, version: None, pruning: None, ports: crate::chain::Chain::BITCOIN.default_ports };
    Entry::new(name, Source::Irc, Duration::ZERO, START)
}

pub(super) fn onion_host(n: u16) -> Host {
    Host::Onion(OnionAddress::from_public_key(n.to_be_bytes().repeat(16).try_into().unwrap()))
}

fn announce(harness: &mut BookHarness, host: &str, from: Option<IpAddr>) -> Result<(), IntakeError> {
    let from = from.map(|ip| ip.to_string());
    add_peer(harness, &format!(r#"{{"hosts":{{"{host}":{{"tcp_port":50001}}}}}}"#), from.as_deref())
}

fn count(harness: &BookHarness, fits: impl Fn(&Entry) -> bool) -> usize {
    harness.book.entries().filter(|entry| fits(entry)).count()
}

#[test]
fn full_table_of_onion_names_displaces_no_clearnet_newcomer() {
    let mut harness = BookHarness::new(&[]);
    (harness.book.config.max_candidates, harness.book.config.max_probes) = (40, 0);
    for n in 0..200 {
        announce(&mut harness, &onion_host(n).to_string(), None).unwrap();
        harness.wait(Duration::from_mins(2));
        if n % 10 == 9 {
            let ip = Ipv4Addr::new(20 + u8::try_from(n / 10).unwrap(), 9, 0, 1).into();
            announce(&mut harness, &format!("h{n}.example"), Some(ip)).unwrap();
        }
    }
    assert_eq!(count(&harness, |_| true), 40);
    assert_eq!(count(&harness, |entry| !entry.host.is_onion()), 20, "none was displaced");
    // The opposite holds as well.
    for n in 0..100 {
        harness.wait(Duration::from_mins(10));
        let ip = Ipv4Addr::new(60 + n, 9, 0, 1).into();
        announce(&mut harness, &format!("x{n}.example"), Some(ip)).unwrap();
    }
    assert!(count(&harness, |entry| entry.host.is_onion()) >= 19);
}

#[test]
fn one_provider_cannot_displace_names_of_others() {
    let mut harness = BookHarness::new(&[]);
    (harness.book.config.max_candidates, harness.book.config.max_probes) = (30, 0);
    let flood = |n: u16| -> IpAddr { Ipv6Addr::new(0x2a01, 0x4f8, n, 0, 0, 0, 0, 1).into() };
    let admitted = (0..100).filter(|n| announce(&mut harness, &format!("f{n}.example"), Some(flood(*n))).is_ok());
    assert_eq!(admitted.count(), 20, "all subnets of a /32 share a budget");
    for n in 0..15u8 {
        announce(&mut harness, &format!("h{n}.example"), Some(Ipv4Addr::new(20 + n, 9, 0, 1).into())).unwrap();
    }
    for hour in 0..24 {
        harness.wait(Duration::from_hours(1));
        let _ = (0..10).map(|n| announce(&mut harness, &format!("f{hour}-{n}.example"), Some(flood(n)))).count();
    }
    let of_others = |entry: &Entry| matches!(entry.source, Source::AddPeer(Some(IpAddr::V4(_))));
    assert_eq!((count(&harness, |_| true), count(&harness, of_others)), (30, 15));
}

#[test]
fn list_sources_do_not_share_the_budget_of_free_onions() {
    let entries: Vec<Entry> = (0..200).map(|n| candidate(onion_host(n))).collect();
    let mut network = Network::new(entries);
    let mut name = 0;
    network.harness.handle(Event::Tor(TorProbe::Reachable));
    network.run(Event::TorPathProven, START + Duration::from_hours(2), &mut |target, _| {
        let list: Vec<String> =
            (0..4).map(|n| format!(r#"["5.9.0.1","l{}.example{}.org",["t50001"]]"#, name + n, name + n)).collect();
        name += 4;
        let report = success(&format!("[{}]", list.join(",")), None).unwrap().report;
        (Duration::from_secs(5), answer_of(target).map(|verified| Verified { ip: None, report, ..verified }))
    });
    let learnt = count(&network.harness, |entry| matches!(entry.source, Source::Peer(_)));
    assert!((50..=50 + 24).contains(&learnt), "{learnt} of {name}");
}

#[test]
fn foreign_domain_keeps_its_budget() {
    let mut harness = BookHarness::new(&[]);
    for n in 0..50u8 {
        let attacker = Ipv4Addr::new(20 + n, 9, 0, 1).into();
        announce(&mut harness, &format!("x{n}.victim.example"), Some(attacker)).unwrap();
        harness.resolve(&format!("x{n}.victim.example"), &["5.9.0.1"]);
    }
    for n in 0..20 {
        let name = format!("y{n}.victim.example t50001");
        let name = RealName::parse(&name, crate::chain::Chain::BITCOIN.default_ports).unwrap();
        harness.handle(Event::IrcPeerFound(name));
    }
    announce(&mut harness, "www.victim.example", Some("5.9.0.1".parse().unwrap())).unwrap();
    harness.resolve("www.victim.example", &["5.9.0.1"]);
    assert_eq!(harness.target().unwrap().host.to_string(), "www.victim.example");
}

#[test]
fn owner_that_announces_after_an_impostor_is_dialled() {
    let mut harness = BookHarness::new(&[]);
    announce(&mut harness, "victim.example", Some("88.99.0.2".parse().unwrap())).unwrap();
    announce(&mut harness, "victim.example", Some("5.9.0.1".parse().unwrap())).unwrap();
    for n in 0..7u8 {
        let _ = announce(&mut harness, "victim.example", Some(Ipv4Addr::new(20 + n, 9, 0, 1).into()));
    }
    harness.resolve("victim.example", &["5.9.0.1"]);
    assert_eq!(harness.target().unwrap().endpoints.len(), 1);
    assert_eq!(harness.entry("victim.example").unwrap().source, Source::AddPeer(Some("5.9.0.1".parse().unwrap())));
}

#[test]
fn slow_peers_of_a_few_networks_do_not_delay_newcomers() {
    let slow = |a: u8, b: u8| candidate(Host::Ip(Ipv4Addr::new(20 + a, 9, b, 1).into()));
    let mut entries: Vec<Entry> = (0..5).flat_map(|a| (0..120).map(move |b| slow(a, b))).collect();
    let honest = (0..20).map(|n| candidate(Host::Ip(Ipv4Addr::new(90 + n, 9, 0, 1).into())));
    entries.extend(honest.map(|mut entry| {
        entry.next_probe_at = START + Duration::from_secs(1);
        entry
    }));
    // One peer proves that the network works.
    let mut known = candidate("88.99.0.2".parse().unwrap());
    known.last_success = Some(START - Duration::from_hours(12));
    entries.push(known);
    let mut network = Network::new(entries);
    let (mut visited, mut last_honest) = (HashSet::new(), START);
    network.run(Event::Tick, START + Duration::from_mins(30), &mut |target, now| {
        let is_honest = matches!(target.host, Host::Ip(IpAddr::V4(ip)) if ip.octets()[0] >= 88);
        if is_honest {
            if visited.insert(target.host.clone()) {
                last_honest = now;
            }
            return (Duration::from_secs(1), answer_of(target));
        }
        (Duration::from_secs(60), Err(ProbeError::Timeout))
    });
    assert_eq!(network.harness.book.counts(network.harness.now).verified, 20 + 1);
    // Without a charge, the 600 probes would take 25 minutes.
    assert!(last_honest.since(START) < Duration::from_mins(10), "{:?}", last_honest.since(START));
}

#[test]
fn newcomers_and_known_peers_have_reserved_slots() {
    let ip = |n: u8| Host::Ip(Ipv4Addr::new(20 + n, 9, 0, 1).into());
    let entries = (0..120).map(|n| {
        let mut entry = candidate(ip(n));
        entry.last_success = (n >= 60).then_some(START - Duration::from_hours(20));
        entry
    });
    for (class, is_first) in [(ProbeClass::Known, 60..120u8), (ProbeClass::ClearnetNewcomer, 0..60)] {
        let entries = entries.clone().map(|mut entry| {
            let is_early = is_first.clone().any(|n| ip(n) == entry.host);
            entry.next_probe_at = if is_early { START } else { START + Duration::from_secs(1) };
            entry
        });
        let mut harness = Network::new(entries.collect()).harness;
        harness.handle(Event::Tick);
        let held = |harness: &BookHarness| harness.book.peers.probe_count_like(class, Route::Direct);
        assert_eq!((held(&harness), harness.book.peers.probe_count()), (24, 24), "{class:?}");
        harness.wait(Duration::from_secs(1));
        assert_eq!((held(&harness), harness.book.peers.probe_count()), (24, 32), "{class:?}");
    }
}

#[test]
fn peers_that_report_new_ports_at_each_visit_are_not_visited_more_often() {
    let mut entries: Vec<Entry> = (0..50).map(|n| candidate(onion_host(n))).collect();
    entries.push(candidate("5.9.0.1".parse().unwrap()));
    let mut network = Network::new(entries);
    let (mut onions, mut clearnet, mut port) = (0, 0, 10_000);
    network.harness.handle(Event::Tor(TorProbe::Reachable));
    network.run(Event::TorPathProven, START + Duration::from_hours(24 * 7), &mut |target, _| {
        *(if target.host.is_onion() { &mut onions } else { &mut clearnet }) += 1;
        port += 1;
        let features = format!(r#"{{"hosts":{{"{}":{{"tcp_port":{port}}}}}}}"#, target.host);
        let report = success("[]", Some(&features)).unwrap().report;
        (Duration::from_secs(2), answer_of(target).map(|verified| Verified { report, ..verified }))
    });
    // About ten regular visits in a week, and two extra ones a day after a burst of three.
    assert!((9..=30).contains(&clearnet), "{clearnet}");
    assert!((450..=50 * 30).contains(&onions), "{onions}");
}
