//! Scheduling of probes: which peers are dialled now, on which addresses and ports.

use std::net::IpAddr;
use std::time::Duration;

use rand::RngExt;
use rand::seq::IndexedRandom;

use super::context::Context;
use super::{Action, BookNotice, Entry, PathUsability, PeerBook, Source, dial_policy};
use crate::clock::Time;
use crate::connect::{ProbeError, ProbeTarget};
use crate::netgroup;
use crate::peer::{Host, Port, Ports, Transport};
use crate::route::Route;

/// Maximum number of concurrent trials of a path.
const MAX_TRIALS: usize = 2;

/// Minimum interval between trials with one peer.
const TRIAL_COOLDOWN: Duration = Duration::from_secs(10);

/// Minimum interval between probes of a peer that only check its path.
const PATH_CHECK_COOLDOWN: Duration = Duration::from_hours(1);

/// Minimum interval between probes of a suspect peer.
const RECHECK_COOLDOWN: Duration = Duration::from_mins(10);

impl PeerBook {
    /// Returns when to send the next [`Event::Tick`](super::Event::Tick).
    pub fn next_wakeup(&self) -> Time {
        let fixed = self.next_sweep.min(self.next_promotion());
        let mut next = self.tor_view.change_at().map_or(fixed, |at| at.min(fixed));
        for route in Route::ALL {
            let due = match self.paths.usability(route) {
                PathUsability::Usable if self.has_probe_capacity(route) => self.peers.queue().next(route),
                PathUsability::Testing if self.can_run_trial(route) => Some(self.paths.health(route).next_trial()),
                _ => None,
            };
            next = due.map_or(next, |due| due.min(next));
        }
        next
    }

    /// Returns the number of names whose first probe has not ended.
    ///
    /// Names without a route, and names that wait for the dial budget of their subnet, do not count.
    pub fn pending_first_probes(&self) -> usize {
        let in_flight = |entry: &Entry| self.peers.probe(&entry.host).is_some_and(|probe| probe.is_first_probe);
        let is_untried = |entry: &&Entry| entry.last_try.is_none() || in_flight(entry);
        let has_route = |entry: &&Entry| {
            self.peers.has_dialable_endpoint(entry)
                && self.peers.rules().allows(&entry.host)
                && (self.peers.route(&entry.host) == Route::Direct || self.paths.has_tor())
        };
        self.peers.entries().filter(is_untried).filter(has_route).count()
    }

    /// Starts all probes that are due and fit into the limits.
    pub(super) fn start_due(&mut self, ctx: &mut Context<'_>) {
        for route in Route::ALL {
            if self.paths.usability(route) == PathUsability::Testing
                && self.can_run_trial(route)
                && ctx.now >= self.paths.health(route).next_trial()
            {
                let peer = self.pick_trial_peer(route, ctx);
                self.paths.health_mut(route).trial_started(ctx.now);
                if let Some(host) = peer {
                    self.start(&host, ctx);
                }
            }
        }
        while let Some(host) = self.next_due_route(ctx.now).and_then(|route| self.peers.pop_due(route, ctx.now)) {
            self.start(&host, ctx);
        }
    }

    fn has_probe_capacity(&self, route: Route) -> bool {
        let has_capacity = self.peers.probe_count() < self.config.max_probes;
        match route {
            Route::Direct => has_capacity,
            Route::Tor => has_capacity && self.peers.probe_count_on(Route::Tor) < self.config.max_tor_probes,
        }
    }

    fn can_run_trial(&self, route: Route) -> bool {
        self.has_probe_capacity(route) && self.peers.probe_count_on(route) < MAX_TRIALS
    }

    /// Returns the route with the longest-waiting peer that may be probed now.
    ///
    /// Otherwise many peers on one route could block the other.
    fn next_due_route(&self, now: Time) -> Option<Route> {
        let open = Route::ALL
            .into_iter()
            .filter(|route| self.paths.usability(*route) == PathUsability::Usable && self.has_probe_capacity(*route));
        let due = open.filter_map(|route| self.peers.queue().next(route).map(|next| (next, route)));
        due.filter(|(next, _)| *next <= now).min().map(|(_, route)| route)
    }

    fn start(&mut self, host: &Host, ctx: &mut Context<'_>) {
        let was_healthy = self.peers.get(host).is_some_and(|entry| self.is_healthy(entry, ctx.now));
        if !self.peers.begin_probe(host, was_healthy, ctx.now) {
            return;
        }
        match host {
            Host::Dns(_) => ctx.actions.push(Action::Resolve(host.clone(), self.peers.route(host))),
            Host::Ip(ip) => self.dial(host, vec![*ip], ctx),
            Host::Onion(_) => {
                let target = self.build_target(host, Vec::new(), ctx);
                ctx.actions.push(Action::Probe(target));
            }
        }
    }

    pub(super) fn on_resolved(
        &mut self,
        host: Host,
        addresses: Result<Vec<IpAddr>, ProbeError>,
        ctx: &mut Context<'_>,
    ) {
        match self.peers.probe_mut(&host) {
            Some(probe) if probe.resolving => probe.resolving = false,
            _ => return,
        }
        match addresses {
            Ok(addresses) => self.dial(&host, addresses, ctx),
            Err(failure) => self.on_probe_result(&host, Err(failure), ctx),
        }
    }

    /// Dials a host on these addresses if they are permitted.
    fn dial(&mut self, host: &Host, addresses: Vec<IpAddr>, ctx: &mut Context<'_>) {
        let addresses = match dial_policy::validate_addresses(addresses, self.config.allow_private) {
            Ok(addresses) => addresses,
            Err(failure) => return self.on_probe_result(host, Err(failure), ctx),
        };
        if addresses.iter().any(|ip| self.config.bans.bans_ip(*ip)) {
            self.drop_banned(host, ctx);
            self.peers.end_probe(host);
            return;
        }
        if !self.verify_add_peer_source(host, &addresses, ctx) {
            self.peers.end_probe(host);
            return;
        }
        let Some(entry) = self.peers.get(host) else {
            // The peer was dropped during the name lookup.
            self.peers.end_probe(host);
            return;
        };
        match self.budgets.dial(&addresses, entry.last_success.is_some(), ctx.now) {
            Ok(()) => {
                let target = self.build_target(host, addresses, ctx);
                ctx.actions.push(Action::Probe(target));
            }
            Err((subnet, until)) => self.peers.defer(host, subnet, until),
        }
    }

    /// Drops claims from other addresses than the host's, and the host if only they named it.
    fn verify_add_peer_source(&mut self, host: &Host, addresses: &[IpAddr], ctx: &mut Context<'_>) -> bool {
        let is_among = |from: IpAddr| addresses.iter().any(|ip| netgroup::canonical(*ip) == netgroup::canonical(from));
        self.peers.retain_port_claims(host, |claim| claim.from.is_none_or(is_among));
        let is_spoofed = self.peers.get(host).is_some_and(|entry| match entry.source {
            Source::AddPeer(Some(from)) => entry.last_success.is_none() && !is_among(from),
            _ => false,
        });
        if is_spoofed {
            self.peers.remove(host);
            ctx.actions.push(Action::Remove(host.clone()));
            ctx.notify(BookNotice::AddPeerSpoofed { host: host.clone() });
        }
        !is_spoofed
    }

    fn build_target(&mut self, host: &Host, addresses: Vec<IpAddr>, ctx: &mut Context<'_>) -> ProbeTarget {
        let via = self.peers.route(host);
        let claimed: Vec<Ports> = self.peers.port_claims().ports(host).collect();
        let known = self.peers.get(host).and_then(Entry::permitted_ports);
        let mut endpoints = dial_policy::ordered_endpoints(known, &claimed, ctx.rng);
        endpoints.retain(|endpoint| dial_policy::is_dialable(host, via, *endpoint));
        let is_known =
            |endpoint: &&(Transport, Port)| known.is_some_and(|ports| ports.iter().any(|of| of == **endpoint));
        let trusted_endpoint_count = endpoints.iter().filter(is_known).count();
        let announce = self.should_announce_to(host, ctx.now);
        if let Some(probe) = self.peers.probe_mut(host) {
            probe.announces_self = announce;
        }
        let checkpoint_height = self.chain.height_to_compare(ctx.now);
        ProbeTarget {
            host: host.clone(),
            via,
            addresses,
            endpoints,
            trusted_endpoint_count,
            announce,
            checkpoint_height,
        }
    }

    /// Chooses a peer to test a path, preferably a healthy one.
    fn pick_trial_peer(&self, route: Route, ctx: &mut Context<'_>) -> Option<Host> {
        let now = ctx.now;
        let is_rested = |entry: &&Entry| entry.last_try.is_none_or(|last| now.since(last) >= TRIAL_COOLDOWN);
        let find = |hosts: &mut dyn Iterator<Item = &Host>| -> Vec<&Entry> {
            hosts.filter_map(|host| self.peers.get(host)).filter(is_rested).collect()
        };
        // After long downtime no peer is healthy, but previously verified peers are the most likely to answer.
        let verified = find(&mut self.peers.queue().previously_verified(route));
        let healthy: Vec<&Entry> = verified.iter().copied().filter(|entry| self.is_healthy(entry, now)).collect();
        // A healthy peer is tried first. Later trials vary, as healthy peers may have gone during downtime.
        let may_vary = !self.paths.health(route).is_first_trial();
        let mut one_in = |count| may_vary && ctx.rng.random_ratio(1, count);
        let likely = if healthy.is_empty() || one_in(4) { verified } else { healthy };
        let from = if likely.is_empty() || one_in(8) { find(&mut self.peers.queue().all(route)) } else { likely };
        from.choose(ctx.rng).map(|entry| entry.host.clone())
    }

    /// Schedules a suspect peer for an immediate probe.
    pub(super) fn recheck_soon(&mut self, host: &Host, now: Time) {
        let is_rested = |entry: &Entry| entry.last_try.is_none_or(|last| now.since(last) >= RECHECK_COOLDOWN);
        if self.peers.get(host).is_some_and(|entry| is_rested(entry) && entry.next_probe_at > now) {
            self.peers.reschedule(host, now);
        }
    }

    /// Schedules a healthy peer for an immediate probe to check the path.
    ///
    /// It takes the next in the queue, so that the checks rotate among peers.
    pub(super) fn expedite_path_check(&mut self, route: Route, now: Time) {
        let is_rested = |entry: &&Entry| entry.last_try.is_none_or(|last| now.since(last) >= PATH_CHECK_COOLDOWN);
        let queue = self.peers.queue().previously_verified(route);
        let mut in_turn = queue.filter_map(|host| self.peers.get(host)).filter(is_rested);
        let found = in_turn.find(|entry| self.is_healthy(entry, now)).map(|entry| entry.host.clone());
        drop(in_turn);
        if let Some(host) = found {
            self.peers.reschedule(&host, now);
        }
    }

    /// Returns whether a probe of a healthy peer is in flight.
    pub(super) fn has_good_probe_in_flight(&self, route: Route) -> bool {
        self.peers.probes().any(|(host, probe)| probe.was_healthy && self.peers.route(host) == route)
    }

    /// Returns whether the peer was verified recently and has not failed since.
    pub(super) fn is_healthy(&self, entry: &Entry, now: Time) -> bool {
        entry.is_healthy(now, self.config.max_advertised_age)
    }
}
