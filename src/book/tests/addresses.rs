//! NAT64, private networks, and deferred peers.

use super::*;

#[test]
fn nat64_form_of_a_public_address_is_dialled_and_the_address_advertised() {
    let mut harness = BookHarness::new(&["a.example t50001"]);
    harness.resolve("a.example", &["5.9.0.1", "64:ff9b::509:1"]);
    assert_eq!(harness.target().unwrap().addresses.len(), 2);
    let mut harness = BookHarness::new(&["a.example t50001"]);
    harness.resolve("a.example", &["64:ff9b::509:1"]);
    let nat64: IpAddr = "64:ff9b::509:1".parse().unwrap();
    assert_eq!(harness.target().unwrap().addresses, [nat64], "the host has no route to the IPv4 address");
    let Ok(mut verified) = success("[]", None) else { unreachable!() };
    verified.ip = Some(nat64);
    harness.finish("a.example", Ok(verified));
    let snapshot = harness.book.snapshot(harness.now, &mut harness.rng);
    let list = snapshot.peers(Ingress::Clearnet, harness.now, &mut harness.rng);
    assert_eq!(list.to_vec(), br#"[["5.9.0.1","a.example",["v1.4","t50001"]]]"#);
}

#[test]
fn nat64_form_of_a_private_address_is_refused() {
    for address in ["64:ff9b::7f00:1", "64:ff9b::c0a8:101", "64:ff9b::a9fe:a9fe", "64:ff9b:1::509:1"] {
        let mut harness = BookHarness::new(&["a.example t50001"]);
        harness.resolve("a.example", &["5.9.0.1", address]);
        assert_eq!(harness.target(), None, "{address}");
        assert_eq!(harness.entry("a.example").unwrap().violation, Some(ProbeError::NotPublic), "{address}");
    }
}

#[test]
fn nat64_address_matches_the_ipv4_client() {
    let mut harness = BookHarness::new(&[]);
    add_peer(&mut harness, r#"{"hosts":{"a.example":{"tcp_port":50001}}}"#, Some("5.9.0.1")).unwrap();
    harness.resolve("a.example", &["64:ff9b::509:1"]);
    assert!(harness.target().is_some());
    add_peer(&mut harness, r#"{"hosts":{"b.example":{"tcp_port":50001}}}"#, Some("5.9.0.1")).unwrap();
    harness.resolve("b.example", &["64:ff9b::509:2"]);
    assert_eq!(harness.target(), None);
    assert!(harness.entry("b.example").is_none(), "the client has another address");
}

#[test]
fn nat64_form_evades_neither_budget_nor_ban() {
    let seeds: Vec<String> = (0..20).map(|n| format!("h{n}.example t50001")).collect();
    let mut harness = BookHarness::new(&seeds.iter().map(String::as_str).collect::<Vec<_>>());
    let mut dialled = 0;
    for n in 0..20 {
        let address = if n % 2 == 0 { format!("5.9.0.{n}") } else { format!("64:ff9b::509:{n:x}") };
        harness.resolve(&format!("h{n}.example"), &[&address]);
        dialled += usize::from(harness.target().is_some());
    }
    assert_eq!(dialled, 4, "one burst for both forms, less the reserve for verified peers");
    let bans = Arc::new(crate::ban_list::Bans::parse("5.9.0.0/24\n").unwrap());
    let mut harness = BookHarness::new(&["a.example t50001"]);
    harness.handle(Event::BansReplaced(bans));
    harness.resolve("a.example", &["64:ff9b::509:1"]);
    assert!(harness.entry("a.example").is_none());
}

/// Creates a book with verified peers in one /24.
fn one_subnet(allow_private: bool, prefix: &str, peers: usize) -> BookHarness {
    let seeds: Vec<String> = (1..=peers).map(|n| format!("{prefix}{n} t50001")).collect();
    let ports = Chain::BITCOIN.default_ports;
    let seeds = seeds.iter().map(|seed| RealName::parse(seed, ports).unwrap()).collect();
    let settings = BookConfig { seeds, allow_private, ..BookConfig::default() };
    let book = PeerBook::new(settings, Vec::new(), PerRoute::default(), START);
    let mut harness = BookHarness { book, rng: StdRng::seed_from_u64(5), now: START, actions: Vec::new() };
    harness.actions = harness.book.add_seeds(START, &mut harness.rng);
    let flying: Vec<Host> = harness.book.peers.probes().map(|(host, _)| host.clone()).collect();
    for host in flying {
        let Ok(mut verified) = success("[]", None) else { unreachable!() };
        verified.ip = Some(host.to_string().parse().unwrap());
        harness.finish(&host.to_string(), Ok(verified));
    }
    harness
}

fn listed(harness: &mut BookHarness) -> usize {
    let snapshot = harness.book.snapshot(harness.now, &mut harness.rng);
    let list = snapshot.peers(Ingress::Clearnet, harness.now, &mut harness.rng).to_vec();
    serde_json::from_slice::<Vec<serde_json::Value>>(&list).unwrap().len()
}

#[test]
fn private_subnet_is_dialled_and_advertised_completely() {
    let mut harness = one_subnet(true, "10.0.0.", 12);
    assert_eq!(listed(&mut harness), 12);
    // Of public addresses, the dial budget admits four at once. Seeds are exempt from the limits of lists.
    for allow_private in [true, false] {
        let mut harness = one_subnet(allow_private, "5.9.0.", 12);
        assert_eq!(harness.book.counts(START).verified, 4);
        assert_eq!(listed(&mut harness), 4);
    }
}

#[test]
fn private_peers_are_not_advertised_once_private_addresses_are_off() {
    let mut harness = one_subnet(true, "10.0.0.", 3);
    harness.book.config.allow_private = false;
    assert_eq!(listed(&mut harness), 0);
}

#[test]
fn deferred_peer_reports_the_dial_budget() {
    let mut harness = one_subnet(false, "5.9.0.", 6);
    let held: Vec<Entry> = harness.book.entries().filter(|entry| entry.last_success.is_none()).cloned().collect();
    assert_eq!(held.len(), 2);
    for entry in &held {
        let waiting = harness.book.waiting(entry, harness.now).unwrap();
        assert_eq!(waiting.to_string(), "the dial budget of 5.9.0.0/24");
        assert!(entry.next_probe_at > harness.now);
    }
    let verified = harness.book.entries().find(|entry| entry.last_success.is_some()).unwrap();
    assert_eq!(harness.book.waiting(verified, harness.now), None);
    // The budget has refilled.
    for _ in 0..5 {
        harness.wait(Duration::from_mins(2));
    }
    let host = held[0].host.clone();
    assert!(harness.book.peers.probe(&host).is_some());
    assert_eq!(harness.book.waiting(&held[0], harness.now), None);
}

#[test]
fn waiting_candidate_reports_the_reason() {
    let seeds: Vec<String> =
        (0..40).map(|n| format!("h{n}.example t50001")).chain([format!("{ONION} t50001")]).collect();
    let harness = BookHarness::new(&seeds.iter().map(String::as_str).collect::<Vec<_>>());
    let waiting = |harness: &BookHarness| {
        let mut all: Vec<Waiting> =
            harness.book.entries().filter_map(|entry| harness.book.waiting(entry, harness.now)).collect();
        all.sort_by_key(ToString::to_string);
        all.dedup();
        all
    };
    assert_eq!(waiting(&harness), [Waiting::Route(Route::Tor), Waiting::Probes]);
}
