//! Endpoints that are advertised: only those that were reached.

use super::attacks::{Network, answer_of, candidate};
use super::*;

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
