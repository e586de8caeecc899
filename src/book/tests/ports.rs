//! Ports that are dialled, by kind of host and source of the port.

use super::*;

fn dialled(harness: &BookHarness) -> Vec<u16> {
    harness
        .target()
        .map(|attempt| attempt.endpoints.iter().map(|endpoint| endpoint.1.get()).collect())
        .unwrap_or_default()
}

#[test]
fn built_in_seeds_are_all_added_and_dialled() {
    for chain in Chain::BUILT_IN {
        let settings = BookConfig {
            chain: chain.clone(),
            seeds: chain.default_seeds(),
            max_tor_probes: 32,
            ..BookConfig::default()
        };
        let mut book = PeerBook::new(settings, Vec::new(), PerRoute::default(), START);
        let count = chain.seeds.len();
        let mut rng = StdRng::seed_from_u64(5);
        let mut actions = book.add_seeds(START, &mut rng);
        assert_eq!((book.entries().count(), book.refused_seeds().len()), (count, 0), "{chain}");
        actions.extend(book.handle(Event::Tor(TorProbe::Reachable), START, &mut rng));
        actions.extend(book.handle(Event::TorPathProven, START, &mut rng));
        let tried = actions.iter().filter(|action| match action {
            Action::Resolve(..) => true,
            Action::Probe(attempt) => !attempt.endpoints.is_empty(),
            _ => false,
        });
        assert_eq!(tried.count(), count, "{chain}");
    }
}

#[test]
fn operator_may_name_any_port() {
    let mut harness = BookHarness::new(&["5.9.0.1 s22"]);
    assert_eq!(dialled(&harness), [22]);
    let name = RealName::parse("88.99.0.2 t6379", Chain::BITCOIN.default_ports).unwrap();
    harness.actions = harness.book.add(name, harness.now, &mut harness.rng).unwrap();
    assert_eq!(dialled(&harness), [6379]);
}

#[test]
fn operator_may_name_another_port_of_a_known_peer() {
    let mut harness = BookHarness::new(&["b.example t50001"]);
    add_peer(&mut harness, r#"{"hosts":{"a.example":{"tcp_port":50001}}}"#, Some("5.9.0.1")).unwrap();
    harness.resolve("a.example", &["5.9.0.1"]);
    harness.finish("a.example", success("[]", None));
    let name = RealName::parse("a.example s22", Chain::BITCOIN.default_ports).unwrap();
    harness.actions = harness.book.add(name, harness.now, &mut harness.rng).unwrap();
    harness.resolve("a.example", &["5.9.0.1"]);
    assert_eq!(dialled(&harness), [50001, 22]);
    let Ok(mut verified) = success("[]", None) else { unreachable!() };
    (verified.transport, verified.port) = (Transport::Tls, 22.try_into().unwrap());
    harness.finish("a.example", Ok(verified));
    assert_eq!(harness.entry("a.example").unwrap().listed().name.to_string(), "a.example v1.4 s22");
}

#[test]
fn untrusted_blocked_port_of_a_clearnet_host_is_rejected() {
    for port in [25, 502, 2375, 6379, 8332, 9051, 9200, 10250, 27017] {
        let mut harness = BookHarness::new(&[]);
        let features = format!(r#"{{"hosts":{{"5.9.0.1":{{"tcp_port":{port}}}}}}}"#);
        assert_eq!(add_peer(&mut harness, &features, Some("5.9.0.1")), Err(IntakeError::NoDialablePort), "{port}");
        // Of two ports the other one remains, to be dialled and advertised.
        let features = format!(r#"{{"hosts":{{"5.9.0.1":{{"tcp_port":{port},"ssl_port":50002}}}}}}"#);
        add_peer(&mut harness, &features, Some("5.9.0.1")).unwrap();
        assert_eq!(dialled(&harness), [50002]);
        assert_eq!(harness.entry("5.9.0.1").unwrap().listed().name.ports.tcp(), None);
    }
    for port in [80, 110, 143, 443, 993, 995] {
        let features = format!(r#"{{"hosts":{{"5.9.0.1":{{"tcp_port":{port}}}}}}}"#);
        let mut harness = BookHarness::new(&[]);
        add_peer(&mut harness, &features, Some("5.9.0.1")).unwrap();
        assert_eq!(dialled(&harness), [port]);
    }
}

#[test]
fn blocked_port_from_list_or_irc_is_rejected() {
    let mut harness = BookHarness::new(&["a.example t50001"]);
    harness.resolve("a.example", &["5.9.0.1"]);
    harness.finish("a.example", success(r#"[["5.9.7.1","5.9.7.1",["t6379"]]]"#, None));
    assert!(harness.entry("5.9.7.1").is_none());
    harness.handle(Event::IrcPeerFound(RealName::parse("c.example t9200", Chain::BITCOIN.default_ports).unwrap()));
    assert!(harness.entry("c.example").is_none());
    // The ports of a known, failing peer are restricted too.
    let name = RealName::parse("5.9.8.1 t50001", Chain::BITCOIN.default_ports).unwrap();
    harness.actions = harness.book.add(name, harness.now, &mut harness.rng).unwrap();
    harness.finish("5.9.8.1", Err(ProbeError::Refused));
    harness.wait(Duration::from_hours(19));
    harness.resolve("a.example", &["5.9.0.1"]);
    harness.finish("a.example", success(r#"[["5.9.8.1","5.9.8.1",["t6379"]]]"#, None));
    harness.wait(Duration::from_hours(1));
    assert!(harness.book.peers.port_claims().ports(&"5.9.8.1".parse().unwrap()).next().is_none());
}

#[test]
fn blocked_port_from_own_features_is_ignored() {
    // A DNS name can move to another machine once its features are believed; that holds for a seed as well.
    let features = Some(r#"{"hosts":{"a.example":{"tcp_port":6379,"ssl_port":50002}}}"#);
    let mut harness = BookHarness::new(&["a.example t50001"]);
    harness.resolve("a.example", &["5.9.0.1"]);
    harness.finish("a.example", success("[]", features));
    let ports = |harness: &BookHarness| harness.entry("a.example").unwrap().ports;
    assert_eq!((ports(&harness).tcp(), ports(&harness).tls().unwrap().get()), (None, 50002));
    // What the operator wrote stays.
    let mut harness = BookHarness::new(&["a.example t6379"]);
    harness.resolve("a.example", &["5.9.0.1"]);
    let Ok(mut verified) = success("[]", features) else { unreachable!() };
    verified.port = 6379.try_into().unwrap();
    harness.finish("a.example", Ok(verified));
    assert_eq!(ports(&harness).tcp().unwrap().get(), 6379);
    assert_eq!(harness.entry("a.example").unwrap().listed().name.to_string(), "a.example v1.4 t6379");
}

#[test]
fn onion_service_may_have_any_port() {
    let mut harness = BookHarness::new(&[]);
    harness.handle(Event::Tor(TorProbe::Reachable));
    harness.handle(Event::TorPathProven);
    add_peer(&mut harness, &format!(r#"{{"hosts":{{"{ONION}":{{"tcp_port":22}}}}}}"#), None).unwrap();
    assert_eq!(dialled(&harness), [22]);
}

#[test]
fn stored_peer_with_blocked_port_is_neither_dialled_nor_advertised() {
    let name = RealName::parse("5.9.0.1 t6379", Chain::BITCOIN.default_ports).unwrap();
    let mut entry = Entry::new(name, Source::Irc, Duration::ZERO, START);
    entry.last_success = Some(START);
    let settings = BookConfig { seeds: Vec::new(), ..BookConfig::default() };
    let mut book = PeerBook::new(settings, vec![entry.clone()], PerRoute::default(), START);
    let mut rng = StdRng::seed_from_u64(5);
    let actions = book.handle(Event::Tick, START, &mut rng);
    assert!(!actions.iter().any(|action| matches!(action, Action::Probe(_))));
    let snapshot = book.snapshot(START, &mut rng);
    assert_eq!(snapshot.peers(Ingress::Clearnet, START, &mut rng).to_vec(), b"[]");
    assert_eq!(book.waiting(&entry, START), Some(Waiting::Port));
}
