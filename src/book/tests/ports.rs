//! Which ports are dialled, by the kind of host and by who named the port.

use super::*;

fn dialled(bench: &Bench) -> Vec<u16> {
    bench.attempt().map(|attempt| attempt.endpoints.iter().map(|door| door.1.get()).collect()).unwrap_or_default()
}

#[test]
fn built_in_seeds_are_all_taken_in_and_dialled() {
    for (network, count) in Network::ALL.into_iter().zip([13, 6, 4, 3, 0]) {
        let settings =
            BookConfig { network, seeds: network.default_seeds(), max_tor_probes: 32, ..BookConfig::default() };
        let mut book = PeerBook::new(settings, Vec::new(), Duration::ZERO, Duration::ZERO, START);
        let mut rng = StdRng::seed_from_u64(5);
        let mut actions = book.add_seeds(START, &mut rng);
        assert_eq!((book.entries.len(), book.refused_seeds().len()), (count, 0), "{network}");
        actions.extend(book.handle(Event::Tor(TorProbe::Reachable), START, &mut rng));
        actions.extend(book.handle(Event::TorPathProven, START, &mut rng));
        let tried = actions.iter().filter(|action| match action {
            Action::Resolve(..) => true,
            Action::Probe(attempt) => !attempt.endpoints.is_empty(),
            _ => false,
        });
        assert_eq!(tried.count(), count, "{network}");
    }
}

#[test]
fn operator_may_name_any_port() {
    let mut bench = Bench::new(&["5.9.0.1 s22"]);
    assert_eq!(dialled(&bench), [22]);
    let name = RealName::parse("88.99.0.2 t6379", Network::Bitcoin.default_ports()).unwrap();
    bench.actions = bench.book.add(name, bench.now, &mut bench.rng).unwrap();
    assert_eq!(dialled(&bench), [6379]);
}

#[test]
fn operator_may_name_another_port_of_a_known_peer() {
    let mut bench = Bench::new(&["b.example t50001"]);
    introduce(&mut bench, r#"{"hosts":{"a.example":{"tcp_port":50001}}}"#, Some("5.9.0.1")).unwrap();
    bench.resolve("a.example", &["5.9.0.1"]);
    bench.finish("a.example", good("[]", None));
    let name = RealName::parse("a.example s22", Network::Bitcoin.default_ports()).unwrap();
    bench.actions = bench.book.add(name, bench.now, &mut bench.rng).unwrap();
    bench.resolve("a.example", &["5.9.0.1"]);
    assert_eq!(dialled(&bench), [50001, 22]);
    let Ok(mut verified) = good("[]", None) else { unreachable!() };
    (verified.transport, verified.port) = (Transport::Tls, 22.try_into().unwrap());
    bench.finish("a.example", Ok(verified));
    assert_eq!(bench.entry("a.example").unwrap().listed().name.to_string(), "a.example v1.4 s22");
}

#[test]
fn stranger_may_not_name_a_harmful_port_of_a_clearnet_host() {
    for port in [25, 502, 2375, 6379, 8332, 9051, 9200, 10250, 27017] {
        let mut bench = Bench::new(&[]);
        let features = format!(r#"{{"hosts":{{"5.9.0.1":{{"tcp_port":{port}}}}}}}"#);
        assert_eq!(introduce(&mut bench, &features, Some("5.9.0.1")), Err(IntakeError::NoDialablePort), "{port}");
        // Of two ports the other one remains, to be dialled and advertised.
        let features = format!(r#"{{"hosts":{{"5.9.0.1":{{"tcp_port":{port},"ssl_port":50002}}}}}}"#);
        introduce(&mut bench, &features, Some("5.9.0.1")).unwrap();
        assert_eq!(dialled(&bench), [50002]);
        assert_eq!(bench.entry("5.9.0.1").unwrap().listed().name.ports.tcp(), None);
    }
    for port in [80, 110, 143, 443, 993, 995] {
        let features = format!(r#"{{"hosts":{{"5.9.0.1":{{"tcp_port":{port}}}}}}}"#);
        let mut bench = Bench::new(&[]);
        introduce(&mut bench, &features, Some("5.9.0.1")).unwrap();
        assert_eq!(dialled(&bench), [port]);
    }
}

#[test]
fn list_and_irc_may_not_name_a_harmful_port() {
    let mut bench = Bench::new(&["a.example t50001"]);
    bench.resolve("a.example", &["5.9.0.1"]);
    bench.finish("a.example", good(r#"[["5.9.7.1","5.9.7.1",["t6379"]]]"#, None));
    assert!(bench.entry("5.9.7.1").is_none());
    bench.handle(Event::IrcPeerFound(RealName::parse("c.example t9200", Network::Bitcoin.default_ports()).unwrap()));
    assert!(bench.entry("c.example").is_none());
    // Nor of a peer that is known and fails.
    let name = RealName::parse("5.9.8.1 t50001", Network::Bitcoin.default_ports()).unwrap();
    bench.actions = bench.book.add(name, bench.now, &mut bench.rng).unwrap();
    bench.finish("5.9.8.1", Err(ProbeError::Refused));
    bench.wait(Duration::from_hours(19));
    bench.resolve("a.example", &["5.9.0.1"]);
    bench.finish("a.example", good(r#"[["5.9.8.1","5.9.8.1",["t6379"]]]"#, None));
    bench.wait(Duration::from_hours(1));
    assert!(!bench.book.port_claims.contains_key(&"5.9.8.1".parse().unwrap()));
}

#[test]
fn peers_own_word_opens_no_harmful_port() {
    // A DNS name can move to another machine once its features are believed; that holds for a seed as well.
    let features = Some(r#"{"hosts":{"a.example":{"tcp_port":6379,"ssl_port":50002}}}"#);
    let mut bench = Bench::new(&["a.example t50001"]);
    bench.resolve("a.example", &["5.9.0.1"]);
    bench.finish("a.example", good("[]", features));
    assert_eq!(bench.entry("a.example").unwrap().listed().name.to_string(), "a.example v1.4 s50002");
    // What the operator wrote stays.
    let mut bench = Bench::new(&["a.example t6379"]);
    bench.resolve("a.example", &["5.9.0.1"]);
    let Ok(mut verified) = good("[]", features) else { unreachable!() };
    verified.port = 6379.try_into().unwrap();
    bench.finish("a.example", Ok(verified));
    assert_eq!(bench.entry("a.example").unwrap().listed().name.to_string(), "a.example v1.4 s50002 t6379");
}

#[test]
fn onion_service_may_have_any_port() {
    let mut bench = Bench::new(&[]);
    bench.handle(Event::Tor(TorProbe::Reachable));
    bench.handle(Event::TorPathProven);
    introduce(&mut bench, &format!(r#"{{"hosts":{{"{ONION}":{{"tcp_port":22}}}}}}"#), None).unwrap();
    assert_eq!(dialled(&bench), [22]);
}

#[test]
fn stored_peer_with_a_harmful_port_is_neither_dialled_nor_advertised() {
    let name = RealName::parse("5.9.0.1 t6379", Network::Bitcoin.default_ports()).unwrap();
    let mut entry = Entry::new(name, Source::Irc, Duration::ZERO, START);
    entry.last_success = Some(START);
    let settings = BookConfig { seeds: Vec::new(), ..BookConfig::default() };
    let mut book = PeerBook::new(settings, vec![entry.clone()], Duration::ZERO, Duration::ZERO, START);
    let mut rng = StdRng::seed_from_u64(5);
    let actions = book.handle(Event::Tick, START, &mut rng);
    assert!(!actions.iter().any(|action| matches!(action, Action::Probe(_))));
    let snapshot = book.snapshot(START, &mut rng);
    assert_eq!(snapshot.peers(Ingress::Clearnet, START, &mut rng).to_vec(), b"[]");
    assert_eq!(book.waiting(&entry, START), Some(Waiting::Port));
}
