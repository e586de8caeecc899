//! A look at the whole book, now and then: who is in it, how they stand, and what callers are told.

use std::collections::HashMap;
use std::time::Duration;

use waypost::book::{Entry, Ingress, PeerState};
use waypost::clock::Time;
use waypost::network::Network;
use waypost::peer::{Host, PeerList};
use waypost::route::{Route, RoutingPolicy};

use super::invariants::{Verdict, regions, that};
use super::network_model::Kind;
use super::run::Run;

/// So long after a local outage, or a restart, all that fell due in it has been tried.
pub const CATCH_UP: Duration = Duration::from_hours(4);

/// Otherwise nobody who was verified before waits longer than this beyond its time. A name that never was may have to
/// stand behind all that attackers made up during a long outage.
const PATIENCE: Duration = Duration::from_mins(10);
const PATIENCE_OF_STRANGERS: Duration = Duration::from_hours(12);

const DAY: Duration = Duration::from_hours(24);

/// A newcomer that we can reach is verified within this, though attackers crowd the door.
const WELCOME: Duration = Duration::from_hours(72);

/// A peer that moved is found again within this: its old ports are no longer recent, its new ones have got about.
const MOVED: Duration = Duration::from_hours(96);

/// Final state of the peers that must be verified.
#[derive(Debug, Default)]
pub struct Standing {
    pub good: usize,
    pub good_verified: usize,
    pub newcomers: usize,
    pub newcomers_verified: usize,
    pub moved: usize,
    pub moved_verified: usize,
}

impl Run {
    pub fn look(&mut self) {
        let known: HashMap<&Host, &Entry> = self.book.entries().map(|entry| (&entry.host, entry)).collect();
        self.hold(self.the_good_are_kept(&known));
        self.hold(self.nobody_waits_too_long());
        self.hold(self.the_dead_are_gone());
        self.hold(self.disk_is_memory(&known));
        let verdict = self.advertised_peers_are_true();
        self.hold(verdict);
    }

    pub fn standing(&self) -> Standing {
        let known: HashMap<&Host, &Entry> = self.book.entries().map(|entry| (&entry.host, entry)).collect();
        let mut standing = Standing::default();
        let count = |fits: bool, host: &Host, all: &mut usize, verified: &mut usize| {
            *all += usize::from(fits);
            *verified += usize::from(fits && known.get(host).is_some_and(|entry| self.is_verified(entry)));
        };
        for peer in &self.world.peers {
            let via = RoutingPolicy::default().via(&peer.host);
            let Standing { good, good_verified, newcomers, newcomers_verified, moved, moved_verified } = &mut standing;
            if !self.calm(via) {
                continue;
            }
            let reachable = |since: Time, least| self.calendar.uptime(via, since, self.now) >= least;
            count(matches!(peer.kind, Kind::Good | Kind::Liar), &peer.host, good, good_verified);
            let came = peer.kind == Kind::Newcomer && reachable(peer.turn.max(Run::START), WELCOME);
            count(came, &peer.host, newcomers, newcomers_verified);
            let settled = peer.kind == Kind::Mover && reachable(peer.moved_at(self.now).max(Run::START), MOVED);
            count(settled, &peer.host, moved, moved_verified);
        }
        standing
    }

    /// Every discoverable peer is known at the end.
    pub fn at_the_end(&self) {
        let standing = self.standing();
        let Standing { good, good_verified, newcomers, newcomers_verified, moved, moved_verified } = standing;
        let most = |few: usize, all: usize| few + 2 + all / 20 >= all;
        let holds = most(good_verified, good) && most(newcomers_verified, newcomers) && most(moved_verified, moved);
        self.hold(that(holds, || format!("{standing:?}")));
    }

    /// A peer that is always up stays verified, except during a local outage.
    fn the_good_are_kept(&self, known: &HashMap<&Host, &Entry>) -> Verdict {
        for peer in self.world.peers.iter().filter(|peer| matches!(peer.kind, Kind::Good | Kind::Liar | Kind::Newcomer))
        {
            let Some(record) = self.ledger.records.get(&peer.host) else { continue };
            let Some(last_ok) = record.last_ok else { continue };
            let entry = known.get(&peer.host);
            let hours = self.now.since(last_ok).as_secs() / 3600;
            that(entry.is_some(), || format!("{} is lost, verified {hours} hours ago", peer.host))?;
            if self.calm(RoutingPolicy::default().via(&peer.host)) {
                that(entry.is_some_and(|entry| self.is_verified(entry)), || {
                    format!("{} is not verified, {hours} hours after it last was: {entry:?}", peer.host)
                })?;
            }
        }
        Ok(())
    }

    fn nobody_waits_too_long(&self) -> Verdict {
        for entry in self.book.entries() {
            let waits = self.now.since(entry.next_probe_at);
            let most = if entry.last_success.is_some() { PATIENCE } else { PATIENCE_OF_STRANGERS };
            if self.calm(RoutingPolicy::default().via(&entry.host))
                && waits > most
                && !self.ledger.in_the_air(&entry.host)
            {
                return Err(format!("{} has been due for {} minutes", entry.host, waits.as_secs() / 60));
            }
        }
        Ok(())
    }

    fn the_dead_are_gone(&self) -> Verdict {
        let forget = self.book.config().expire_after;
        for entry in self.book.entries() {
            let Some(record) = self.ledger.records.get(&entry.host) else { continue };
            let since = record.last_ok.unwrap_or(record.known_since);
            let reached = self.calendar.uptime(RoutingPolicy::default().via(&entry.host), since, self.now);
            that(reached <= forget + DAY * 2, || {
                format!("{} is kept after {} hours without a success", entry.host, reached.as_secs() / 3600)
            })?;
        }
        Ok(())
    }

    /// A crash would lose nothing that matters.
    fn disk_is_memory(&self, known: &HashMap<&Host, &Entry>) -> Verdict {
        that(known.len() == self.disk.len(), || format!("{} known, {} saved", known.len(), self.disk.len()))?;
        for (host, entry) in known {
            let saved = self.disk.get(*host);
            let same = saved.is_some_and(|saved| {
                let key = |entry: &Entry| {
                    (entry.ports, entry.last_success, entry.failures, entry.violation, entry.path_uptime_at_success)
                };
                key(saved) == key(entry)
            });
            that(same, || format!("saved: {saved:?}, known: {entry:?}"))?;
        }
        Ok(())
    }

    fn advertised_peers_are_true(&mut self) -> Verdict {
        let snapshot = self.book.snapshot(self.now, &mut self.rng);
        // The second time from a picture that has grown old.
        for later in [Duration::ZERO, Duration::from_hours(11)] {
            for caller in [Ingress::Clearnet, Ingress::Onion] {
                let json = snapshot.peers(caller, self.now + later, &mut self.rng).to_vec();
                let json = String::from_utf8(json).map_err(|error| error.to_string())?;
                let list =
                    PeerList::parse(&json, Network::Bitcoin.default_ports()).map_err(|error| error.to_string())?;
                for listed in &list.0 {
                    self.may_be_advertised(&listed.name.host, later)?;
                }
                let onions = list.0.iter().filter(|listed| listed.name.host.is_onion()).count();
                let most = if snapshot.tor.is_ready() { 50.max(list.0.len() / 4) } else { 3 };
                that(onions <= most, || format!("{onions} onions of {} advertised", list.0.len()))?;
                let crowd = regions(list.0.iter().filter_map(|listed| listed.ip)).into_iter().find(|(_, n)| *n > 2);
                that(crowd.is_none(), || format!("advertised many in one region: {crowd:?}"))?;
            }
        }
        Ok(())
    }

    fn may_be_advertised(&self, host: &Host, later: Duration) -> Verdict {
        let record = self.ledger.records.get(host);
        let last_ok = record.and_then(|record| record.last_ok);
        let last_bad = record.and_then(|record| record.last_bad);
        let guess = host.is_onion() && !self.book.tor().is_ready();
        let fresh = last_ok.is_some_and(|ok| (self.now + later).since(ok) <= DAY);
        that(guess || fresh, || format!("{host} is advertised, last seen {last_ok:?}"))?;
        that(last_bad.is_none_or(|bad| last_ok.is_some_and(|ok| ok > bad)), || {
            format!("{host} is advertised, and bad")
        })?;
        let hostile = |kind| matches!(kind, Kind::WrongChain | Kind::Malformed | Kind::Silent | Kind::Private);
        let kind = self.world.get(host).map(|peer| peer.kind);
        that(guess || !kind.is_none_or(hostile), || format!("{host} is advertised, and is {kind:?}"))
    }

    /// Neither the path nor the daemon was down recently.
    fn calm(&self, via: Route) -> bool {
        self.now.since(Run::START) > CATCH_UP && self.calendar.worked(via, self.now - CATCH_UP, self.now)
    }

    fn is_verified(&self, entry: &Entry) -> bool {
        entry.state(self.now, self.book.config().max_advertised_age) == PeerState::Verified
    }
}
