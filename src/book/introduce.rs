//! Letting names in.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use rand::seq::IteratorRandom;

use super::policy::Refusal;
use super::schedule::jittered;
use super::{Action, Book, Claim, Entry, FROM_ONE_ANSWER, Notice, PeerState, Source, Use, policy};
use crate::bans::Bans;
use crate::clock::Time;
use crate::peer::{Features, Host, Listing, RealName, may_be_electrums};

/// Names of one `add_peer` call that are looked at.
const MAX_INTRODUCED: usize = 4;

/// Claims about the ports of one host that are kept until it is tried.
const MAX_CLAIMS: usize = 2;

/// Between a try and the next one that strangers may bring on.
const STRANGERS_PAUSE: Duration = Duration::from_hours(1);

impl Book {
    /// Takes in the seeds that are not known. To be called once, before the first event, where the book is empty.
    pub fn seed(&mut self, now: Time, rng: &mut impl Rng) -> Vec<Action> {
        let mut actions = Vec::new();
        for name in self.settings.seeds.clone() {
            // Seeds are the operator's own choice: nothing but a place of its own in the table is asked of them.
            let _ = self.introduce_one(name, Source::Seed, now, rng, &mut actions);
        }
        self.start_due(now, rng, &mut actions);
        actions
    }

    /// A call of `server.add_peer`: nothing it says changes what we know, it only brings a verification on.
    pub fn add_peer(
        &mut self,
        features: &Features,
        from: Option<IpAddr>,
        now: Time,
        rng: &mut impl Rng,
    ) -> Result<Vec<Action>, Refusal> {
        if features.genesis_hash.as_deref().is_some_and(|hash| hash != self.settings.network.genesis_hash()) {
            return Err(Refusal::WrongGenesis);
        }
        let mut outcome = Err(Refusal::NoHost);
        let mut actions = Vec::new();
        for name in features.real_names().take(MAX_INTRODUCED) {
            let taken = self.introduce_one(name, Source::AddPeer(from), now, rng, &mut actions);
            outcome = outcome.or(taken);
        }
        outcome?;
        self.start_due(now, rng, &mut actions);
        Ok(actions)
    }

    /// A name that the operator gave.
    pub fn add(&mut self, name: RealName, now: Time, rng: &mut impl Rng) -> Result<Vec<Action>, Refusal> {
        let mut actions = Vec::new();
        self.introduce_one(name, Source::Operator, now, rng, &mut actions)?;
        self.start_due(now, rng, &mut actions);
        Ok(actions)
    }

    /// Other seeds than before: those that weren't any are taken in, and who isn't one any more is a peer like others.
    pub(super) fn reseed(&mut self, seeds: Vec<RealName>, now: Time, rng: &mut impl Rng, actions: &mut Vec<Action>) {
        let seeds = self.fit_seeds(seeds);
        let before = std::mem::replace(&mut self.settings.seeds, seeds.clone());
        for name in seeds.into_iter().filter(|name| !before.contains(name)) {
            let _ = self.introduce_one(name, Source::Seed, now, rng, actions);
        }
    }

    /// Those on whose doors we may knock.
    pub(super) fn fit_seeds(&self, mut seeds: Vec<RealName>) -> Vec<RealName> {
        seeds.retain(|seed| policy::has_door(&seed.host, self.via(&seed.host), seed.ports));
        seeds
    }

    pub(super) fn introduce_one(
        &mut self,
        name: RealName,
        source: Source,
        now: Time,
        rng: &mut impl Rng,
        actions: &mut Vec<Action>,
    ) -> Result<(), Refusal> {
        let trusted = matches!(source, Source::Seed | Source::Operator);
        let from = match source {
            Source::AddPeer(from) if !name.host.is_onion() => from,
            _ => None,
        };
        if self.settings.own.contains(&name.host) {
            return Err(Refusal::OurOwn);
        }
        if !self.settings.allow_private && !name.host.is_public() && !trusted {
            return Err(Refusal::NotPublic);
        }
        if self.settings.bans.has_host(&name.host) {
            return Err(Refusal::Banned);
        }
        if !name.ports.iter().any(|(_, port)| may_be_electrums(port)) {
            return Err(Refusal::Ports);
        }
        match (&name.host, from) {
            (Host::Ip(ip), Some(from)) if *ip != from.to_canonical() => return Err(Refusal::NotTheCaller),
            _ => {}
        }
        if self.entries.contains_key(&name.host) {
            return self.hear_again(name, &source, from, now, rng);
        }
        if !trusted && self.unverified >= self.settings.candidates {
            return Err(Refusal::Full);
        }
        let via = self.via(&name.host);
        if !policy::has_door(&name.host, via, name.ports) {
            return Err(Refusal::OnlyTls);
        }
        self.budgets.introduce(&source, &name.host, now)?;
        if let Some(from) = from {
            self.claims.insert(name.host.clone(), vec![Claim { ports: name.ports, from: Some(from) }]);
        }
        let uptime = self.uptime(&name.host);
        let entry = Entry::new(name, source, uptime, now);
        actions.push(Action::Save(Box::new(entry.clone())));
        if entry.host.is_onion() {
            // Without Tor, one more of whom a caller may be told.
            actions.push(Action::Publish);
        }
        self.insert(entry);
        // Who keeps making up names must not have us try all the time whether a way works that has long been down.
        if self.usable(via) == Use::Trial && self.queue.proven(via).next().is_none() {
            self.reach_mut(via).try_soon(now);
        }
        Ok(())
    }

    /// A name that is known already, heard from elsewhere.
    fn hear_again(
        &mut self,
        name: RealName,
        source: &Source,
        from: Option<IpAddr>,
        now: Time,
        rng: &mut impl Rng,
    ) -> Result<(), Refusal> {
        let recent = self.settings.recent;
        let trusted = matches!(source, Source::Seed | Source::Operator);
        let Some(entry) = self.entries.get(&name.host) else { return Ok(()) };
        let state = entry.state(now, recent);
        if state == PeerState::Bad && !trusted {
            return Err(Refusal::Bad);
        }
        let differs = entry.ports != name.ports;
        if state == PeerState::Verified && !differs && !trusted {
            return Ok(());
        }
        // Soon, but strangers must not have us call on somebody time and again.
        let soonest = match (trusted, entry.last_try) {
            (false, Some(last)) => (last + jittered(STRANGERS_PAUSE, rng)).max(now),
            _ => now,
        };
        let next = entry.next;
        // What a stranger has us do costs as much of the budgets as a new name would.
        self.budgets.introduce(source, &name.host, now)?;
        if differs {
            self.claim(&name.host, Claim { ports: name.ports, from });
        }
        if soonest < next && !self.flights.contains_key(&name.host) {
            self.reschedule(&name.host, soonest);
        }
        Ok(())
    }

    /// Drops whom the operator wants nothing to do with any more.
    pub(super) fn ban(&mut self, bans: Arc<Bans>, actions: &mut Vec<Action>) {
        self.settings.bans = bans;
        let bans = &self.settings.bans;
        let is_banned = |entry: &&Entry| bans.has_host(&entry.host) || entry.ip.is_some_and(|ip| bans.has_address(ip));
        let mut banned: Vec<Host> = self.entries.values().filter(is_banned).map(|entry| entry.host.clone()).collect();
        banned.sort();
        for host in banned {
            self.drop_banned(&host, actions);
        }
    }

    pub(super) fn drop_banned(&mut self, host: &Host, actions: &mut Vec<Action>) {
        if self.remove(host) {
            actions.push(Action::Remove(host.clone()));
            actions.push(Action::Publish);
            actions.push(Action::Notice(Notice::Banned { host: host.clone() }));
        }
    }

    /// What a peer says of the ports of others: where the ports that we know lead nowhere any more, those are tried as
    /// well when their time comes. It brings no verification on.
    pub(super) fn hear_of_ports(&mut self, listing: &Listing, rng: &mut impl Rng) {
        let news = listing.0.iter().map(|listed| &listed.name).filter(|name| {
            let known = self.entries.get(&name.host);
            known.is_some_and(|entry| entry.failures > 0 && entry.bad.is_none() && entry.ports != name.ports)
        });
        // At random and few, so that no peer can steer us far.
        for name in news.cloned().sample(rng, FROM_ONE_ANSWER) {
            self.claim(&name.host, Claim { ports: name.ports, from: None });
        }
    }

    /// The newest first, and few.
    pub(super) fn claim(&mut self, host: &Host, claim: Claim) {
        let claims = self.claims.entry(host.clone()).or_default();
        claims.retain(|known| known.ports != claim.ports);
        claims.truncate(MAX_CLAIMS - 1);
        claims.insert(0, claim);
        // It may be the first door of this peer that we may knock on.
        self.enqueue(host);
    }
}
