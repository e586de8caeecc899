//! Our own names: listed once we reached them ourselves, and told to peers who don't know them yet.

use std::time::Duration;

use rand::Rng;

use super::schedule::jittered;
use super::{Action, Book, PeerState};
use crate::clock::Time;
use crate::netgroup;
use crate::peer::{Host, Listed};
use crate::route::Via;

/// Between two announcements to one peer, at least.
const ANNOUNCE: Duration = Duration::from_hours(24);

/// When a name of ours proves to be reachable, the peers who may hear of it are visited again: one after the other, with as
/// much time between two of them, but all within the longest.
pub const VISIT: Duration = Duration::from_secs(5);
const ALL_VISITS: Duration = Duration::from_hours(2);

/// A name of ours, as it is listed, and when we last reached it as others would.
#[derive(Debug, Clone)]
pub struct Own {
    pub listed: Listed,
    pub reached: Time,
}

impl Book {
    /// We reached ourselves by one of our names.
    pub(super) fn reached_ourselves(
        &mut self,
        listed: Listed,
        now: Time,
        rng: &mut impl Rng,
        actions: &mut Vec<Action>,
    ) {
        let host = listed.name.host.clone();
        let listed = Listed { ip: listed.ip.map(netgroup::canonical), ..listed };
        let before = self.own.insert(host.clone(), Own { listed, reached: now });
        let news = before.is_none_or(|before| now.since(before.reached) > self.settings.recent);
        actions.push(Action::Publish);
        if news && self.settings.announce {
            self.visit_all(&host, now, rng);
        }
    }

    /// Removes a name of this node from what clients are told.
    pub(super) fn lost_ourselves(&mut self, host: &Host, actions: &mut Vec<Action>) {
        if self.own.remove(host).is_some() {
            actions.push(Action::Publish);
        }
    }

    /// Whether a peer is to be told of us on this way, should it not know us: by the name of our own that is of its kind.
    pub(super) fn announces_to(&self, host: &Host, via: Via, now: Time) -> bool {
        let is_news = |announced: Option<Time>| announced.is_none_or(|at| now.since(at) >= ANNOUNCE);
        // Peers on clearnet hold us to the address that we come from, which through Tor is not ours.
        let fits = host.is_onion() || via == Via::Direct;
        let named =
            || self.own.iter().any(|(own, reached)| own.is_onion() == host.is_onion() && self.is_recent(reached, now));
        self.settings.announce
            && fits
            && self.entries.get(host).is_some_and(|entry| is_news(entry.announced))
            && named()
    }

    /// When we last reached a name of ours.
    pub fn reached(&self, own: &Host) -> Option<Time> {
        self.own.get(own).map(|own| own.reached)
    }

    /// Those of our names that were reached lately.
    pub(super) fn own_names(&self, now: Time) -> impl Iterator<Item = &Own> {
        self.own.values().filter(move |own| self.is_recent(own, now))
    }

    fn is_recent(&self, own: &Own, now: Time) -> bool {
        now.since(own.reached) <= self.settings.recent
    }

    fn visit_all(&mut self, own: &Host, now: Time, rng: &mut impl Rng) {
        let recent = self.settings.recent;
        let may_hear = |host: &Host| host.is_onion() == own.is_onion() && self.announces_to(host, self.via(host), now);
        let verified = self.entries.values().filter(|entry| entry.state(now, recent) == PeerState::Verified);
        let mut hosts: Vec<Host> = verified.map(|entry| entry.host.clone()).filter(may_hear).collect();
        hosts.sort();
        rand::seq::SliceRandom::shuffle(hosts.as_mut_slice(), rng);
        let most = u32::try_from(hosts.len()).unwrap_or(u32::MAX).max(1);
        let step = VISIT.min(ALL_VISITS / most);
        let mut at = now;
        for host in hosts {
            at = at + jittered(step, rng);
            if self.entries.get(&host).is_some_and(|entry| entry.next > at) {
                self.reschedule(&host, at);
            }
        }
    }
}
