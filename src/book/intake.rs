//! Intake of names from all sources.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::seq::IteratorRandom;
use rand::{Rng, RngExt};

use super::admission::{IntakeError, MAX_NAMES_PER_PEER_LIST};
use super::context::Context;
use super::dial_policy;
use super::port_claims::PortClaim;
use super::probe_queue::jittered;
use super::source::PortOrigin;
use super::source_group::Payer;
use super::{Action, BookConfig, BookNotice, Entry, PathUsability, PeerBook, PeerState, Side, Source};
use crate::ban_list::{Ban, Bans, ListName};
use crate::clock::Time;
use crate::netgroup;
use crate::peer::{Features, Host, PeerList, Ports, RealName};

/// Maximum number of names read from one `add_peer` request.
const MAX_NAMES_PER_ADD_PEER: usize = 4;

/// Range of the random delay after which the onion side uses a name that the operator gave while the node runs.
const OPERATOR_NAME_DELAY_MIN: Duration = Duration::from_hours(24);
const OPERATOR_NAME_DELAY_MAX: Duration = Duration::from_hours(72);

/// Minimum interval between probes of one peer that untrusted sources cause.
const UNTRUSTED_RETRY_INTERVAL: Duration = Duration::from_hours(1);

impl PeerBook {
    /// Handles a `server.add_peer` request, which causes a probe but changes no known entry.
    ///
    /// `from` is the address of the client; `None` if it connects through Tor.
    pub fn add_peer(
        &mut self,
        features: &Features,
        from: Option<IpAddr>,
        now: Time,
        rng: &mut impl Rng,
    ) -> Result<Vec<Action>, IntakeError> {
        if features.genesis_hash.as_deref().is_some_and(|hash| hash != self.config.chain.genesis_hash) {
            return Err(IntakeError::WrongGenesis);
        }
        let mut ctx = Context::new(now, rng);
        let mut outcome = Err(IntakeError::NoHost);
        for name in features.real_names().take(MAX_NAMES_PER_ADD_PEER) {
            let added = self.try_add(name, Source::AddPeer(from), &mut ctx);
            outcome = outcome.or(added);
        }
        outcome?;
        self.start_due(&mut ctx);
        Ok(ctx.actions)
    }

    /// Adds a name that the operator gave.
    ///
    /// The onion side uses it a random time later: a name that only this operator gives would link the two sides.
    pub fn add(&mut self, name: RealName, now: Time, rng: &mut impl Rng) -> Result<Vec<Action>, IntakeError> {
        let mut ctx = Context::new(now, rng);
        self.add_for_operator(name, Source::Operator, &mut ctx)?;
        self.start_due(&mut ctx);
        Ok(ctx.actions)
    }

    pub(super) fn add_for_operator(
        &mut self,
        name: RealName,
        source: Source,
        ctx: &mut Context<'_>,
    ) -> Result<(), IntakeError> {
        let host = name.host.clone();
        let is_new = !self.peers.contains(&host);
        self.try_add(name, source, ctx)?;
        if self.config.side == Side::Onion && is_new {
            let delay = ctx.rng.random_range(OPERATOR_NAME_DELAY_MIN..OPERATOR_NAME_DELAY_MAX);
            self.peers.reschedule(&host, ctx.now + delay);
            self.save(&host, ctx);
        }
        Ok(())
    }

    pub(super) fn try_add(&mut self, name: RealName, source: Source, ctx: &mut Context<'_>) -> Result<(), IntakeError> {
        let name = RealName { ports: self.config.admissible_ports(&name, &source)?, ..name };
        let from = match source {
            Source::AddPeer(from) if !name.host.is_onion() => from,
            _ => None,
        };
        let is_known = self.peers.contains(&name.host);
        let route = self.peers.route(&name.host);
        // The ports that an untrusted source names for a known peer are additional, so nothing is missing without them.
        let is_dialable = dial_policy::has_dialable_port(&name.host, route, name.ports);
        if !is_dialable && (source.is_operator() || !is_known) {
            return Err(IntakeError::TlsRequired);
        }
        if is_known {
            return self.on_known_host(name, source, from, ctx);
        }
        if let Some(group) = self.peers.source_group(&source) {
            self.budgets.charge_name(&group, &source, &name.host, ctx.now)?;
            if !self.make_room(ctx) {
                return Err(IntakeError::CandidateTableFull);
            }
        }
        if self.config.bans.bans_host(&name.host) {
            // A client gets the response for an unknown name: both sides of a node share the bans.
            return Ok(());
        }
        if let Some(from) = from {
            self.peers
                .add_port_claim(&name.host, PortClaim { ports: name.ports.without_web_sockets(), from: Some(from) });
        }
        let working_time = self.paths.working_time_for(&name.host);
        let entry = Entry::new(name, source, working_time, ctx.now);
        ctx.save(&entry);
        if entry.host.is_onion() {
            // Without Tor, the onion peer becomes a candidate for the fallback list.
            ctx.snapshot_changed();
        }
        self.peers.insert(entry);
        // Invented names must not cause constant trials of a path that has long been down.
        if self.paths.usability(route) == PathUsability::Testing
            && self.peers.queue().previously_verified(route).next().is_none()
        {
            self.paths.health_mut(route).reset_trials(ctx.now);
        }
        Ok(())
    }

    /// Handles a name that is in the book already.
    fn on_known_host(
        &mut self,
        name: RealName,
        source: Source,
        from: Option<IpAddr>,
        ctx: &mut Context<'_>,
    ) -> Result<(), IntakeError> {
        let is_trusted = source.is_operator();
        let Some(entry) = self.peers.get(&name.host) else { return Ok(()) };
        let state = entry.state(ctx.now, self.config.max_advertised_age);
        if state == PeerState::Bad && !is_trusted {
            return Err(IntakeError::KnownMisbehaving);
        }
        // The peer itself names its WebSockets.
        let claimed = name.ports.without_web_sockets();
        let differs = entry.ports.without_web_sockets() != claimed;
        if state == PeerState::Verified && !differs && !is_trusted {
            return Ok(());
        }
        // An untrusted source must not cause frequent probes of a peer.
        let soonest = match (is_trusted, entry.last_try) {
            (false, Some(last)) => (last + jittered(UNTRUSTED_RETRY_INTERVAL, ctx.rng)).max(ctx.now),
            _ => ctx.now,
        };
        let is_rival = from.is_some() && entry.last_success.is_none() && entry.source != source;
        let is_owner = from.is_some_and(|from| entry.ip.is_some_and(|ip| netgroup::is_same(ip, from)));
        let is_sooner = soonest < entry.next_probe_at;
        // A probe caused by an untrusted source costs as much as a new name.
        if let Some(group) = self.peers.source_group(&source) {
            self.budgets.charge_name(&group, &source, &name.host, ctx.now)?;
        }
        if is_trusted {
            self.adopt(&name, source, ctx);
        } else if differs || is_rival {
            // Of two clients that announce an unverified name, the lookup tells which one has its address.
            self.peers.add_port_claim(&name.host, PortClaim { ports: claimed, from });
        }
        // Without a budget for another visit, the ports are dialled at the regular one.
        let payer = Payer::of_peer(&name.host, self.peers.get(&name.host));
        if is_sooner
            && self.peers.probe(&name.host).is_none()
            && (is_trusted || self.budgets.charge_visit(&name.host, payer, is_owner, ctx.now))
        {
            self.peers.reschedule(&name.host, soonest);
        }
        Ok(())
    }

    /// Marks a known peer as the operator's, and adds the ports that the operator wrote.
    ///
    /// The operator's ports replace those from other sources, unless the peer was verified with them.
    /// A blocked port from another source is dropped, as the operator's peers are exempt from the rule on ports.
    pub(super) fn adopt(&mut self, name: &RealName, source: Source, ctx: &mut Context<'_>) {
        let changed = self.peers.update(&name.host, |entry| {
            let before = (entry.source.clone(), entry.ports);
            let known = entry.permitted_ports().filter(|_| entry.last_success.is_some());
            entry.ports = known.map_or(name.ports, |known| {
                known.with_web_sockets(name.ports.ws().or(known.ws()), name.ports.wss().or(known.wss()))
            });
            if !entry.source.is_operator() {
                entry.source = source;
            }
            before != (entry.source.clone(), entry.ports)
        });
        let Some(entry) = self.peers.get(&name.host) else { return };
        if changed == Some(true) {
            ctx.save(entry);
        }
        let claimed = name.ports.without_web_sockets();
        if entry.ports.without_web_sockets() != claimed {
            self.peers.add_port_claim(&name.host, PortClaim { ports: claimed, from: None });
        }
    }

    /// Replaces the bans and drops banned peers.
    pub(super) fn apply_bans(&mut self, bans: Arc<Bans>, ctx: &mut Context<'_>) {
        let ban_of = |entry: &Entry| bans.find_host(&entry.host).or_else(|| bans.find_ip(entry.ip?));
        let mut banned: Vec<(Host, Ban)> =
            self.peers.entries().filter_map(|entry| Some((entry.host.clone(), ban_of(entry)?))).collect();
        banned.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut removed: BTreeMap<String, (Arc<ListName>, usize)> = BTreeMap::new();
        for (host, ban) in banned {
            let list = Arc::clone(&ban.list);
            removed.entry(list.path.clone()).or_insert((list, 0)).1 += 1;
            self.drop_banned(&host, ban, ctx);
        }
        for (list, removed) in removed.into_values() {
            ctx.notify(BookNotice::BansApplied { list, removed });
        }
        self.config.bans = bans;
    }

    pub(super) fn drop_banned(&mut self, host: &Host, ban: Ban, ctx: &mut Context<'_>) {
        if self.peers.remove(host) {
            ctx.delete(host);
            ctx.notify(BookNotice::Banned { host: host.clone(), ban });
        }
    }

    /// Records the ports that a peer list gives for failing peers.
    ///
    /// They are dialled at the next probe, which does not take place sooner.
    pub(super) fn record_port_claims(&mut self, list: &PeerList, rng: &mut (impl Rng + ?Sized)) {
        let names = list.0.iter().map(|listed| &listed.name).filter(|name| {
            let known = self.peers.get(&name.host);
            known.is_some_and(|entry| {
                let differs = entry.ports.without_web_sockets() != name.ports.without_web_sockets();
                entry.failures > 0 && entry.violation.is_none() && differs
            })
        });
        // A small random sample limits the influence of a single peer.
        for name in names.cloned().sample(rng, MAX_NAMES_PER_PEER_LIST) {
            let claimed = name.ports.without_web_sockets();
            let ports = dial_policy::permitted_ports(&name.host, claimed, PortOrigin::Untrusted);
            if let Some(ports) = ports {
                self.peers.add_port_claim(&name.host, PortClaim { ports, from: None });
            }
        }
    }
}

impl BookConfig {
    /// Returns the ports with which a name may be added, judged by the name alone.
    pub(super) fn admissible_ports(&self, name: &RealName, source: &Source) -> Result<Ports, IntakeError> {
        let RealName { host, ports, .. } = name;
        if self.local_hosts.contains(host) {
            return Err(IntakeError::LocalHost);
        }
        // The addresses of the operator's names are checked before they are dialled.
        let is_checked_later = source.is_operator() && !matches!(host, Host::Ip(_));
        if !self.allow_private && !host.is_public() && !is_checked_later {
            return Err(IntakeError::NotPublic);
        }
        if !matches!(source, Source::AddPeer(_))
            && let Some(ban) = self.bans.find_host(host)
        {
            return Err(IntakeError::Banned(ban));
        }
        match (host, source) {
            (Host::Ip(ip), Source::AddPeer(Some(from))) if !netgroup::is_same(*ip, *from) => {
                Err(IntakeError::NotTheClient)
            }
            _ => dial_policy::permitted_ports(host, *ports, source.port_origin()).ok_or(IntakeError::NoDialablePort),
        }
    }
}
