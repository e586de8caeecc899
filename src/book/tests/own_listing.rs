//! Which peers list the own names.

use super::*;
use crate::book::{ListingCount, OwnListing};

#[test]
fn peers_that_list_an_own_name_are_counted() {
    let mut harness = BookHarness::new(&["5.9.0.1 t50001", "88.99.0.2 t50001"]);
    let own: Host = "own.example".parse().unwrap();
    harness.book.config.local_hosts.push(own.clone());
    let count = |harness: &BookHarness| {
        let ListingCount { listed_by, peers } = harness.book.listing_count(&own, harness.now);
        (listed_by, peers)
    };
    assert_eq!(count(&harness), (0, 0));
    let list = r#"[["5.9.0.9","own.example",["v1.4","s50002"]],["5.9.0.9","own.example",["v1.4","t9"]]]"#;
    harness.finish("5.9.0.1", success(list, None));
    harness.finish("88.99.0.2", success("[]", None));
    assert_eq!(count(&harness), (1, 2));
    let listing = harness.entry("5.9.0.1").unwrap().own_listings.clone();
    assert_eq!((listing.len(), listing[0].ports.tls().map(u16::from), listing[0].since), (1, Some(50002), START));
    // It keeps its time while the peer lists the name, and loses it when the peer doesn't.
    harness.wait(Duration::from_hours(20));
    harness.finish("5.9.0.1", success(list, None));
    assert_eq!(harness.entry("5.9.0.1").unwrap().own_listings[0].since, START);
    harness.wait(Duration::from_hours(20));
    harness.finish("5.9.0.1", success("[]", None));
    assert_eq!(count(&harness).0, 0);
}

#[test]
fn visits_announce_the_names_that_the_peer_lacks_in_turn() {
    let mut harness = BookHarness::new(&["5.9.0.1 t50001"]);
    harness.book.config.announce = true;
    let own: [Host; 2] = ["a.example", "b.example"].map(|host| host.parse().unwrap());
    for host in &own {
        harness.book.config.local_hosts.push(host.clone());
        let name = RealName { host: host.clone(), version: None, pruning: None, ports: Chain::BITCOIN.default_ports };
        let listed = Box::new(crate::peer::PeerListEntry { ip: None, name });
        harness.handle(Event::SelfReachable(listed));
    }
    let peer: Host = "5.9.0.1".parse().unwrap();
    let next = |harness: &BookHarness| harness.book.name_to_announce(&peer, harness.now);
    assert_eq!(next(&harness), Some(own[0].clone()));
    let now = harness.now;
    harness.book.peers.update(&peer, |entry| entry.record_announcement(&own[0], now));
    assert_eq!(next(&harness), Some(own[1].clone()));
    harness.book.peers.update(&peer, |entry| entry.record_announcement(&own[1], now));
    assert_eq!(next(&harness), None, "each name is announced once a day");
    harness.now = now + Duration::from_hours(24);
    let listing = OwnListing { host: own[0].clone(), ports: Chain::BITCOIN.default_ports, since: now };
    harness.book.peers.update(&peer, |entry| entry.own_listings.push(listing));
    assert_eq!(next(&harness), Some(own[1].clone()), "a name that is missing goes first");
}
