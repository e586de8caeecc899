//! Endpoints that are advertised: only those that were reached.

use super::attacks::{Network, answer_of, candidate};
use super::*;
use crate::connect::{PeerLimits, WebSocketCheck};
use crate::peer::Port;

/// Limits of a peer that does not respond to `server.features`.
const WITHOUT_FEATURES: PeerLimits = PeerLimits { skips_features: true, one_by_one: false };

const BOTH: &str = r#"{"hosts":{"5.9.0.1":{"tcp_port":50001,"ssl_port":50002}}}"#;

fn with_features(target: &ProbeTarget, features: &str) -> Result<Verified, ProbeError> {
    let report = success("[]", Some(features))?.report;
    Ok(Verified { report, ..answer_of(target)? })
}

fn listed(network: &Network) -> String {
    network.harness.entry("5.9.0.1").unwrap().listed().name.to_string()
}

#[test]
fn endpoint_that_never_answered_is_not_listed() {
    let mut network = Network::new(vec![candidate("5.9.0.1".parse().unwrap())]);
    let (mut dialled_first, mut visits) = (0, 0);
    for day in 1..30 {
        network.run(Event::Tick, START + Duration::from_hours(24 * day), &mut |target, _| {
            visits += 1;
            dialled_first += usize::from(target.endpoints[0].0 == Transport::Tls);
            let open = target.endpoints.iter().copied().find(|(transport, _)| *transport == Transport::Tcp).unwrap();
            let target = ProbeTarget { endpoints: vec![open], ..target.clone() };
            (Duration::from_secs(1), with_features(&target, BOTH))
        });
        assert_eq!(listed(&network), "5.9.0.1 v1.4 t50001");
    }
    assert!(dialled_first > 1, "it may be opened later");
    assert!(visits < 60, "{visits}");
}

#[test]
fn both_reached_endpoints_are_listed_soon_and_for_good() {
    let mut network = Network::new(vec![candidate("5.9.0.1".parse().unwrap())]);
    let mut visits = 0;
    for hour in 1..24 * 30 {
        network.run(Event::Tick, START + Duration::from_hours(hour), &mut |target, _| {
            visits += 1;
            (Duration::from_secs(1), with_features(target, BOTH))
        });
        assert_eq!(listed(&network), "5.9.0.1 v1.4 s50002 t50001", "{hour}");
    }
    // A month has 43 regular visits.
    assert!(visits < 60, "{visits}");
}

#[test]
fn endpoint_that_is_closed_later_is_no_longer_listed() {
    let mut network = Network::new(vec![candidate("5.9.0.1".parse().unwrap())]);
    let probe = |network: &mut Network, hours: u64, open: Option<Transport>| {
        network.run(Event::Tick, START + Duration::from_hours(hours), &mut |target, _| {
            let is_open = |(transport, _): &(Transport, _)| open.is_none_or(|open| open == *transport);
            let endpoints = target.endpoints.iter().copied().filter(is_open).collect();
            let target = ProbeTarget { endpoints, ..target.clone() };
            (Duration::from_secs(1), with_features(&target, BOTH))
        });
    };
    probe(&mut network, 1, None);
    assert_eq!(listed(&network), "5.9.0.1 v1.4 s50002 t50001");
    probe(&mut network, 24 * 4, Some(Transport::Tls));
    assert_eq!(listed(&network), "5.9.0.1 v1.4 s50002");
}

#[test]
fn web_sockets_are_listed_while_they_are_reached() {
    let features = BOTH.replace("}}", r#","ws_port":50003,"wss_port":50004}}"#);
    let mut network = Network::new(vec![candidate("5.9.0.1".parse().unwrap())]);
    let (mut visits, mut connections) = (0, 0);
    for hour in 1..24 * 30 {
        network.run(Event::Tick, START + Duration::from_hours(hour), &mut |target, _| {
            visits += 1;
            connections += target.web_sockets.len();
            let is_open = |(transport, _)| transport == Transport::Tls && hour < 24 * 20;
            let check = |endpoint: &(Transport, Port)| WebSocketCheck {
                endpoint: *endpoint,
                failure: (!is_open(*endpoint)).then_some(ProbeError::Refused),
            };
            let web_sockets = target.web_sockets.iter().map(check).collect();
            let answer = with_features(target, &features).map(|verified| Verified { web_sockets, ..verified });
            (Duration::from_secs(1), answer)
        });
        let listed = listed(&network);
        let expected = if hour < 24 * 20 { " wss50004" } else { "" };
        let was_just_closed = (24 * 20..24 * 23).contains(&hour);
        assert!(was_just_closed || listed == format!("5.9.0.1 v1.4 s50002 t50001{expected}"), "{hour}");
    }
    assert!(visits < 60, "{visits}: checks of WebSockets add one visit");
    // The port that never answers is dialled in each visit, and the other one at every third.
    assert!(connections < visits * 2, "{connections}");
}

#[test]
fn web_socket_that_the_peer_no_longer_names_is_not_listed() {
    let with_port = BOTH.replace("}}", r#","ws_port":50003}}"#);
    let mut network = Network::new(vec![candidate("5.9.0.1".parse().unwrap())]);
    for hour in 1..24 * 5 {
        let features = if hour < 24 * 3 { &with_port } else { BOTH };
        network.run(Event::Tick, START + Duration::from_hours(hour), &mut |target, _| {
            let check = |endpoint: &(Transport, Port)| WebSocketCheck { endpoint: *endpoint, failure: None };
            let web_sockets = target.web_sockets.iter().map(check).collect();
            (
                Duration::from_secs(1),
                with_features(target, features).map(|verified| Verified { web_sockets, ..verified }),
            )
        });
        assert!(hour != 24 * 3 - 1 || listed(&network).ends_with("ws50003"));
    }
    assert_eq!(listed(&network), "5.9.0.1 v1.4 s50002 t50001");
}

#[test]
fn answer_before_a_long_check_of_web_sockets_does_not_prove_the_path() {
    let mut harness = BookHarness::new(&["5.9.0.1 t50001", "88.99.0.2 t50001"]);
    harness.finish("88.99.0.2", Err(ProbeError::Timeout));
    let old = success("[]", None).map(|verified| Verified { since_response: Duration::from_secs(20), ..verified });
    harness.finish("5.9.0.1", old);
    assert_eq!(harness.entry("88.99.0.2").unwrap().failures, 0, "its failure is not attributed");
    assert!(harness.entry("5.9.0.1").unwrap().last_success.is_some());
    let mut alone = BookHarness::new(&["5.9.0.1 t50001"]);
    alone.finish(
        "5.9.0.1",
        success("[]", None).map(|found| Verified { since_response: Duration::from_secs(20), ..found }),
    );
    assert!(alone.book.paths.health(Route::Direct).last_proof().is_some(), "there is no doubt");
}

#[test]
fn name_without_features_must_stay_at_its_address() {
    let mut harness = BookHarness::new(&[]);
    add_peer(&mut harness, r#"{"hosts":{"a.example":{"tcp_port":50001}}}"#, Some("5.9.0.1")).unwrap();
    let answer = || success("[]", None).map(|verified| Verified { limits: WITHOUT_FEATURES, ..verified });
    harness.resolve("a.example", &["5.9.0.1"]);
    assert!(!harness.target().unwrap().limits.skips_features);
    harness.finish("a.example", answer());
    for (addresses, skips) in [(&["5.9.0.1", "88.99.0.2"][..], true), (&["88.99.0.2"], false)] {
        harness.wait(Duration::from_hours(20));
        harness.resolve("a.example", addresses);
        let target = harness.target().unwrap();
        assert_eq!((target.limits.skips_features, target.addresses.len()), (skips, 1), "{addresses:?}");
        harness.finish("a.example", answer());
    }
}

#[test]
fn web_sockets_of_others_cause_no_visit() {
    let mut harness = BookHarness::new(&["a.example t50001"]);
    harness.resolve("a.example", &["5.9.0.1"]);
    harness.finish("a.example", success("[]", None));
    let list = r#"[["5.9.0.1","a.example",["v1.4","t50001","wss443"]]]"#;
    let due = harness.entry("a.example").unwrap().next_probe_at;
    add_peer(&mut harness, r#"{"hosts":{"a.example":{"tcp_port":50001,"wss_port":443}}}"#, Some("5.9.0.1")).unwrap();
    assert_eq!(harness.entry("a.example").unwrap().next_probe_at, due);
    harness.book.peers.update(&"a.example".parse().unwrap(), |entry| entry.failures = 1);
    let list = PeerList::parse(list, crate::chain::Chain::BITCOIN.default_ports).unwrap();
    harness.book.record_port_claims(&list, &mut harness.rng);
    assert_eq!(harness.book.peers.port_claims().ports(&"a.example".parse().unwrap()).count(), 0);
}

#[test]
fn peer_that_fails_at_features_is_asked_without_them_for_days() {
    let mut network = Network::new(vec![candidate("5.9.0.1".parse().unwrap())]);
    let mut without = Vec::new();
    for hour in 1..24 * 10 {
        network.run(Event::Tick, START + Duration::from_hours(hour), &mut |target, _| {
            without.push(target.limits.skips_features);
            let answer = answer_of(target).map(|verified| Verified { limits: WITHOUT_FEATURES, ..verified });
            (Duration::from_secs(1), answer)
        });
    }
    let asked = without.iter().filter(|skips| !**skips).count();
    assert!(!without[0] && (3..=4).contains(&asked), "{asked} of {}", without.len());
}

#[test]
fn entry_of_an_older_store_lists_its_ports_until_its_next_visit() {
    let mut entry = candidate("5.9.0.1".parse().unwrap());
    entry.last_success = Some(START);
    assert_eq!(entry.listed().name.to_string(), "5.9.0.1 v1.4 s50002 t50001");
}

#[test]
fn only_the_operators_peers_may_have_features_without_their_host() {
    let mut harness = BookHarness::new(&["5.9.0.1 t50001"]);
    assert!(!harness.target().unwrap().must_list_host);
    add_peer(&mut harness, r#"{"hosts":{"88.99.0.2":{"tcp_port":50001}}}"#, Some("88.99.0.2")).unwrap();
    assert!(harness.target().unwrap().must_list_host);
}
