//! Results of probes and of Tor checks.

use std::cmp::Reverse;

use rand::Rng;

use super::path_health::{PathPopulation, PathVerdict, PendingFailure};
use super::probe_queue::{after_failure, after_success, jittered};
use super::self_announcement::ANNOUNCE_SPACING;
use super::{Action, BookConfig, BookNotice, Entry, PeerBook, PeerState, PortClaim, SWEEP, Source, policy};
use crate::clock::Time;
use crate::connect::{FailureOrigin, ProbeError, Verified};
use crate::peer::{Fault, Host, Ports};
use crate::route::{Route, RoutingPolicy};
use crate::tor_state::{ClearnetAccess, TorProbe, TorState};

/// After so many failures, in the first hours, a name that was never verified may be dropped for another.
const EVICT_AFTER_FAILURES: u32 = 5;

impl PeerBook {
    pub(super) fn on_probe_result(
        &mut self,
        host: Host,
        outcome: Result<Verified, ProbeError>,
        now: Time,
        rng: &mut impl Rng,
        actions: &mut Vec<Action>,
    ) {
        let Some(flight) = self.in_flight.remove(&host) else { return };
        let via = self.via(&host);
        match outcome {
            Ok(verified) => {
                self.on_path_proven(via, now, rng, actions);
                match self.judge_chain(&host, &verified.report, now) {
                    Some(fault) => self.on_peer_failure(&host, ProbeError::ProtocolViolation(fault), now, rng, actions),
                    None => self.on_success(&host, verified, flight.announces_self, now, rng, actions),
                }
            }
            Err(failure) => match failure.blame() {
                FailureOrigin::Peer => {
                    self.on_path_proven(via, now, rng, actions);
                    self.on_peer_failure(&host, failure, now, rng, actions);
                }
                FailureOrigin::PeerUnconfirmed => self.on_peer_failure(&host, failure, now, rng, actions),
                FailureOrigin::Local => {
                    if failure == ProbeError::TorUnavailable {
                        self.on_tor_unavailable("it doesn't take our connections".to_owned(), now, actions);
                    }
                    self.defer_without_blame(&host, now, rng);
                }
                FailureOrigin::Ambiguous => {
                    self.on_ambiguous_failure(&host, failure, flight.started_at, now, rng, actions)
                }
            },
        }
    }

    fn on_success(
        &mut self,
        host: &Host,
        verified: Verified,
        announced: bool,
        now: Time,
        rng: &mut impl Rng,
        actions: &mut Vec<Action>,
    ) {
        let BookConfig { recheck_interval: recheck, max_advertised_age: recent, initial_retry: retry, .. } =
            self.settings;
        let uptime = self.path_uptime_for(host);
        self.port_claims.remove(host);
        self.unattributed_failures.remove(host);
        let Some(entry) = self.entries.get_mut(host) else { return };
        self.candidate_count -= usize::from(entry.last_success.is_none());
        let (was_good, believed) = (entry.state(now, recent) == PeerState::Verified, entry.ports);
        let new_key = entry.verified(&verified, uptime, now);
        let door_stands = entry.ports.iter().any(|door| door == (verified.transport, verified.port));
        // What it says of its ports stands, but one that is news to us and that we haven't met is looked at soon.
        let looks_again = !door_stands && entry.ports != believed;
        let software = entry.software.clone();
        let pause = if !announced && self.should_announce_to(host, self.via(host), now) {
            // The own name was reached only after this probe had started.
            jittered(ANNOUNCE_SPACING, rng)
        } else if looks_again {
            jittered(retry, rng)
        } else {
            after_success(recheck, recent, rng)
        };
        if !door_stands {
            // The report may be wrong, for example behind a router. So the endpoint that answered is tried as well.
            let ports = Ports::single(verified.transport, verified.port);
            self.add_port_claim(host, PortClaim { ports, from: None });
        }
        self.reschedule(host, now + pause);
        self.save(host, actions);
        actions.push(Action::SnapshotDirty);
        if !was_good {
            actions.push(Action::Notice(BookNotice::Verified { host: host.clone(), software }));
        }
        if new_key {
            actions.push(Action::Notice(BookNotice::KeyChanged { host: host.clone() }));
        }
        self.record_port_claims(&verified.report.peer_list, rng);
        let names = policy::sample_new_names(verified.report.peer_list, |host| !self.entries.contains_key(host), rng);
        for name in names {
            // Rejected unverified reports are not logged.
            let _ = self.try_add(name, Source::Peer(host.clone()), now, rng, actions);
        }
    }

    fn on_peer_failure(
        &mut self,
        host: &Host,
        failure: ProbeError,
        now: Time,
        rng: &mut impl Rng,
        actions: &mut Vec<Action>,
    ) {
        let BookConfig { recheck_interval: recheck, max_advertised_age: recent, initial_retry: retry, .. } =
            self.settings;
        // What a stranger claimed was tried along with the rest.
        self.port_claims.remove(host);
        self.unattributed_failures.remove(host);
        let Some(entry) = self.entries.get_mut(host) else { return };
        let was_bad = entry.violation.is_some();
        // It is lost at the first failure after its last success stopped being recent.
        let lapsed = entry.last_success.map(|success| success + recent).filter(|until| *until < now);
        let tried_since = entry.history.back().is_some_and(|past| lapsed.is_some_and(|until| past.at > until));
        entry.record_failure(failure, now);
        let pause = match entry.violation {
            // It may be catching up.
            Some(ProbeError::ProtocolViolation(Fault::ChainBehind)) => {
                after_failure(entry.failures, retry, recheck, rng)
            }
            Some(_) => jittered(recheck, rng),
            None => after_failure(entry.failures, retry, recheck, rng),
        };
        let is_bad = entry.violation.is_some();
        self.reschedule(host, now + pause);
        self.save(host, actions);
        if self.settings.peers_as_backend {
            // The order of upstream candidates may have changed.
            actions.push(Action::SnapshotDirty);
        }
        if is_bad && !was_bad {
            actions.push(Action::Notice(BookNotice::Misbehaved { host: host.clone(), reason: failure }));
            actions.push(Action::SnapshotDirty);
        } else if lapsed.is_some() && !tried_since && !was_bad {
            actions.push(Action::Notice(BookNotice::NoLongerAdvertised { host: host.clone(), reason: failure }));
        }
    }

    /// Defers a peer without recording a failure.
    fn defer_without_blame(&mut self, host: &Host, now: Time, rng: &mut impl Rng) {
        let BookConfig { initial_retry: retry, recheck_interval: recheck, .. } = self.settings;
        // Where there is nobody to ask, one that is gone is excused for ever, and must not be tried for ever as well. While
        // a way is known to be down, hardly anybody is tried, and nobody is to wait for it.
        let excuses = match (self.reach(self.via(host)).is_down(), self.entries.get_mut(host)) {
            (false, Some(_)) => {
                let excuses = self.unattributed_failures.entry(host.clone()).or_default();
                *excuses = excuses.saturating_add(1);
                *excuses
            }
            _ => 1,
        };
        self.reschedule(host, now + after_failure(excuses, retry, recheck, rng));
    }

    fn on_ambiguous_failure(
        &mut self,
        host: &Host,
        failure: ProbeError,
        began: Time,
        now: Time,
        rng: &mut impl Rng,
        actions: &mut Vec<Action>,
    ) {
        let via = self.via(host);
        let company = self.path_population(via, now);
        let good = self.entries.get(host).is_some_and(|entry| self.is_healthy(entry, now));
        let suspect = PendingFailure { host: host.clone(), failure, was_healthy: good, started_at: began, ended: now };
        let verdict = self.reach_mut(via).on_failure(suspect, company);
        match verdict {
            PathVerdict::PathDown => self.on_path_down(via, now, actions),
            PathVerdict::Held => {}
        }
        self.defer_without_blame(host, now, rng);
        if self.reach(via).has_pending_failure() && !self.has_good_probe_in_flight(via) {
            self.expedite_path_check(via, now);
        }
    }

    /// Those on this way; the good ones are looked for only when, and as far as, it matters.
    fn path_population(&self, via: Route, now: Time) -> PathPopulation {
        let known = self.queue.len(via) + self.in_flight(via);
        if !self.reach(via).would_decide(known) {
            return PathPopulation { known, healthy: PathPopulation::COUNT_CAP };
        }
        let flying = self.in_flight.keys().filter(|host| self.via(host) == via);
        let proven = self.queue.previously_verified(via).chain(flying).filter_map(|host| self.entries.get(host));
        let good = proven.filter(|entry| self.is_healthy(entry, now)).take(PathPopulation::COUNT_CAP).count();
        PathPopulation { known, healthy: good }
    }

    /// Records a proof of this path.
    pub(super) fn on_path_proven(&mut self, via: Route, now: Time, rng: &mut impl Rng, actions: &mut Vec<Action>) {
        let was_down = self.reach(via).is_down();
        let before = self.reach(via).working_time();
        let guilty = self.reach_mut(via).on_proof(now);
        if self.settings.routing == RoutingPolicy::TorOnly && self.clearnet_blocked().is_none() {
            // Clearnet hosts were in reach for as long: what counts for them must not stand still meanwhile.
            self.direct.add_working_time(self.tor_reach.working_time().saturating_sub(before));
        }
        match via {
            Route::Direct if was_down => actions.push(Action::Notice(BookNotice::NetworkUp)),
            Route::Tor if !self.tor.is_ready() => self.set_tor(TorState::Ready, actions),
            _ => {}
        }
        for (host, failure) in guilty {
            self.on_peer_failure(&host, failure, now, rng, actions);
        }
        for via in Route::ALL {
            if let Some(total) = self.reach_mut(via).take_dirty() {
                actions.push(Action::SavePathUptime(via, total));
            }
        }
    }

    fn on_path_down(&mut self, via: Route, now: Time, actions: &mut Vec<Action>) {
        match via {
            Route::Direct => actions.push(Action::Notice(BookNotice::NetworkDown)),
            Route::Tor => {
                let reason = "it reaches no onion service any more".to_owned();
                self.set_tor(TorState::Down { since: now, reason }, actions);
            }
        }
    }

    pub(super) fn on_tor_probe(&mut self, sign: TorProbe, now: Time, actions: &mut Vec<Action>) {
        if sign == self.tor_probe {
            return;
        }
        self.tor_probe = sign.clone();
        match sign {
            TorProbe::Off => {
                self.tor_reach.mark_down(now);
                self.set_tor(TorState::Off, actions);
            }
            TorProbe::Unavailable { reason } => self.on_tor_unavailable(reason, now, actions),
            TorProbe::Starting { percent, waits_for } => {
                // The time until it is ready again is none in which anybody could be reached.
                self.tor_reach.mark_down(now);
                self.set_tor(TorState::Starting { percent: Some(percent), waiting_for: waits_for }, actions);
            }
            TorProbe::Reachable => {
                self.tor_reach.reset_trials(now);
                if !self.tor.is_ready() {
                    let waits_for = "the first answer of an onion service".to_owned();
                    self.set_tor(TorState::Starting { percent: None, waiting_for: waits_for }, actions);
                }
            }
        }
    }

    /// Clearnet peers leave the queue while Tor refuses them, and come back at their old times.
    pub(super) fn on_tor_clearnet(&mut self, access: ClearnetAccess, actions: &mut Vec<Action>) {
        if std::mem::replace(&mut self.tor_clearnet, access) == access
            || self.settings.routing != RoutingPolicy::TorOnly
        {
            return;
        }
        let clearnet: Vec<Host> = self.entries.keys().filter(|host| !host.is_onion()).cloned().collect();
        for host in clearnet {
            let Some(entry) = self.entries.get(&host) else { continue };
            self.queue.remove(Route::Tor, entry.next_probe_at, &host);
            self.enqueue(&host);
        }
        actions.push(Action::Notice(BookNotice::TorClearnet(access)));
    }

    fn on_tor_unavailable(&mut self, reason: String, now: Time, actions: &mut Vec<Action>) {
        self.tor_reach.mark_down(now);
        let since = match self.tor {
            TorState::Down { since, .. } => since,
            _ => now,
        };
        self.set_tor(TorState::Down { since, reason }, actions);
    }

    fn set_tor(&mut self, state: TorState, actions: &mut Vec<Action>) {
        if self.tor != state {
            self.tor = state.clone();
            actions.push(Action::Notice(BookNotice::Tor(state)));
            actions.push(Action::SnapshotDirty);
        }
    }

    pub(super) fn prune(&mut self, now: Time, rng: &mut impl Rng, actions: &mut Vec<Action>) {
        self.next_sweep = now + SWEEP;
        self.budgets.prune(now);
        self.direct.prune(now);
        self.tor_reach.prune(now);
        let forget = self.settings.expire_after;
        let expired =
            |entry: &&Entry| self.path_uptime_for(&entry.host).saturating_sub(entry.path_uptime_at_success) >= forget;
        let mut expired: Vec<Host> = self.idle().filter(expired).map(|entry| entry.host.clone()).collect();
        expired.sort();
        expired.extend(self.evictable_candidates());
        for host in expired {
            if self.remove(&host) {
                actions.push(Action::Remove(host.clone()));
                actions.push(Action::Notice(BookNotice::Forgotten { host }));
                actions.push(Action::SnapshotDirty);
            }
        }
        if !self.entries.values().any(|entry| self.is_healthy(entry, now)) {
            self.readd_seeds(now, rng, actions);
        }
    }

    /// Returns never-verified names to evict before the table is full.
    ///
    /// Names with the most failures go first, so that invented names can't fill the table.
    fn evictable_candidates(&self) -> Vec<Host> {
        let excess = self.candidate_count.saturating_sub(self.settings.max_candidates / 8 * 7);
        if excess == 0 {
            return Vec::new();
        }
        let tries = |entry: &Entry| {
            entry.failures.saturating_add(self.unattributed_failures.get(&entry.host).copied().unwrap_or(0))
        };
        let idle = self.idle().filter(|entry| entry.last_success.is_none());
        let evictable =
            idle.map(|entry| (Reverse(tries(entry)), &entry.host)).filter(|(tries, _)| tries.0 >= EVICT_AFTER_FAILURES);
        let mut names: Vec<(Reverse<u32>, &Host)> = evictable.collect();
        names.sort();
        names.truncate(excess);
        names.into_iter().map(|(_, host)| host.clone()).collect()
    }
}
