//! Announcements of the own names, and what their times reveal.

use super::*;
use crate::peer::PeerListEntry;

/// Onion peers that are verified when the own name becomes reachable.
const PEERS: u8 = 20;

/// Number of visits that announce the own name, in each hour after it became reachable.
fn announcements(side: Side, seed: u64) -> Vec<usize> {
    let host = |number: u8, kind: u8| {
        Host::Onion(crate::peer::OnionAddress::from_public_key([kind, number].repeat(16).try_into().unwrap()))
    };
    let ports = Chain::BITCOIN.default_ports;
    let name = |host: Host| RealName { host, version: None, pruning: None, ports };
    let seeds = (0..PEERS).map(|number| name(host(number, 1))).collect();
    let config = BookConfig { side, seeds, announce: true, ..BookConfig::default() };
    let mut rng = StdRng::seed_from_u64(seed);
    let mut book = PeerBook::new(config, Vec::new(), PerRoute::default(), START);
    let mut actions = book.handle(Event::Tor(TorProbe::Reachable), START, &mut rng);
    actions.extend(book.add_seeds(START, &mut rng));
    let (mut now, reached) = (START, START + Duration::from_hours(2));
    let mut hours = vec![0; 48];
    while now < reached + Duration::from_hours(48) {
        for action in std::mem::take(&mut actions) {
            if let Action::Probe(target) = action {
                if target.announce.is_some() {
                    hours[usize::try_from(now.since(reached).as_secs() / 3600).unwrap()] += 1;
                }
                let outcome = Box::new(success("[]", None));
                actions.extend(book.handle(Event::Probed { host: target.host, outcome }, now, &mut rng));
            }
        }
        if actions.iter().any(|action| matches!(action, Action::Probe(_))) {
            continue;
        }
        let was_reached = now >= reached;
        now = now + Duration::from_secs(10);
        let event = if !was_reached && now >= reached {
            Event::SelfReachable(Box::new(PeerListEntry { ip: None, name: name(host(0, 2)) }))
        } else {
            Event::Tick
        };
        actions = book.handle(event, now, &mut rng);
        if now.since(reached).as_secs() % 3600 < 10 && was_reached {
            let again = Event::SelfReachable(Box::new(PeerListEntry { ip: None, name: name(host(0, 2)) }));
            actions.extend(book.handle(again, now, &mut rng));
        }
    }
    hours
}

#[test]
fn onion_side_announces_on_regular_probes_only() {
    let burst = announcements(Side::Both, 1);
    assert_eq!(burst[0], usize::from(PEERS), "a shared book visits each peer: {burst:?}");
    let mut firsts = Vec::new();
    for seed in 0..20 {
        let hours = announcements(Side::Onion, seed);
        let first = hours.iter().position(|count| *count > 0).unwrap();
        assert!(hours.iter().sum::<usize>() >= usize::from(PEERS), "each peer is informed within two days: {hours:?}");
        firsts.push(first);
    }
    firsts.sort_unstable();
    println!("hours from the first success to the first announcement: {firsts:?}");
    assert!(firsts[19] - firsts[0] >= 6, "the first announcement says little on the first success: {firsts:?}");
}
