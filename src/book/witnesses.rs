//! Witnesses of a path: which peers decide whether it works, and when they are probed.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::seq::IteratorRandom;

use super::context::Context;
use super::path_health::{PathPopulation, WitnessGroup};
use super::standing::Tier;
use super::{Entry, PeerBook};
use crate::clock::Time;
use crate::netgroup::{self, Netgroup};
use crate::peer::Host;
use crate::route::Route;

/// Minimum interval between probes of a peer that only check its path.
const CHECK_COOLDOWN: Duration = Duration::from_hours(1);

/// The same interval once a witness has failed.
///
/// A peer that answered shortly before is the best witness against an outage.
const URGENT_CHECK_COOLDOWN: Duration = Duration::from_mins(10);

/// Maximum number of concurrent checks, the default number of probes through Tor.
const MAX_CHECKS: usize = 8;

/// Number of random settled peers that a search reads before it reads all of them.
const MAX_DRAWS: usize = 32;

/// Number of queued peers without standing that a search reads, so that a mass of free names doesn't slow it down.
const MAX_SEARCHED: usize = 500;

impl PeerBook {
    /// Returns whether failures of a peer tell about its path.
    pub(super) fn is_witness(&self, entry: &Entry, route: Route, now: Time) -> bool {
        self.is_healthy(entry, now) && self.paths.health(route).may_be_witness(&entry.host, now)
    }

    /// Returns whether a peer is more than a free name: the operator's, or up for long.
    pub(super) fn has_standing(&self, entry: &Entry, now: Time) -> bool {
        entry.tier(now) != Tier::Newcomer
    }

    /// Counts the peers on a path. Witnesses are counted only while the verdict depends on them.
    ///
    /// Each failure asks for this, and a mass of names that fail can be as large as the book.
    pub(super) fn path_population(&self, route: Route, failed: &Host, now: Time) -> PathPopulation {
        let known = self.peers.queue().len(route) + self.peers.probe_count_on(route) + 1;
        let undecided = PathPopulation { known, witnesses: usize::MAX, standing: usize::MAX };
        let health = self.paths.health(route);
        if !health.would_decide(known) {
            return undecided;
        }
        let (max_witnesses, max_standing) = health.max_deciding_witnesses(route);
        let in_flight = self.peers.probes().map(|(host, _)| host).filter(|host| self.peers.route(host) == route);
        let verified = self.peers.queue().previously_verified(route).chain(in_flight).chain([failed]);
        let entries = verified.filter_map(|host| self.peers.get(host));
        let (mut all, mut standing) = (BTreeSet::new(), BTreeSet::new());
        for entry in entries.filter(|entry| self.is_witness(entry, route, now)) {
            if self.has_standing(entry, now) {
                standing.insert(witness_group(entry));
            }
            all.insert(witness_group(entry));
            let exceeds = |max: Option<usize>, count| max.is_some_and(|max| count > max);
            if exceeds(max_witnesses, all.len()) || exceeds(max_standing, standing.len()) {
                return undecided;
            }
        }
        PathPopulation { known, witnesses: all.len(), standing: standing.len() }
    }

    /// Schedules witnesses for immediate probes while a failure is pending.
    ///
    /// Their number grows with the number of failed witnesses. Those with standing are tried first, in random order, and
    /// then others from a random place of the queue.
    pub(super) fn expedite_path_checks(&mut self, route: Route, ctx: &mut Context<'_>) {
        let health = self.paths.health(route);
        if !health.has_pending_failure() || !health.may_seek_witnesses(ctx.now) {
            return;
        }
        let running = self.peers.probes().filter(|(host, probe)| probe.was_healthy && self.peers.route(host) == route);
        let due = self.peers.queue().previously_verified(route).filter_map(|host| self.peers.get(host));
        let waiting = due.take_while(|entry| entry.next_probe_at <= ctx.now);
        let waiting = waiting.filter(|entry| self.is_healthy(entry, ctx.now)).count();
        let wanted = (1 + health.failed_witnesses()).min(MAX_CHECKS).saturating_sub(running.count() + waiting);
        let chosen = self.choose_witnesses(route, wanted, ctx);
        if chosen.len() < wanted {
            self.paths.health_mut(route).no_witness_found(ctx.now);
        }
        for host in chosen {
            self.peers.reschedule(&host, ctx.now);
        }
    }

    fn choose_witnesses(&self, route: Route, count: usize, ctx: &mut Context<'_>) -> Vec<Host> {
        if count == 0 {
            return Vec::new();
        }
        let health = self.paths.health(route);
        let failed_groups = health.pending_witnesses();
        let now = ctx.now;
        let is_eligible = |entry: &&Entry| {
            entry.next_probe_at > now
                && self.is_rested(entry, route, now)
                && self.is_witness(entry, route, now)
                && !failed_groups.contains(&witness_group(entry))
        };
        let queue = self.peers.queue();
        let is_queued = |entry: &&Entry| queue.has_verified(route, entry.next_probe_at, &entry.host);
        let has_standing = |entry: &&Entry| self.has_standing(entry, now) && is_eligible(entry) && is_queued(entry);
        let mut chosen: Vec<&Entry> = Vec::new();
        for _ in 0..MAX_DRAWS {
            let drawn = self.peers.random_settled(ctx.rng).filter(has_standing);
            chosen.extend(drawn.filter(|drawn| chosen.iter().all(|entry| entry.host != drawn.host)));
            if chosen.len() == count {
                break;
            }
        }
        if chosen.len() < count {
            chosen = self.peers.settled().filter(has_standing).sample(ctx.rng, count);
        }
        let missing = count - chosen.len();
        if missing > 0 {
            let queued = queue.previously_verified_from_random(route, now, ctx.rng).take(MAX_SEARCHED);
            let others = queued.filter_map(|host| self.peers.get(host)).filter(|entry| !self.has_standing(entry, now));
            chosen.extend(others.filter(is_eligible).take(missing));
        }
        chosen.into_iter().map(|entry| entry.host.clone()).collect()
    }

    fn is_rested(&self, entry: &Entry, route: Route, now: Time) -> bool {
        let is_urgent = self.paths.health(route).failed_witnesses() > 0;
        let cooldown = if is_urgent { URGENT_CHECK_COOLDOWN } else { CHECK_COOLDOWN };
        entry.last_try.is_none_or(|last| now.since(last) >= cooldown)
    }
}

/// Returns the group whose failures count once.
pub(super) fn witness_group(entry: &Entry) -> WitnessGroup {
    match entry.ip.filter(|ip| netgroup::is_public(*ip)) {
        Some(ip) if !entry.host.is_onion() => WitnessGroup::Network(Netgroup::allocation(ip)),
        _ => WitnessGroup::Host(entry.host.clone()),
    }
}
