use std::net::IpAddr;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::peer::{Fault, Listing, Report, Transport, Version};

const START: Time = Time::from_secs(1_700_000_000);
const ONION: &str = "explorerzydxu5ecjrkwceayqybizmpjjznk5izmitf2modhcusuqlid.onion";

/// A book under test, with a clock to turn and whatever it last wanted done.
struct Bench {
    book: Book,
    rng: StdRng,
    now: Time,
    actions: Vec<Action>,
}

impl Bench {
    fn new(seeds: &[&str]) -> Bench {
        let ports = Network::Bitcoin.default_ports();
        let seeds = seeds.iter().map(|seed| RealName::parse(seed, ports).unwrap()).collect();
        let settings = Settings { seeds, ..Settings::default() };
        let mut book = Book::new(settings, Vec::new(), Duration::ZERO, Duration::ZERO, START);
        let mut rng = StdRng::seed_from_u64(5);
        let actions = book.seed(START, &mut rng);
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

    fn finish(&mut self, host: &str, outcome: Result<Verified, Failure>) {
        self.handle(Event::Probed { host: host.parse().unwrap(), outcome: Box::new(outcome) });
    }

    fn attempt(&self) -> Option<&Attempt> {
        self.actions.iter().find_map(|action| match action {
            Action::Probe(attempt) => Some(attempt),
            _ => None,
        })
    }

    fn notices(&self) -> Vec<&Notice> {
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

fn good(list: &str, features: Option<&str>) -> Result<Verified, Failure> {
    let report = Report {
        software: Some("ElectrumX 2.0.0".to_owned()),
        agreed: Version::new(1, 4),
        features: features.map(|json| serde_json::from_str(json).unwrap()),
        listing: Listing::parse(list, Network::Bitcoin.default_ports()).unwrap(),
        tip: Some(7),
    };
    Ok(Verified {
        ip: Some("5.9.0.1".parse().unwrap()),
        transport: Transport::Tcp,
        port: 50001.try_into().unwrap(),
        key: None,
        took: Duration::from_millis(80),
        report,
    })
}

#[test]
fn a_name_is_looked_up_checked_dialled_and_told_of() {
    let mut bench = Bench::new(&["a.example t50001"]);
    assert!(
        bench.actions.iter().any(|action| matches!(action, Action::Resolve(host) if host.to_string() == "a.example"))
    );
    bench.resolve("a.example", &["5.9.0.1"]);
    assert_eq!(bench.attempt().unwrap().addresses, ["5.9.0.1".parse::<IpAddr>().unwrap()]);
    bench.finish("a.example", good("[]", None));
    assert!(matches!(bench.notices()[..], [Notice::Verified { .. }]));
    let snapshot = bench.book.snapshot(bench.now, &mut bench.rng);
    let list = snapshot.peers(Caller::Clearnet, bench.now, &mut bench.rng);
    assert_eq!(list, r#"[["5.9.0.1","a.example",["v1.4","t50001"]]]"#);
}

#[test]
fn a_name_of_a_private_address_is_never_dialled() {
    let mut bench = Bench::new(&["a.example t50001"]);
    bench.resolve("a.example", &["5.9.0.1", "192.168.1.1"]);
    assert_eq!(bench.attempt(), None);
    assert_eq!(bench.entry("a.example").unwrap().bad, Some(Failure::NotPublic));
}

#[test]
fn what_the_peer_says_of_itself_replaces_the_rest() {
    let mut bench = Bench::new(&["a.example v1.2 p100 t50001"]);
    bench.resolve("a.example", &["5.9.0.1"]);
    let features = r#"{"hosts":{"a.example":{"ssl_port":50002,"tcp_port":50001}},"protocol_max":"1.6","pruning":null}"#;
    bench.finish("a.example", good("[]", Some(features)));
    let entry = bench.entry("a.example").unwrap();
    assert!(entry.first_hand);
    assert_eq!(entry.listed().name.to_string(), "a.example v1.6 s50002 t50001");
}

#[test]
fn of_others_it_names_two_candidates_at_most() {
    let mut bench = Bench::new(&["a.example t50001"]);
    bench.resolve("a.example", &["5.9.0.1"]);
    let list: Vec<String> = (0..50).map(|n| format!("[\"5.9.0.1\",\"h{n}.example\",[\"t1\"]]")).collect();
    bench.finish("a.example", good(&format!("[{}]", list.join(",")), None));
    assert_eq!(bench.book.entries.len(), 1 + FROM_ONE_ANSWER);
    let candidate = bench.book.entries().find(|entry| entry.last_success.is_none()).unwrap();
    assert_eq!(candidate.source, Source::Peer("a.example".parse().unwrap()));
}

#[test]
fn hearsay_changes_no_entry_and_other_ports_are_tried_as_well() {
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
    let doors: Vec<u16> = bench.attempt().unwrap().doors.iter().map(|door| door.1.get()).collect();
    assert_eq!(doors, [50001, 7000]);
}

#[test]
fn who_introduces_somebody_else_is_found_out() {
    let mut bench = Bench::new(&[]);
    let features = serde_json::from_str(r#"{"hosts":{"victim.example":{"tcp_port":50001}}}"#).unwrap();
    bench.actions = bench.book.add_peer(&features, Some("88.99.0.2".parse().unwrap()), START, &mut bench.rng).unwrap();
    bench.resolve("victim.example", &["5.9.0.1"]);
    assert_eq!(bench.attempt(), None);
    assert!(matches!(bench.notices()[..], [Notice::NotTheCaller { .. }]));
    assert!(bench.entry("victim.example").is_none());
}

#[test]
fn introductions_are_held_to_the_rules() {
    let mut bench = Bench::new(&[]);
    let mut introduce = |json: &str| {
        let features = serde_json::from_str(json).unwrap();
        bench.book.add_peer(&features, Some("88.99.0.2".parse().unwrap()), START, &mut bench.rng).map(|_| ())
    };
    assert_eq!(introduce("{}"), Err(Refusal::NoHost));
    assert_eq!(introduce(r#"{"genesis_hash":"00","hosts":{"a.example":{"tcp_port":1}}}"#), Err(Refusal::WrongGenesis));
    assert_eq!(introduce(r#"{"hosts":{"localhost":{"tcp_port":1}}}"#), Err(Refusal::NotPublic));
    assert_eq!(introduce(r#"{"hosts":{"5.9.0.1":{"tcp_port":1}}}"#), Err(Refusal::NotTheCaller));
    for n in 0..5 {
        assert_eq!(introduce(&format!(r#"{{"hosts":{{"h{n}.example":{{"tcp_port":1}}}}}}"#)), Ok(()));
    }
    assert_eq!(introduce(r#"{"hosts":{"h9.example":{"tcp_port":1}}}"#), Err(Refusal::SourceBudget));
}

#[test]
fn a_bad_peer_is_remembered_and_not_told_of() {
    let mut bench = Bench::new(&["a.example t50001"]);
    bench.resolve("a.example", &["5.9.0.1"]);
    bench.finish("a.example", good("[]", None));
    bench.wait(Duration::from_hours(24));
    bench.resolve("a.example", &["5.9.0.1"]);
    bench.finish("a.example", Err(Failure::Bad(Fault::WrongGenesis)));
    assert!(matches!(bench.notices()[..], [Notice::Bad { .. }]));
    let snapshot = bench.book.snapshot(bench.now, &mut bench.rng);
    assert_eq!(snapshot.peers(Caller::Clearnet, bench.now, &mut bench.rng), "[]");
    let features = serde_json::from_str(r#"{"hosts":{"a.example":{"tcp_port":50001}}}"#).unwrap();
    let again = bench.book.add_peer(&features, Some("5.9.0.1".parse().unwrap()), bench.now, &mut bench.rng);
    assert_eq!(again.unwrap_err(), Refusal::Bad);
}

#[test]
fn onions_wait_for_tor_and_are_kept() {
    let mut bench = Bench::new(&[&format!("{ONION} t110")]);
    assert_eq!(bench.attempt(), None);
    bench.wait(Duration::from_hours(24 * 60));
    assert!(bench.entry(ONION).is_some());
    bench.handle(Event::Tor(TorSign::Answers));
    assert_eq!(bench.attempt().unwrap().via, Via::Tor);
    assert!(matches!(bench.book.tor(), TorState::Starting { .. }));
    bench.finish(ONION, good("[]", None));
    assert!(bench.book.tor().is_ready());
    bench.handle(Event::Tor(TorSign::Gone { why: "stopped".to_owned() }));
    assert!(matches!(bench.book.tor(), TorState::Down { .. }));
}

#[test]
fn an_attempt_that_our_own_tor_spoiled_counts_for_nothing() {
    let mut bench = Bench::new(&[&format!("{ONION} t110")]);
    bench.handle(Event::Tor(TorSign::Answers));
    bench.finish(ONION, Err(Failure::OurTor));
    let entry = bench.entry(ONION).unwrap();
    assert_eq!((entry.failures, entry.history.len()), (0, 0));
    bench.wait(Duration::from_mins(1));
    assert!(bench.attempt().is_some(), "tried again by itself");
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
                bench.book.flights.get(&host.parse::<Host>().unwrap()).is_some_and(|flight| flight.resolving);
            if resolving {
                bench.resolve(host, &["5.9.0.1"]);
                let up = host == "a.example" && !outage;
                bench.finish(host, if up { good("[]", None) } else { Err(Failure::Unreachable) });
            }
        }
        bench.wait(Duration::from_hours(1));
        if bench.notices().iter().any(|notice| matches!(notice, Notice::Forgotten { .. })) {
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
    assert!(bench.notices().contains(&&Notice::SeedsAgain));
    assert!(bench.entry("a.example").is_some());
}

#[test]
fn an_entry_is_small() {
    // Ten thousand of them are kept in memory.
    assert!(size_of::<Entry>() <= 400, "{}", size_of::<Entry>());
}
