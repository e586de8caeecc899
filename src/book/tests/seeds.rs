//! Seeds and peers that the operator adds.

use super::*;

fn name(line: &str) -> RealName {
    RealName::parse(line, Chain::BITCOIN.default_ports).unwrap()
}

fn refused(harness: &BookHarness) -> Vec<(String, IntakeError)> {
    let mut refused = Vec::new();
    for notice in harness.notices() {
        if let BookNotice::SeedRefused { name, reason } = notice {
            refused.push((name.host.to_string(), reason.clone()));
        }
    }
    refused
}

/// Restarts the book with these seeds and its own entries.
fn restart(harness: &mut BookHarness, seeds: &[&str]) {
    let seeds = seeds.iter().map(|seed| name(seed)).collect();
    let settings = BookConfig { seeds, ..harness.book.config.clone() };
    let entries = harness.book.entries().cloned().collect();
    harness.book = PeerBook::new(settings, entries, PerRoute::default(), harness.now);
    harness.actions = harness.book.add_seeds(harness.now, &mut harness.rng);
}

#[test]
fn new_seed_is_added_at_start() {
    let mut harness = BookHarness::new(&["a.example t50001"]);
    harness.resolve("a.example", &["5.9.0.1"]);
    harness.finish("a.example", success("[]", None));
    let known = harness.entry("a.example").unwrap().clone();
    harness.now = harness.now + Duration::from_mins(10);
    restart(&mut harness, &["a.example t50001", "b.example t50001"]);
    assert_eq!(harness.entry("b.example").unwrap().source, Source::Seed);
    assert!(
        harness
            .actions
            .iter()
            .any(|action| matches!(action, Action::Upsert(entry) if entry.host == name("b.example t1").host))
    );
    assert_eq!(harness.entry("a.example"), Some(&known), "a known seed is neither changed nor probed sooner");
    assert!(refused(&harness).is_empty());
}

#[test]
fn seed_added_by_a_restart_is_used_days_later_on_the_onion_side() {
    for side in [Side::Clearnet, Side::Onion] {
        let mut harness = BookHarness::new(&["a.example s50002"]);
        harness.book.config.side = side;
        harness.resolve("a.example", &["5.9.0.1"]);
        harness.finish("a.example", success("[]", None));
        restart(&mut harness, &["a.example s50002", "b.example s50002"]);
        let delay = harness.entry("b.example").unwrap().next_probe_at.since(harness.now);
        assert_eq!(delay >= Duration::from_hours(24), side == Side::Onion, "{side:?}: {delay:?}");
        let mut first = BookHarness::new(&[]);
        first.book.config.side = side;
        restart(&mut first, &["a.example s50002"]);
        assert!(first.entry("a.example").unwrap().next_probe_at <= first.now, "the first start needs peers at once");
    }
}

#[test]
fn forgotten_seed_returns_at_the_next_start() {
    let mut harness = BookHarness::new(&["a.example t50001"]);
    harness.book.forget(&"a.example".parse().unwrap());
    restart(&mut harness, &["a.example t50001"]);
    assert!(harness.entry("a.example").is_some());
}

#[test]
fn refused_seed_is_reported_with_its_reason() {
    let bans = Arc::new(crate::ban_list::Bans::parse("banned.example\n5.9.7.0/24\n").unwrap());
    let mut harness = BookHarness::new(&[]);
    harness.book.config.local_hosts.push("own.example".parse().unwrap());
    let ban = |host: &str| bans.find_host(&host.parse().unwrap()).unwrap();
    harness.book.config.bans = Arc::clone(&bans);
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
        ("banned.example", IntakeError::Banned(ban("banned.example"))),
        ("5.9.7.1", IntakeError::Banned(ban("5.9.7.1"))),
        ("10.0.0.1", IntakeError::NotPublic),
    ]
    .map(|(host, reason)| (host.to_owned(), reason));
    restart(&mut harness, &seeds);
    assert_eq!(refused(&harness), expected);
    assert_eq!(harness.book.entries().count(), 2, "a.example and b.example");
    harness.handle(Event::SeedsReplaced(seeds.iter().map(|seed| name(seed)).collect()));
    assert_eq!(refused(&harness), expected, "the same on a reload");
    // Nothing is repeated every hour.
    harness.wait(SWEEP_INTERVAL);
    assert!(refused(&harness).is_empty());
}

#[test]
fn seed_without_tls_under_tor_only_is_reported() {
    let harness = BookHarness::routed(&["a.example t50001", "b.example s50002"], RoutingPolicy::TorOnly);
    assert_eq!(refused(&harness), [("a.example".to_owned(), IntakeError::TlsRequired)]);
    assert!(harness.entry("a.example").is_none() && harness.entry("b.example").is_some());
    let mut harness = harness;
    let added = harness.book.add(name("b.example t50001"), harness.now, &mut harness.rng).map(|_| ());
    assert_eq!(added, Err(IntakeError::TlsRequired), "the same holds for an add of a known peer");
}

#[test]
fn seed_of_this_node_is_reported_once() {
    let mut harness = BookHarness::new(&[&format!("{ONION} t50001")]);
    harness.handle(Event::LocalHost(ONION.parse().unwrap()));
    assert_eq!(refused(&harness), [(ONION.to_owned(), IntakeError::LocalHost)]);
    harness.handle(Event::LocalHost(ONION.parse().unwrap()));
    assert!(refused(&harness).is_empty());
}

#[test]
fn known_peer_named_as_seed_becomes_the_operators() {
    let mut harness = BookHarness::new(&["a.example t50001"]);
    harness.resolve("a.example", &["5.9.0.1"]);
    harness.finish("a.example", success(r#"[["5.9.7.1","5.9.7.1",["t7000"]]]"#, None));
    assert!(matches!(harness.entry("5.9.7.1").unwrap().source, Source::Peer(_)));
    restart(&mut harness, &["a.example t50001", "5.9.7.1 s993"]);
    let entry = harness.entry("5.9.7.1").unwrap();
    assert_eq!((&entry.source, entry.ports), (&Source::Seed, name("a.example s993").ports));
}

#[test]
fn untrusted_source_does_not_make_a_peer_the_operators() {
    let mut harness = BookHarness::new(&["a.example t50001"]);
    harness.resolve("a.example", &["5.9.0.1"]);
    harness.finish("a.example", success(r#"[["5.9.7.1","5.9.7.1",["t7000"]]]"#, None));
    for _ in 0..3 {
        harness.wait(Duration::from_hours(2));
        let _ = add_peer(&mut harness, r#"{"hosts":{"5.9.7.1":{"tcp_port":7001}}}"#, Some("5.9.7.1"));
    }
    assert!(matches!(harness.entry("5.9.7.1").unwrap().source, Source::Peer(_)));
}
