//! Selection of the peers that a list shows.
//!
//! Trusted and long-standing peers come first. Newcomers get what their groups and a small share of the list allow, so
//! that neither a rented network nor free onion names can fill a list.

use std::collections::BTreeMap;

use rand::Rng;
use rand::RngExt;
use rand::seq::SliceRandom;

use super::ingress::Ingress;
use super::listable::Listable;
use super::peer_group::{GroupCounts, NewcomerNetworks, PeerGroup};
use super::random_order::RandomOrder;
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

/// Verified peers from which lists are selected.
#[derive(Debug, Default)]
pub(super) struct VerifiedPeers<'a> {
    /// Clearnet peers that are trusted or long-standing.
    settled_clearnet: Vec<Listable<'a>>,
    /// Other clearnet peers.
    clearnet_newcomers: Vec<Listable<'a>>,
    /// Onion peers that are trusted or long-standing.
    settled_onions: Vec<Listable<'a>>,
    /// Other onion peers, by age class.
    onion_newcomers: Vec<Vec<Listable<'a>>>,
}

/// Peers of one list.
#[derive(Debug, Default)]
pub(super) struct Selection<'a> {
    /// Clearnet peers in random order, at most [`MAX_LIST_ENTRIES`].
    pub clearnet: Vec<Listable<'a>>,
    /// Onion peers in random order.
    pub onions: Vec<Listable<'a>>,
}

impl<'a> VerifiedPeers<'a> {
    /// Adds a verified peer.
    pub(super) fn add(&mut self, peer: Listable<'a>, now: Time) {
        match (peer.facts.is_onion, peer.tier(now)) {
            (false, Tier::Newcomer) => self.clearnet_newcomers.push(peer),
            (false, _) => self.settled_clearnet.push(peer),
            (true, Tier::Newcomer) => {
                let class = usize::from(age_class(peer.facts.first_seen, now));
                self.onion_newcomers.resize_with(self.onion_newcomers.len().max(class + 1), Vec::new);
                self.onion_newcomers.get_mut(class).into_iter().for_each(|members| members.push(peer));
            }
            (true, _) => self.settled_onions.push(peer),
        }
    }
}

impl<'a> Selection<'a> {
    /// Selects the peers of a list.
    pub(super) fn new(
        verified: &VerifiedPeers<'a>,
        ingress: Ingress,
        as_map: Option<&AsMap>,
        now: Time,
        rng: &mut impl Rng,
    ) -> Selection<'a> {
        let clearnet = select_clearnet(verified, as_map, now, rng);
        let places = match ingress {
            // A quarter of the whole list is a third of its other part.
            Ingress::Clearnet => MAX_ONIONS_CLEARNET.max(clearnet.len() / 3).min(MAX_LIST_ENTRIES / 4),
            Ingress::Onion => MAX_ONIONS_ONION,
        };
        let onions = select_onions(verified, places, rng);
        let mut clearnet = shuffled(clearnet, rng);
        clearnet.truncate(MAX_LIST_ENTRIES);
        Selection { clearnet, onions: shuffled(onions, rng) }
    }
}

/// Selects clearnet peers. Each address has one place.
fn select_clearnet<'a>(
    verified: &VerifiedPeers<'a>,
    as_map: Option<&AsMap>,
    now: Time,
    rng: &mut impl Rng,
) -> Vec<Listable<'a>> {
    let mut selected = shuffled(verified.settled_clearnet.clone(), rng);
    let mut counts = GroupCounts::with_peers(selected.len());
    // The sort is stable, so peers of equal standing stay in random order.
    selected.sort_by_cached_key(|peer| peer.tier(now));
    selected.retain(|peer| counts.add_if_address_is_free(peer.settled_groups(as_map)));
    let missing = ENOUGH_CLEARNET.saturating_sub(selected.len());
    let places = MIN_NEWCOMERS.max(selected.len() / SETTLED_PER_NEWCOMER) + missing * PLACES_PER_MISSING_PEER;
    let mut settled_networks = GroupCounts::default();
    for peer in &selected {
        settled_networks.add(PeerGroup::network_of(peer.entry, as_map).as_slice());
    }
    let networks = (missing > 0).then(NewcomerNetworks::default);
    let mut admission = Admission { counts, settled_networks, networks, as_map };
    selected.extend(admission.choose(&verified.clearnet_newcomers, places, rng));
    selected
}

/// Admission of newcomers to the places that settled peers leave.
struct Admission<'a> {
    /// Number of selected peers of each group.
    counts: GroupCounts,
    /// Number of selected trusted and long-standing peers of each network.
    settled_networks: GroupCounts,
    /// Autonomous systems that have a newcomer; `None` once there are enough trusted and long-standing peers.
    networks: Option<NewcomerNetworks>,
    as_map: Option<&'a AsMap>,
}

impl Admission<'_> {
    /// Chooses newcomers for this number of places. Networks with fewer trusted and long-standing peers come first.
    ///
    /// Peers are drawn one by one until the places are taken, as there may be many more. The result is that of a random
    /// order of all of them, sorted by the number of peers of the network.
    fn choose<'a>(&mut self, newcomers: &[Listable<'a>], places: usize, rng: &mut impl Rng) -> Vec<Listable<'a>> {
        let (mut chosen, mut order) = (Vec::new(), RandomOrder::new(newcomers));
        let mut waiting: BTreeMap<usize, Vec<(Listable<'_>, Option<PeerGroup>)>> = BTreeMap::new();
        while chosen.len() < places
            && let Some(peer) = order.next(rng)
        {
            let network = PeerGroup::network_of(peer.entry, self.as_map);
            match self.settled_networks.of(network.as_ref()) {
                0 if self.admit(peer, network.as_ref()) => chosen.push(peer),
                0 => {}
                settled => waiting.entry(settled).or_default().push((peer, network)),
            }
        }
        for (peer, network) in waiting.into_values().flatten() {
            if chosen.len() < places && self.admit(peer, network.as_ref()) {
                chosen.push(peer);
            }
        }
        chosen
    }

    /// Counts a peer if its groups have room. Returns whether they had.
    fn admit(&mut self, peer: Listable<'_>, network: Option<&PeerGroup>) -> bool {
        // Most of a mass of newcomers is in few networks. This test needs no other groups.
        if !self.counts.has_room(network.map(std::slice::from_ref).unwrap_or_default()) {
            return false;
        }
        match &mut self.networks {
            Some(networks) => networks.admit(peer.entry, self.as_map, &mut self.counts),
            None => self.counts.add_within_limits(&PeerGroup::all_of(peer.entry, self.as_map)),
        }
    }
}

/// Selects onion peers for this number of places.
fn select_onions<'a>(verified: &VerifiedPeers<'a>, places: usize, rng: &mut impl Rng) -> Vec<Listable<'a>> {
    let newcomers = draw_by_age(&verified.onion_newcomers, MIN_NEWCOMERS.max(places / ONIONS_PER_NEWCOMER), rng);
    let mut selected = shuffled(verified.settled_onions.clone(), rng);
    selected.truncate(places.saturating_sub(newcomers.len()));
    selected.extend(newcomers);
    selected
}

/// Draws peers, each from a random age class that has any left.
fn draw_by_age<'a>(classes: &[Vec<Listable<'a>>], count: usize, rng: &mut impl Rng) -> Vec<Listable<'a>> {
    let mut classes: Vec<_> = classes.iter().map(|members| RandomOrder::new(members)).collect();
    let mut drawn = Vec::new();
    while drawn.len() < count {
        classes.retain(|members| !members.is_empty());
        if classes.is_empty() {
            break;
        }
        let class = rng.random_range(0..classes.len());
        drawn.extend(classes.get_mut(class).and_then(|members| members.next(rng)));
    }
    drawn
}

fn shuffled<'a>(mut peers: Vec<Listable<'a>>, rng: &mut impl Rng) -> Vec<Listable<'a>> {
    peers.shuffle(rng);
    peers
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::super::entry::Entry;
    use super::super::listable::ListFacts;
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

    /// Entries that a list shows.
    struct Selected {
        clearnet: Vec<Entry>,
        onions: Vec<Entry>,
    }

    fn verified<'a>(entries: &'a [Entry], facts: &'a [ListFacts], now: Time) -> VerifiedPeers<'a> {
        let mut verified = VerifiedPeers::default();
        entries.iter().zip(facts).for_each(|(entry, facts)| verified.add(Listable { entry, facts }, now));
        verified
    }

    fn select(entries: &[Entry], ingress: Ingress, seed: u64) -> Selected {
        let facts: Vec<ListFacts> = entries.iter().map(ListFacts::of).collect();
        let verified = verified(entries, &facts, START);
        let selection = Selection::new(&verified, ingress, None, START, &mut StdRng::seed_from_u64(seed));
        let entries = |peers: Vec<Listable<'_>>| peers.into_iter().map(|peer| peer.entry.clone()).collect();
        Selected { clearnet: entries(selection.clearnet), onions: entries(selection.onions) }
    }

    fn newcomers_of(selection: &[Entry]) -> usize {
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
        let facts: Vec<ListFacts> = entries.iter().map(ListFacts::of).collect();
        let peers = verified(&entries, &facts, START + Duration::from_hours(1));
        let mut drawn: HashMap<bool, u32> = HashMap::new();
        for seed in 0..400 {
            let mut rng = StdRng::seed_from_u64(seed);
            let one = draw_by_age(&peers.onion_newcomers, 1, &mut rng);
            *drawn.entry(one[0].entry.host == old.host).or_default() += 1;
        }
        assert!((150..250).contains(&drawn[&true]), "{drawn:?}");
    }
}
