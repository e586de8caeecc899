mod addresses;
mod clock;
mod ports;
mod seeds;
mod tor;
mod untrusted_input;

use std::net::IpAddr;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::connect::{ProbeError, ProbeTarget, Verified};
use crate::peer::{Fault, PeerList, ProbeReport, Transport, Version};

const START: Time = Time::from_secs(1_700_000_000);
const ONION: &str = "explorerzydxu5ecjrkwceayqybizmpjjznk5izmitf2modhcusuqlid.onion";

/// A book under test, with a clock to turn and whatever it last wanted done.
struct Bench {
    book: PeerBook,
    rng: StdRng,
    now: Time,
    actions: Vec<Action>,
}

impl Bench {
    fn new(seeds: &[&str]) -> Bench {
        Bench::routed(seeds, RoutingPolicy::Split)
    }

    fn routed(seeds: &[&str], routing: RoutingPolicy) -> Bench {
        let ports = Network::Bitcoin.default_ports();
        let seeds = seeds.iter().map(|seed| RealName::parse(seed, ports).unwrap()).collect();
        let settings = BookConfig { seeds, routing, ..BookConfig::default() };
        let mut book = PeerBook::new(settings, Vec::new(), Duration::ZERO, Duration::ZERO, START);
        let mut rng = StdRng::seed_from_u64(5);
        let actions = book.add_seeds(START, &mut rng);
        Bench { book, rng, now: START, actions }
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

    fn attempt(&self) -> Option<&ProbeTarget> {
        self.actions.iter().find_map(|action| match action {
            Action::Probe(attempt) => Some(attempt),
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
        self.book.entries.get(&host.parse::<Host>().unwrap())
    }
}

fn good(list: &str, features: Option<&str>) -> Result<Verified, ProbeError> {
    let report = ProbeReport {
        software: Some("ElectrumX 2.0.0".to_owned()),
        negotiated_version: Version::new(1, 4),
        features: features.map(|json| serde_json::from_str(json).unwrap()),
        peer_list: PeerList::parse(list, Network::Bitcoin.default_ports()).unwrap(),
        tip_height: Some(7),
        checkpoint: None,
        add_peer_result: None,
    };
    Ok(Verified {
        ip: Some("5.9.0.1".parse().unwrap()),
        transport: Transport::Tcp,
        port: 50001.try_into().unwrap(),
        tls_key_hash: None,
        duration: Duration::from_millis(80),
        report,
    })
}

#[test]
fn name_is_resolved_checked_dialled_and_advertised() {
    let mut bench = Bench::new(&["a.example t50001"]);
    assert!(
        bench
            .actions
            .iter()
            .any(|action| matches!(action, Action::Resolve(host, _) if host.to_string() == "a.example"))
    );
    bench.resolve("a.example", &["5.9.0.1"]);
    assert_eq!(bench.attempt().unwrap().addresses, ["5.9.0.1".parse::<IpAddr>().unwrap()]);
    bench.finish("a.example", good("[]", None));
    assert!(matches!(bench.notices()[..], [BookNotice::Verified { .. }]));
    let snapshot = bench.book.snapshot(bench.now, &mut bench.rng);
    let list = snapshot.peers(Ingress::Clearnet, bench.now, &mut bench.rng);
    assert_eq!(list.to_vec(), br#"[["5.9.0.1","a.example",["v1.4","t50001"]]]"#);
}

#[test]
fn a_name_of_a_private_address_is_never_dialled() {
    let mut bench = Bench::new(&["a.example t50001"]);
    bench.resolve("a.example", &["5.9.0.1", "192.168.1.1"]);
    assert_eq!(bench.attempt(), None);
    assert_eq!(bench.entry("a.example").unwrap().violation, Some(ProbeError::NotPublic));
}

#[test]
fn what_the_peer_says_of_itself_replaces_the_rest() {
    let mut bench = Bench::new(&["a.example v1.2 p100 t50001"]);
    bench.resolve("a.example", &["5.9.0.1"]);
    let features = r#"{"hosts":{"a.example":{"ssl_port":50002,"tcp_port":50001}},"protocol_max":"1.6","pruning":null}"#;
    bench.finish("a.example", good("[]", Some(features)));
    let entry = bench.entry("a.example").unwrap();
    assert!(entry.self_reported);
    assert_eq!(entry.listed().name.to_string(), "a.example v1.6 s50002 t50001");
}

#[test]
fn of_others_it_names_two_candidates_at_most() {
    let mut bench = Bench::new(&["a.example t50001"]);
    bench.resolve("a.example", &["5.9.0.1"]);
    let list: Vec<String> = (0..50).map(|n| format!("[\"5.9.0.1\",\"h{n}.example\",[\"t50001\"]]")).collect();
    bench.finish("a.example", good(&format!("[{}]", list.join(",")), None));
    assert_eq!(bench.book.entries.len(), 1 + MAX_NAMES_PER_PEER_LIST);
    let candidate = bench.book.entries().find(|entry| entry.last_success.is_none()).unwrap();
    assert_eq!(candidate.source, Source::Peer("a.example".parse().unwrap()));
}

#[test]
fn unverified_report_changes_no_entry_and_its_ports_are_tried() {
    let mut bench = Bench::new(&["a.example t50001"]);
    bench.resolve("a.example", &["5.9.0.1"]);
    bench.finish("a.example", good("[]", None));
    let before = bench.entry("a.example").unwrap().clone();
    let claim = serde_json::from_str(r#"{"hosts":{"a.example":{"tcp_port":7000}}}"#).unwrap();
    bench.wait(Duration::from_mins(90));
    bench.actions = bench.book.add_peer(&claim, Some("5.9.0.1".parse().unwrap()), bench.now, &mut bench.rng).unwrap();
    let after = bench.entry("a.example").unwrap();
    assert_eq!((&after.ports, after.protocol), (&before.ports, before.protocol));
    bench.resolve("a.example", &["5.9.0.1"]);
    let doors: Vec<u16> = bench.attempt().unwrap().endpoints.iter().map(|door| door.1.get()).collect();
    assert_eq!(doors, [50001, 7000]);
}

#[test]
fn bad_peer_is_remembered_and_not_advertised() {
    let mut bench = Bench::new(&["a.example t50001"]);
    bench.resolve("a.example", &["5.9.0.1"]);
    bench.finish("a.example", good("[]", None));
    bench.wait(Duration::from_hours(24));
    bench.resolve("a.example", &["5.9.0.1"]);
    bench.finish("a.example", Err(ProbeError::ProtocolViolation(Fault::WrongGenesis)));
    assert!(matches!(bench.notices()[..], [BookNotice::Misbehaved { .. }]));
    let snapshot = bench.book.snapshot(bench.now, &mut bench.rng);
    assert_eq!(snapshot.peers(Ingress::Clearnet, bench.now, &mut bench.rng).to_vec(), b"[]");
    let features = serde_json::from_str(r#"{"hosts":{"a.example":{"tcp_port":50001}}}"#).unwrap();
    let again = bench.book.add_peer(&features, Some("5.9.0.1".parse().unwrap()), bench.now, &mut bench.rng);
    assert_eq!(again.unwrap_err(), IntakeError::KnownMisbehaving);
}

#[test]
fn a_peer_is_forgotten_after_fourteen_days_in_which_it_could_be_reached() {
    let mut bench = Bench::new(&["a.example t50001", "b.example t50001"]);
    let day = Duration::from_hours(24);
    let mut days_until_forgotten = None;
    bench.resolve("a.example", &["5.9.0.1"]);
    bench.finish("a.example", good("[]", None));
    for hour in 0..24 * 40u32 {
        // Seven days of an outage in the middle.
        let outage = (24 * 3..24 * 10).contains(&hour);
        for host in ["a.example", "b.example"] {
            let resolving =
                bench.book.in_flight.get(&host.parse::<Host>().unwrap()).is_some_and(|flight| flight.resolving);
            if resolving {
                bench.resolve(host, &["5.9.0.1"]);
                let up = host == "a.example" && !outage;
                bench.finish(host, if up { good("[]", None) } else { Err(ProbeError::Unreachable) });
            }
        }
        bench.wait(Duration::from_hours(1));
        if bench.notices().iter().any(|notice| matches!(notice, BookNotice::Forgotten { .. })) {
            days_until_forgotten = Some(bench.now.since(START).as_secs() / day.as_secs());
            break;
        }
    }
    assert!(bench.entry("a.example").is_some());
    assert!(matches!(days_until_forgotten, Some(20..=23)), "{days_until_forgotten:?}");
}

#[test]
fn with_nobody_left_the_seeds_are_asked_again() {
    let mut bench = Bench::new(&["a.example t50001"]);
    bench.book.forget(&"a.example".parse().unwrap());
    bench.wait(SWEEP);
    assert!(bench.notices().contains(&&BookNotice::SeedsReused));
    assert!(bench.entry("a.example").is_some());
}

#[test]
fn other_seeds_are_taken_in_and_are_those_that_are_asked_again() {
    let mut bench = Bench::new(&["a.example t50001", "b.example t50001"]);
    bench.resolve("b.example", &["5.9.0.2"]);
    bench.finish("b.example", good("[]", None));
    let next = bench.entry("b.example").unwrap().next_probe_at;
    let seed = |line: &str| RealName::parse(line, Network::Bitcoin.default_ports()).unwrap();
    bench.wait(Duration::from_mins(1));
    bench.handle(Event::SeedsReplaced(vec![seed("b.example t50001"), seed("c.example t50001"), seed("d.example s22")]));
    assert_eq!(bench.entry("c.example").unwrap().source, Source::Seed);
    assert!(bench.entry("a.example").is_some(), "a peer like others");
    assert_eq!(bench.entry("d.example").unwrap().source, Source::Seed, "the operator may name any port");
    assert_eq!(bench.entry("b.example").unwrap().next_probe_at, next, "it was one before");
    for host in ["a.example", "b.example", "c.example", "d.example"] {
        bench.book.forget(&host.parse().unwrap());
    }
    bench.wait(SWEEP);
    assert!(bench.notices().contains(&&BookNotice::SeedsReused));
    assert!(bench.entry("c.example").is_some() && bench.entry("a.example").is_none());
}

#[test]
fn an_entry_is_small() {
    // Ten thousand of them are kept in memory.
    assert!(size_of::<Entry>() <= 400, "{}", size_of::<Entry>());
}

fn introduce(bench: &mut Bench, json: &str, from: Option<&str>) -> Result<(), IntakeError> {
    let features = serde_json::from_str(json).unwrap();
    let from = from.map(|ip| ip.parse().unwrap());
    bench.actions = bench.book.add_peer(&features, from, bench.now, &mut bench.rng)?;
    Ok(())
}

fn onion(n: u8) -> String {
    Host::Onion(crate::peer::OnionAddress::from_public_key([n; 32])).to_string()
}

#[test]
fn a_failure_waits_for_a_later_proof() {
    let mut bench = Bench::new(&["a.example t50001", "b.example t50001"]);
    bench.resolve("a.example", &["5.9.0.1"]);
    bench.finish("a.example", good("[]", None));
    bench.wait(Duration::from_secs(10));
    bench.handle(Event::Resolved { host: "b.example".parse().unwrap(), addresses: Err(ProbeError::NameNotFound) });
    assert_eq!(bench.entry("b.example").unwrap().failures, 0, "our network may have broken down since");
    // Nobody may be asked so soon after the last time, and excuses become rare.
    let mut tries = 0;
    for _ in 0..24 * 60 {
        bench.wait(Duration::from_mins(1));
        if bench
            .actions
            .iter()
            .any(|action| matches!(action, Action::Resolve(host, _) if host.to_string() == "b.example"))
        {
            bench.handle(Event::Resolved {
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
    let mut bench = Bench::new(&["5.9.0.1 t50001"]);
    assert!(bench.attempt().is_some());
    bench.book.forget(&"5.9.0.1".parse().unwrap()).unwrap();
    let name = RealName::parse("5.9.0.1 t50001", Network::Bitcoin.default_ports()).unwrap();
    bench.actions = bench.book.add(name, bench.now, &mut bench.rng).unwrap();
    bench.wait(Duration::from_mins(1));
    assert_eq!(bench.attempt(), None);
    bench.finish("5.9.0.1", good("[]", None));
    assert!(bench.entry("5.9.0.1").unwrap().last_success.is_some());
}

#[test]
fn what_a_list_says_of_the_ports_of_a_failing_peer_is_tried_as_well() {
    let mut bench = Bench::new(&["a.example t50001", "5.9.7.1 t50001"]);
    bench.finish("5.9.7.1", Err(ProbeError::Refused));
    bench.resolve("a.example", &["5.9.0.1"]);
    bench.finish("a.example", good(r#"[["5.9.7.1","5.9.7.1",["t7000"]]]"#, None));
    assert_eq!(bench.attempt(), None, "no sooner than otherwise");
    bench.wait(Duration::from_mins(7));
    let doors: Vec<u16> = bench.attempt().unwrap().endpoints.iter().map(|door| door.1.get()).collect();
    assert_eq!(doors, [50001, 7000]);
}

#[test]
fn a_peer_that_is_wrong_about_its_own_ports_is_still_reached() {
    let mut bench = Bench::new(&["a.example t50001"]);
    let features = Some(r#"{"hosts":{"a.example":{"tcp_port":7000}}}"#);
    bench.resolve("a.example", &["5.9.0.1"]);
    bench.finish("a.example", good("[]", features));
    for wait in [Duration::from_mins(10), Duration::from_hours(24)] {
        // What it declares is looked at soon, once; the door that opened is not forgotten.
        bench.wait(wait);
        bench.resolve("a.example", &["5.9.0.1"]);
        let doors: Vec<u16> = bench.attempt().unwrap().endpoints.iter().map(|door| door.1.get()).collect();
        assert_eq!(doors, [7000, 50001]);
        bench.finish("a.example", good("[]", features));
        bench.wait(Duration::from_hours(1));
        assert!(bench.actions.is_empty());
    }
}

#[test]
fn redirecting_dns_server_marks_no_known_peer_bad() {
    let mut bench = Bench::new(&["a.example t50001"]);
    bench.resolve("a.example", &["5.9.0.1"]);
    bench.finish("a.example", good("[]", None));
    bench.wait(Duration::from_hours(20));
    bench.resolve("a.example", &["192.168.1.1"]);
    assert_eq!(bench.attempt(), None, "not dialled there all the same");
    assert_eq!(
        bench.entry("a.example").unwrap().state(bench.now, bench.book.settings.max_advertised_age),
        PeerState::Verified
    );
}
