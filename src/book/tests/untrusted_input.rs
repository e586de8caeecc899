//! Names from untrusted sources, and banned hosts.

use super::*;
use crate::peer::Features;

#[test]
fn add_peer_requests_obey_the_rules() {
    let mut harness = BookHarness::new(&[]);
    let mut add_peer = |json: &str| {
        let features = serde_json::from_str(json).unwrap();
        harness.book.add_peer(&features, Some("88.99.0.2".parse().unwrap()), START, &mut harness.rng).map(|_| ())
    };
    assert_eq!(add_peer("{}"), Err(IntakeError::NoHost));
    assert_eq!(
        add_peer(r#"{"genesis_hash":"00","hosts":{"a.example":{"tcp_port":50001}}}"#),
        Err(IntakeError::WrongGenesis)
    );
    assert_eq!(add_peer(r#"{"hosts":{"localhost":{"tcp_port":50001}}}"#), Err(IntakeError::NotPublic));
    assert_eq!(add_peer(r#"{"hosts":{"5.9.0.1":{"tcp_port":50001}}}"#), Err(IntakeError::NotTheClient));
    for n in 0..5 {
        assert_eq!(add_peer(&format!(r#"{{"hosts":{{"h{n}.example":{{"tcp_port":50001}}}}}}"#)), Ok(()));
    }
    assert_eq!(add_peer(r#"{"hosts":{"h9.example":{"tcp_port":50001}}}"#), Err(IntakeError::SourceBudget));
}

#[test]
fn embedded_private_address_is_rejected() {
    let mut harness = BookHarness::new(&[]);
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
                harness.book.add_peer(&features, Some(from.parse().unwrap()), START, &mut harness.rng).unwrap_err();
            assert!(matches!(refusal, IntakeError::NoHost | IntakeError::NotPublic), "{host}: {refusal}");
        }
    }
}

#[test]
fn ports_of_other_services_are_not_dialled() {
    let mut harness = BookHarness::new(&[]);
    let features = serde_json::from_str(r#"{"hosts":{"a.example":{"tcp_port":25,"ssl_port":22}}}"#).unwrap();
    let refusal =
        harness.book.add_peer(&features, Some("5.9.0.1".parse().unwrap()), START, &mut harness.rng).unwrap_err();
    assert_eq!(refusal, IntakeError::NoDialablePort);
    // Ports that a peer reports for itself are not dialled either.
    let mut harness = BookHarness::new(&["a.example t50001"]);
    harness.resolve("a.example", &["5.9.0.1"]);
    harness.finish("a.example", success("[]", Some(r#"{"hosts":{"a.example":{"tcp_port":50001,"ssl_port":53}}}"#)));
    harness.wait(Duration::from_hours(24));
    harness.resolve("a.example", &["5.9.0.1"]);
    assert_eq!(harness.target().unwrap().endpoints, [(Transport::Tcp, 50001.try_into().unwrap())]);
}

#[test]
fn reported_names_below_one_domain_share_a_budget() {
    let mut harness = BookHarness::new(&[]);
    for n in 0..9 {
        let name = RealName::parse(&format!("h{n}.a.example.co.uk t50001"), Chain::BITCOIN.default_ports);
        harness.handle(Event::IrcPeerFound(name.unwrap()));
    }
    let name = RealName::parse("h9.other.co.uk t50001", Chain::BITCOIN.default_ports).unwrap();
    harness.handle(Event::IrcPeerFound(name));
    assert_eq!(harness.book.entries().count(), 8 + 1);
}

fn notice_text(notice: &BookNotice) -> String {
    match notice {
        BookNotice::Banned { host, ban } => format!("{host}: {ban}"),
        BookNotice::BansApplied { list, removed } => format!("{list}: {removed}"),
        notice => panic!("{notice:?}"),
    }
}

#[test]
fn banned_peers_are_dropped_and_rejected() {
    let mut harness = BookHarness::new(&["a.example t50001", "b.example t50001", "c.spy.example t50001"]);
    harness.resolve("a.example", &["5.9.0.1"]);
    harness.finish("a.example", success("[]", None));
    let bans = Bans::parse("5.9.0.0/16\n*.spy.example\n").unwrap();
    harness.handle(Event::BansReplaced(Arc::new(bans)));
    let notices: Vec<String> = harness.notices().into_iter().map(notice_text).collect();
    let expected = ["a.example: 5.9.0.0/16 in bans", "c.spy.example: *.spy.example in bans", "bans: 2"];
    assert_eq!(notices, expected);
    assert!(harness.entry("a.example").is_none() && harness.entry("c.spy.example").is_none());
    let list =
        harness.book.snapshot(harness.now, &mut harness.rng).peers(Ingress::Clearnet, harness.now, &mut harness.rng);
    assert_eq!(list.to_vec(), b"[]");
    // A name that resolves to a banned address.
    harness.resolve("b.example", &["5.9.7.7"]);
    assert!(harness.target().is_none() && harness.entry("b.example").is_none());
    let name = RealName::parse("d.spy.example t50001", Chain::BITCOIN.default_ports).unwrap();
    let refusal = harness.book.add(name, harness.now, &mut harness.rng).unwrap_err();
    assert_eq!(refusal.to_string(), "the host is banned by *.spy.example in bans");
    harness.handle(Event::BansReplaced(Arc::default()));
    let name = RealName::parse("d.spy.example t50001", Chain::BITCOIN.default_ports).unwrap();
    assert!(harness.book.add(name, harness.now, &mut harness.rng).is_ok());
}

#[test]
fn add_peer_does_not_reveal_the_ban_of_a_host() {
    let responses = |bans: &str| {
        let mut harness = BookHarness::new(&[]);
        harness.handle(Event::BansReplaced(Arc::new(Bans::parse(bans).unwrap())));
        let features = |host: &str| {
            let json = format!(r#"{{"hosts":{{"{host}":{{"ssl_port":50002}}}}}}"#);
            serde_json::from_str::<Features>(&json).unwrap()
        };
        let names = (0..40).map(|n| format!("h{}.spy.example", n / 2));
        let hosts = [ONION.to_owned(), "10.0.0.1".to_owned()].into_iter().chain(names).chain([ONION.to_owned()]);
        let mut add = |host: String| {
            let added = harness.book.add_peer(&features(&host), None, harness.now, &mut harness.rng);
            added.map(|_| ())
        };
        let accepted: Vec<Result<(), IntakeError>> = hosts.map(&mut add).collect();
        (accepted, harness.book.entries().count())
    };
    let (banned, banned_entries) = responses(&format!("*.spy.example\n{ONION}\n"));
    let (unknown, entries) = responses("");
    assert_eq!(banned, unknown, "also the budgets are the same");
    assert!(banned_entries == 0 && entries > 1);
    assert!(banned.iter().skip(2).any(Result::is_err) && banned.contains(&Ok(())), "{banned:?}");
}

#[test]
fn untrusted_sources_cannot_cause_frequent_probes() {
    let mut harness = BookHarness::new(&["5.9.0.1 t50001"]);
    let mut tries = 0;
    for minute in 0..24 * 60u32 {
        if harness.target().is_some() {
            tries += 1;
            harness.finish("5.9.0.1", success("[]", None));
        }
        let port = minute + 50001;
        let json = format!(r#"{{"hosts":{{"5.9.0.1":{{"tcp_port":{port}}}}}}}"#);
        let _ = add_peer(&mut harness, &json, [None, Some("5.9.0.1")][usize::from(minute % 2 == 0)]);
        harness.wait(Duration::from_mins(1));
    }
    // The budgets of the peer itself and of others: three each at once, and two each day.
    assert!((4..=14).contains(&tries), "{tries}");
}

#[test]
fn name_with_most_failures_is_evicted() {
    let mut harness = BookHarness::new(&["a.example t50001"]);
    harness.book.config.max_candidates = 8;
    for n in 0..7 {
        add_peer(&mut harness, &format!(r#"{{"hosts":{{"{}":{{"tcp_port":50001}}}}}}"#, onion(n)), None).unwrap();
        harness.wait(Duration::from_mins(2));
    }
    harness.book.peers.update(&onion(3).parse().unwrap(), |entry| entry.failures = 7);
    add_peer(&mut harness, &format!(r#"{{"hosts":{{"{}":{{"tcp_port":50001}}}}}}"#, onion(9)), None).unwrap();
    assert!(harness.entry(&onion(3)).is_none() && harness.entry(&onion(9)).is_some());
    assert!(harness.entry("a.example").is_some(), "the operator's names are never evicted");
}

#[test]
fn add_peer_for_another_host_is_rejected() {
    let mut harness = BookHarness::new(&[]);
    let features = serde_json::from_str(r#"{"hosts":{"victim.example":{"tcp_port":50001}}}"#).unwrap();
    harness.actions =
        harness.book.add_peer(&features, Some("88.99.0.2".parse().unwrap()), START, &mut harness.rng).unwrap();
    harness.resolve("victim.example", &["5.9.0.1"]);
    assert_eq!(harness.target(), None);
    assert!(matches!(harness.notices()[..], [BookNotice::AddPeerSpoofed { .. }]));
    assert!(harness.entry("victim.example").is_none());
}
