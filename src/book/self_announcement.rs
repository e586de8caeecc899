//! Own names: listed once Waypost reached them, and announced to peers that lack them.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::RngExt;
use rand::seq::SliceRandom;

use super::context::Context;
use super::entry::Entry;
use super::probe_queue::jittered;
use super::table::InFlightProbe;
use super::{PeerBook, PeerState, Side};
use crate::clock::Time;
use crate::connect::Verified;
use crate::netgroup;
use crate::peer::{Host, PeerListEntry};
use crate::route::Route;

/// Minimum interval between two announcements of a name to one peer.
const ANNOUNCE_INTERVAL: Duration = Duration::from_hours(24);

/// Interval between announcement probes after an own name proves reachable.
///
/// It is shorter if the window requires it.
pub(super) const ANNOUNCE_SPACING: Duration = Duration::from_secs(5);

/// Maximum time in which all these announcement probes are scheduled.
const ANNOUNCE_WINDOW: Duration = Duration::from_hours(2);

/// Own name that Waypost reached as other peers would.
#[derive(Debug, Clone)]
pub(super) struct VerifiedSelfEntry {
    /// List entry of the name.
    pub listed: PeerListEntry,
    /// Time of the last success.
    pub reached: Time,
    /// Time from which the name may be announced.
    pub announced_from: Time,
}

/// Own names that Waypost reached, by host.
#[derive(Debug, Default)]
pub(super) struct SelfEntries(BTreeMap<Host, VerifiedSelfEntry>);

impl SelfEntries {
    /// Returns when Waypost last reached an own name; `None` if never.
    pub(super) fn last_reached(&self, host: &Host) -> Option<Time> {
        self.0.get(host).map(|entry| entry.reached)
    }

    /// Returns the own names that were reached within this time.
    pub(super) fn recent(&self, max_age: Duration, now: Time) -> impl Iterator<Item = &VerifiedSelfEntry> {
        self.0.values().filter(move |entry| now.since(entry.reached) <= max_age)
    }

    /// Returns the name if it was reached within this time.
    fn get_recent(&self, host: &Host, max_age: Duration, now: Time) -> Option<&VerifiedSelfEntry> {
        self.0.get(host).filter(|entry| now.since(entry.reached) <= max_age)
    }
}

impl PeerBook {
    /// Records that Waypost reached itself by one of its names.
    pub(super) fn on_self_reachable(&mut self, listed: PeerListEntry, ctx: &mut Context<'_>) {
        let host = listed.name.host.clone();
        let listed = PeerListEntry { ip: listed.ip.map(netgroup::canonical), ..listed };
        let known = self.self_entries.get_recent(&host, self.config.max_advertised_age, ctx.now);
        let (is_new, known) = (known.is_none(), known.map(|known| known.announced_from));
        let announced_from = known.unwrap_or_else(|| self.first_announcement(ctx));
        let entry = VerifiedSelfEntry { listed, reached: ctx.now, announced_from };
        self.self_entries.0.insert(host.clone(), entry);
        ctx.snapshot_changed();
        if is_new && self.config.announce && self.announces_at_once() {
            self.schedule_announcements(&host, ctx);
        }
    }

    /// Returns whether visits take place for the sake of an announcement.
    ///
    /// On the onion side announcements ride on the regular probes. Both names become reachable together, so a burst of
    /// visits on both sides would link them.
    pub(super) fn announces_at_once(&self) -> bool {
        self.config.side != Side::Onion
    }

    /// Returns the time from which a name that has just become reachable is announced.
    ///
    /// The onion side waits for a random time, so that its first announcement does not follow that of the other side.
    fn first_announcement(&self, ctx: &mut Context<'_>) -> Time {
        if self.announces_at_once() {
            return ctx.now;
        }
        ctx.now + self.config.recheck_interval.mul_f64(ctx.rng.random_range(0.0..1.0))
    }

    /// Removes an own name from the advertised peers.
    pub(super) fn on_self_unreachable(&mut self, host: &Host, ctx: &mut Context<'_>) {
        if self.self_entries.0.remove(host).is_some() {
            ctx.snapshot_changed();
        }
    }

    /// Returns the own name to announce to this peer, of the peer's kind; `None` if none is due.
    ///
    /// A visit announces one name, as peers accept it only from an address of that name. Names that the peer does not
    /// list go first, then the one that was announced to it longest ago.
    pub(super) fn name_to_announce(&self, host: &Host, now: Time) -> Option<Host> {
        let entry = self.peers.get(host)?;
        let due = self.due_names(entry, now);
        let own = due.min_by_key(|own| (lists(entry, &own.listed), entry.announced_at(&own.listed.name.host)))?;
        Some(own.listed.name.host.clone())
    }

    /// Returns whether a successful visit is soon followed by another one that announces an own name.
    pub(super) fn needs_further_announcement(
        &self,
        host: &Host,
        probe: &InFlightProbe,
        verified: &Verified,
        now: Time,
    ) -> bool {
        let Some(entry) = self.peers.get(host).filter(|_| self.announces_at_once()) else { return false };
        let mut due = self.due_names(entry, now);
        match (&probe.announces, verified.report.add_peer_result) {
            // An own name proved reachable only after this probe had started.
            (None, _) => due.next().is_some(),
            // Each visit that announces makes one name undue, so that a peer can't prolong the series.
            (Some(_), Some(_)) => due.any(|own| !lists(entry, &own.listed)),
            (Some(_), None) => false,
        }
    }

    /// Returns the own names that may be announced to a peer and were not within the minimum interval.
    fn due_names(&self, entry: &Entry, now: Time) -> impl Iterator<Item = &VerifiedSelfEntry> {
        let host = &entry.host;
        // Clearnet peers check the source address, which is a Tor exit's on the Tor route.
        let is_accepted = host.is_onion() || self.peers.route(host) == Route::Direct;
        let is_due = move |own: &Host| {
            own.is_onion() == host.is_onion()
                && entry.announced_at(own).is_none_or(|at| now.since(at) >= ANNOUNCE_INTERVAL)
        };
        let recent = self.self_entries.recent(self.config.max_advertised_age, now);
        let allowed = recent.filter(move |_| self.config.announce && is_accepted);
        allowed.filter(move |own| own.announced_from <= now && is_due(&own.listed.name.host))
    }

    fn schedule_announcements(&mut self, own: &Host, ctx: &mut Context<'_>) {
        let max_age = self.config.max_advertised_age;
        let is_due = |entry: &&Entry| self.due_names(entry, ctx.now).any(|due| due.listed.name.host == *own);
        let verified = self.peers.entries().filter(|entry| entry.state(ctx.now, max_age) == PeerState::Verified);
        let mut hosts: Vec<Host> = verified.filter(is_due).map(|entry| entry.host.clone()).collect();
        hosts.sort();
        hosts.shuffle(ctx.rng);
        let count = u32::try_from(hosts.len()).unwrap_or(u32::MAX).max(1);
        let step = ANNOUNCE_SPACING.min(ANNOUNCE_WINDOW / count);
        let mut at = ctx.now;
        for host in hosts {
            at = at + jittered(step, ctx.rng);
            if self.peers.get(&host).is_some_and(|entry| entry.next_probe_at > at) {
                self.peers.reschedule(&host, at);
            }
        }
    }
}

/// Returns whether the peer listed an own name with its ports at the last success. Other software lists no WebSockets.
fn lists(entry: &Entry, own: &PeerListEntry) -> bool {
    let ports = own.name.ports.without_web_sockets();
    entry.own_listings.iter().any(|known| known.host == own.name.host && known.ports.without_web_sockets() == ports)
}
