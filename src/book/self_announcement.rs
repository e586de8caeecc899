//! Own names: listed once Waypost reached them, and announced to peers that lack them.

use std::time::Duration;

use rand::Rng;

use super::probe_queue::jittered;
use super::{Action, PeerBook, PeerState};
use crate::clock::Time;
use crate::netgroup;
use crate::peer::{Host, PeerListEntry};
use crate::route::Route;

/// Minimum interval between two announcements to one peer.
const ANNOUNCE_INTERVAL: Duration = Duration::from_hours(24);

/// Interval between announcement probes after an own name proves reachable.
///
/// It is shorter if the window requires it.
pub const ANNOUNCE_SPACING: Duration = Duration::from_secs(5);
/// Maximum time in which all these announcement probes are scheduled.
const ANNOUNCE_WINDOW: Duration = Duration::from_hours(2);

/// Own name that Waypost reached as other peers would.
#[derive(Debug, Clone)]
pub struct VerifiedSelfEntry {
    /// List entry of the name.
    pub listed: PeerListEntry,
    /// Time of the last success.
    pub reached: Time,
}

impl PeerBook {
    /// Records that Waypost reached itself by one of its names.
    pub(super) fn reached_ourselves(
        &mut self,
        listed: PeerListEntry,
        now: Time,
        rng: &mut impl Rng,
        actions: &mut Vec<Action>,
    ) {
        let host = listed.name.host.clone();
        let listed = PeerListEntry { ip: listed.ip.map(netgroup::canonical), ..listed };
        let before = self.self_entries.insert(host.clone(), VerifiedSelfEntry { listed, reached: now });
        let news = before.is_none_or(|before| now.since(before.reached) > self.settings.max_advertised_age);
        actions.push(Action::SnapshotDirty);
        if news && self.settings.announce {
            self.schedule_announcements(&host, now, rng);
        }
    }

    /// Removes a name of this node from what clients are told.
    pub(super) fn lost_ourselves(&mut self, host: &Host, actions: &mut Vec<Action>) {
        if self.self_entries.remove(host).is_some() {
            actions.push(Action::SnapshotDirty);
        }
    }

    /// Returns whether to announce the own name of the peer's kind on this route.
    pub(super) fn should_announce_to(&self, host: &Host, via: Route, now: Time) -> bool {
        let is_news = |announced: Option<Time>| announced.is_none_or(|at| now.since(at) >= ANNOUNCE_INTERVAL);
        // Clearnet peers check the source address, which is a Tor exit's on the Tor route.
        let fits = host.is_onion() || via == Route::Direct;
        let named = || {
            self.self_entries
                .iter()
                .any(|(own, reached)| own.is_onion() == host.is_onion() && self.is_recent(reached, now))
        };
        self.settings.announce
            && fits
            && self.entries.get(host).is_some_and(|entry| is_news(entry.last_announced_at))
            && named()
    }

    /// Returns when Waypost last reached an own name; `None` if never.
    pub fn last_reached(&self, own: &Host) -> Option<Time> {
        self.self_entries.get(own).map(|own| own.reached)
    }

    /// Returns the own names that were reached recently.
    pub(super) fn own_names(&self, now: Time) -> impl Iterator<Item = &VerifiedSelfEntry> {
        self.self_entries.values().filter(move |own| self.is_recent(own, now))
    }

    fn is_recent(&self, own: &VerifiedSelfEntry, now: Time) -> bool {
        now.since(own.reached) <= self.settings.max_advertised_age
    }

    fn schedule_announcements(&mut self, own: &Host, now: Time, rng: &mut impl Rng) {
        let recent = self.settings.max_advertised_age;
        let may_hear =
            |host: &Host| host.is_onion() == own.is_onion() && self.should_announce_to(host, self.via(host), now);
        let verified = self.entries.values().filter(|entry| entry.state(now, recent) == PeerState::Verified);
        let mut hosts: Vec<Host> = verified.map(|entry| entry.host.clone()).filter(may_hear).collect();
        hosts.sort();
        rand::seq::SliceRandom::shuffle(hosts.as_mut_slice(), rng);
        let most = u32::try_from(hosts.len()).unwrap_or(u32::MAX).max(1);
        let step = ANNOUNCE_SPACING.min(ANNOUNCE_WINDOW / most);
        let mut at = now;
        for host in hosts {
            at = at + jittered(step, rng);
            if self.entries.get(&host).is_some_and(|entry| entry.next_probe_at > at) {
                self.reschedule(&host, at);
            }
        }
    }
}
