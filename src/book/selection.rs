//! Selection of the peers that a list shows.
//!
//! Trusted and long-standing peers come first. Newcomers get what their groups and a small share of the list allow, so
//! that neither a rented network nor free onion names can fill a list.

use rand::Rng;
use rand::RngExt;
use rand::seq::SliceRandom;

use super::entry::Entry;
use super::ingress::Ingress;
use super::peer_group::{GroupCounts, NewcomerNetworks, PeerGroup};
use super::standing::{ENOUGH_CLEARNET, Tier, age_class};
use crate::as_map::AsMap;
use crate::clock::Time;

/// Maximum entries of a list: about 110 KB, while Fulcrum reads 256 KiB.
pub(super) const MAX_LIST_ENTRIES: usize = 1000;

/// Maximum onion peers for a clearnet client, unless a quarter of the list is more.
///
/// Onion names cost nothing, so they are limited.
const MAX_ONIONS_CLEARNET: usize = 10;

/// Maximum onion peers for a client of the onion service.
const MAX_ONIONS_ONION: usize = 50;

/// Newcomers in a list are one for this number of settled clearnet peers, which is 5 %.
const SETTLED_PER_NEWCOMER: usize = 20;

/// Minimum number of places for newcomers, so that new servers are found at all.
const MIN_NEWCOMERS: usize = 3;

/// Places for newcomers for each settled peer that is missing from [`ENOUGH_CLEARNET`].
///
/// A young book knows newcomers only, and then lists as many as it would without a limit.
const PLACES_PER_MISSING_PEER: usize = 8;

/// Newcomers' onion names get one place for this number of places for onions.
const ONIONS_PER_NEWCOMER: usize = 16;

/// Peers of one list.
#[derive(Debug, Default)]
pub(super) struct Selection<'a> {
    /// Clearnet peers in random order.
    pub clearnet: Vec<&'a Entry>,
    /// Onion peers in random order.
    pub onions: Vec<&'a Entry>,
}

impl<'a> Selection<'a> {
    /// Selects the peers of a list from the verified peers, which have a fixed order.
    pub(super) fn new(
        verified: &[&'a Entry],
        ingress: Ingress,
        as_map: Option<&AsMap>,
        now: Time,
        rng: &mut impl Rng,
    ) -> Selection<'a> {
        let (onions, mut clearnet): (Vec<&Entry>, Vec<&Entry>) =
            verified.iter().partition(|entry| entry.host.is_onion());
        clearnet.shuffle(rng);
        let clearnet = select_clearnet(clearnet, as_map, now);
        let places = match ingress {
            // A quarter of the whole list is a third of its other part.
            Ingress::Clearnet => MAX_ONIONS_CLEARNET.max(clearnet.len() / 3).min(MAX_LIST_ENTRIES / 4),
            Ingress::Onion => MAX_ONIONS_ONION,
        };
        let onions = select_onions(onions, places, now, rng);
        Selection { clearnet: shuffled(clearnet, rng), onions: shuffled(onions, rng) }
    }
}

/// Selects clearnet peers. Each address has one place.
fn select_clearnet<'a>(mut peers: Vec<&'a Entry>, as_map: Option<&AsMap>, now: Time) -> Vec<&'a Entry> {
    let mut counts = GroupCounts::default();
    // The sort is stable, so peers of equal standing stay in random order.
    peers.sort_by_key(|entry| entry.tier(now));
    let (mut selected, mut newcomers): (Vec<&Entry>, Vec<&Entry>) =
        peers.into_iter().partition(|entry| entry.tier(now) != Tier::Newcomer);
    selected.retain(|entry| counts.add_if_address_is_free(&PeerGroup::all_of(entry, as_map)));
    let missing = ENOUGH_CLEARNET.saturating_sub(selected.len());
    let places = MIN_NEWCOMERS.max(selected.len() / SETTLED_PER_NEWCOMER) + missing * PLACES_PER_MISSING_PEER;
    // Networks without a trusted or long-standing peer come first.
    newcomers.sort_by_cached_key(|entry| counts.of(PeerGroup::network_of(entry, as_map).as_ref()));
    let mut networks = NewcomerNetworks::default();
    let admitted = newcomers.into_iter().filter(|entry| match missing {
        0 => counts.add_within_limits(&PeerGroup::all_of(entry, as_map)),
        _ => networks.admit(entry, as_map, &mut counts),
    });
    selected.extend(admitted.take(places));
    selected
}

/// Selects onion peers for this number of places.
fn select_onions<'a>(peers: Vec<&'a Entry>, places: usize, now: Time, rng: &mut impl Rng) -> Vec<&'a Entry> {
    let (mut settled, newcomers): (Vec<&Entry>, Vec<&Entry>) =
        peers.into_iter().partition(|entry| entry.tier(now) != Tier::Newcomer);
    settled.shuffle(rng);
    let newcomers = draw_by_age(newcomers, MIN_NEWCOMERS.max(places / ONIONS_PER_NEWCOMER), now, rng);
    settled.truncate(places.saturating_sub(newcomers.len()));
    settled.extend(newcomers);
    settled
}

/// Draws peers, each from a random age class.
pub(super) fn draw_by_age<'a>(
    mut peers: Vec<&'a Entry>,
    count: usize,
    now: Time,
    rng: &mut impl Rng,
) -> Vec<&'a Entry> {
    peers.shuffle(rng);
    let mut classes: Vec<Vec<&Entry>> = Vec::new();
    for peer in peers {
        let class = usize::from(age_class(peer, now));
        classes.resize_with(classes.len().max(class + 1), Vec::new);
        if let Some(members) = classes.get_mut(class) {
            members.push(peer);
        }
    }
    let mut drawn = Vec::new();
    while drawn.len() < count {
        classes.retain(|members| !members.is_empty());
        if classes.is_empty() {
            break;
        }
        let class = rng.random_range(0..classes.len());
        drawn.extend(classes.get_mut(class).and_then(Vec::pop));
    }
    drawn
}

fn shuffled<'a>(mut peers: Vec<&'a Entry>, rng: &mut impl Rng) -> Vec<&'a Entry> {
    peers.shuffle(rng);
    peers
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::super::tests::{START, aged, clearnet_entry, onion_entry, promoted};
    use super::*;

    fn newcomers(range: std::ops::Range<u32>) -> Vec<Entry> {
        range
            .map(|n| clearnet_entry(&format!("new{n}.site{n}.example"), &format!("{}.{}.7.7", 20 + n / 200, n % 200)))
            .collect()
    }

    fn settled(range: std::ops::Range<u32>) -> Vec<Entry> {
        let entry = |n| clearnet_entry(&format!("old{n}.site.example"), &format!("5.{}.{}.1", n / 8, n % 8));
        range.map(entry).map(|entry| promoted(aged(entry, 30))).collect()
    }

    fn select(entries: &[Entry], ingress: Ingress, seed: u64) -> Selection<'_> {
        let verified: Vec<&Entry> = entries.iter().collect();
        Selection::new(&verified, ingress, None, START, &mut StdRng::seed_from_u64(seed))
    }

    fn newcomers_of(selection: &[&Entry]) -> usize {
        selection.iter().filter(|entry| entry.tier(START) == Tier::Newcomer).count()
    }

    #[test]
    fn newcomers_get_a_twentieth_once_enough_peers_are_long_standing() {
        for (count, expected) in [(0, 259), (16, 131), (32, 3), (80, 4), (200, 10)] {
            let entries = [settled(0..count), newcomers(0..1000)].concat();
            let selection = select(&entries, Ingress::Clearnet, 1);
            assert_eq!(newcomers_of(&selection.clearnet), expected, "{count} long-standing peers");
            assert_eq!(selection.clearnet.len() - expected, count as usize, "long-standing peers are all listed");
        }
    }

    #[test]
    fn names_on_one_address_do_not_displace_their_neighbour() {
        let mut entries = [settled(0..1), newcomers(0..20)].concat();
        entries.extend((0..60).map(|n| clearnet_entry(&format!("x{n}.flood{n}.example"), "5.0.200.1")));
        for seed in 0..60 {
            let selection = select(&entries, Ingress::Clearnet, seed);
            let hosts: Vec<String> = selection.clearnet.iter().map(|entry| entry.host.to_string()).collect();
            assert!(hosts.contains(&"old0.site.example".to_owned()));
            assert_eq!(hosts.len(), 22, "the address itself has one place");
        }
    }

    #[test]
    fn one_ipv6_range_gets_one_place() {
        let rented =
            (0..600).map(|n| clearnet_entry(&format!("h{n}.site{n}.example"), &format!("2a01:4f8:1:{n:x}::1")));
        let entries = [newcomers(0..60), rented.collect()].concat();
        assert_eq!(select(&entries, Ingress::Clearnet, 1).clearnet.len(), 61);
    }

    #[test]
    fn address_has_one_place() {
        let mut entries = settled(0..40);
        for entry in &mut entries {
            entry.ip = Some("5.9.0.1".parse().unwrap());
        }
        assert_eq!(select(&entries, Ingress::Clearnet, 1).clearnet.len(), 1);
    }

    #[test]
    fn free_onions_get_three_places() {
        let mut entries: Vec<Entry> = (0..2000).map(onion_entry).collect();
        for entry in &mut entries[..40] {
            *entry = promoted(aged(entry.clone(), 30));
        }
        for (ingress, places) in [(Ingress::Clearnet, 10), (Ingress::Onion, 43)] {
            let onions = select(&entries, ingress, 1).onions;
            assert_eq!((onions.len(), newcomers_of(&onions)), (places, MIN_NEWCOMERS));
        }
    }

    #[test]
    fn newcomers_are_drawn_by_age_and_not_by_count() {
        let old = aged(onion_entry(0), 20);
        let entries: Vec<Entry> = std::iter::once(old.clone()).chain((1..1000).map(onion_entry)).collect();
        let mut drawn: HashMap<bool, u32> = HashMap::new();
        for seed in 0..400 {
            let mut rng = StdRng::seed_from_u64(seed);
            let one = draw_by_age(entries.iter().collect(), 1, START + Duration::from_hours(1), &mut rng);
            *drawn.entry(one[0].host == old.host).or_default() += 1;
        }
        assert!((150..250).contains(&drawn[&true]), "{drawn:?}");
    }
}
