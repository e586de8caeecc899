//! Names from untrusted sources, and banned hosts.

use super::*;

#[test]
fn introductions_are_held_to_the_rules() {
    let mut bench = Bench::new(&[]);
    let mut introduce = |json: &str| {
        let features = serde_json::from_str(json).unwrap();
        bench.book.add_peer(&features, Some("88.99.0.2".parse().unwrap()), START, &mut bench.rng).map(|_| ())
    };
    assert_eq!(introduce("{}"), Err(IntakeError::NoHost));
    assert_eq!(
        introduce(r#"{"genesis_hash":"00","hosts":{"a.example":{"tcp_port":50001}}}"#),
        Err(IntakeError::WrongGenesis)
    );
    assert_eq!(introduce(r#"{"hosts":{"localhost":{"tcp_port":50001}}}"#), Err(IntakeError::NotPublic));
    assert_eq!(introduce(r#"{"hosts":{"5.9.0.1":{"tcp_port":50001}}}"#), Err(IntakeError::NotTheCaller));
    for n in 0..5 {
        assert_eq!(introduce(&format!(r#"{{"hosts":{{"h{n}.example":{{"tcp_port":50001}}}}}}"#)), Ok(()));
    }
    assert_eq!(introduce(r#"{"hosts":{"h9.example":{"tcp_port":50001}}}"#), Err(IntakeError::SourceBudget));
}

#[test]
fn no_disguise_makes_a_private_address_public() {
    let mut bench = Bench::new(&[]);
    for host in [
        "127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:7f00:1",
        "::ffff:7f00:1.",
        "[::1]",
        "64:ff9b::7f00:1",
        "2002:7f00:1::1",
        "2001:0:7f00:1::1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "127.1",
        "0177.0.0.1",
        "127.0.0.1.",
        "LOCALHOST",
        "localhost.",
        "Router.Local",
        "\u{ff11}\u{ff12}\u{ff17}.0.0.1",
        "127\u{3002}0\u{3002}0\u{3002}1",
        "loca\u{ad}lhost",
        "\u{24db}ocalhost",
        "169.254.169.254",
        "0.0.0.0",
        "printer",
    ] {
        let features = format!(r#"{{"hosts":{{"{host}":{{"tcp_port":50001}}}}}}"#);
        let features = serde_json::from_str(&features).unwrap();
        for from in ["88.99.0.2", "127.0.0.1"] {
            let refusal =
                bench.book.add_peer(&features, Some(from.parse().unwrap()), START, &mut bench.rng).unwrap_err();
            assert!(matches!(refusal, IntakeError::NoHost | IntakeError::NotPublic), "{host}: {refusal}");
        }
    }
}

#[test]
fn ports_of_other_services_are_not_dialled() {
    let mut bench = Bench::new(&[]);
    let features = serde_json::from_str(r#"{"hosts":{"a.example":{"tcp_port":25,"ssl_port":22}}}"#).unwrap();
    let refusal = bench.book.add_peer(&features, Some("5.9.0.1".parse().unwrap()), START, &mut bench.rng).unwrap_err();
    assert_eq!(refusal, IntakeError::NoDialablePort);
    // Nor are those that a peer says are its own.
    let mut bench = Bench::new(&["a.example t50001"]);
    bench.resolve("a.example", &["5.9.0.1"]);
    bench.finish("a.example", good("[]", Some(r#"{"hosts":{"a.example":{"tcp_port":50001,"ssl_port":53}}}"#)));
    bench.wait(Duration::from_hours(24));
    bench.resolve("a.example", &["5.9.0.1"]);
    assert_eq!(bench.attempt().unwrap().endpoints, [(Transport::Tcp, 50001.try_into().unwrap())]);
}

#[test]
fn names_below_one_domain_share_a_budget() {
    let mut bench = Bench::new(&[]);
    let mut introduce = |host: &str, from: u8| {
        let features = serde_json::from_str(&format!(r#"{{"hosts":{{"{host}":{{"tcp_port":50001}}}}}}"#)).unwrap();
        let from = IpAddr::from([5, 9, from, 1]);
        bench.book.add_peer(&features, Some(from), START, &mut bench.rng).map(|_| ())
    };
    for n in 0..8 {
        assert_eq!(introduce(&format!("h{n}.a.example.co.uk"), n), Ok(()));
    }
    assert_eq!(introduce("h9.example.co.uk", 9), Err(IntakeError::DomainBudget));
    assert_eq!(introduce("h9.other.co.uk", 10), Ok(()));
}

#[test]
fn banned_peers_are_dropped_and_rejected() {
    let mut bench = Bench::new(&["a.example t50001", "b.example t50001", "c.spy.example t50001"]);
    bench.resolve("a.example", &["5.9.0.1"]);
    bench.finish("a.example", good("[]", None));
    let bans = Bans::parse("5.9.0.0/16\n*.spy.example\n").unwrap();
    bench.handle(Event::BansReplaced(Arc::new(bans)));
    assert_eq!(bench.notices().len(), 2);
    assert!(bench.entry("a.example").is_none() && bench.entry("c.spy.example").is_none());
    let told = bench.book.snapshot(bench.now, &mut bench.rng).peers(Ingress::Clearnet, bench.now, &mut bench.rng);
    assert_eq!(told.to_vec(), b"[]");
    // A name whose address turns out to be one of them.
    bench.resolve("b.example", &["5.9.7.7"]);
    assert!(bench.attempt().is_none() && bench.entry("b.example").is_none());
    let name = RealName::parse("d.spy.example t50001", Network::Bitcoin.default_ports()).unwrap();
    assert_eq!(bench.book.add(name, bench.now, &mut bench.rng).unwrap_err(), IntakeError::Banned);
    bench.handle(Event::BansReplaced(Arc::default()));
    let name = RealName::parse("d.spy.example t50001", Network::Bitcoin.default_ports()).unwrap();
    assert!(bench.book.add(name, bench.now, &mut bench.rng).is_ok());
}

#[test]
fn untrusted_sources_cannot_cause_frequent_probes() {
    let mut bench = Bench::new(&["5.9.0.1 t50001"]);
    let mut tries = 0;
    for minute in 0..24 * 60u32 {
        if bench.attempt().is_some() {
            tries += 1;
            bench.finish("5.9.0.1", good("[]", None));
        }
        let port = minute + 50001;
        let json = format!(r#"{{"hosts":{{"5.9.0.1":{{"tcp_port":{port}}}}}}}"#);
        let _ = introduce(&mut bench, &json, [None, Some("5.9.0.1")][usize::from(minute % 2 == 0)]);
        bench.wait(Duration::from_mins(1));
    }
    // About once an hour.
    assert!((10..=30).contains(&tries), "{tries}");
}

#[test]
fn names_with_most_failures_are_evicted() {
    let mut bench = Bench::new(&["a.example t50001"]);
    bench.book.settings.max_candidates = 8;
    for n in 0..8 {
        introduce(&mut bench, &format!(r#"{{"hosts":{{"{}":{{"tcp_port":50001}}}}}}"#, onion(n)), None).err();
        bench.wait(Duration::from_mins(2));
    }
    let full = introduce(&mut bench, &format!(r#"{{"hosts":{{"{}":{{"tcp_port":50001}}}}}}"#, onion(9)), None);
    assert_eq!(full, Err(IntakeError::CandidateTableFull));
    bench.book.entries.get_mut(&onion(3).parse().unwrap()).unwrap().failures = 7;
    bench.wait(SWEEP);
    assert!(bench.entry(&onion(3)).is_none());
    introduce(&mut bench, &format!(r#"{{"hosts":{{"{}":{{"tcp_port":50001}}}}}}"#, onion(9)), None).unwrap();
}

#[test]
fn add_peer_for_another_host_is_rejected() {
    let mut bench = Bench::new(&[]);
    let features = serde_json::from_str(r#"{"hosts":{"victim.example":{"tcp_port":50001}}}"#).unwrap();
    bench.actions = bench.book.add_peer(&features, Some("88.99.0.2".parse().unwrap()), START, &mut bench.rng).unwrap();
    bench.resolve("victim.example", &["5.9.0.1"]);
    assert_eq!(bench.attempt(), None);
    assert!(matches!(bench.notices()[..], [BookNotice::AddPeerSpoofed { .. }]));
    assert!(bench.entry("victim.example").is_none());
}
