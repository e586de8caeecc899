//! Seeds and peers that the operator adds: what becomes of them, and what is reported.

use super::*;

fn name(line: &str) -> RealName {
    RealName::parse(line, Network::Bitcoin.default_ports()).unwrap()
}

fn refused(bench: &Bench) -> Vec<(String, IntakeError)> {
    let mut refused = Vec::new();
    for notice in bench.notices() {
        if let BookNotice::SeedRefused { name, reason } = notice {
            refused.push((name.host.to_string(), *reason));
        }
    }
    refused
}

/// Another start with these seeds and what the book has.
fn restart(bench: &mut Bench, seeds: &[&str]) {
    let seeds = seeds.iter().map(|seed| name(seed)).collect();
    let settings = BookConfig { seeds, ..bench.book.settings.clone() };
    let entries = bench.book.entries().cloned().collect();
    bench.book = PeerBook::new(settings, entries, Duration::ZERO, Duration::ZERO, bench.now);
    bench.actions = bench.book.add_seeds(bench.now, &mut bench.rng);
}

#[test]
fn seed_that_is_new_at_a_start_is_taken_in() {
    let mut bench = Bench::new(&["a.example t50001"]);
    bench.resolve("a.example", &["5.9.0.1"]);
    bench.finish("a.example", good("[]", None));
    let known = bench.entry("a.example").unwrap().clone();
    bench.now = bench.now + Duration::from_mins(10);
    restart(&mut bench, &["a.example t50001", "b.example t50001"]);
    assert_eq!(bench.entry("b.example").unwrap().source, Source::Seed);
    assert!(
        bench
            .actions
            .iter()
            .any(|action| matches!(action, Action::Upsert(entry) if entry.host == name("b.example t1").host))
    );
    assert_eq!(bench.entry("a.example"), Some(&known), "a known seed is neither changed nor probed sooner");
    assert!(refused(&bench).is_empty());
}

#[test]
fn seed_that_was_forgotten_returns_at_the_next_start() {
    let mut bench = Bench::new(&["a.example t50001"]);
    bench.book.forget(&"a.example".parse().unwrap());
    restart(&mut bench, &["a.example t50001"]);
    assert!(bench.entry("a.example").is_some());
}

#[test]
fn seed_that_cannot_be_taken_in_is_reported_with_its_reason() {
    let bans = Arc::new(crate::ban_list::Bans::parse("banned.example\n5.9.7.0/24\n").unwrap());
    let mut bench = Bench::new(&[]);
    bench.book.settings.local_hosts.push("own.example".parse().unwrap());
    bench.book.settings.bans = bans;
    let seeds = [
        "a.example s50002",
        "a.example t50001",
        "own.example s50002",
        "banned.example s50002",
        "5.9.7.1 s50002",
        "10.0.0.1 s50002",
        "b.example s22",
    ];
    let expected = [
        ("a.example", IntakeError::Duplicate),
        ("own.example", IntakeError::LocalHost),
        ("banned.example", IntakeError::Banned),
        ("5.9.7.1", IntakeError::Banned),
        ("10.0.0.1", IntakeError::NotPublic),
    ]
    .map(|(host, reason)| (host.to_owned(), reason));
    restart(&mut bench, &seeds);
    assert_eq!(refused(&bench), expected);
    assert_eq!(bench.book.entries.len(), 2, "a.example and b.example");
    bench.handle(Event::SeedsReplaced(seeds.iter().map(|seed| name(seed)).collect()));
    assert_eq!(refused(&bench), expected, "the same on a reload");
    // Nothing is repeated every hour.
    bench.wait(SWEEP);
    assert!(refused(&bench).is_empty());
}

#[test]
fn seed_without_tls_under_tor_only_is_reported() {
    let bench = Bench::routed(&["a.example t50001", "b.example s50002"], RoutingPolicy::TorOnly);
    assert_eq!(refused(&bench), [("a.example".to_owned(), IntakeError::TlsRequired)]);
    assert!(bench.entry("a.example").is_none() && bench.entry("b.example").is_some());
    let mut bench = bench;
    let added = bench.book.add(name("b.example t50001"), bench.now, &mut bench.rng).map(|_| ());
    assert_eq!(added, Err(IntakeError::TlsRequired), "an operator's add of a known peer as well");
}

#[test]
fn seed_that_turns_out_to_be_this_node_is_reported_once() {
    let mut bench = Bench::new(&[&format!("{ONION} t50001")]);
    bench.handle(Event::LocalHost(ONION.parse().unwrap()));
    assert_eq!(refused(&bench), [(ONION.to_owned(), IntakeError::LocalHost)]);
    bench.handle(Event::LocalHost(ONION.parse().unwrap()));
    assert!(refused(&bench).is_empty());
}

#[test]
fn known_peer_that_becomes_a_seed_is_the_operators() {
    let mut bench = Bench::new(&["a.example t50001"]);
    bench.resolve("a.example", &["5.9.0.1"]);
    bench.finish("a.example", good(r#"[["5.9.7.1","5.9.7.1",["t7000"]]]"#, None));
    assert!(matches!(bench.entry("5.9.7.1").unwrap().source, Source::Peer(_)));
    restart(&mut bench, &["a.example t50001", "5.9.7.1 s993"]);
    let entry = bench.entry("5.9.7.1").unwrap();
    assert_eq!((&entry.source, entry.ports), (&Source::Seed, name("a.example s993").ports));
}

#[test]
fn stranger_cannot_make_a_peer_the_operators() {
    let mut bench = Bench::new(&["a.example t50001"]);
    bench.resolve("a.example", &["5.9.0.1"]);
    bench.finish("a.example", good(r#"[["5.9.7.1","5.9.7.1",["t7000"]]]"#, None));
    for _ in 0..3 {
        bench.wait(Duration::from_hours(2));
        let _ = introduce(&mut bench, r#"{"hosts":{"5.9.7.1":{"tcp_port":7001}}}"#, Some("5.9.7.1"));
    }
    assert!(matches!(bench.entry("5.9.7.1").unwrap().source, Source::Peer(_)));
}
