//! Admission of names to the book.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use rand::seq::IteratorRandom;

use super::policy::IntakeError;
use super::probe_queue::jittered;
use super::source::PortOrigin;
use super::{
    Action, BookNotice, Entry, MAX_NAMES_PER_PEER_LIST, PathUsability, PeerBook, PeerState, PortClaim, Source, policy,
};
use crate::ban_list::Bans;
use crate::clock::Time;
use crate::netgroup;
use crate::peer::{Features, Host, PeerList, Ports, RealName};

/// Maximum number of names checked in one `add_peer` request.
const MAX_INTRODUCED: usize = 4;

/// Claims about the ports of one host that are kept until it is tried.
const MAX_CLAIMS: usize = 2;

/// Interval before untrusted sources can cause another probe of a peer.
const UNTRUSTED_RETRY_INTERVAL: Duration = Duration::from_hours(1);

impl PeerBook {
    /// Handles a `server.add_peer` request, which causes a probe but changes no known entry.
    pub fn add_peer(
        &mut self,
        features: &Features,
        from: Option<IpAddr>,
        now: Time,
        rng: &mut impl Rng,
    ) -> Result<Vec<Action>, IntakeError> {
        if features.genesis_hash.as_deref().is_some_and(|hash| hash != self.settings.network.genesis_hash()) {
            return Err(IntakeError::WrongGenesis);
        }
        let mut outcome = Err(IntakeError::NoHost);
        let mut actions = Vec::new();
        for name in features.real_names().take(MAX_INTRODUCED) {
            let taken = self.try_add(name, Source::AddPeer(from), now, rng, &mut actions);
            outcome = outcome.or(taken);
        }
        outcome?;
        self.start_due(now, rng, &mut actions);
        Ok(actions)
    }

    /// Adds a name that the operator gave.
    pub fn add(&mut self, name: RealName, now: Time, rng: &mut impl Rng) -> Result<Vec<Action>, IntakeError> {
        let mut actions = Vec::new();
        self.try_add(name, Source::Operator, now, rng, &mut actions)?;
        self.start_due(now, rng, &mut actions);
        Ok(actions)
    }

    pub(super) fn try_add(
        &mut self,
        name: RealName,
        source: Source,
        now: Time,
        rng: &mut impl Rng,
        actions: &mut Vec<Action>,
    ) -> Result<(), IntakeError> {
        let name = RealName { ports: self.admissible_ports(&name, &source)?, ..name };
        let from = match source {
            Source::AddPeer(from) if !name.host.is_onion() => from,
            _ => None,
        };
        let is_known = self.entries.contains_key(&name.host);
        let via = self.via(&name.host);
        let has_door = policy::has_dialable_port(&name.host, via, name.ports);
        // Untrusted ports of a known peer are only tried as well, so there is nothing to report.
        if !has_door && (source.is_operator() || !is_known) {
            return Err(IntakeError::TlsRequired);
        }
        if is_known {
            return self.on_known_host(name, source, from, now, rng, actions);
        }
        if !source.is_operator() && self.candidate_count >= self.settings.max_candidates {
            return Err(IntakeError::CandidateTableFull);
        }
        self.budgets.introduce(&source, &name.host, now)?;
        if let Some(from) = from {
            self.port_claims.insert(name.host.clone(), vec![PortClaim { ports: name.ports, from: Some(from) }]);
        }
        let uptime = self.path_uptime_for(&name.host);
        let entry = Entry::new(name, source, uptime, now);
        actions.push(Action::Upsert(Box::new(entry.clone())));
        if entry.host.is_onion() {
            // Without Tor, the onion peer becomes a candidate for the fallback list.
            actions.push(Action::SnapshotDirty);
        }
        self.insert(entry);
        // Invented names must not cause constant trials of a path that has long been down.
        if self.path_usability(via) == PathUsability::Trial && self.queue.previously_verified(via).next().is_none() {
            self.reach_mut(via).reset_trials(now);
        }
        Ok(())
    }

    /// The ports with which a name may be taken in, by what it says itself; or why it may not.
    pub(super) fn admissible_ports(&self, name: &RealName, source: &Source) -> Result<Ports, IntakeError> {
        let RealName { host, ports, .. } = name;
        if self.settings.local_hosts.contains(host) {
            return Err(IntakeError::LocalHost);
        }
        // What the operator's names resolve to is checked before they are dialled.
        let is_unchecked = source.is_operator() && !matches!(host, Host::Ip(_));
        if !self.settings.allow_private && !host.is_public() && !is_unchecked {
            return Err(IntakeError::NotPublic);
        }
        if self.settings.bans.bans_host(host) {
            return Err(IntakeError::Banned);
        }
        match (host, source) {
            (Host::Ip(ip), Source::AddPeer(Some(from))) if *ip != netgroup::canonical(*from) => {
                Err(IntakeError::NotTheCaller)
            }
            _ => policy::permitted_ports(host, *ports, source.port_origin()).ok_or(IntakeError::NoDialablePort),
        }
    }

    /// Handles a name that is in the book already.
    fn on_known_host(
        &mut self,
        name: RealName,
        source: Source,
        from: Option<IpAddr>,
        now: Time,
        rng: &mut impl Rng,
        actions: &mut Vec<Action>,
    ) -> Result<(), IntakeError> {
        let recent = self.settings.max_advertised_age;
        let trusted = source.is_operator();
        let Some(entry) = self.entries.get(&name.host) else { return Ok(()) };
        let state = entry.state(now, recent);
        if state == PeerState::Bad && !trusted {
            return Err(IntakeError::KnownMisbehaving);
        }
        let differs = entry.ports != name.ports;
        if state == PeerState::Verified && !differs && !trusted {
            return Ok(());
        }
        // Soon, but an untrusted source must not have a peer probed time and again.
        let soonest = match (trusted, entry.last_try) {
            (false, Some(last)) => (last + jittered(UNTRUSTED_RETRY_INTERVAL, rng)).max(now),
            _ => now,
        };
        // What an untrusted source causes costs as much of the budgets as a new name would.
        self.budgets.introduce(&source, &name.host, now)?;
        if trusted {
            self.adopt(&name, source, actions);
        } else if differs {
            self.add_port_claim(&name.host, PortClaim { ports: name.ports, from });
        }
        let is_sooner = self.entries.get(&name.host).is_some_and(|entry| soonest < entry.next_probe_at);
        if is_sooner && !self.in_flight.contains_key(&name.host) {
            self.reschedule(&name.host, soonest);
        }
        Ok(())
    }

    /// Makes a known peer the operator's own, and tries the ports that the operator wrote.
    ///
    /// The operator's ports replace those from other sources, unless the peer was verified with them.
    /// A blocked port that others gave it is dropped, as it would be dialled from now on.
    pub(super) fn adopt(&mut self, name: &RealName, source: Source, actions: &mut Vec<Action>) {
        let Some(entry) = self.entries.get_mut(&name.host) else { return };
        let before = (entry.source.clone(), entry.ports);
        let known = entry.permitted_ports().filter(|_| entry.last_success.is_some());
        entry.ports = known.unwrap_or(name.ports);
        if !entry.source.is_operator() {
            entry.source = source;
        }
        let differs = entry.ports != name.ports;
        if before != (entry.source.clone(), entry.ports) {
            self.save(&name.host, actions);
        }
        if differs {
            self.add_port_claim(&name.host, PortClaim { ports: name.ports, from: None });
        }
        // It may have had no port that may be dialled before.
        self.enqueue(&name.host);
    }

    /// Replaces the ban list and drops banned peers.
    pub(super) fn apply_bans(&mut self, bans: Arc<Bans>, actions: &mut Vec<Action>) {
        self.settings.bans = bans;
        let bans = &self.settings.bans;
        let is_banned = |entry: &&Entry| bans.bans_host(&entry.host) || entry.ip.is_some_and(|ip| bans.bans_ip(ip));
        let mut banned: Vec<Host> = self.entries.values().filter(is_banned).map(|entry| entry.host.clone()).collect();
        banned.sort();
        for host in banned {
            self.drop_banned(&host, actions);
        }
    }

    pub(super) fn drop_banned(&mut self, host: &Host, actions: &mut Vec<Action>) {
        if self.remove(host) {
            actions.push(Action::Remove(host.clone()));
            actions.push(Action::SnapshotDirty);
            actions.push(Action::Notice(BookNotice::Banned { host: host.clone() }));
        }
    }

    /// What a peer says of the ports of others: where the ports that we know lead nowhere any more, those are tried as
    /// well when their time comes. It brings no verification on.
    pub(super) fn record_port_claims(&mut self, listing: &PeerList, rng: &mut impl Rng) {
        let news = listing.0.iter().map(|listed| &listed.name).filter(|name| {
            let known = self.entries.get(&name.host);
            known.is_some_and(|entry| entry.failures > 0 && entry.violation.is_none() && entry.ports != name.ports)
        });
        // A small random sample limits the influence of a single peer.
        for name in news.cloned().sample(rng, MAX_NAMES_PER_PEER_LIST) {
            let Some(ports) = policy::permitted_ports(&name.host, name.ports, PortOrigin::Untrusted) else { continue };
            self.add_port_claim(&name.host, PortClaim { ports, from: None });
        }
    }

    /// The newest first, and few.
    pub(super) fn add_port_claim(&mut self, host: &Host, claim: PortClaim) {
        let claims = self.port_claims.entry(host.clone()).or_default();
        claims.retain(|known| known.ports != claim.ports);
        claims.truncate(MAX_CLAIMS - 1);
        claims.insert(0, claim);
        // It may be the first dialable endpoint of this peer.
        self.enqueue(host);
    }
}
