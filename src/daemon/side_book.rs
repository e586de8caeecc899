//! Book of one side, with the drivers and outputs that belong to it.

use std::sync::Arc;

use rand::rngs::StdRng;
use tokio::sync::watch;

use crate::book::{Action, Event, Ingress, PeerBook, PerIngress, Publication, Side, Snapshot};
use crate::clock::{self, Time};
use crate::dial::{Dialer, Isolation};

/// Senders of the snapshots that sessions read, by ingress.
pub(super) type SnapshotSenders = PerIngress<watch::Sender<Arc<Snapshot>>>;

/// Returns the dialer of a side. The onion side has no direct route, and shares no circuit with the other.
pub(super) fn side_dialer(side: Side, dialer: &Dialer) -> Dialer {
    match side {
        Side::Both | Side::Clearnet => dialer.clone(),
        Side::Onion => Dialer { direct: None, isolation: Isolation::OnionSidePeers, ..dialer.clone() },
    }
}

/// Book of one side, its dialer, and the schedule of its snapshots.
#[derive(Debug)]
pub(super) struct SideBook {
    /// Peers of this side.
    pub book: PeerBook,
    /// Dialer of this side. The onion side has no direct route.
    pub dialer: Dialer,
    /// Generator of this side: the randomness of one side says nothing of the other.
    pub rng: StdRng,
    publication: Publication,
    /// Time at which an advertised entry becomes too old; `None` if no entry is advertised.
    stale_after: Option<Time>,
}

impl SideBook {
    /// Creates the side of a book.
    pub(super) fn new(book: PeerBook, dialer: &Dialer, now: Time, rng: StdRng) -> SideBook {
        let side = book.config().side;
        let dialer = side_dialer(side, dialer);
        SideBook { book, dialer, rng, publication: Publication::new(side, now), stale_after: None }
    }

    /// Returns the side that the book serves.
    pub(super) fn side(&self) -> Side {
        self.book.config().side
    }

    /// Passes an event to the book, and returns the resulting actions.
    pub(super) fn handle(&mut self, event: Event) -> Vec<Action> {
        self.book.handle(event, clock::now(), &mut self.rng)
    }

    /// Schedules a snapshot after a change of the advertised peers.
    pub(super) fn on_change(&mut self, now: Time) {
        self.publication.on_change(|| self.book.counts(now).verified, now, &mut self.rng);
    }

    /// Publishes a snapshot if one is due, or if the last one has an entry that became too old.
    pub(super) fn publish_due(&mut self, outputs: &SnapshotSenders, now: Time) {
        let is_stale = self.stale_after.is_some_and(|until| until < now);
        if self.publication.take_due(now) || is_stale {
            self.publish(outputs, now);
        }
    }

    /// Publishes a snapshot.
    pub(super) fn publish(&mut self, outputs: &SnapshotSenders, now: Time) {
        let snapshot = Arc::new(self.book.snapshot(now, &mut self.rng));
        self.stale_after = snapshot.stale_after();
        for ingress in Ingress::ALL.into_iter().filter(|ingress| self.side().serves(*ingress)) {
            outputs[ingress].send_replace(Arc::clone(&snapshot));
        }
    }

    /// Returns when the side has to act next.
    pub(super) fn next_wakeup(&self) -> Time {
        let times = [self.stale_after, self.publication.due()].into_iter().flatten();
        times.fold(self.book.next_wakeup(), Time::min)
    }
}
