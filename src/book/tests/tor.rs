//! Effects of the state of Tor.

use super::*;

#[test]
fn onions_wait_for_tor() {
    let mut harness = BookHarness::new(&[&format!("{ONION} t50110")]);
    assert_eq!(harness.target(), None);
    harness.wait(Duration::from_hours(24 * 60));
    assert!(harness.entry(ONION).is_some());
    harness.handle(Event::Tor(TorProbe::Reachable));
    assert_eq!(harness.target().unwrap().via, Route::Tor);
    assert!(matches!(harness.book.tor(), TorState::Starting { .. }));
    harness.finish(ONION, success("[]", None));
    assert!(harness.book.tor().is_ready());
    harness.handle(Event::Tor(TorProbe::Unavailable { reason: "stopped".to_owned() }));
    assert!(matches!(harness.book.tor(), TorState::Down { .. }));
}

#[test]
fn name_is_pending_until_its_first_probe_ends() {
    let mut harness = BookHarness::new(&[&format!("{ONION} t50110"), "a.example t50001"]);
    assert_eq!(harness.book.pending_first_probes(), 1, "onion names do not count without Tor");
    harness.resolve("a.example", &["5.9.0.1"]);
    harness.handle(Event::Tor(TorProbe::Starting { percent: 5, waiting_for: String::new() }));
    assert_eq!(harness.book.pending_first_probes(), 2);
    harness.finish("a.example", success("[]", None));
    assert_eq!(harness.book.pending_first_probes(), 1);
    harness.handle(Event::Tor(TorProbe::Reachable));
    assert_eq!(harness.book.pending_first_probes(), 1, "the probe is in flight");
    harness.finish(ONION, Err(ProbeError::OnionDescriptorNotFound));
    assert_eq!(harness.book.pending_first_probes(), 0, "the first probe has ended");
    harness.wait(Duration::from_hours(1));
    assert_eq!(harness.book.pending_first_probes(), 0, "a later probe does not count");
}

#[test]
fn failure_of_the_local_tor_is_not_counted() {
    let mut harness = BookHarness::new(&[&format!("{ONION} t50110")]);
    harness.handle(Event::Tor(TorProbe::Reachable));
    harness.finish(ONION, Err(ProbeError::TorUnavailable));
    let entry = harness.entry(ONION).unwrap();
    assert_eq!((entry.failures, entry.history.len()), (0, 0));
    harness.wait(Duration::from_mins(1));
    assert!(harness.target().is_some(), "the probe is repeated");
}

#[test]
fn suspect_peer_that_answers_is_not_probed_twice() {
    let mut harness = BookHarness::new(&[&format!("{ONION} t50110")]);
    harness.handle(Event::Tor(TorProbe::Reachable));
    harness.book.config.max_candidates = 2;
    add_peer(&mut harness, &format!(r#"{{"hosts":{{"{}":{{"tcp_port":50001}}}}}}"#, onion(1)), None).unwrap();
    harness.finish(ONION, Err(ProbeError::OnionDescriptorNotFound));
    harness.wait(Duration::from_secs(31));
    let asked = harness.book.peers.probes().next().map(|(host, _)| host.to_string()).unwrap();
    harness.finish(&asked, success("[]", None));
    let waiting: Vec<&Host> = harness.book.peers.queue().all(Route::Tor).collect();
    let once: std::collections::HashSet<&Host> = waiting.iter().copied().collect();
    assert_eq!(waiting.len(), once.len());
}

#[test]
fn time_of_tor_restart_is_not_credited() {
    let mut harness = BookHarness::new(&[]);
    harness.handle(Event::Tor(TorProbe::Reachable));
    harness.handle(Event::TorPathProven);
    harness.handle(Event::Tor(TorProbe::Starting { percent: 5, waiting_for: String::new() }));
    harness.wait(Duration::from_hours(20));
    harness.handle(Event::Tor(TorProbe::Reachable));
    harness.handle(Event::TorPathProven);
    assert_eq!(harness.book.paths.health(Route::Tor).working_time(), Duration::ZERO);
}

#[test]
fn previously_verified_peers_are_probed_first_after_downtime() {
    let mut harness = BookHarness::new(&[&format!("{ONION} t50110")]);
    harness.handle(Event::Tor(TorProbe::Reachable));
    harness.finish(ONION, success("[]", None));
    harness.handle(Event::Tor(TorProbe::Unavailable { reason: String::new() }));
    for n in 0..100 {
        harness.wait(Duration::from_mins(5));
        add_peer(&mut harness, &format!(r#"{{"hosts":{{"{}":{{"tcp_port":50001}}}}}}"#, onion(n)), None).unwrap();
    }
    harness.wait(Duration::from_hours(24 * 15));
    harness.handle(Event::Tor(TorProbe::Reachable));
    let mut trials = 0;
    while harness.target().is_none_or(|attempt| attempt.host.to_string() != ONION) {
        if let Some(other) = harness.target().map(|attempt| attempt.host.to_string()) {
            harness.finish(&other, Err(ProbeError::OnionDescriptorNotFound));
        }
        harness.wait(Duration::from_mins(1));
        trials += 1;
    }
    assert!(trials < 30, "{trials}");
}

#[test]
fn tor_only_dials_nothing_without_tor() {
    let mut harness =
        BookHarness::routed(&["5.9.0.1 s50002", "a.example s50002 t50002", "b.example t50002"], RoutingPolicy::TorOnly);
    assert!(harness.entry("b.example").is_none(), "it has no TLS");
    harness.wait(Duration::from_hours(1));
    assert!(harness.actions.is_empty(), "{:?}", harness.actions);
    harness.handle(Event::Tor(TorProbe::Reachable));
    harness.finish("5.9.0.1", success("[]", None));
    harness.wait(Duration::from_secs(20));
    harness.resolve("a.example", &["88.99.0.2"]);
    let attempt = harness.target().unwrap();
    let tls = (Transport::Tls, 50002.try_into().unwrap());
    assert_eq!(
        (attempt.via, attempt.endpoints.as_slice(), attempt.trusted_endpoint_count),
        (Route::Tor, [tls].as_slice(), 1)
    );
    assert_eq!(attempt.addresses, ["88.99.0.2".parse::<IpAddr>().unwrap()]);
    // While Tor works, clearnet hosts are reachable.
    harness.finish("a.example", success("[]", None));
    harness.wait(Duration::from_hours(1));
    harness.handle(Event::TorPathProven);
    assert!(harness.book.paths.health(Route::Direct).working_time() >= Duration::from_hours(1));
    harness.handle(Event::Tor(TorProbe::Unavailable { reason: String::new() }));
    harness.wait(Duration::from_hours(24));
    assert!(harness.target().is_none());
}

#[test]
fn own_name_is_removed_from_the_peers() {
    let mut harness = BookHarness::new(&[&format!("{ONION} t50110")]);
    harness.handle(Event::LocalHost(ONION.parse().unwrap()));
    assert!(harness.entry(ONION).is_none());
    let named = add_peer(&mut harness, &format!(r#"{{"hosts":{{"{ONION}":{{"tcp_port":50001}}}}}}"#), None);
    assert_eq!(named, Err(IntakeError::LocalHost));
}

#[test]
fn clearnet_peers_wait_while_tor_refuses_them() {
    let mut harness = BookHarness::routed(&["5.9.0.1 s50002", &format!("{ONION} t50110")], RoutingPolicy::TorOnly);
    harness.handle(Event::TorClearnet(ClearnetAccess::OnionOnly));
    assert!(matches!(harness.notices()[..], [BookNotice::TorClearnet(_)]) && harness.book.clearnet_blocked().is_some());
    harness.handle(Event::Tor(TorProbe::Reachable));
    assert_eq!(harness.target().unwrap().host.to_string(), ONION);
    harness.finish(ONION, success("[]", None));
    for _ in 0..10 {
        harness.wait(Duration::from_hours(1));
        assert!(harness.target().is_none_or(|attempt| attempt.host.is_onion()));
        harness.handle(Event::TorPathProven);
    }
    assert_eq!(
        harness.book.paths.health(Route::Direct).working_time(),
        Duration::ZERO,
        "no clearnet peer was reachable"
    );
    assert_eq!(harness.book.pending_first_probes(), 0, "unreachable names do not count");
    harness.handle(Event::TorClearnet(ClearnetAccess::Allowed));
    assert_eq!(harness.target().unwrap().host.to_string(), "5.9.0.1");
    assert_eq!(harness.book.clearnet_blocked(), None);
}

#[test]
fn clearnet_peers_with_a_direct_route_ignore_what_tor_refuses() {
    let mut harness = BookHarness::new(&["a.example t50001"]);
    harness.handle(Event::TorClearnet(ClearnetAccess::OnionOnly));
    assert_eq!((harness.notices().len(), harness.book.clearnet_blocked()), (0, None));
    harness.resolve("a.example", &["5.9.0.1"]);
    assert_eq!(harness.target().unwrap().via, Route::Direct);
}

#[test]
fn refusal_by_tor_policy_is_not_attributed() {
    let mut harness = BookHarness::routed(&["5.9.0.1 s50002"], RoutingPolicy::TorOnly);
    harness.handle(Event::Tor(TorProbe::Reachable));
    harness.handle(Event::TorPathProven);
    harness.finish("5.9.0.1", Err(ProbeError::TorPolicy));
    let entry = harness.entry("5.9.0.1").unwrap();
    assert_eq!((entry.failures, entry.history.len()), (0, 0));
    assert!(harness.book.tor().is_ready(), "Tor itself works");
}
