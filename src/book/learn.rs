//! Learning from what became of an attempt, and from what is heard of Tor.

use std::cmp::Reverse;

use rand::Rng;

use super::own::VISIT;
use super::reach::{Company, Suspect, Verdict};
use super::schedule::{after_failure, after_success, jittered};
use super::{Action, Blame, Book, Claim, Entry, Failure, Notice, PeerState, SWEEP, Settings, Source, Verified, policy};
use crate::clock::Time;
use crate::peer::{Fault, Host, Ports};
use crate::route::{ClearnetAccess, Routing, TorSign, TorState, Via};

/// After so many failures, in the first hours, a name that was never verified may be dropped for another.
const VAIN_TRIES: u32 = 5;

impl Book {
    pub(super) fn probed(
        &mut self,
        host: Host,
        outcome: Result<Verified, Failure>,
        now: Time,
        rng: &mut impl Rng,
        actions: &mut Vec<Action>,
    ) {
        let Some(flight) = self.flights.remove(&host) else { return };
        let via = self.via(&host);
        match outcome {
            Ok(verified) => {
                self.proven(via, now, rng, actions);
                match self.judge_chain(&host, &verified.report, now) {
                    Some(fault) => self.failed(&host, Failure::Bad(fault), now, rng, actions),
                    None => self.succeeded(&host, verified, flight.announces, now, rng, actions),
                }
            }
            Err(failure) => match failure.blame() {
                Blame::Peer => {
                    self.proven(via, now, rng, actions);
                    self.failed(&host, failure, now, rng, actions);
                }
                Blame::PeerUnreached => self.failed(&host, failure, now, rng, actions),
                Blame::Us => {
                    if failure == Failure::OurTor {
                        self.tor_gone("it doesn't take our connections".to_owned(), now, actions);
                    }
                    self.excused(&host, now, rng);
                }
                Blame::Unclear => self.unclear(&host, failure, flight.began, now, rng, actions),
            },
        }
    }

    fn succeeded(
        &mut self,
        host: &Host,
        verified: Verified,
        announced: bool,
        now: Time,
        rng: &mut impl Rng,
        actions: &mut Vec<Action>,
    ) {
        let Settings { recheck, recent, retry, .. } = self.settings;
        let uptime = self.uptime(host);
        self.claims.remove(host);
        self.excuses.remove(host);
        let Some(entry) = self.entries.get_mut(host) else { return };
        self.unverified -= usize::from(entry.last_success.is_none());
        let (was_good, believed) = (entry.state(now, recent) == PeerState::Verified, entry.ports);
        let new_key = entry.verified(&verified, uptime, now);
        let door_stands = entry.ports.iter().any(|door| door == (verified.transport, verified.port));
        // What it says of its ports stands, but one that is news to us and that we haven't met is looked at soon.
        let looks_again = !door_stands && entry.ports != believed;
        let software = entry.software.clone();
        let pause = if !announced && self.announces_to(host, self.via(host), now) {
            // Our name was reached only when this visit was under way.
            jittered(VISIT, rng)
        } else if looks_again {
            jittered(retry, rng)
        } else {
            after_success(recheck, recent, rng)
        };
        if !door_stands {
            // It may be wrong about itself, behind a router say: the door that opened is tried beside the others.
            let ports = Ports::only(verified.transport, verified.port);
            self.claim(host, Claim { ports, from: None });
        }
        self.reschedule(host, now + pause);
        self.save(host, actions);
        actions.push(Action::Publish);
        if !was_good {
            actions.push(Action::Notice(Notice::Verified { host: host.clone(), software }));
        }
        if new_key {
            actions.push(Action::Notice(Notice::KeyChanged { host: host.clone() }));
        }
        self.hear_of_ports(&verified.report.listing, rng);
        let names = policy::pick_candidates(verified.report.listing, |host| !self.entries.contains_key(host), rng);
        for name in names {
            // Hearsay that the rules turn away is nothing to report.
            let _ = self.introduce_one(name, Source::Peer(host.clone()), now, rng, actions);
        }
    }

    fn failed(&mut self, host: &Host, failure: Failure, now: Time, rng: &mut impl Rng, actions: &mut Vec<Action>) {
        let Settings { recheck, recent, retry, .. } = self.settings;
        // What a stranger claimed was tried along with the rest.
        self.claims.remove(host);
        self.excuses.remove(host);
        let Some(entry) = self.entries.get_mut(host) else { return };
        let was_bad = entry.bad.is_some();
        // It is lost at the first failure after its last success stopped being recent.
        let lapsed = entry.last_success.map(|success| success + recent).filter(|until| *until < now);
        let tried_since = entry.history.back().is_some_and(|past| lapsed.is_some_and(|until| past.at > until));
        entry.failed(failure, now);
        let pause = match entry.bad {
            // It may be catching up.
            Some(Failure::Bad(Fault::Behind)) => after_failure(entry.failures, retry, recheck, rng),
            Some(_) => jittered(recheck, rng),
            None => after_failure(entry.failures, retry, recheck, rng),
        };
        let is_bad = entry.bad.is_some();
        self.reschedule(host, now + pause);
        self.save(host, actions);
        if self.settings.fronts_peers {
            // Whom sessions go to first is another matter now.
            actions.push(Action::Publish);
        }
        if is_bad && !was_bad {
            actions.push(Action::Notice(Notice::Bad { host: host.clone(), why: failure }));
            actions.push(Action::Publish);
        } else if lapsed.is_some() && !tried_since && !was_bad {
            actions.push(Action::Notice(Notice::Lost { host: host.clone(), why: failure }));
        }
    }

    /// An attempt that counts for nothing.
    fn excused(&mut self, host: &Host, now: Time, rng: &mut impl Rng) {
        let Settings { retry, recheck, .. } = self.settings;
        // Where there is nobody to ask, one that is gone is excused for ever, and must not be tried for ever as well. While
        // a way is known to be down, hardly anybody is tried, and nobody is to wait for it.
        let excuses = match (self.reach(self.via(host)).is_down(), self.entries.get_mut(host)) {
            (false, Some(_)) => {
                let excuses = self.excuses.entry(host.clone()).or_default();
                *excuses = excuses.saturating_add(1);
                *excuses
            }
            _ => 1,
        };
        self.reschedule(host, now + after_failure(excuses, retry, recheck, rng));
    }

    fn unclear(
        &mut self,
        host: &Host,
        failure: Failure,
        began: Time,
        now: Time,
        rng: &mut impl Rng,
        actions: &mut Vec<Action>,
    ) {
        let via = self.via(host);
        let company = self.company(via, now);
        let good = self.entries.get(host).is_some_and(|entry| self.was_good(entry, now));
        let suspect = Suspect { host: host.clone(), failure, good, began, ended: now };
        let verdict = self.reach_mut(via).failed(suspect, company);
        match verdict {
            Verdict::WayDown => self.way_down(via, now, actions),
            Verdict::Held => {}
        }
        self.excused(host, now, rng);
        if self.reach(via).in_doubt() && !self.is_asking_somebody_good(via) {
            self.hurry(via, now);
        }
    }

    /// Those on this way; the good ones are looked for only when, and as far as, it matters.
    fn company(&self, via: Via, now: Time) -> Company {
        let known = self.queue.len(via) + self.in_flight(via);
        if !self.reach(via).comes_to_a_verdict(known) {
            return Company { known, good: Company::ENOUGH };
        }
        let flying = self.flights.keys().filter(|host| self.via(host) == via);
        let proven = self.queue.proven(via).chain(flying).filter_map(|host| self.entries.get(host));
        let good = proven.filter(|entry| self.was_good(entry, now)).take(Company::ENOUGH).count();
        Company { known, good }
    }

    /// Something got through on this way.
    pub(super) fn proven(&mut self, via: Via, now: Time, rng: &mut impl Rng, actions: &mut Vec<Action>) {
        let was_down = self.reach(via).is_down();
        let before = self.reach(via).total();
        let guilty = self.reach_mut(via).proven(now);
        if self.settings.routing == Routing::TorOnly && self.clearnet_blocked().is_none() {
            // Clearnet hosts were in reach for as long: what counts for them must not stand still meanwhile.
            self.direct.credit(self.tor_reach.total().saturating_sub(before));
        }
        match via {
            Via::Direct if was_down => actions.push(Action::Notice(Notice::NetworkUp)),
            Via::Tor if !self.tor.is_ready() => self.set_tor(TorState::Ready, actions),
            _ => {}
        }
        for (host, failure) in guilty {
            self.failed(&host, failure, now, rng, actions);
        }
        for via in Via::ALL {
            if let Some(total) = self.reach_mut(via).take_unsaved() {
                actions.push(Action::SaveReach(via, total));
            }
        }
    }

    fn way_down(&mut self, via: Via, now: Time, actions: &mut Vec<Action>) {
        match via {
            Via::Direct => actions.push(Action::Notice(Notice::NetworkDown)),
            Via::Tor => {
                let why = "it reaches no onion service any more".to_owned();
                self.set_tor(TorState::Down { since: now, why }, actions);
            }
        }
    }

    pub(super) fn tor_said(&mut self, sign: TorSign, now: Time, actions: &mut Vec<Action>) {
        if sign == self.tor_sign {
            return;
        }
        self.tor_sign = sign.clone();
        match sign {
            TorSign::Off => {
                self.tor_reach.give_up(now);
                self.set_tor(TorState::Off, actions);
            }
            TorSign::Gone { why } => self.tor_gone(why, now, actions),
            TorSign::Starting { percent, waits_for } => {
                // The time until it is ready again is none in which anybody could be reached.
                self.tor_reach.give_up(now);
                self.set_tor(TorState::Starting { percent: Some(percent), waits_for }, actions);
            }
            TorSign::Answers => {
                self.tor_reach.try_soon(now);
                if !self.tor.is_ready() {
                    let waits_for = "the first answer of an onion service".to_owned();
                    self.set_tor(TorState::Starting { percent: None, waits_for }, actions);
                }
            }
        }
    }

    /// Clearnet peers leave the queue while Tor refuses them, and come back at their old times.
    pub(super) fn on_tor_clearnet(&mut self, access: ClearnetAccess, actions: &mut Vec<Action>) {
        if std::mem::replace(&mut self.tor_clearnet, access) == access || self.settings.routing != Routing::TorOnly {
            return;
        }
        let clearnet: Vec<Host> = self.entries.keys().filter(|host| !host.is_onion()).cloned().collect();
        for host in clearnet {
            let Some(entry) = self.entries.get(&host) else { continue };
            self.queue.remove(Via::Tor, entry.next, &host);
            self.enqueue(&host);
        }
        actions.push(Action::Notice(Notice::TorClearnet(access)));
    }

    fn tor_gone(&mut self, why: String, now: Time, actions: &mut Vec<Action>) {
        self.tor_reach.give_up(now);
        let since = match self.tor {
            TorState::Down { since, .. } => since,
            _ => now,
        };
        self.set_tor(TorState::Down { since, why }, actions);
    }

    fn set_tor(&mut self, state: TorState, actions: &mut Vec<Action>) {
        if self.tor != state {
            self.tor = state.clone();
            actions.push(Action::Notice(Notice::Tor(state)));
            actions.push(Action::Publish);
        }
    }

    pub(super) fn sweep(&mut self, now: Time, rng: &mut impl Rng, actions: &mut Vec<Action>) {
        self.next_sweep = now + SWEEP;
        self.budgets.sweep(now);
        self.direct.sweep(now);
        self.tor_reach.sweep(now);
        let forget = self.settings.forget;
        let expired = |entry: &&Entry| self.uptime(&entry.host).saturating_sub(entry.reach_base) >= forget;
        let mut expired: Vec<Host> = self.idle().filter(expired).map(|entry| entry.host.clone()).collect();
        expired.sort();
        expired.extend(self.in_the_way());
        for host in expired {
            if self.remove(&host) {
                actions.push(Action::Remove(host.clone()));
                actions.push(Action::Notice(Notice::Forgotten { host }));
                actions.push(Action::Publish);
            }
        }
        if !self.entries.values().any(|entry| self.was_good(entry, now)) {
            self.seed_again(now, rng, actions);
        }
    }

    /// Whoever keeps inventing names must not fill the table for good: before it is full, the names that were tried
    /// in vain most often make room.
    fn in_the_way(&self) -> Vec<Host> {
        let excess = self.unverified.saturating_sub(self.settings.candidates / 8 * 7);
        if excess == 0 {
            return Vec::new();
        }
        let tries = |entry: &Entry| entry.failures.saturating_add(self.excuses.get(&entry.host).copied().unwrap_or(0));
        let idle = self.idle().filter(|entry| entry.last_success.is_none());
        let in_vain = idle.map(|entry| (Reverse(tries(entry)), &entry.host)).filter(|(tries, _)| tries.0 >= VAIN_TRIES);
        let mut names: Vec<(Reverse<u32>, &Host)> = in_vain.collect();
        names.sort();
        names.truncate(excess);
        names.into_iter().map(|(_, host)| host.clone()).collect()
    }
}
