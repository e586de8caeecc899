//! Scheduling of probes: which peers are dialled now, on which addresses and ports.

use std::net::IpAddr;
use std::time::Duration;

use rand::Rng;

use super::{Action, BookNotice, Entry, InFlightProbe, PathUsability, PeerBook, PeerState, Source, policy};
use crate::clock::Time;
use crate::connect::{ProbeError, ProbeTarget};
use crate::netgroup;
use crate::peer::{Host, Port, Ports, Transport};
use crate::route::Route;
use crate::tor_state::TorProbe;

/// Maximum concurrent trials of a path, and the minimum interval between trials of one peer.
const MAX_TRIALS: usize = 2;
const TRIAL_COOLDOWN: Duration = Duration::from_secs(10);

/// Minimum interval between probes of a peer that only check its path.
const PATH_CHECK_COOLDOWN: Duration = Duration::from_hours(1);

/// Minimum interval between probes of a suspect peer.
const RECHECK_COOLDOWN: Duration = Duration::from_mins(10);

impl PeerBook {
    /// Returns when to send the next [`Event::Tick`](super::Event::Tick).
    pub fn next_wakeup(&self) -> Time {
        let mut next = self.next_sweep;
        for via in Route::ALL {
            let due = match self.path_usability(via) {
                PathUsability::Usable if self.has_probe_capacity(via) => self.queue.next(via),
                PathUsability::Trial if self.can_run_trial(via) => Some(self.reach(via).next_trial()),
                _ => None,
            };
            next = due.map_or(next, |due| due.min(next));
        }
        next
    }

    /// How many names there are whose first try isn't over. Those that we have no way to are none of them,
    /// nor those that had their turn and now stand in line for a crowded neighbourhood.
    pub fn pending_first_probes(&self) -> usize {
        let under_way = |entry: &Entry| self.in_flight.get(&entry.host).is_some_and(|flight| flight.is_first_probe);
        let untried = |entry: &&Entry| entry.last_try.is_none() || under_way(entry);
        let has_way = |entry: &&Entry| {
            self.has_dialable_endpoint(entry)
                && self.has_route(&entry.host)
                && (self.via(&entry.host) == Route::Direct || self.tor_probe != TorProbe::Off)
        };
        self.entries.values().filter(untried).filter(has_way).count()
    }

    pub(super) fn start_due(&mut self, now: Time, rng: &mut impl Rng, actions: &mut Vec<Action>) {
        for via in Route::ALL {
            if self.path_usability(via) == PathUsability::Trial
                && self.can_run_trial(via)
                && now >= self.reach(via).next_trial()
            {
                let peer = self.pick_trial_peer(via, now, rng);
                self.reach_mut(via).trial_started(now);
                if let Some(host) = peer {
                    self.start(&host, now, rng, actions);
                }
            }
        }
        while let Some(host) = self.next_due_route(now).and_then(|via| self.queue.pop_due(via, now)) {
            self.start(&host, now, rng, actions);
        }
    }

    /// Returns whether there is capacity for a trial.
    fn can_run_trial(&self, via: Route) -> bool {
        self.has_probe_capacity(via) && self.in_flight(via) < MAX_TRIALS
    }

    /// Returns the route with the longest-waiting peer that may be probed now.
    ///
    /// Otherwise many peers on one route could block the other.
    fn next_due_route(&self, now: Time) -> Option<Route> {
        let free = Route::ALL
            .into_iter()
            .filter(|via| self.path_usability(*via) == PathUsability::Usable && self.has_probe_capacity(*via));
        let due = free.filter_map(|via| self.queue.next(via).map(|next| (next, via)));
        due.filter(|(next, _)| *next <= now).min().map(|(_, via)| via)
    }

    fn start(&mut self, host: &Host, now: Time, rng: &mut impl Rng, actions: &mut Vec<Action>) {
        self.held.remove(host);
        let Some(entry) = self.entries.get(host) else { return };
        let good = self.is_healthy(entry, now);
        let via = self.via(host);
        let Some(entry) = self.entries.get_mut(host) else { return };
        self.queue.remove(via, entry.next_probe_at, host);
        let first = entry.last_try.replace(now).is_none();
        let resolving = matches!(host, Host::Dns(_));
        self.in_flight.insert(
            host.clone(),
            InFlightProbe {
                started_at: now,
                is_first_probe: first,
                resolving,
                was_verified_recently: good,
                announces_self: false,
            },
        );
        match host {
            Host::Dns(_) => actions.push(Action::Resolve(host.clone(), via)),
            Host::Ip(ip) => self.dial(host, vec![*ip], now, rng, actions),
            Host::Onion(_) => actions.push(Action::Probe(self.build_target(host, Vec::new(), now, rng))),
        }
    }

    pub(super) fn on_resolved(
        &mut self,
        host: Host,
        addresses: Result<Vec<IpAddr>, ProbeError>,
        now: Time,
        rng: &mut impl Rng,
        actions: &mut Vec<Action>,
    ) {
        match self.in_flight.get_mut(&host) {
            Some(flight) if flight.resolving => flight.resolving = false,
            _ => return,
        }
        match addresses {
            Ok(addresses) => self.dial(&host, addresses, now, rng, actions),
            Err(failure) => self.on_probe_result(host, Err(failure), now, rng, actions),
        }
    }

    /// Dials a host on these addresses if they are permitted.
    fn dial(&mut self, host: &Host, addresses: Vec<IpAddr>, now: Time, rng: &mut impl Rng, actions: &mut Vec<Action>) {
        let addresses = match policy::validate_addresses(addresses, self.settings.allow_private) {
            Ok(addresses) => addresses,
            Err(failure) => return self.on_probe_result(host.clone(), Err(failure), now, rng, actions),
        };
        if addresses.iter().any(|ip| self.settings.bans.bans_ip(*ip)) {
            self.drop_banned(host, actions);
            self.in_flight.remove(host);
            return;
        }
        if !self.verify_add_peer_source(host, &addresses, actions) {
            self.in_flight.remove(host);
            return;
        }
        let Some(entry) = self.entries.get(host) else {
            // It was dropped while its name was looked up.
            self.in_flight.remove(host);
            return;
        };
        let proven = entry.last_success.is_some();
        match self.budgets.dial(&addresses, proven, now) {
            Ok(()) => actions.push(Action::Probe(self.build_target(host, addresses, now, rng))),
            Err((site, when)) => {
                self.in_flight.remove(host);
                self.held.insert(host.clone(), site);
                self.reschedule(host, when);
            }
        }
    }

    /// Drops claims from other addresses than the host's, and the host if only they named it.
    fn verify_add_peer_source(&mut self, host: &Host, addresses: &[IpAddr], actions: &mut Vec<Action>) -> bool {
        let is_among = |from: IpAddr| addresses.iter().any(|ip| netgroup::canonical(*ip) == netgroup::canonical(from));
        if let Some(claims) = self.port_claims.get_mut(host) {
            claims.retain(|claim| claim.from.is_none_or(is_among));
        }
        let unfounded = self.entries.get(host).is_some_and(|entry| match entry.source {
            Source::AddPeer(Some(from)) => entry.last_success.is_none() && !is_among(from),
            _ => false,
        });
        if unfounded {
            self.remove(host);
            actions.push(Action::Remove(host.clone()));
            actions.push(Action::Notice(BookNotice::AddPeerSpoofed { host: host.clone() }));
        }
        !unfounded
    }

    fn build_target(&mut self, host: &Host, addresses: Vec<IpAddr>, now: Time, rng: &mut impl Rng) -> ProbeTarget {
        let via = self.via(host);
        let claimed: Vec<Ports> = self.port_claims.get(host).into_iter().flatten().map(|claim| claim.ports).collect();
        let believed = self.entries.get(host).and_then(Entry::permitted_ports);
        let mut doors = policy::ordered_endpoints(believed, &claimed, rng);
        doors.retain(|door| policy::is_dialable(host, via, *door));
        let is_believed = |door: &(Transport, Port)| believed.is_some_and(|ports| ports.iter().any(|own| own == *door));
        let believed = doors.iter().filter(|door| is_believed(door)).count();
        let announce = self.should_announce_to(host, via, now);
        if let Some(flight) = self.in_flight.get_mut(host) {
            flight.announces_self = announce;
        }
        ProbeTarget {
            host: host.clone(),
            via,
            addresses,
            endpoints: doors,
            trusted_endpoint_count: believed,
            announce,
            checkpoint_height: self.chain.height_to_compare(now),
        }
    }

    /// Chooses a peer to test a path, preferably a healthy one.
    fn pick_trial_peer(&self, via: Route, now: Time, rng: &mut impl Rng) -> Option<Host> {
        let rested = |entry: &&Entry| entry.last_try.is_none_or(|last| now.since(last) >= TRIAL_COOLDOWN);
        let find = |hosts: &mut dyn Iterator<Item = &Host>| -> Vec<&Entry> {
            hosts.filter_map(|host| self.entries.get(host)).filter(rested).collect()
        };
        // After long downtime no peer is healthy, but previously verified peers are the most likely to answer.
        let proven = find(&mut self.queue.previously_verified(via));
        let good: Vec<&Entry> = proven.iter().copied().filter(|entry| self.is_healthy(entry, now)).collect();
        // A healthy peer is tried first. Later trials vary, as healthy peers may have gone during downtime.
        let anybody = !self.reach(via).is_first_trial();
        let mut now_and_then = |often| anybody && rand::RngExt::random_ratio(rng, 1, often);
        let likely = if good.is_empty() || now_and_then(4) { proven } else { good };
        let from = if likely.is_empty() || now_and_then(8) { find(&mut self.queue.all(via)) } else { likely };
        policy::choose(&from, rng).map(|entry| entry.host.clone())
    }

    /// Schedules a suspect peer for an immediate probe.
    pub(super) fn recheck_soon(&mut self, host: &Host, now: Time) {
        let rested = |entry: &Entry| entry.last_try.is_none_or(|last| now.since(last) >= RECHECK_COOLDOWN);
        if self.entries.get(host).is_some_and(|entry| rested(entry) && entry.next_probe_at > now) {
            self.reschedule(host, now);
        }
    }

    /// Schedules a healthy peer for an immediate probe to check the path.
    ///
    /// It takes the next in the queue, so that the checks rotate among peers.
    pub(super) fn expedite_path_check(&mut self, via: Route, now: Time) {
        let rested = |entry: &&Entry| entry.last_try.is_none_or(|last| now.since(last) >= PATH_CHECK_COOLDOWN);
        let mut in_turn = self.queue.previously_verified(via).filter_map(|host| self.entries.get(host)).filter(rested);
        let found = in_turn.find(|entry| self.is_healthy(entry, now)).map(|entry| entry.host.clone());
        drop(in_turn);
        if let Some(host) = found {
            self.reschedule(&host, now);
        }
    }

    /// Returns whether a probe of a recently verified peer is in flight.
    pub(super) fn has_good_probe_in_flight(&self, via: Route) -> bool {
        self.in_flight.iter().any(|(host, flight)| flight.was_verified_recently && self.via(host) == via)
    }

    /// Returns whether the peer was verified recently and has not failed since.
    pub(super) fn is_healthy(&self, entry: &Entry, now: Time) -> bool {
        entry.failures == 0 && entry.state(now, self.settings.max_advertised_age) == PeerState::Verified
    }
}
