//! Standing of peers: how newcomers become long-standing peers.
//!
//! Lists, backends and verdicts rely on long-standing peers. Addresses, names and a few weeks of patience can be bought,
//! so the number of peers that become long-standing is limited: per group, and in total per week. A sudden mass of
//! newcomers therefore changes lists slowly, with or without an AS map.

use std::net::IpAddr;
use std::time::Duration;

use rand::seq::{IndexedRandom, IteratorRandom, SliceRandom};

use super::PeerBook;
use super::context::Context;
use super::entry::{Entry, PeerState, Promotion};
use super::peer_group::{GroupCounts, NewcomerNetworks, PeerGroup};
use super::uptime::WEEK;
use crate::clock::Time;
use crate::netgroup::Netgroup;
use crate::peer::Host;

/// Minimum age of a long-standing peer.
const MIN_AGE: Duration = Duration::from_hours(7 * 24);

/// Minimum weekly uptime share of a long-standing peer.
const MIN_UPTIME: f64 = 0.9;

/// Minimum weight of results in the weekly window. After a week of visits it is 1 − e⁻¹, which is 0.63.
const MIN_OBSERVED: f64 = 0.6;

/// Age of a book in which its first population becomes long-standing: twice the minimum age, as discovery takes days.
const FOUNDING_TIME: Duration = Duration::from_hours(14 * 24);

/// Number of clearnet peers from which the rate per week is limited. With fewer, only groups are limited.
pub(super) const ENOUGH_CLEARNET: usize = 32;

/// Maximum number of onion peers in the first population. Names are free, so the longest known are taken.
const MAX_FOUNDING_ONIONS: usize = 24;

/// Growth of the long-standing clearnet peers: 2 % a week, and at least one peer.
const CLEARNET_GROWTH: Growth = Growth { per_week: 0.02, max_interval: Duration::from_hours(7 * 24) };

/// Growth of the long-standing onion peers, whose names are free: 1 % a week, and at least one peer in two weeks.
const ONION_GROWTH: Growth = Growth { per_week: 0.01, max_interval: Duration::from_hours(14 * 24) };

/// Interval between two times at which peers may be promoted.
pub(super) const PROMOTION_INTERVAL: Duration = Duration::from_hours(1);

/// Rate at which a population of long-standing peers grows.
struct Growth {
    /// Share of the population that is added in a week.
    per_week: f64,
    /// Maximum interval between two promotions.
    max_interval: Duration,
}

impl Growth {
    /// Returns whether the rate allows another promotion.
    fn allows(&self, last: Option<Time>, population: usize, now: Time) -> bool {
        let per_week = f64::from(u32::try_from(population).unwrap_or(u32::MAX)) * self.per_week;
        // A rate of zero gives an infinite interval, which the maximum replaces.
        let seconds = (MIN_AGE.as_secs_f64() / per_week).min(self.max_interval.as_secs_f64());
        last.is_none_or(|last| now.since(last) >= Duration::from_secs_f64(seconds))
    }
}

/// Trust in a peer, by what it costs to earn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tier {
    /// Seed, or named by the operator.
    Trusted,
    /// Reliable for weeks, and promoted within the limits.
    LongStanding,
    /// Any other peer.
    Newcomer,
}

impl Entry {
    /// Returns the tier of the peer.
    pub(super) fn tier(&self, now: Time) -> Tier {
        if self.source.is_operator() {
            Tier::Trusted
        } else if self.is_long_standing(now) {
            Tier::LongStanding
        } else {
            Tier::Newcomer
        }
    }

    /// Returns whether the peer is trusted, or was promoted in whatever network.
    pub(super) fn is_settled(&self) -> bool {
        self.source.is_operator() || self.promotion.is_some()
    }

    /// Returns whether the peer was promoted, is in the same network as then, and answered most of the last week.
    ///
    /// Otherwise names could be promoted in many networks, and then move together to a cheap one.
    pub fn is_long_standing(&self, now: Time) -> bool {
        let network = |ip: Option<IpAddr>| ip.map(Netgroup::allocation);
        self.promotion.is_some_and(|promotion| network(promotion.ip) == network(self.ip)) && self.is_reliable(now)
    }

    /// Makes the peer long-standing in its present network.
    pub(super) fn promote(&mut self, now: Time) {
        self.promotion = Some(Promotion { at: now, ip: self.ip });
    }

    /// Promotes a reliable peer of a store that was written before promotions were limited.
    ///
    /// Returns whether it was promoted.
    pub fn promote_from_older_store(&mut self, now: Time) -> bool {
        let may_be_promoted = self.promotion.is_none() && self.is_reliable(now);
        if may_be_promoted {
            self.promote(now);
        }
        may_be_promoted
    }

    /// Returns whether the peer is known for a week and answered most of that time.
    fn is_reliable(&self, now: Time) -> bool {
        now.since(self.first_seen) >= MIN_AGE && self.uptime.share(WEEK).is_some_and(|share| share >= MIN_UPTIME)
    }

    fn may_be_promoted(&self, now: Time) -> bool {
        !self.is_long_standing(now)
            && !self.source.is_operator()
            // Otherwise names of others' servers could be promoted.
            && self.self_reported
            && self.is_reliable(now)
            && self.uptime.observed(WEEK) >= MIN_OBSERVED
    }
}

/// Age class of a peer. Newcomers are drawn by class, so that a class with many members gains nothing.
pub(super) fn age_class(first_seen: Time, now: Time) -> u8 {
    const DAY: Duration = Duration::from_hours(24);
    const CLASSES: [Duration; 4] = [DAY, DAY.saturating_mul(7), DAY.saturating_mul(30), DAY.saturating_mul(90)];
    let age = now.since(first_seen);
    CLASSES.iter().map(|least| u8::from(age >= *least)).sum()
}

impl PeerBook {
    /// Returns when promotions are checked next.
    pub(super) fn next_promotion(&self) -> Time {
        self.next_promotion
    }

    /// Promotes reliable peers within the limits, if a check is due.
    pub(super) fn promote_due(&mut self, ctx: &mut Context<'_>) {
        if ctx.now < self.next_promotion {
            return;
        }
        self.next_promotion = ctx.now + PROMOTION_INTERVAL;
        let oldest = self.peers.listable().map(|peer| peer.facts.first_seen).min();
        let is_founding = oldest.is_none_or(|oldest| ctx.now.since(oldest) < FOUNDING_TIME);
        let mut promoted = self.clearnet_promotions(is_founding, ctx);
        promoted.extend(self.onion_promotions(is_founding, ctx));
        for host in promoted {
            self.peers.update(&host, |entry| entry.promote(ctx.now));
            self.save(&host, ctx);
            ctx.snapshot_changed();
        }
    }

    /// Chooses clearnet peers: all within the group limits at first, then one at a time.
    fn clearnet_promotions(&self, is_founding: bool, ctx: &mut Context<'_>) -> Vec<Host> {
        let as_map = self.config.as_map.as_deref();
        let mut counts = GroupCounts::default();
        let (mut networks, mut last) = (NewcomerNetworks::default(), None);
        // Peers that don't answer now keep their places: otherwise a group could gain places by taking turns.
        for entry in self.peers.settled() {
            counts.add(&PeerGroup::all_of(entry, as_map));
            if entry.promotion.is_some() {
                networks.add(entry, as_map);
            }
            last = last.max(entry.promotion.filter(|_| !entry.host.is_onion()).map(|promotion| promotion.at));
        }
        let population = self.settled(false, ctx.now).count();
        let is_limited = !is_founding && population >= ENOUGH_CLEARNET;
        if is_limited && !CLEARNET_GROWTH.allows(last, population, ctx.now) {
            return Vec::new();
        }
        let mut candidates = self.promotable(false, ctx.now);
        candidates.shuffle(ctx.rng);
        if !is_limited {
            candidates.retain(|entry| networks.admit(entry, as_map, &mut counts));
            return hosts(&candidates);
        }
        // Networks take turns, as names within one cost little. The first peer of a network precedes the second of any
        // other, so that an attacker with some networks does not gain a second place in each while others arrive.
        candidates.retain(|entry| counts.has_room(&PeerGroup::all_of(entry, as_map)));
        let mut networks: Vec<_> = candidates.iter().map(|entry| PeerGroup::network_of(entry, as_map)).collect();
        networks.sort_unstable();
        networks.dedup();
        let fewest = networks.iter().map(|network| counts.of(network.as_ref())).min();
        networks.retain(|network| Some(counts.of(network.as_ref())) == fewest);
        let Some(network) = networks.choose(ctx.rng) else { return Vec::new() };
        let found = candidates.into_iter().find(|entry| PeerGroup::network_of(entry, as_map) == *network);
        hosts(found.as_slice())
    }

    /// Chooses onion peers: the longest known at first, then one at a time from a random age class.
    fn onion_promotions(&self, is_founding: bool, ctx: &mut Context<'_>) -> Vec<Host> {
        let settled: Vec<&Entry> = self.settled(true, ctx.now).collect();
        if is_founding {
            let mut candidates = self.promotable(true, ctx.now);
            candidates.sort_by(|a, b| (a.first_seen, &a.host).cmp(&(b.first_seen, &b.host)));
            candidates.truncate(MAX_FOUNDING_ONIONS.saturating_sub(settled.len()));
            return hosts(&candidates);
        }
        let last = settled.iter().filter_map(|entry| entry.promotion).map(|promotion| promotion.at).max();
        if !ONION_GROWTH.allows(last, settled.len(), ctx.now) {
            return Vec::new();
        }
        let candidates = self.promotable(true, ctx.now);
        let mut classes: Vec<u8> = candidates.iter().map(|entry| age_class(entry.first_seen, ctx.now)).collect();
        classes.sort_unstable();
        classes.dedup();
        let Some(class) = classes.choose(ctx.rng) else { return Vec::new() };
        let of_class = candidates.into_iter().filter(|entry| age_class(entry.first_seen, ctx.now) == *class);
        hosts(of_class.choose(ctx.rng).as_slice())
    }

    /// Returns the verified peers of a kind that are trusted or were promoted.
    fn settled(&self, is_onion: bool, now: Time) -> impl Iterator<Item = &Entry> {
        let max_age = self.config.max_advertised_age;
        self.peers
            .settled()
            .filter(move |entry| entry.host.is_onion() == is_onion && entry.state(now, max_age) == PeerState::Verified)
    }

    /// Returns the peers of a kind that may be promoted, in the order of their names.
    fn promotable(&self, is_onion: bool, now: Time) -> Vec<&Entry> {
        let of_kind = self.peers.listable().filter(|peer| peer.facts.is_onion == is_onion).map(|peer| peer.entry);
        let is_candidate = |entry: &&Entry| self.is_healthy(entry, now) && entry.may_be_promoted(now);
        let mut found: Vec<&Entry> = of_kind.filter(is_candidate).collect();
        found.sort_unstable_by(|a, b| a.host.cmp(&b.host));
        found
    }
}

fn hosts(entries: &[&Entry]) -> Vec<Host> {
    entries.iter().map(|entry| entry.host.clone()).collect()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::super::tests::{START, aged, clearnet_entry, onion_entry};
    use super::super::{BookConfig, Event};
    use super::*;
    use crate::route::PerRoute;

    const WEEK_TIME: Duration = MIN_AGE;

    fn peers(name: &str, count: u32, first: u32, days: u64) -> Vec<Entry> {
        let entry = |n| {
            clearnet_entry(&format!("{name}{n}.{name}{n}.example"), &format!("{}.{}.0.1", first + n / 200, n % 200))
        };
        (0..count).map(|n| aged(entry(n), days)).collect()
    }

    fn promoted(entries: Vec<Entry>) -> Vec<Entry> {
        entries
            .into_iter()
            .map(|mut entry| {
                entry.promote(entry.first_seen + WEEK_TIME);
                entry
            })
            .collect()
    }

    /// Runs a book for some weeks in which every peer answers, and returns the names of its long-standing peers.
    fn long_standing_after(entries: Vec<Entry>, weeks: u32) -> Vec<String> {
        let mut rng = StdRng::seed_from_u64(1);
        let config = BookConfig {
            seeds: Vec::new(),
            max_advertised_age: Duration::from_hours(24 * 365),
            expire_after: Duration::from_hours(24 * 365),
            ..BookConfig::default()
        };
        let mut book = PeerBook::new(config, entries, PerRoute::default(), START);
        let mut now = START;
        for _ in 0..=(weeks * 7 * 24).max(1) {
            let _ = book.handle(Event::Tick, now, &mut rng);
            now = now + Duration::from_hours(1);
        }
        let is_promoted = |entry: &&Entry| entry.promotion.is_some();
        book.entries().filter(is_promoted).map(|entry| entry.host.to_string()).collect()
    }

    #[test]
    fn first_population_is_promoted_within_group_limits() {
        let mut entries = peers("a", 80, 5, 8);
        entries.extend((0..9).map(|n| aged(clearnet_entry(&format!("x{n}.x{n}.example"), &format!("99.9.{n}.1")), 8)));
        entries.extend(peers("young", 10, 60, 3));
        assert_eq!(long_standing_after(entries, 0).len(), 82);
    }

    #[test]
    fn mass_of_newcomers_gains_two_percent_a_week() {
        let entries = [promoted(peers("old", 80, 5, 90)), peers("mass", 400, 60, 20)].concat();
        for (weeks, most) in [(0, 1), (4, 8), (9, 17)] {
            let names = long_standing_after(entries.clone(), weeks);
            let gained = names.iter().filter(|name| name.starts_with("mass")).count();
            assert!((most / 2..=most).contains(&gained), "{gained} in {weeks} weeks");
        }
    }

    #[test]
    fn first_peer_of_a_network_precedes_the_second_of_another() {
        let in_one = |name: &str, count: u32, b: u32| -> Vec<Entry> {
            let entry = |n| clearnet_entry(&format!("{name}{n}.{name}{n}.example"), &format!("5.{b}.{n}.1"));
            (0..count).map(|n| aged(entry(n), 20)).collect()
        };
        let mut entries = promoted(peers("old", 80, 60, 90));
        entries.extend((0..40).flat_map(|b| promoted(in_one(&format!("rented{b}x"), 1, b))));
        entries.extend((0..40).flat_map(|b| in_one(&format!("second{b}x"), 2, b).split_off(1)));
        entries.extend(peers("new", 4, 90, 20));
        let names = long_standing_after(entries, 4);
        assert_eq!(names.iter().filter(|name| name.starts_with("new")).count(), 4, "{names:?}");
    }

    #[test]
    fn onion_names_gain_one_place_in_two_weeks() {
        let mut entries = promoted((0..40).map(|n| aged(onion_entry(n), 90)).collect());
        entries.extend((40..2000).map(|n| aged(onion_entry(n), 20)));
        assert_eq!(long_standing_after(entries, 8).len(), 40 + 4);
    }

    #[test]
    fn oldest_onions_form_the_first_population() {
        let entries: Vec<Entry> = (0..200).map(|n| aged(onion_entry(n), if n < 24 { 9 } else { 8 })).collect();
        let mut names = long_standing_after(entries.clone(), 0);
        let mut oldest: Vec<String> = entries[..24].iter().map(|entry| entry.host.to_string()).collect();
        names.sort();
        oldest.sort();
        assert_eq!(names, oldest);
    }

    #[test]
    fn peer_that_moves_to_another_network_is_a_newcomer_there() {
        let mut peer = promoted(vec![aged(clearnet_entry("a.example", "5.9.0.1"), 30)]).remove(0);
        assert!(peer.is_long_standing(START));
        peer.ip = Some("5.9.7.1".parse().unwrap());
        assert!(peer.is_long_standing(START));
        peer.ip = Some("5.10.0.1".parse().unwrap());
        assert!(!peer.is_long_standing(START));
    }

    #[test]
    fn name_that_does_not_describe_itself_is_not_promoted() {
        let entries = peers("a", 2, 5, 20);
        let foreign = Entry { self_reported: false, ..entries[1].clone() };
        assert_eq!(long_standing_after(vec![entries[0].clone(), foreign], 0), ["a0.a0.example"]);
    }

    #[test]
    fn name_without_a_week_of_answers_is_not_promoted() {
        let mut late = clearnet_entry("late.example", "5.9.0.1");
        late.first_seen = START - WEEK_TIME * 4;
        late.uptime.record_result(true, START);
        assert!(long_standing_after(vec![late], 0).is_empty());
    }
}
