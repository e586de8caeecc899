//! NAT64, networks of the operator's own, and peers that wait.

use super::*;

#[test]
fn nat64_form_of_a_public_address_is_dialled_and_the_address_advertised() {
    let mut bench = Bench::new(&["a.example t50001"]);
    bench.resolve("a.example", &["5.9.0.1", "64:ff9b::509:1"]);
    assert_eq!(bench.attempt().unwrap().addresses.len(), 2);
    let mut bench = Bench::new(&["a.example t50001"]);
    bench.resolve("a.example", &["64:ff9b::509:1"]);
    let nat64: IpAddr = "64:ff9b::509:1".parse().unwrap();
    assert_eq!(bench.attempt().unwrap().addresses, [nat64], "the host has no route to the IPv4 address");
    let Ok(mut verified) = good("[]", None) else { unreachable!() };
    verified.ip = Some(nat64);
    bench.finish("a.example", Ok(verified));
    let snapshot = bench.book.snapshot(bench.now, &mut bench.rng);
    let list = snapshot.peers(Ingress::Clearnet, bench.now, &mut bench.rng);
    assert_eq!(list.to_vec(), br#"[["5.9.0.1","a.example",["v1.4","t50001"]]]"#);
}

#[test]
fn nat64_form_of_a_private_address_is_refused() {
    for address in ["64:ff9b::7f00:1", "64:ff9b::c0a8:101", "64:ff9b::a9fe:a9fe", "64:ff9b:1::509:1"] {
        let mut bench = Bench::new(&["a.example t50001"]);
        bench.resolve("a.example", &["5.9.0.1", address]);
        assert_eq!(bench.attempt(), None, "{address}");
        assert_eq!(bench.entry("a.example").unwrap().violation, Some(ProbeError::NotPublic), "{address}");
    }
}

#[test]
fn nat64_address_stands_for_the_client_that_calls_from_it() {
    let mut bench = Bench::new(&[]);
    introduce(&mut bench, r#"{"hosts":{"a.example":{"tcp_port":50001}}}"#, Some("5.9.0.1")).unwrap();
    bench.resolve("a.example", &["64:ff9b::509:1"]);
    assert!(bench.attempt().is_some());
    introduce(&mut bench, r#"{"hosts":{"b.example":{"tcp_port":50001}}}"#, Some("5.9.0.1")).unwrap();
    bench.resolve("b.example", &["64:ff9b::509:2"]);
    assert_eq!(bench.attempt(), None);
    assert!(bench.entry("b.example").is_none(), "of another address");
}

#[test]
fn nat64_form_evades_neither_budget_nor_ban() {
    let seeds: Vec<String> = (0..20).map(|n| format!("h{n}.example t50001")).collect();
    let mut bench = Bench::new(&seeds.iter().map(String::as_str).collect::<Vec<_>>());
    let mut dialled = 0;
    for n in 0..20 {
        let address = if n % 2 == 0 { format!("5.9.0.{n}") } else { format!("64:ff9b::509:{n:x}") };
        bench.resolve(&format!("h{n}.example"), &[&address]);
        dialled += usize::from(bench.attempt().is_some());
    }
    assert_eq!(dialled, 4, "one burst for both forms, less what is kept for verified peers");
    let bans = Arc::new(crate::ban_list::Bans::parse("5.9.0.0/24\n").unwrap());
    let mut bench = Bench::new(&["a.example t50001"]);
    bench.handle(Event::BansReplaced(bans));
    bench.resolve("a.example", &["64:ff9b::509:1"]);
    assert!(bench.entry("a.example").is_none());
}

/// A book with so many verified peers in one private or public /24.
fn one_subnet(allow_private: bool, prefix: &str, peers: usize) -> Bench {
    let seeds: Vec<String> = (1..=peers).map(|n| format!("{prefix}{n} t50001")).collect();
    let ports = Network::Bitcoin.default_ports();
    let seeds = seeds.iter().map(|seed| RealName::parse(seed, ports).unwrap()).collect();
    let settings = BookConfig { seeds, allow_private, ..BookConfig::default() };
    let book = PeerBook::new(settings, Vec::new(), Duration::ZERO, Duration::ZERO, START);
    let mut bench = Bench { book, rng: StdRng::seed_from_u64(5), now: START, actions: Vec::new() };
    bench.actions = bench.book.add_seeds(START, &mut bench.rng);
    let flying: Vec<Host> = bench.book.in_flight.keys().cloned().collect();
    for host in flying {
        let Ok(mut verified) = good("[]", None) else { unreachable!() };
        verified.ip = Some(host.to_string().parse().unwrap());
        bench.finish(&host.to_string(), Ok(verified));
    }
    bench
}

fn listed(bench: &mut Bench) -> usize {
    let snapshot = bench.book.snapshot(bench.now, &mut bench.rng);
    let list = snapshot.peers(Ingress::Clearnet, bench.now, &mut bench.rng).to_vec();
    serde_json::from_slice::<Vec<serde_json::Value>>(&list).unwrap().len()
}

#[test]
fn private_network_in_one_subnet_is_dialled_and_advertised_whole() {
    let mut bench = one_subnet(true, "10.0.0.", 12);
    assert_eq!(listed(&mut bench), 12);
    // Public addresses keep their caps, allow_private or not.
    for allow_private in [true, false] {
        let mut bench = one_subnet(allow_private, "5.9.0.", 12);
        assert_eq!(bench.book.counts(START).verified, 4);
        assert_eq!(listed(&mut bench), 2);
    }
}

#[test]
fn private_peers_are_not_advertised_once_private_addresses_are_off() {
    let mut bench = one_subnet(true, "10.0.0.", 3);
    bench.book.settings.allow_private = false;
    assert_eq!(listed(&mut bench), 0);
}

#[test]
fn peer_that_a_budget_holds_back_says_so() {
    let mut bench = one_subnet(false, "5.9.0.", 6);
    let held: Vec<Entry> = bench.book.entries().filter(|entry| entry.last_success.is_none()).cloned().collect();
    assert_eq!(held.len(), 2);
    for entry in &held {
        let waiting = bench.book.waiting(entry, bench.now).unwrap();
        assert_eq!(waiting.to_string(), "the dial budget of 5.9.0.0/24");
        assert!(entry.next_probe_at > bench.now);
    }
    let verified = bench.book.entries().find(|entry| entry.last_success.is_some()).unwrap();
    assert_eq!(bench.book.waiting(verified, bench.now), None);
    // Its turn comes, and it waits no longer.
    for _ in 0..5 {
        bench.wait(Duration::from_mins(2));
    }
    let host = held[0].host.clone();
    assert!(bench.book.in_flight.contains_key(&host));
    assert_eq!(bench.book.waiting(&held[0], bench.now), None);
}

#[test]
fn candidate_that_only_waits_says_for_what() {
    let seeds: Vec<String> =
        (0..40).map(|n| format!("h{n}.example t50001")).chain([format!("{ONION} t50001")]).collect();
    let bench = Bench::new(&seeds.iter().map(String::as_str).collect::<Vec<_>>());
    let waiting = |bench: &Bench| {
        let mut all: Vec<Waiting> =
            bench.book.entries().filter_map(|entry| bench.book.waiting(entry, bench.now)).collect();
        all.sort_by_key(ToString::to_string);
        all.dedup();
        all
    };
    assert_eq!(waiting(&bench), [Waiting::Route(Route::Tor), Waiting::Probes]);
}
