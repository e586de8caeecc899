//! Periodic checks of the whole book: known peers, their states, and the lists for clients.

use std::collections::HashMap;
use std::time::Duration;

use waypost::book::{Entry, Ingress, PeerState};
use waypost::chain::Chain;
use waypost::clock::Time;
use waypost::peer::{Host, PeerList};
use waypost::route::{Route, RoutingPolicy};

use super::invariants::{CheckResult, check, count_by_region};
use super::network_model::Kind;
use super::run::Run;

/// Time after a local outage or a restart within which all overdue probes have run.
pub(super) const CATCH_UP: Duration = Duration::from_hours(4);

/// Longest delay of a due probe, for previously verified peers and for others.
///
/// After a long outage, the queue of unverified names contains everything that attackers invented in the meantime.
const MAX_OVERDUE: Duration = Duration::from_mins(10);
const MAX_OVERDUE_UNVERIFIED: Duration = Duration::from_hours(12);

const DAY: Duration = Duration::from_hours(24);

/// Time within which a reachable new peer is verified, in spite of attackers.
const NEWCOMER_VERIFIED_WITHIN: Duration = Duration::from_hours(72);

/// Time within which a peer with new ports is verified: the old ports have expired, and other peers list the new ones.
const MOVED_VERIFIED_WITHIN: Duration = Duration::from_hours(96);

/// Final state of the peers that must be verified.
#[derive(Debug, Default)]
pub(super) struct FinalState {
    pub good: usize,
    pub good_verified: usize,
    pub newcomers: usize,
    pub newcomers_verified: usize,
    pub moved: usize,
    pub moved_verified: usize,
}

impl Run {
    /// Checks all rules about the state of the book.
    pub(super) fn check_book(&mut self) {
        let known: HashMap<&Host, &Entry> = self.book.entries().map(|entry| (&entry.host, entry)).collect();
        self.require(self.check_reliable_peers_kept(&known));
        self.require(self.check_overdue_probes());
        self.require(self.check_dead_peers_expired());
        self.require(self.check_store_matches_book(&known));
        let result = self.check_advertised_peers();
        self.require(result);
    }

    /// Counts the peers that must be verified, and those that are.
    pub(super) fn final_state(&self) -> FinalState {
        let known: HashMap<&Host, &Entry> = self.book.entries().map(|entry| (&entry.host, entry)).collect();
        let mut final_state = FinalState::default();
        let count = |fits: bool, host: &Host, all: &mut usize, verified: &mut usize| {
            *all += usize::from(fits);
            *verified += usize::from(fits && known.get(host).is_some_and(|entry| self.is_verified(entry)));
        };
        for peer in &self.world.peers {
            let via = RoutingPolicy::default().via(&peer.host);
            let FinalState { good, good_verified, newcomers, newcomers_verified, moved, moved_verified } =
                &mut final_state;
            if !self.is_settled(via) {
                continue;
            }
            let reachable = |since: Time, least| self.outages.uptime(via, since, self.now) >= least;
            count(matches!(peer.kind, Kind::Good | Kind::Liar), &peer.host, good, good_verified);
            let is_due = peer.kind == Kind::Newcomer && reachable(peer.turn.max(Run::START), NEWCOMER_VERIFIED_WITHIN);
            count(is_due, &peer.host, newcomers, newcomers_verified);
            let is_due_mover =
                peer.kind == Kind::Mover && reachable(peer.moved_at(self.now).max(Run::START), MOVED_VERIFIED_WITHIN);
            count(is_due_mover, &peer.host, moved, moved_verified);
        }
        final_state
    }

    /// Checks that nearly every discoverable peer is verified at the end.
    pub(super) fn check_final_state(&self) {
        let final_state = self.final_state();
        let FinalState { good, good_verified, newcomers, newcomers_verified, moved, moved_verified } = final_state;
        let nearly_all = |count: usize, all: usize| count + 2 + all / 20 >= all;
        let holds = nearly_all(good_verified, good)
            && nearly_all(newcomers_verified, newcomers)
            && nearly_all(moved_verified, moved);
        self.require(check(holds, || format!("{final_state:?}")));
    }

    /// Checks that a peer that is always up stays verified, except during a local outage.
    fn check_reliable_peers_kept(&self, known: &HashMap<&Host, &Entry>) -> CheckResult {
        for peer in self.world.peers.iter().filter(|peer| matches!(peer.kind, Kind::Good | Kind::Liar | Kind::Newcomer))
        {
            let Some(record) = self.invariants.records.get(&peer.host) else { continue };
            let Some(last_ok) = record.last_ok else { continue };
            let entry = known.get(&peer.host);
            let hours = self.now.since(last_ok).as_secs() / 3600;
            check(entry.is_some(), || format!("{} is lost, verified {hours} hours ago", peer.host))?;
            if self.is_settled(RoutingPolicy::default().via(&peer.host)) {
                check(entry.is_some_and(|entry| self.is_verified(entry)), || {
                    format!("{} is not verified, {hours} hours after it last was: {entry:?}", peer.host)
                })?;
            }
        }
        Ok(())
    }

    fn check_overdue_probes(&self) -> CheckResult {
        for entry in self.book.entries() {
            let waits = self.now.since(entry.next_probe_at);
            let limit = if entry.last_success.is_some() { MAX_OVERDUE } else { MAX_OVERDUE_UNVERIFIED };
            if self.is_settled(RoutingPolicy::default().via(&entry.host))
                && waits > limit
                && !self.invariants.is_in_flight(&entry.host)
            {
                return Err(format!("{} has been due for {} minutes", entry.host, waits.as_secs() / 60));
            }
        }
        Ok(())
    }

    fn check_dead_peers_expired(&self) -> CheckResult {
        let forget = self.book.config().expire_after;
        for entry in self.book.entries() {
            let Some(record) = self.invariants.records.get(&entry.host) else { continue };
            let since = record.last_ok.unwrap_or(record.known_since);
            let reached = self.outages.uptime(RoutingPolicy::default().via(&entry.host), since, self.now);
            check(reached <= forget + DAY * 2, || {
                format!("{} is kept after {} hours without a success", entry.host, reached.as_secs() / 3600)
            })?;
        }
        Ok(())
    }

    /// Checks that a crash would lose nothing.
    fn check_store_matches_book(&self, known: &HashMap<&Host, &Entry>) -> CheckResult {
        check(known.len() == self.disk.len(), || format!("{} known, {} saved", known.len(), self.disk.len()))?;
        for (host, entry) in known {
            let saved = self.disk.get(*host);
            let same = saved.is_some_and(|saved| {
                let key = |entry: &Entry| {
                    (entry.ports, entry.last_success, entry.failures, entry.violation, entry.path_uptime_at_success)
                };
                key(saved) == key(entry)
            });
            check(same, || format!("saved: {saved:?}, known: {entry:?}"))?;
        }
        Ok(())
    }

    fn check_advertised_peers(&mut self) -> CheckResult {
        let snapshot = self.book.snapshot(self.now, &mut self.rng);
        // The second pass uses an old snapshot.
        for later in [Duration::ZERO, Duration::from_hours(11)] {
            for client in [Ingress::Clearnet, Ingress::Onion] {
                let json = snapshot.peers(client, self.now + later, &mut self.rng).to_vec();
                let json = String::from_utf8(json).map_err(|error| error.to_string())?;
                let list = PeerList::parse(&json, Chain::BITCOIN.default_ports).map_err(|error| error.to_string())?;
                for listed in &list.0 {
                    self.check_advertised_peer(&listed.name.host, later)?;
                }
                let onions = list.0.iter().filter(|listed| listed.name.host.is_onion()).count();
                let limit = if snapshot.tor.is_ready() { 50.max(list.0.len() / 4) } else { 3 };
                check(onions <= limit, || format!("{onions} onions of {} advertised", list.0.len()))?;
                // Seeds are exempt from the limits.
                let seeds = &self.book.config().seeds;
                let is_limited = |host: &Host| !seeds.iter().any(|seed| seed.host == *host);
                let limited = list.0.iter().filter(|listed| is_limited(&listed.name.host));
                let crowded = count_by_region(limited.filter_map(|listed| listed.ip)).into_iter().find(|(_, n)| *n > 2);
                check(crowded.is_none(), || format!("advertised many in one region: {crowded:?}"))?;
            }
        }
        Ok(())
    }

    fn check_advertised_peer(&self, host: &Host, later: Duration) -> CheckResult {
        let record = self.invariants.records.get(host);
        let last_ok = record.and_then(|record| record.last_ok);
        let last_bad = record.and_then(|record| record.last_bad);
        let guess = host.is_onion() && !self.book.tor().is_ready();
        let fresh = last_ok.is_some_and(|ok| (self.now + later).since(ok) <= DAY);
        check(guess || fresh, || format!("{host} is advertised, last seen {last_ok:?}"))?;
        check(last_bad.is_none_or(|bad| last_ok.is_some_and(|ok| ok > bad)), || {
            format!("{host} is advertised, and bad")
        })?;
        let hostile = |kind| matches!(kind, Kind::WrongChain | Kind::Malformed | Kind::Silent | Kind::Private);
        let kind = self.world.get(host).map(|peer| peer.kind);
        check(guess || !kind.is_none_or(hostile), || format!("{host} is advertised, and is {kind:?}"))
    }

    /// Tells whether the path and the daemon worked throughout the catch-up time.
    fn is_settled(&self, via: Route) -> bool {
        self.now.since(Run::START) > CATCH_UP && self.outages.worked(via, self.now - CATCH_UP, self.now)
    }

    fn is_verified(&self, entry: &Entry) -> bool {
        entry.state(self.now, self.book.config().max_advertised_age) == PeerState::Verified
    }
}
