//! What becomes of Tor, and what the book makes of it.

use super::*;

#[test]
fn onions_wait_for_tor_and_are_kept() {
    let mut bench = Bench::new(&[&format!("{ONION} t50110")]);
    assert_eq!(bench.attempt(), None);
    bench.wait(Duration::from_hours(24 * 60));
    assert!(bench.entry(ONION).is_some());
    bench.handle(Event::Tor(TorProbe::Reachable));
    assert_eq!(bench.attempt().unwrap().via, Route::Tor);
    assert!(matches!(bench.book.tor(), TorState::Starting { .. }));
    bench.finish(ONION, good("[]", None));
    assert!(bench.book.tor().is_ready());
    bench.handle(Event::Tor(TorProbe::Unavailable { reason: "stopped".to_owned() }));
    assert!(matches!(bench.book.tor(), TorState::Down { .. }));
}

#[test]
fn names_count_as_untried_until_their_first_try_is_over() {
    let mut bench = Bench::new(&[&format!("{ONION} t50110"), "a.example t50001"]);
    assert_eq!(bench.book.pending_first_probes(), 1, "without a Tor the onion name isn't waited for");
    bench.resolve("a.example", &["5.9.0.1"]);
    bench.handle(Event::Tor(TorProbe::Starting { percent: 5, waits_for: String::new() }));
    assert_eq!(bench.book.pending_first_probes(), 2);
    bench.finish("a.example", good("[]", None));
    assert_eq!(bench.book.pending_first_probes(), 1);
    bench.handle(Event::Tor(TorProbe::Reachable));
    assert_eq!(bench.book.pending_first_probes(), 1, "it is being tried");
    bench.finish(ONION, Err(ProbeError::OnionDescriptorNotFound));
    assert_eq!(bench.book.pending_first_probes(), 0, "whosever fault it was");
    bench.wait(Duration::from_hours(1));
    assert_eq!(bench.book.pending_first_probes(), 0, "it is tried again");
}

#[test]
fn an_attempt_that_our_own_tor_spoiled_counts_for_nothing() {
    let mut bench = Bench::new(&[&format!("{ONION} t50110")]);
    bench.handle(Event::Tor(TorProbe::Reachable));
    bench.finish(ONION, Err(ProbeError::TorUnavailable));
    let entry = bench.entry(ONION).unwrap();
    assert_eq!((entry.failures, entry.history.len()), (0, 0));
    bench.wait(Duration::from_mins(1));
    assert!(bench.attempt().is_some(), "tried again by itself");
}

#[test]
fn a_peer_in_doubt_that_answers_is_not_asked_twice() {
    let mut bench = Bench::new(&[&format!("{ONION} t50110")]);
    bench.handle(Event::Tor(TorProbe::Reachable));
    bench.book.settings.max_candidates = 2;
    introduce(&mut bench, &format!(r#"{{"hosts":{{"{}":{{"tcp_port":50001}}}}}}"#, onion(1)), None).unwrap();
    bench.finish(ONION, Err(ProbeError::OnionDescriptorNotFound));
    bench.wait(Duration::from_secs(31));
    let asked = bench.book.in_flight.keys().next().map(Host::to_string).unwrap();
    bench.finish(&asked, good("[]", None));
    let waiting: Vec<&Host> = bench.book.queue.all(Route::Tor).collect();
    let once: std::collections::HashSet<&Host> = waiting.iter().copied().collect();
    assert_eq!(waiting.len(), once.len());
}

#[test]
fn time_of_tor_restart_is_not_credited() {
    let mut bench = Bench::new(&[]);
    bench.handle(Event::Tor(TorProbe::Reachable));
    bench.handle(Event::TorPathProven);
    bench.handle(Event::Tor(TorProbe::Starting { percent: 5, waits_for: String::new() }));
    bench.wait(Duration::from_hours(20));
    bench.handle(Event::Tor(TorProbe::Reachable));
    bench.handle(Event::TorPathProven);
    assert_eq!(bench.book.tor_reach.working_time(), Duration::ZERO);
}

#[test]
fn after_a_long_time_away_those_verified_before_are_tried_first() {
    let mut bench = Bench::new(&[&format!("{ONION} t50110")]);
    bench.handle(Event::Tor(TorProbe::Reachable));
    bench.finish(ONION, good("[]", None));
    bench.handle(Event::Tor(TorProbe::Unavailable { reason: String::new() }));
    for n in 0..100 {
        bench.wait(Duration::from_mins(5));
        introduce(&mut bench, &format!(r#"{{"hosts":{{"{}":{{"tcp_port":50001}}}}}}"#, onion(n)), None).unwrap();
    }
    bench.wait(Duration::from_hours(24 * 15));
    bench.handle(Event::Tor(TorProbe::Reachable));
    let mut trials = 0;
    while bench.attempt().is_none_or(|attempt| attempt.host.to_string() != ONION) {
        if let Some(other) = bench.attempt().map(|attempt| attempt.host.to_string()) {
            bench.finish(&other, Err(ProbeError::OnionDescriptorNotFound));
        }
        bench.wait(Duration::from_mins(1));
        trials += 1;
    }
    assert!(trials < 30, "{trials}");
}

#[test]
fn where_all_goes_through_tor_nothing_is_tried_without_it() {
    let mut bench =
        Bench::routed(&["5.9.0.1 s50002", "a.example s50002 t50002", "b.example t50002"], RoutingPolicy::TorOnly);
    assert!(bench.entry("b.example").is_none(), "it has no TLS");
    bench.wait(Duration::from_hours(1));
    assert!(bench.actions.is_empty(), "{:?}", bench.actions);
    bench.handle(Event::Tor(TorProbe::Reachable));
    bench.finish("5.9.0.1", good("[]", None));
    bench.wait(Duration::from_secs(20));
    bench.resolve("a.example", &["88.99.0.2"]);
    let attempt = bench.attempt().unwrap();
    let tls = (Transport::Tls, 50002.try_into().unwrap());
    assert_eq!(
        (attempt.via, attempt.endpoints.as_slice(), attempt.trusted_endpoint_count),
        (Route::Tor, [tls].as_slice(), 1)
    );
    assert_eq!(attempt.addresses, ["88.99.0.2".parse::<IpAddr>().unwrap()]);
    // The time that Tor worked is time in which clearnet hosts were in reach.
    bench.finish("a.example", good("[]", None));
    bench.wait(Duration::from_hours(1));
    bench.handle(Event::TorPathProven);
    assert!(bench.book.direct.working_time() >= Duration::from_hours(1));
    bench.handle(Event::Tor(TorProbe::Unavailable { reason: String::new() }));
    bench.wait(Duration::from_hours(24));
    assert!(bench.attempt().is_none());
}

#[test]
fn a_name_that_proves_our_own_is_no_peer() {
    let mut bench = Bench::new(&[&format!("{ONION} t50110")]);
    bench.handle(Event::LocalHost(ONION.parse().unwrap()));
    assert!(bench.entry(ONION).is_none());
    let named = introduce(&mut bench, &format!(r#"{{"hosts":{{"{ONION}":{{"tcp_port":50001}}}}}}"#), None);
    assert_eq!(named, Err(IntakeError::LocalHost));
}

#[test]
fn clearnet_peers_wait_while_tor_refuses_them() {
    let mut bench = Bench::routed(&["5.9.0.1 s50002", &format!("{ONION} t50110")], RoutingPolicy::TorOnly);
    bench.handle(Event::TorClearnet(ClearnetAccess::OnionOnly));
    assert!(matches!(bench.notices()[..], [BookNotice::TorClearnet(_)]) && bench.book.clearnet_blocked().is_some());
    bench.handle(Event::Tor(TorProbe::Reachable));
    assert_eq!(bench.attempt().unwrap().host.to_string(), ONION);
    bench.finish(ONION, good("[]", None));
    for _ in 0..10 {
        bench.wait(Duration::from_hours(1));
        assert!(bench.attempt().is_none_or(|attempt| attempt.host.is_onion()));
        bench.handle(Event::TorPathProven);
    }
    assert_eq!(bench.book.direct.working_time(), Duration::ZERO, "no clearnet peer was in reach");
    assert_eq!(bench.book.pending_first_probes(), 0, "the first crawl waits for none of them");
    bench.handle(Event::TorClearnet(ClearnetAccess::Allowed));
    assert_eq!(bench.attempt().unwrap().host.to_string(), "5.9.0.1");
    assert_eq!(bench.book.clearnet_blocked(), None);
}

#[test]
fn clearnet_peers_with_a_direct_route_ignore_what_tor_refuses() {
    let mut bench = Bench::new(&["a.example t50001"]);
    bench.handle(Event::TorClearnet(ClearnetAccess::OnionOnly));
    assert_eq!((bench.notices().len(), bench.book.clearnet_blocked()), (0, None));
    bench.resolve("a.example", &["5.9.0.1"]);
    assert_eq!(bench.attempt().unwrap().via, Route::Direct);
}

#[test]
fn refusal_by_tors_policy_is_no_failure_of_the_peer() {
    let mut bench = Bench::routed(&["5.9.0.1 s50002"], RoutingPolicy::TorOnly);
    bench.handle(Event::Tor(TorProbe::Reachable));
    bench.handle(Event::TorPathProven);
    bench.finish("5.9.0.1", Err(ProbeError::TorPolicy));
    let entry = bench.entry("5.9.0.1").unwrap();
    assert_eq!((entry.failures, entry.history.len()), (0, 0));
    assert!(bench.book.tor().is_ready(), "Tor itself works");
}
