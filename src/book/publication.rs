//! Times at which clients see a change.
//!
//! A node with two names must not show one event on both sides at the same time. So each side replaces its snapshot at
//! random times of its own, and the clearnet side shows an outage of Tor, which stops the onion service, hours later.

use std::time::Duration;

use rand::{Rng, RngExt};

use super::side::Side;
use crate::clock::Time;
use crate::tor_state::TorState;

/// Delay from a change to the next snapshot, which covers all changes until then.
///
/// A snapshot draws new lists, which takes a few milliseconds in a book of 100,000 peers.
const BATCH_DELAY: Duration = Duration::from_millis(500);

/// Range of the random delay from a change to the next snapshot, on a node with two sides.
const SPLIT_DELAY_MIN: Duration = Duration::from_mins(1);
const SPLIT_DELAY_MAX: Duration = Duration::from_mins(10);

/// Time after the start in which nothing is delayed. Both sides start together in any case.
const START_PHASE: Duration = Duration::from_hours(1);

/// Number of verified peers below which nothing is delayed, as clients need peers.
const MIN_DELAYED_LIST: usize = 10;

/// Range of the random delay after which the clearnet side shows that Tor has failed or returned.
const TOR_DELAY_MIN: Duration = Duration::from_hours(1);
const TOR_DELAY_MAX: Duration = Duration::from_hours(3);

/// Time of the next snapshot of one side.
#[derive(Debug)]
pub struct Publication {
    side: Side,
    started: Time,
    due: Option<Time>,
}

impl Publication {
    /// Creates the schedule of a side. No snapshot is due.
    pub fn new(side: Side, started: Time) -> Publication {
        Publication { side, started, due: None }
    }

    /// Schedules a snapshot after a change, unless one is scheduled.
    ///
    /// `verified` counts the verified peers. It is called only if the delay depends on it.
    pub fn on_change(&mut self, verified: impl FnOnce() -> usize, now: Time, rng: &mut (impl Rng + ?Sized)) {
        self.due.get_or_insert_with(|| {
            let may_delay = self.side != Side::Both && now.since(self.started) >= START_PHASE;
            now + if may_delay && verified() >= MIN_DELAYED_LIST {
                rng.random_range(SPLIT_DELAY_MIN..SPLIT_DELAY_MAX)
            } else {
                BATCH_DELAY
            }
        });
    }

    /// Returns when the next snapshot is due; `None` if nothing has changed.
    pub fn due(&self) -> Option<Time> {
        self.due
    }

    /// Returns whether a snapshot is due, and takes it off the schedule.
    pub fn take_due(&mut self, now: Time) -> bool {
        self.due.take_if(|due| *due <= now).is_some()
    }
}

/// State of Tor as one side shows it to clients.
#[derive(Debug)]
pub(super) struct TorView {
    side: Side,
    started: Time,
    shown: TorState,
    change_at: Option<Time>,
}

impl TorView {
    /// Creates the view of a side. Tor is off.
    pub(super) fn new(side: Side, started: Time) -> TorView {
        TorView { side, started, shown: TorState::Off, change_at: None }
    }

    /// Returns the state that clients see.
    pub(super) fn shown(&self) -> &TorState {
        &self.shown
    }

    /// Returns when the shown state changes next; `None` if it is the actual one.
    pub(super) fn change_at(&self) -> Option<Time> {
        self.change_at
    }

    /// Compares the shown state with the actual one. Returns whether lists have to change.
    pub(super) fn update(&mut self, actual: &TorState, now: Time, rng: &mut (impl Rng + ?Sized)) -> bool {
        let differs = actual.is_ready() != self.shown.is_ready();
        let is_delayed = self.side == Side::Clearnet && now.since(self.started) >= START_PHASE;
        if differs && is_delayed {
            let at = *self.change_at.get_or_insert_with(|| now + rng.random_range(TOR_DELAY_MIN..TOR_DELAY_MAX));
            if now < at {
                return false;
            }
        }
        self.change_at = None;
        self.shown.clone_from(actual);
        differs
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    const START: Time = Time::from_secs(1_700_000_000);

    fn delay(side: Side, verified: usize, since_start: Duration) -> Duration {
        let mut publication = Publication::new(side, START);
        let now = START + since_start;
        publication.on_change(|| verified, now, &mut StdRng::seed_from_u64(1));
        publication.due().unwrap().since(now)
    }

    #[test]
    fn snapshots_of_a_split_node_are_delayed_at_random() {
        let hours = Duration::from_hours(2);
        assert_eq!(delay(Side::Both, 100, hours), BATCH_DELAY);
        assert_eq!(delay(Side::Onion, 100, Duration::ZERO), BATCH_DELAY);
        assert_eq!(delay(Side::Onion, 9, hours), BATCH_DELAY);
        for side in [Side::Clearnet, Side::Onion] {
            assert!((SPLIT_DELAY_MIN..SPLIT_DELAY_MAX).contains(&delay(side, 100, hours)));
        }
    }

    #[test]
    fn scheduled_snapshot_is_taken_once() {
        let mut publication = Publication::new(Side::Both, START);
        let mut rng = StdRng::seed_from_u64(1);
        publication.on_change(|| 0, START, &mut rng);
        publication.on_change(|| 0, START + Duration::from_millis(400), &mut rng);
        assert!(!publication.take_due(START + Duration::from_millis(499)));
        assert!(publication.take_due(START + BATCH_DELAY));
        assert!(!publication.take_due(START + BATCH_DELAY));
    }

    #[test]
    fn clearnet_side_shows_an_outage_of_tor_hours_later() {
        let mut rng = StdRng::seed_from_u64(1);
        let down = TorState::Down { since: START, reason: String::new() };
        for side in [Side::Both, Side::Onion, Side::Clearnet] {
            let mut view = TorView::new(side, START);
            assert!(view.update(&TorState::Ready, START, &mut rng), "nothing is delayed at the start");
            let outage = START + Duration::from_hours(5);
            let is_shown_at_once = view.update(&down, outage, &mut rng);
            assert_eq!(is_shown_at_once, side != Side::Clearnet);
            if let Some(at) = view.change_at() {
                assert!((TOR_DELAY_MIN..TOR_DELAY_MAX).contains(&at.since(outage)));
                assert!(!view.update(&TorState::Ready, outage + TOR_DELAY_MIN / 2, &mut rng));
                assert_eq!(view.change_at(), None, "a short outage is never shown");
                assert!(!view.update(&down, outage + TOR_DELAY_MIN, &mut rng));
                assert!(view.update(&down, view.change_at().unwrap(), &mut rng));
            }
        }
    }
}
