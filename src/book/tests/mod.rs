mod addresses;
mod announcements;
mod attacks;
mod chain;
mod clock;
mod endpoints;
mod outages;
mod own_listing;
mod ports;
mod seeds;
mod tor;
mod untrusted_input;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::ban_list::Bans;
use crate::chain::Chain;
use crate::connect::{PeerLimits, ProbeError, ProbeReport, ProbeTarget, Verified};
use crate::peer::{Fault, PeerList, RealName, Transport, Version};
use crate::route::RoutingPolicy;
use crate::tor_state::TorProbe;

pub(super) const START: Time = Time::from_secs(1_700_000_000);
const ONION: &str = "explorerzydxu5ecjrkwceayqybizmpjjznk5izmitf2modhcusuqlid.onion";

/// Book under test, with its clock and the last actions.
struct BookHarness {
    book: PeerBook,
    rng: StdRng,
    now: Time,
    actions: Vec<Action>,
}

impl BookHarness {
    fn new(seeds: &[&str]) -> BookHarness {
        BookHarness::routed(seeds, RoutingPolicy::Split)
    }

    fn routed(seeds: &[&str], routing: RoutingPolicy) -> BookHarness {
        BookHarness::configured(seeds, BookConfig { routing, ..BookConfig::default() })
    }

    fn of_chain(chain: Chain, seeds: &[&str]) -> BookHarness {
        BookHarness::configured(seeds, BookConfig { chain, ..BookConfig::default() })
    }

    fn configured(seeds: &[&str], config: BookConfig) -> BookHarness {
        let ports = Chain::BITCOIN.default_ports;
        let seeds = seeds.iter().map(|seed| RealName::parse(seed, ports).unwrap()).collect();
        let settings = BookConfig { seeds, ..config };
        let mut book = PeerBook::new(settings, Vec::new(), PerRoute::default(), START);
        let mut rng = StdRng::seed_from_u64(5);
        let actions = book.add_seeds(START, &mut rng);
        BookHarness { book, rng, now: START, actions }
    }

    fn handle(&mut self, event: Event) {
        self.actions = self.book.handle(event, self.now, &mut self.rng);
    }

    fn wait(&mut self, time: Duration) {
        self.now = self.now + time;
        self.handle(Event::Tick);
    }

    fn resolve(&mut self, host: &str, addresses: &[&str]) {
        let addresses: Vec<IpAddr> = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
        self.handle(Event::Resolved { host: host.parse().unwrap(), addresses: Ok(addresses) });
    }

    fn finish(&mut self, host: &str, outcome: Result<Verified, ProbeError>) {
        self.handle(Event::Probed { host: host.parse().unwrap(), outcome: Box::new(outcome) });
    }

    fn target(&self) -> Option<&ProbeTarget> {
        self.actions.iter().find_map(|action| match action {
            Action::Probe(target) => Some(target),
            _ => None,
        })
    }

    fn notices(&self) -> Vec<&BookNotice> {
        let mut notices = Vec::new();
        for action in &self.actions {
            if let Action::Notice(notice) = action {
                notices.push(notice);
            }
        }
        notices
    }

    fn entry(&self, host: &str) -> Option<&Entry> {
        self.book.peers.get(&host.parse::<Host>().unwrap())
    }
}

fn success(list: &str, features: Option<&str>) -> Result<Verified, ProbeError> {
    let report = ProbeReport {
        software: Some("ElectrumX 2.0.0".to_owned()),
        negotiated_version: Version::new(1, 4),
        features: features.map(|json| serde_json::from_str(json).unwrap()),
        peer_list: PeerList::parse(list, Chain::BITCOIN.default_ports).unwrap(),
        tip_height: Some(7),
        checkpoint: None,
        standing: None,
        add_peer_result: None,
    };
    Ok(Verified {
        ip: Some("5.9.0.1".parse().unwrap()),
        transport: Transport::Tcp,
        port: 50001.try_into().unwrap(),
        certificate: None,
        web_sockets: Vec::new(),
        since_response: Duration::ZERO,
        limits: PeerLimits::default(),
        tls_failed: false,
        duration: Duration::from_millis(80),
        report,
    })
}

#[test]
fn name_is_resolved_checked_dialled_and_advertised() {
    let mut harness = BookHarness::new(&["a.example t50001"]);
    assert!(
        harness
            .actions
            .iter()
            .any(|action| matches!(action, Action::Resolve(host, _) if host.to_string() == "a.example"))
    );
    harness.resolve("a.example", &["5.9.0.1"]);
    assert_eq!(harness.target().unwrap().addresses, ["5.9.0.1".parse::<IpAddr>().unwrap()]);
    harness.finish("a.example", success("[]", None));
    assert!(matches!(harness.notices()[..], [BookNotice::Verified { .. }]));
    let snapshot = harness.book.snapshot(harness.now, &mut harness.rng);
    let list = snapshot.peers(Ingress::Clearnet, harness.now, &mut harness.rng);
    assert_eq!(list.to_vec(), br#"[["5.9.0.1","a.example",["v1.4","t50001"]]]"#);
}

#[test]
fn name_with_private_address_is_never_dialled() {
    let mut harness = BookHarness::new(&["a.example t50001"]);
    harness.resolve("a.example", &["5.9.0.1", "192.168.1.1"]);
    assert_eq!(harness.target(), None);
    assert_eq!(harness.entry("a.example").unwrap().violation, Some(ProbeError::NotPublic));
}

#[test]
fn report_of_a_peer_about_itself_replaces_other_sources() {
    let mut harness = BookHarness::new(&["a.example v1.2 p100 t50001"]);
    harness.resolve("a.example", &["5.9.0.1"]);
    let features = r#"{"hosts":{"a.example":{"ssl_port":50002,"tcp_port":50001}},"protocol_max":"1.6","pruning":null}"#;
    harness.finish("a.example", success("[]", Some(features)));
    let entry = harness.entry("a.example").unwrap();
    assert!(entry.self_reported);
    assert_eq!(entry.listed().name.to_string(), "a.example v1.6 t50001", "s50002 was not reached");
    assert_eq!(entry.ports.tls().unwrap().get(), 50002);
}

#[test]
fn peer_list_creates_two_candidates_at_most() {
    let mut harness = BookHarness::new(&["a.example t50001"]);
    harness.resolve("a.example", &["5.9.0.1"]);
    let list: Vec<String> = (0..50).map(|n| format!("[\"5.9.0.1\",\"h{n}.example\",[\"t50001\"]]")).collect();
    harness.finish("a.example", success(&format!("[{}]", list.join(",")), None));
    assert_eq!(harness.book.entries().count(), 1 + MAX_NAMES_PER_PEER_LIST);
    let candidate = harness.book.entries().find(|entry| entry.last_success.is_none()).unwrap();
    assert_eq!(candidate.source, Source::Peer("a.example".parse().unwrap()));
}

#[test]
fn unverified_report_changes_no_entry_and_its_ports_are_tried() {
    let mut harness = BookHarness::new(&["a.example t50001"]);
    harness.resolve("a.example", &["5.9.0.1"]);
    harness.finish("a.example", success("[]", None));
    let before = harness.entry("a.example").unwrap().clone();
    let claim = serde_json::from_str(r#"{"hosts":{"a.example":{"tcp_port":7000}}}"#).unwrap();
    harness.wait(Duration::from_mins(90));
    harness.actions =
        harness.book.add_peer(&claim, Some("5.9.0.1".parse().unwrap()), harness.now, &mut harness.rng).unwrap();
    let after = harness.entry("a.example").unwrap();
    assert_eq!((&after.ports, after.protocol), (&before.ports, before.protocol));
    harness.resolve("a.example", &["5.9.0.1"]);
    let endpoints: Vec<u16> = harness.target().unwrap().endpoints.iter().map(|endpoint| endpoint.1.get()).collect();
    assert_eq!(endpoints, [50001, 7000]);
}

#[test]
fn bad_peer_is_remembered_and_not_advertised() {
    let mut harness = BookHarness::new(&["a.example t50001"]);
    harness.resolve("a.example", &["5.9.0.1"]);
    harness.finish("a.example", success("[]", None));
    harness.wait(Duration::from_hours(24));
    harness.resolve("a.example", &["5.9.0.1"]);
    harness.finish("a.example", Err(ProbeError::ProtocolViolation(Fault::WrongGenesis)));
    assert!(matches!(harness.notices()[..], [BookNotice::Misbehaved { .. }]));
    let snapshot = harness.book.snapshot(harness.now, &mut harness.rng);
    assert_eq!(snapshot.peers(Ingress::Clearnet, harness.now, &mut harness.rng).to_vec(), b"[]");
    let features = serde_json::from_str(r#"{"hosts":{"a.example":{"tcp_port":50001}}}"#).unwrap();
    let again = harness.book.add_peer(&features, Some("5.9.0.1".parse().unwrap()), harness.now, &mut harness.rng);
    assert_eq!(again.unwrap_err(), IntakeError::KnownMisbehaving);
}

#[test]
fn peer_that_stops_proving_its_chain_is_not_advertised() {
    let mut harness = BookHarness::new(&["5.9.0.1 t50001"]);
    harness.finish("5.9.0.1", success("[]", None));
    let state = |harness: &BookHarness| harness.entry("5.9.0.1").unwrap().state(harness.now, Duration::from_hours(24));
    assert_eq!(state(&harness), PeerState::Verified);
    harness.wait(Duration::from_hours(24));
    harness.finish("5.9.0.1", Err(ProbeError::Unproven));
    assert_eq!(state(&harness), PeerState::Stale);
    let list =
        harness.book.snapshot(harness.now, &mut harness.rng).peers(Ingress::Clearnet, harness.now, &mut harness.rng);
    assert_eq!(list.to_vec(), b"[]");
    // It is tried again soon, as the failure may be temporary.
    harness.wait(Duration::from_hours(1));
    harness.finish("5.9.0.1", success("[]", None));
    assert_eq!(state(&harness), PeerState::Verified);
}

#[test]
fn unreachable_peer_expires_after_fourteen_days_of_working_path() {
    let mut harness = BookHarness::new(&["a.example t50001", "b.example t50001"]);
    let day = Duration::from_hours(24);
    let mut days_until_forgotten = None;
    harness.resolve("a.example", &["5.9.0.1"]);
    harness.finish("a.example", success("[]", None));
    for hour in 0..24 * 40u32 {
        // Seven days of an outage in the middle.
        let outage = (24 * 3..24 * 10).contains(&hour);
        for host in ["a.example", "b.example"] {
            let resolving =
                harness.book.peers.probe(&host.parse::<Host>().unwrap()).is_some_and(|flight| flight.resolving);
            if resolving {
                harness.resolve(host, &["5.9.0.1"]);
                let up = host == "a.example" && !outage;
                harness.finish(host, if up { success("[]", None) } else { Err(ProbeError::Unreachable) });
            }
        }
        harness.wait(Duration::from_hours(1));
        if harness.notices().iter().any(|notice| matches!(notice, BookNotice::Forgotten { .. })) {
            days_until_forgotten = Some(harness.now.since(START).as_secs() / day.as_secs());
            break;
        }
    }
    assert!(harness.entry("a.example").is_some());
    assert!(matches!(days_until_forgotten, Some(20..=24)), "{days_until_forgotten:?}");
}

#[test]
fn empty_book_adds_the_seeds_again() {
    let mut harness = BookHarness::new(&["a.example t50001"]);
    harness.book.forget(&"a.example".parse().unwrap());
    harness.wait(SWEEP_INTERVAL);
    assert!(harness.notices().contains(&&BookNotice::SeedsReused));
    assert!(harness.entry("a.example").is_some());
}

#[test]
fn replaced_seeds_are_added_and_reused() {
    let mut harness = BookHarness::new(&["a.example t50001", "b.example t50001"]);
    harness.resolve("b.example", &["5.9.0.2"]);
    harness.finish("b.example", success("[]", None));
    let next = harness.entry("b.example").unwrap().next_probe_at;
    let seed = |line: &str| RealName::parse(line, Chain::BITCOIN.default_ports).unwrap();
    harness.wait(Duration::from_mins(1));
    harness.handle(Event::SeedsReplaced(vec![
        seed("b.example t50001"),
        seed("c.example t50001"),
        seed("d.example s22"),
    ]));
    assert_eq!(harness.entry("c.example").unwrap().source, Source::Seed);
    assert!(harness.entry("a.example").is_some(), "a former seed stays as an ordinary peer");
    assert_eq!(harness.entry("d.example").unwrap().source, Source::Seed, "the operator may name any port");
    assert_eq!(harness.entry("b.example").unwrap().next_probe_at, next, "it was a seed before");
    for host in ["a.example", "b.example", "c.example", "d.example"] {
        harness.book.forget(&host.parse().unwrap());
    }
    harness.wait(SWEEP_INTERVAL);
    assert!(harness.notices().contains(&&BookNotice::SeedsReused));
    assert!(harness.entry("c.example").is_some() && harness.entry("a.example").is_none());
}

#[test]
fn entry_size_is_limited() {
    // Memory for 10,000 entries is 5.5 MB.
    assert!(size_of::<Entry>() <= 544, "{}", size_of::<Entry>());
}

/// Returns a clearnet peer that was verified now.
pub(super) fn clearnet_entry(host: &str, ip: &str) -> Entry {
    verified_entry(host.parse().unwrap(), Some(ip.parse().unwrap()))
}

/// Returns an onion peer that was verified now.
pub(super) fn onion_entry(n: u16) -> Entry {
    let key = n.to_be_bytes().repeat(16).try_into().unwrap();
    verified_entry(Host::Onion(crate::peer::OnionAddress::from_public_key(key)), None)
}

/// Makes a peer known and reliable for this number of days.
pub(super) fn aged(mut entry: Entry, days: u64) -> Entry {
    entry.first_seen = START - Duration::from_hours(24 * days);
    for day in 0..=days {
        entry.uptime.record_result(true, entry.first_seen + Duration::from_hours(24 * day));
    }
    entry
}

/// Makes a peer long-standing.
pub(super) fn promoted(mut entry: Entry) -> Entry {
    entry.promote(START);
    entry
}

fn verified_entry(host: Host, ip: Option<IpAddr>) -> Entry {
    let name = RealName { host, version: None, pruning: None, ports: Chain::BITCOIN.default_ports };
    let mut entry = Entry::new(name, Source::Irc, Duration::ZERO, START);
    (entry.ip, entry.last_try, entry.last_success, entry.self_reported) = (ip, Some(START), Some(START), true);
    entry.next_probe_at = START + Duration::from_hours(24 * 365);
    entry
}

fn add_peer(harness: &mut BookHarness, json: &str, from: Option<&str>) -> Result<(), IntakeError> {
    let features = serde_json::from_str(json).unwrap();
    let from = from.map(|ip| ip.parse().unwrap());
    harness.actions = harness.book.add_peer(&features, from, harness.now, &mut harness.rng)?;
    Ok(())
}

fn onion(n: u8) -> String {
    Host::Onion(crate::peer::OnionAddress::from_public_key([n; 32])).to_string()
}

#[test]
fn failure_without_later_proof_is_not_attributed() {
    let mut harness = BookHarness::new(&["a.example t50001", "b.example t50001"]);
    harness.resolve("a.example", &["5.9.0.1"]);
    harness.finish("a.example", success("[]", None));
    harness.wait(Duration::from_secs(10));
    harness.handle(Event::Resolved { host: "b.example".parse().unwrap(), addresses: Err(ProbeError::NameNotFound) });
    assert_eq!(harness.entry("b.example").unwrap().failures, 0, "the local network may have failed since");
    // No peer may be probed so soon again, and the delays grow.
    let mut tries = 0;
    for _ in 0..24 * 60 {
        harness.wait(Duration::from_mins(1));
        if harness
            .actions
            .iter()
            .any(|action| matches!(action, Action::Resolve(host, _) if host.to_string() == "b.example"))
        {
            harness.handle(Event::Resolved {
                host: "b.example".parse().unwrap(),
                addresses: Err(ProbeError::NameNotFound),
            });
            tries += 1;
        }
    }
    assert!((4..12).contains(&tries), "{tries}");
}

#[test]
fn peer_dropped_in_flight_is_not_probed_twice() {
    let mut harness = BookHarness::new(&["5.9.0.1 t50001"]);
    assert!(harness.target().is_some());
    harness.book.forget(&"5.9.0.1".parse().unwrap()).unwrap();
    let name = RealName::parse("5.9.0.1 t50001", Chain::BITCOIN.default_ports).unwrap();
    harness.actions = harness.book.add(name, harness.now, &mut harness.rng).unwrap();
    harness.wait(Duration::from_mins(1));
    assert_eq!(harness.target(), None);
    harness.finish("5.9.0.1", success("[]", None));
    assert!(harness.entry("5.9.0.1").unwrap().last_success.is_some());
}

#[test]
fn listed_ports_of_a_failing_peer_are_dialled() {
    let mut harness = BookHarness::new(&["a.example t50001", "5.9.7.1 t50001"]);
    harness.finish("5.9.7.1", Err(ProbeError::Refused));
    harness.resolve("a.example", &["5.9.0.1"]);
    harness.finish("a.example", success(r#"[["5.9.7.1","5.9.7.1",["t7000"]]]"#, None));
    assert_eq!(harness.target(), None, "the list causes no earlier probe");
    harness.wait(Duration::from_mins(7));
    let endpoints: Vec<u16> = harness.target().unwrap().endpoints.iter().map(|endpoint| endpoint.1.get()).collect();
    assert_eq!(endpoints, [50001, 7000]);
}

#[test]
fn peer_with_wrong_reported_ports_is_still_reached() {
    let mut harness = BookHarness::new(&["a.example t50001"]);
    let features = Some(r#"{"hosts":{"a.example":{"tcp_port":7000}}}"#);
    harness.resolve("a.example", &["5.9.0.1"]);
    harness.finish("a.example", success("[]", features));
    for wait in [Duration::from_mins(10), Duration::from_hours(24)] {
        // The reported endpoint is dialled first soon, once; the endpoint that answered is kept.
        harness.wait(wait);
        harness.resolve("a.example", &["5.9.0.1"]);
        let mut endpoints: Vec<u16> =
            harness.target().unwrap().endpoints.iter().map(|endpoint| endpoint.1.get()).collect();
        if wait > Duration::from_hours(1) {
            endpoints.sort_unstable_by_key(|port| *port > 7000);
        }
        assert_eq!(endpoints, [7000, 50001]);
        harness.finish("a.example", success("[]", features));
        harness.wait(Duration::from_hours(1));
        assert!(harness.actions.is_empty());
    }
}

#[test]
fn redirecting_dns_server_marks_no_known_peer_bad() {
    let mut harness = BookHarness::new(&["a.example t50001"]);
    harness.resolve("a.example", &["5.9.0.1"]);
    harness.finish("a.example", success("[]", None));
    harness.wait(Duration::from_hours(20));
    harness.resolve("a.example", &["192.168.1.1"]);
    assert_eq!(harness.target(), None, "private addresses are never dialled");
    assert_eq!(
        harness.entry("a.example").unwrap().state(harness.now, harness.book.config.max_advertised_age),
        PeerState::Verified
    );
}
