//! Trying peers: who is tried now, and on which addresses and ports.

use std::net::IpAddr;
use std::time::Duration;

use rand::Rng;

use super::{Action, Attempt, Book, Entry, Failure, Flight, Notice, PeerState, Source, Use, policy};
use crate::clock::Time;
use crate::netgroup;
use crate::peer::{Host, Port, Ports, Transport};
use crate::route::{TorSign, Via};

/// Probes at once while we only want to find out whether a way works, and how long a peer is then left in peace.
const TRIALS: usize = 2;
const TRIAL_PAUSE: Duration = Duration::from_secs(10);

/// A peer that was asked within this is not asked again just to find out whether the way to it works.
const HURRY_PAUSE: Duration = Duration::from_hours(1);

/// Nor just because somebody doubts it.
const DOUBT_PAUSE: Duration = Duration::from_mins(10);

impl Book {
    /// When to come back with [`Event::Tick`](super::Event::Tick).
    pub fn next_wakeup(&self) -> Time {
        let mut next = self.next_sweep;
        for via in Via::ALL {
            let due = match self.usable(via) {
                Use::Open if self.has_slot(via) => self.queue.next(via),
                Use::Trial if self.may_try(via) => Some(self.reach(via).next_trial()),
                _ => None,
            };
            next = due.map_or(next, |due| due.min(next));
        }
        next
    }

    /// How many names there are whose first try isn't over. Those that we have no way to are none of them,
    /// nor those that had their turn and now stand in line for a crowded neighbourhood.
    pub fn untried(&self) -> usize {
        let under_way = |entry: &Entry| self.flights.get(&entry.host).is_some_and(|flight| flight.first);
        let untried = |entry: &&Entry| entry.last_try.is_none() || under_way(entry);
        let has_way = |entry: &&Entry| {
            self.has_door(entry)
                && self.has_route(&entry.host)
                && (self.via(&entry.host) == Via::Direct || self.tor_sign != TorSign::Off)
        };
        self.entries.values().filter(untried).filter(has_way).count()
    }

    pub(super) fn start_due(&mut self, now: Time, rng: &mut impl Rng, actions: &mut Vec<Action>) {
        for via in Via::ALL {
            if self.usable(via) == Use::Trial && self.may_try(via) && now >= self.reach(via).next_trial() {
                let peer = self.trial_peer(via, now, rng);
                self.reach_mut(via).tried(now);
                if let Some(host) = peer {
                    self.start(&host, now, rng, actions);
                }
            }
        }
        while let Some(host) = self.longest_due(now).and_then(|via| self.queue.pop_due(via, now)) {
            self.start(&host, now, rng, actions);
        }
    }

    /// Whether there is room for a trial.
    fn may_try(&self, via: Via) -> bool {
        self.has_slot(via) && self.in_flight(via) < TRIALS
    }

    /// The way on which somebody may be tried now, and has waited for longest: else a crowd on one way would keep the
    /// other from its turn.
    fn longest_due(&self, now: Time) -> Option<Via> {
        let free = Via::ALL.into_iter().filter(|via| self.usable(*via) == Use::Open && self.has_slot(*via));
        let due = free.filter_map(|via| self.queue.next(via).map(|next| (next, via)));
        due.filter(|(next, _)| *next <= now).min().map(|(_, via)| via)
    }

    fn start(&mut self, host: &Host, now: Time, rng: &mut impl Rng, actions: &mut Vec<Action>) {
        self.held.remove(host);
        let Some(entry) = self.entries.get(host) else { return };
        let good = self.was_good(entry, now);
        let via = self.via(host);
        let Some(entry) = self.entries.get_mut(host) else { return };
        self.queue.remove(via, entry.next, host);
        let first = entry.last_try.replace(now).is_none();
        let resolving = matches!(host, Host::Dns(_));
        self.flights.insert(host.clone(), Flight { began: now, first, resolving, good, announces: false });
        match host {
            Host::Dns(_) => actions.push(Action::Resolve(host.clone(), via)),
            Host::Ip(ip) => self.dial(host, vec![*ip], now, rng, actions),
            Host::Onion(_) => actions.push(Action::Probe(self.attempt(host, Vec::new(), now, rng))),
        }
    }

    pub(super) fn resolved(
        &mut self,
        host: Host,
        addresses: Result<Vec<IpAddr>, Failure>,
        now: Time,
        rng: &mut impl Rng,
        actions: &mut Vec<Action>,
    ) {
        match self.flights.get_mut(&host) {
            Some(flight) if flight.resolving => flight.resolving = false,
            _ => return,
        }
        match addresses {
            Ok(addresses) => self.dial(&host, addresses, now, rng, actions),
            Err(failure) => self.probed(host, Err(failure), now, rng, actions),
        }
    }

    /// Dials a host on these addresses, if they are fit to be dialled.
    fn dial(&mut self, host: &Host, addresses: Vec<IpAddr>, now: Time, rng: &mut impl Rng, actions: &mut Vec<Action>) {
        let addresses = match policy::dialable(addresses, self.settings.allow_private) {
            Ok(addresses) => addresses,
            Err(failure) => return self.probed(host.clone(), Err(failure), now, rng, actions),
        };
        if addresses.iter().any(|ip| self.settings.bans.has_address(*ip)) {
            self.drop_banned(host, actions);
            self.flights.remove(host);
            return;
        }
        if !self.hold_to_caller(host, &addresses, actions) {
            self.flights.remove(host);
            return;
        }
        let Some(entry) = self.entries.get(host) else {
            // It was dropped while its name was looked up.
            self.flights.remove(host);
            return;
        };
        let proven = entry.last_success.is_some();
        match self.budgets.dial(&addresses, proven, now) {
            Ok(()) => actions.push(Action::Probe(self.attempt(host, addresses, now, rng))),
            Err((site, when)) => {
                self.flights.remove(host);
                self.held.insert(host.clone(), site);
                self.reschedule(host, when);
            }
        }
    }

    /// Drops the claims of callers who don't stand behind this host, and the host itself if nobody else told us of it.
    fn hold_to_caller(&mut self, host: &Host, addresses: &[IpAddr], actions: &mut Vec<Action>) -> bool {
        let is_among = |from: IpAddr| addresses.iter().any(|ip| netgroup::canonical(*ip) == netgroup::canonical(from));
        if let Some(claims) = self.claims.get_mut(host) {
            claims.retain(|claim| claim.from.is_none_or(is_among));
        }
        let unfounded = self.entries.get(host).is_some_and(|entry| match entry.source {
            Source::AddPeer(Some(from)) => entry.last_success.is_none() && !is_among(from),
            _ => false,
        });
        if unfounded {
            self.remove(host);
            actions.push(Action::Remove(host.clone()));
            actions.push(Action::Notice(Notice::NotTheCaller { host: host.clone() }));
        }
        !unfounded
    }

    fn attempt(&mut self, host: &Host, addresses: Vec<IpAddr>, now: Time, rng: &mut impl Rng) -> Attempt {
        let via = self.via(host);
        let claimed: Vec<Ports> = self.claims.get(host).into_iter().flatten().map(|claim| claim.ports).collect();
        let believed = self.entries.get(host).and_then(Entry::permitted_ports);
        let mut doors = policy::doors(believed, &claimed, rng);
        doors.retain(|door| policy::may_knock(host, via, *door));
        let is_believed = |door: &(Transport, Port)| believed.is_some_and(|ports| ports.iter().any(|own| own == *door));
        let believed = doors.iter().filter(|door| is_believed(door)).count();
        let announce = self.announces_to(host, via, now);
        if let Some(flight) = self.flights.get_mut(host) {
            flight.announces = announce;
        }
        Attempt {
            host: host.clone(),
            via,
            addresses,
            doors,
            believed,
            announce,
            compare: self.chain.height_to_compare(now),
        }
    }

    /// Somebody to find out with whether a way works: rather one who was fine lately.
    fn trial_peer(&self, via: Via, now: Time, rng: &mut impl Rng) -> Option<Host> {
        let rested = |entry: &&Entry| entry.last_try.is_none_or(|last| now.since(last) >= TRIAL_PAUSE);
        let find = |hosts: &mut dyn Iterator<Item = &Host>| -> Vec<&Entry> {
            hosts.filter_map(|host| self.entries.get(host)).filter(rested).collect()
        };
        // After a long time away nobody was fine lately, but who ever was is more likely to answer than a mere name.
        let proven = find(&mut self.queue.proven(via));
        let good: Vec<&Entry> = proven.iter().copied().filter(|entry| self.was_good(entry, now)).collect();
        // Not always the good ones, which may have gone while we were away; but first one of them.
        let anybody = !self.reach(via).is_first_trial();
        let mut now_and_then = |often| anybody && rand::RngExt::random_ratio(rng, 1, often);
        let likely = if good.is_empty() || now_and_then(4) { proven } else { good };
        let from = if likely.is_empty() || now_and_then(8) { find(&mut self.queue.all(via)) } else { likely };
        policy::pick(&from, rng).map(|entry| entry.host.clone())
    }

    /// Brings one forward who was thought to be fine.
    pub(super) fn doubt(&mut self, host: &Host, now: Time) {
        let rested = |entry: &Entry| entry.last_try.is_none_or(|last| now.since(last) >= DOUBT_PAUSE);
        if self.entries.get(host).is_some_and(|entry| rested(entry) && entry.next > now) {
            self.reschedule(host, now);
        }
    }

    /// Brings forward one who was fine lately, to find out whether it was us who failed. Of those the next in turn, so
    /// that the asking goes around.
    pub(super) fn hurry(&mut self, via: Via, now: Time) {
        let rested = |entry: &&Entry| entry.last_try.is_none_or(|last| now.since(last) >= HURRY_PAUSE);
        let mut in_turn = self.queue.proven(via).filter_map(|host| self.entries.get(host)).filter(rested);
        let found = in_turn.find(|entry| self.was_good(entry, now)).map(|entry| entry.host.clone());
        drop(in_turn);
        if let Some(host) = found {
            self.reschedule(&host, now);
        }
    }

    /// Whether the answer of one who was fine lately is awaited.
    pub(super) fn is_asking_somebody_good(&self, via: Via) -> bool {
        self.flights.iter().any(|(host, flight)| flight.good && self.via(host) == via)
    }

    /// Whether it is news about our own way when this one fails: it was verified recently, and hasn't failed since.
    pub(super) fn was_good(&self, entry: &Entry, now: Time) -> bool {
        entry.failures == 0 && entry.state(now, self.settings.recent) == PeerState::Verified
    }
}
