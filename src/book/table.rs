//! Peer table: entries, and the queue and counters derived from them.

use std::collections::HashMap;
use std::net::IpAddr;

use indexmap::{IndexMap, IndexSet};
use rand::{Rng, RngExt};

use super::candidate_groups::CandidateGroups;
use super::dial_policy;
use super::entry::Entry;
use super::listable::{ListFacts, Listable};
use super::peer_limits::KnownLimits;
use super::port_claims::{PortClaim, PortClaims};
use super::probe_queue::ProbeQueue;
use super::slot_budget::{ProbeClass, SlotPayer};
use super::source::Source;
use super::source_group::SourceGroup;
use crate::clock::Time;
use crate::connect::PeerLimits;
use crate::netgroup::Netgroup;
use crate::peer::{Host, Port, Ports, Transport};
use crate::route::{Route, RouteRules};

/// Peers, with the queue and the counters derived from them.
#[derive(Debug)]
pub(super) struct PeerTable {
    rules: RouteRules,
    entries: IndexMap<Host, Entry>,
    /// Facts of each entry, in the same order.
    facts: Vec<ListFacts>,
    /// Peers that can be dialled, by due time. A peer in flight is not queued.
    queue: ProbeQueue,
    in_flight: HashMap<Host, InFlightProbe>,
    /// Consecutive failures of each peer that were not attributed.
    unattributed_failures: HashMap<Host, u32>,
    /// Number of entries that were never verified.
    candidate_count: usize,
    candidate_groups: CandidateGroups,
    /// Peers that are trusted or were promoted.
    settled: IndexSet<Host>,
    port_claims: PortClaims,
    /// Peers that did not respond to `server.features`.
    limits: KnownLimits,
    /// Deferred peers, and the subnet whose dial budget they wait for.
    over_budget: HashMap<Host, Netgroup>,
}

/// State of a probe that has not ended.
#[derive(Debug)]
pub(super) struct InFlightProbe {
    /// Start of the name lookup, or of the probe without one.
    pub started_at: Time,
    /// Whether the peer was never tried before.
    pub is_first_probe: bool,
    /// Whether the name lookup has not finished.
    pub resolving: bool,
    /// Whether the peer was verified recently and had not failed since.
    pub was_healthy: bool,
    /// Own name that the probe announces if the peer does not list it; `None` if it announces nothing.
    pub announces: Option<Host>,
    /// Whether the probe downloads headers of a chain that is far ahead.
    pub downloads_headers: bool,
    /// Class of the peer at the start.
    pub class: ProbeClass,
    /// Parties that pay for the slot.
    pub payers: Vec<SlotPayer>,
    /// Endpoints in dial order; empty before they are dialled.
    pub endpoints: Vec<(Transport, Port)>,
    /// WebSockets that are verified in this visit.
    pub web_sockets: Vec<(Transport, Port)>,
}

impl PeerTable {
    /// Creates an empty table.
    pub(super) fn new(rules: RouteRules) -> PeerTable {
        PeerTable {
            rules,
            entries: IndexMap::new(),
            facts: Vec::new(),
            queue: ProbeQueue::default(),
            in_flight: HashMap::new(),
            unattributed_failures: HashMap::new(),
            candidate_count: 0,
            candidate_groups: CandidateGroups::default(),
            settled: IndexSet::new(),
            port_claims: PortClaims::default(),
            limits: KnownLimits::default(),
            over_budget: HashMap::new(),
        }
    }

    /// Returns the rules that assign a route to each host.
    pub(super) fn rules(&self) -> RouteRules {
        self.rules
    }

    /// Replaces the rules. Peers that become unreachable leave the queue; the others return to it.
    pub(super) fn set_rules(&mut self, rules: RouteRules) {
        let queued: Vec<Host> = self.entries.keys().cloned().collect();
        for host in &queued {
            self.dequeue(host);
        }
        self.rules = rules;
        for host in &queued {
            self.enqueue(host);
        }
    }

    /// Returns the route to a host.
    pub(super) fn route(&self, host: &Host) -> Route {
        self.rules.route(host)
    }

    /// Returns the entry of a host; `None` if the host is unknown.
    pub(super) fn get(&self, host: &Host) -> Option<&Entry> {
        self.entries.get(host)
    }

    /// Returns whether the host has an entry.
    pub(super) fn contains(&self, host: &Host) -> bool {
        self.entries.contains_key(host)
    }

    /// Returns the peers with the facts that lists depend on, in the order of [`entries`](PeerTable::entries).
    pub(super) fn listable(&self) -> impl Iterator<Item = Listable<'_>> {
        self.entries.values().zip(&self.facts).map(|(entry, facts)| Listable { entry, facts })
    }

    /// Forgets what was derived from the AS map.
    pub(super) fn on_new_as_map(&mut self) {
        self.facts.iter_mut().for_each(ListFacts::on_new_as_map);
    }

    /// Returns all entries. The order depends on the history of the table alone.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// Returns the peers that are trusted or were promoted. The order depends on the history of the table alone.
    pub(super) fn settled(&self) -> impl Iterator<Item = &Entry> {
        self.settled.iter().filter_map(|host| self.entries.get(host))
    }

    /// Returns a random one of the peers that are trusted or were promoted; `None` if there is none.
    pub(super) fn random_settled(&self, rng: &mut (impl Rng + ?Sized)) -> Option<&Entry> {
        let index = (!self.settled.is_empty()).then(|| rng.random_range(0..self.settled.len()))?;
        self.entries.get(self.settled.get_index(index)?)
    }

    /// Returns the group of a source; `None` for the operator, who has no limits.
    pub(super) fn source_group(&self, source: &Source) -> Option<SourceGroup> {
        SourceGroup::of(source, |host| self.entries.get(host))
    }

    /// Returns the candidates that may be evicted, by the party that pays for them.
    pub(super) fn candidate_groups(&self) -> &CandidateGroups {
        &self.candidate_groups
    }

    /// Returns the number of entries that were never verified.
    pub(super) fn candidate_count(&self) -> usize {
        self.candidate_count
    }

    /// Makes room for this number of further entries, so that the table is not copied while they are added.
    pub(super) fn reserve(&mut self, additional: usize) {
        self.entries.reserve_exact(additional);
        self.facts.reserve_exact(additional);
    }

    /// Adds an entry and queues it.
    pub(super) fn insert(&mut self, entry: Entry) {
        let host = entry.host.clone();
        self.candidate_count += usize::from(entry.last_success.is_none());
        let facts = ListFacts::of(&entry);
        let (index, _) = self.entries.insert_full(host.clone(), entry);
        match self.facts.get_mut(index) {
            Some(known) => *known = facts,
            None => self.facts.push(facts),
        }
        self.regroup(&host);
        self.enqueue(&host);
    }

    /// Changes an entry, and updates the queue and the counters; `None` if the host is unknown.
    pub(super) fn update<R>(&mut self, host: &Host, change: impl FnOnce(&mut Entry) -> R) -> Option<R> {
        self.dequeue(host);
        let (index, _, entry) = self.entries.get_full_mut(host)?;
        let group_facts = |entry: &Entry| (entry.last_success.is_none(), entry.is_settled(), entry.source.clone());
        let before = group_facts(entry);
        let result = change(entry);
        let after = group_facts(entry);
        if let Some(facts) = self.facts.get_mut(index) {
            *facts = ListFacts::of(entry);
        }
        if before != after {
            self.candidate_count = self.candidate_count + usize::from(after.0) - usize::from(before.0);
            self.regroup(host);
        }
        self.enqueue(host);
        Some(result)
    }

    /// Sets the time of the next probe. A peer in flight is queued when its probe ends.
    pub(super) fn reschedule(&mut self, host: &Host, at: Time) {
        self.update(host, |entry| entry.next_probe_at = at);
    }

    /// Removes a peer and returns whether it was known.
    ///
    /// A probe stays in flight, so that a peer added again is not probed twice at once.
    pub(super) fn remove(&mut self, host: &Host) -> bool {
        self.port_claims.remove(host);
        self.unattributed_failures.remove(host);
        self.limits.remove(host);
        self.over_budget.remove(host);
        self.dequeue(host);
        let removed = self.entries.swap_remove_full(host).map(|(index, _, entry)| {
            self.facts.swap_remove(index);
            entry
        });
        self.regroup(host);
        self.candidate_count -= usize::from(removed.as_ref().is_some_and(|entry| entry.last_success.is_none()));
        removed.is_some()
    }

    /// Returns the queue of due peers.
    pub(super) fn queue(&self) -> &ProbeQueue {
        &self.queue
    }

    /// Takes the first due peer of a route and class from the queue.
    pub(super) fn pop_due(&mut self, route: Route, class: ProbeClass, now: Time) -> Option<Host> {
        self.queue.pop_due(route, class, now)
    }

    /// Returns the reports of ports that were not verified.
    pub(super) fn port_claims(&self) -> &PortClaims {
        &self.port_claims
    }

    /// Adds an unverified report of ports, which may be the first dialable endpoint of the peer.
    pub(super) fn add_port_claim(&mut self, host: &Host, claim: PortClaim) {
        self.port_claims.add(host, claim);
        self.enqueue(host);
    }

    /// Drops reports that an address made if the host does not resolve to it.
    pub(super) fn retain_port_claims(&mut self, host: &Host, keep: impl Fn(&PortClaim) -> bool) {
        self.port_claims.retain(host, keep);
    }

    /// Returns whether a peer has an endpoint that may be dialled on its route.
    pub(super) fn has_dialable_endpoint(&self, entry: &Entry) -> bool {
        let mut ports = entry.permitted_ports().into_iter().chain(self.port_claims.ports(&entry.host));
        ports.any(|ports: Ports| dial_policy::has_dialable_port(&entry.host, self.route(&entry.host), ports))
    }

    /// Returns the probe of a host that is in flight.
    pub(super) fn probe(&self, host: &Host) -> Option<&InFlightProbe> {
        self.in_flight.get(host)
    }

    /// Returns the probe of a host that is in flight, for a change of its state.
    pub(super) fn probe_mut(&mut self, host: &Host) -> Option<&mut InFlightProbe> {
        self.in_flight.get_mut(host)
    }

    /// Returns all probes in flight.
    pub(super) fn probes(&self) -> impl Iterator<Item = (&Host, &InFlightProbe)> {
        self.in_flight.iter()
    }

    /// Returns the number of probes in flight.
    pub(super) fn probe_count(&self) -> usize {
        self.in_flight.len()
    }

    /// Returns the number of probes of known peers, or of newcomers, on a route.
    pub(super) fn probe_count_like(&self, class: ProbeClass, route: Route) -> usize {
        let alike = self.in_flight.iter().filter(|(_, probe)| probe.class.is_newcomer() == class.is_newcomer());
        alike.filter(|(host, _)| self.route(host) == route).count()
    }

    /// Returns the number of probes in flight on a route.
    pub(super) fn probe_count_on(&self, route: Route) -> usize {
        self.in_flight.keys().filter(|host| self.route(host) == route).count()
    }

    /// Records the start of a probe; `false` if the host is unknown.
    pub(super) fn begin_probe(&mut self, host: &Host, was_healthy: bool, now: Time) -> bool {
        self.over_budget.remove(host);
        self.dequeue(host);
        let Some((index, _, entry)) = self.entries.get_full_mut(host) else { return false };
        let is_first_probe = entry.last_try.replace(now).is_none();
        if let Some(facts) = self.facts.get_mut(index) {
            *facts = ListFacts::of(entry);
        }
        let resolving = matches!(host, Host::Dns(_));
        let probe = InFlightProbe {
            started_at: now,
            is_first_probe,
            resolving,
            was_healthy,
            announces: None,
            downloads_headers: false,
            class: ProbeClass::of(entry),
            payers: SlotPayer::of(entry, &[]),
            endpoints: Vec::new(),
            web_sockets: Vec::new(),
        };
        self.in_flight.insert(host.clone(), probe);
        true
    }

    /// Records the end of a probe. The peer is queued again when it is rescheduled.
    pub(super) fn end_probe(&mut self, host: &Host) -> Option<InFlightProbe> {
        self.in_flight.remove(host)
    }

    /// Defers a peer whose subnet has no dial budget left.
    pub(super) fn defer(&mut self, host: &Host, subnet: Netgroup, until: Time) {
        self.in_flight.remove(host);
        self.over_budget.insert(host.clone(), subnet);
        self.reschedule(host, until);
    }

    /// Returns the subnet whose dial budget a peer waits for; `None` if it waits for none.
    pub(super) fn deferred_by(&self, host: &Host) -> Option<Netgroup> {
        self.over_budget.get(host).copied()
    }

    /// Returns the number of consecutive failures that were not attributed.
    pub(super) fn unattributed_failures(&self, host: &Host) -> u32 {
        self.unattributed_failures.get(host).copied().unwrap_or(0)
    }

    /// Counts a failure that is not attributed, and returns the new number.
    pub(super) fn count_unattributed_failure(&mut self, host: &Host) -> u32 {
        if !self.entries.contains_key(host) {
            return 1;
        }
        let failures = self.unattributed_failures.entry(host.clone()).or_default();
        *failures = failures.saturating_add(1);
        *failures
    }

    /// Returns the requests that a peer does not respond to, and where that was found out; `None` if none are known.
    pub(super) fn limits(&self, host: &Host, now: Time) -> Option<(PeerLimits, Option<IpAddr>)> {
        self.limits.get(host, now)
    }

    /// Records the requests that a verified peer did not respond to, and its address.
    pub(super) fn record_limits(&mut self, host: &Host, limits: PeerLimits, ip: Option<IpAddr>, now: Time) {
        self.limits.record(host, limits, ip, now);
    }

    /// Has all requests sent at the next visit.
    pub(super) fn forget_limits(&mut self, host: &Host) {
        self.limits.remove(host);
    }

    /// Forgets the port reports and the unattributed failures of a peer after a conclusive result.
    pub(super) fn on_conclusive_result(&mut self, host: &Host) {
        self.port_claims.remove(host);
        self.unattributed_failures.remove(host);
    }

    /// Updates the groups of a peer that was added, changed or removed.
    fn regroup(&mut self, host: &Host) {
        let entry = self.entries.get(host);
        let candidate = entry.filter(|entry| entry.last_success.is_none());
        let source = candidate.and_then(|entry| self.source_group(&entry.source));
        let is_settled = entry.is_some_and(Entry::is_settled);
        self.candidate_groups.set(host, source);
        if is_settled {
            self.settled.insert(host.clone());
        } else {
            self.settled.swap_remove(host);
        }
    }

    fn dequeue(&mut self, host: &Host) {
        let route = self.route(host);
        if let Some(entry) = self.entries.get(host) {
            self.queue.remove(route, entry.next_probe_at, host);
        }
    }

    /// Queues a peer unless it is in flight, or has no permitted port or route.
    fn enqueue(&mut self, host: &Host) {
        let Some(entry) = self.entries.get(host) else { return };
        if !self.in_flight.contains_key(host) && self.has_dialable_endpoint(entry) && self.rules.allows(host) {
            self.queue.insert(self.route(host), entry.next_probe_at, host.clone(), ProbeClass::of(entry));
        }
    }
}
