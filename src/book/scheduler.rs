//! Scheduling of probes: which peers are dialled now, on which addresses and ports.

use std::net::IpAddr;
use std::time::Duration;

use rand::RngExt;
use rand::seq::IndexedRandom;

use super::context::Context;
use super::slot_budget::{ProbeClass, SlotPayer};
use super::{Action, BookNotice, Entry, PathUsability, PeerBook, Source, dial_policy};
use crate::clock::Time;
use crate::connect::{PeerLimits, ProbeError, ProbeTarget};
use crate::netgroup;
use crate::peer::{Host, Port, Ports, Transport};
use crate::route::Route;

/// Maximum number of concurrent trials of a path.
const MAX_TRIALS: usize = 2;

/// Minimum interval between trials with one peer.
const TRIAL_COOLDOWN: Duration = Duration::from_secs(10);

/// Time over which peers of a group return after the group has paid for its slots.
const DEFERRAL_SPREAD: Duration = Duration::from_mins(10);

/// Minimum interval between probes of a suspect peer.
const RECHECK_COOLDOWN: Duration = Duration::from_mins(10);

impl PeerBook {
    /// Returns when to send the next [`Event::Tick`](super::Event::Tick).
    pub fn next_wakeup(&self) -> Time {
        let fixed = self.next_sweep.min(self.next_promotion());
        let mut next = self.tor_view.change_at().map_or(fixed, |at| at.min(fixed));
        for route in Route::ALL {
            let due = match self.paths.usability(route) {
                PathUsability::Usable => {
                    let open = ProbeClass::ALL.into_iter().filter(|class| self.has_slot(route, *class));
                    open.filter_map(|class| self.next_of(class, route)).min()
                }
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
        while let Some((class, route)) = self.next_due(ctx.now) {
            let Some(host) = self.peers.pop_due(route, class, ctx.now) else { return };
            let payers = self.peers.get(&host).map(|entry| SlotPayer::of(entry, &[])).unwrap_or_default();
            match self.slots.debtor(&payers, ctx.now) {
                Some((_, paid_at)) => self.peers.reschedule(&host, spread(paid_at, ctx)),
                None => self.start(&host, ctx),
            }
        }
    }

    fn has_probe_capacity(&self, route: Route) -> bool {
        let has_capacity = self.peers.probe_count() < self.config.max_probes;
        match route {
            Route::Direct => has_capacity,
            Route::Tor => has_capacity && self.peers.probe_count_on(Route::Tor) < self.config.max_tor_probes,
        }
    }

    /// Returns whether a peer of this class may be probed now.
    fn has_slot(&self, route: Route, class: ProbeClass) -> bool {
        let held = |route| self.peers.probe_count_like(class, route);
        let has_share = Route::ALL.into_iter().map(held).sum::<usize>() < ProbeClass::max_slots(self.config.max_probes)
            && (route == Route::Direct || held(route) < ProbeClass::max_slots(self.config.max_tor_probes));
        has_share && self.has_probe_capacity(route)
    }

    fn can_run_trial(&self, route: Route) -> bool {
        self.has_probe_capacity(route) && self.peers.probe_count_on(route) < MAX_TRIALS
    }

    /// Returns when the next peer of a class may be probed; `None` if none is queued.
    fn next_of(&self, class: ProbeClass, route: Route) -> Option<Time> {
        self.peers.queue().next(route, class).map(|due| self.slots.may_start_at(class, due))
    }

    /// Returns the class and route whose first peer may be probed now.
    ///
    /// Known peers go first. Otherwise the longest-waiting peer does, so that no route or class blocks another.
    fn next_due(&self, now: Time) -> Option<(ProbeClass, Route)> {
        let usable = Route::ALL.into_iter().filter(|route| self.paths.usability(*route) == PathUsability::Usable);
        let both = usable.flat_map(|route| ProbeClass::ALL.map(|class| (class, route)));
        let open = both.filter(|(class, route)| self.has_slot(*route, *class));
        let due = open.filter_map(|(class, route)| Some((self.next_of(class, route)?, class, route)));
        let due = due.filter(|(at, ..)| *at <= now);
        due.min_by_key(|(at, class, _)| (class.is_newcomer(), *at)).map(|(_, class, route)| (class, route))
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
        if let Some(ban) = addresses.iter().find_map(|ip| self.config.bans.find_ip(*ip)) {
            self.drop_banned(host, ban, ctx);
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
        let payers = SlotPayer::of(entry, &addresses);
        if let Some((debtor, paid_at)) = self.slots.debtor(&payers, ctx.now) {
            let until = spread(paid_at, ctx);
            self.peers.end_probe(host);
            return match debtor.subnet() {
                Some(subnet) => self.peers.defer(host, subnet, until),
                None => self.peers.reschedule(host, until),
            };
        }
        match self.budgets.dial(&addresses, entry.last_success.is_some(), ctx.now) {
            Ok(()) => {
                if let Some(probe) = self.peers.probe_mut(host) {
                    probe.payers = payers;
                }
                let target = self.build_target(host, addresses, ctx);
                ctx.actions.push(Action::Probe(target));
            }
            Err((subnet, until)) => self.peers.defer(host, subnet, until),
        }
    }

    /// Drops claims from other addresses than the host's, and the host if only they named it.
    fn verify_add_peer_source(&mut self, host: &Host, addresses: &[IpAddr], ctx: &mut Context<'_>) -> bool {
        let is_among = |from: IpAddr| addresses.iter().any(|ip| netgroup::is_same(*ip, from));
        self.peers.retain_port_claims(host, |claim| claim.from.is_none_or(is_among));
        let is_spoofed = self.peers.get(host).is_some_and(|entry| match entry.source {
            Source::AddPeer(Some(from)) => entry.last_success.is_none() && !is_among(from),
            _ => false,
        });
        // Another client announced the name from its address, so the name is that client's.
        let owner = self.peers.port_claims().claim_with_address(host).map(|claim| (claim.from, claim.ports));
        if let (true, Some((from, ports))) = (is_spoofed, owner) {
            self.peers.update(host, |entry| (entry.source, entry.ports) = (Source::AddPeer(from), ports));
            self.save(host, ctx);
            return true;
        }
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
        let reached = self.peers.get(host).map(|entry| entry.reached).unwrap_or_default();
        let mut endpoints = dial_policy::ordered_endpoints(known, &reached, &claimed, ctx.now, ctx.rng);
        endpoints.retain(|endpoint| dial_policy::is_dialable(host, via, *endpoint));
        let is_known = |endpoint: &&(Transport, Port)| {
            reached.contains(**endpoint) || known.is_some_and(|ports| ports.iter().any(|of| of == **endpoint))
        };
        let trusted_endpoint_count = endpoints.iter().filter(is_known).count();
        let (limits, ip) = self.peers.limits(host, ctx.now).unwrap_or_default();
        let (addresses, limits) = match ip {
            Some(ip) if limits.skips_features && addresses.contains(&ip) => (vec![ip], limits),
            // Another address of the name must name the host.
            Some(_) => (addresses, PeerLimits { skips_features: false, ..limits }),
            None => (addresses, limits),
        };
        let web_sockets = self.web_sockets_to_check(host, via, ctx.now);
        let announce = self.name_to_announce(host, ctx.now);
        if let Some(probe) = self.peers.probe_mut(host) {
            probe.announces.clone_from(&announce);
            probe.endpoints.clone_from(&endpoints);
            probe.web_sockets.clone_from(&web_sockets);
        }
        // The operator vouches for own seeds, which may run behind another name.
        let must_list_host = self.peers.get(host).is_none_or(|entry| !entry.source.is_operator());
        let checkpoint_height = self.chain.height_to_compare(ctx.now);
        let reference = self.chain_reference(host, ctx.now);
        ProbeTarget {
            host: host.clone(),
            via,
            addresses,
            endpoints,
            web_sockets,
            limits,
            trusted_endpoint_count,
            announce,
            must_list_host,
            checkpoint_height,
            reference,
        }
    }

    /// Returns the WebSockets that the peer claims and that are verified in a visit.
    pub(super) fn web_sockets_to_check(&self, host: &Host, via: Route, now: Time) -> Vec<(Transport, Port)> {
        let Some(entry) = self.peers.get(host) else { return Vec::new() };
        // The result of a trial is needed at once.
        if self.paths.usability(via) != PathUsability::Usable {
            return Vec::new();
        }
        let claimed = entry.permitted_ports();
        let claimed = claimed.iter().flat_map(Ports::web_sockets);
        let due = claimed.filter(|endpoint| entry.reached_web_sockets.needs_check(*endpoint, now));
        due.filter(|endpoint| dial_policy::is_dialable(host, via, *endpoint)).collect()
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
        // Otherwise free names that vanish delay the end of an outage by hours.
        let standing: Vec<&Entry> = likely.iter().copied().filter(|entry| self.has_standing(entry, now)).collect();
        let likely = if standing.is_empty() || one_in(4) { likely } else { standing };
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

    /// Returns whether the peer was verified recently and has not failed since.
    pub(super) fn is_healthy(&self, entry: &Entry, now: Time) -> bool {
        entry.is_healthy(now, self.config.max_advertised_age)
    }
}

/// Returns a random time soon after this one, so that deferred peers do not all return at once.
fn spread(at: Time, ctx: &mut Context<'_>) -> Time {
    at + ctx.rng.random_range(Duration::from_secs(1)..DEFERRAL_SPREAD)
}
