//! Context of one event.

use rand::Rng;

use super::entry::Entry;
use super::event::{Action, BookNotice};
use crate::clock::Time;
use crate::peer::Host;

/// Time and randomness of one event, and the actions collected so far.
pub(super) struct Context<'a> {
    /// Time of the event.
    pub now: Time,
    /// Source of randomness.
    pub rng: &'a mut dyn Rng,
    /// Actions in the order in which they are executed.
    pub actions: Vec<Action>,
}

impl<'a> Context<'a> {
    /// Creates a context without actions.
    pub(super) fn new(now: Time, rng: &'a mut dyn Rng) -> Context<'a> {
        Context { now, rng, actions: Vec::new() }
    }

    /// Stores an entry.
    pub(super) fn save(&mut self, entry: &Entry) {
        self.actions.push(Action::Upsert(Box::new(entry.clone())));
    }

    /// Deletes a stored entry, which changes the snapshot.
    pub(super) fn delete(&mut self, host: &Host) {
        self.actions.push(Action::Remove(host.clone()));
        self.snapshot_changed();
    }

    /// Reports that the advertised peers have changed.
    pub(super) fn snapshot_changed(&mut self) {
        self.actions.push(Action::SnapshotDirty);
    }

    /// Sends a notice to the operator.
    pub(super) fn notify(&mut self, notice: BookNotice) {
        self.actions.push(Action::Notice(notice));
    }
}
