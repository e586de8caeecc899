//! How much of the time a peer was there, of late and over longer whiles.
//!
//! Each try tells how the peer is from the one before it until now. What was long ago counts ever less, by half about every
//! seven tenths of a window: so one number for each window is all that has to be kept.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Time;

/// The windows, shortest first: what is older than one counts for a third or less in it.
pub const WINDOWS: [(&str, Duration); 4] = [
    ("2h", Duration::from_hours(2)),
    ("1d", Duration::from_hours(24)),
    ("1w", Duration::from_hours(7 * 24)),
    ("1m", Duration::from_hours(30 * 24)),
];

/// The week, by which peers are compared.
pub const WEEK: usize = 2;

/// The first try tells of no more than this.
const INITIAL_CREDIT: Duration = Duration::from_mins(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Uptime {
    /// When the peer was last tried.
    at: Option<Time>,
    windows: [UptimeShare; WINDOWS.len()],
}

/// Of a window, in 65,535ths: what is known, and for how much of that the peer was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
struct UptimeShare {
    known: u16,
    up: u16,
}

impl Uptime {
    /// The peer was found to be there, or not to be.
    pub fn record_result(&mut self, up: bool, now: Time) {
        let elapsed = self.at.map_or(INITIAL_CREDIT, |at| now.since(at));
        self.at = Some(now);
        for (share, (_, window)) in self.windows.iter_mut().zip(WINDOWS) {
            let kept = (-elapsed.as_secs_f64() / window.as_secs_f64()).exp();
            let new = 1.0 - kept;
            share.known = to_u16(from_u16(share.known) * kept + new);
            share.up = to_u16(from_u16(share.up) * kept + if up { new } else { 0.0 });
        }
    }

    /// Corrects a moment after `now`.
    pub fn correct_times(&mut self, now: Time) {
        self.at = self.at.map(|at| at.min(now));
    }

    /// Returns the name of each window of which anything is known, with the share of [`Uptime::share`].
    pub fn shares(&self) -> impl Iterator<Item = (&'static str, f64)> {
        WINDOWS.iter().enumerate().filter_map(|(window, (name, _))| Some((*name, self.share(window)?)))
    }

    /// From 0 to 1, if anything is known of that window.
    pub fn share(&self, window: usize) -> Option<f64> {
        let share = self.windows.get(window)?;
        (share.known > 0).then(|| (from_u16(share.up) / from_u16(share.known)).min(1.0))
    }
}

const SCALE: f64 = 65_535.0;

fn from_u16(stored: u16) -> f64 {
    f64::from(stored) / SCALE
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is cut to what fits before")]
fn to_u16(share: f64) -> u16 {
    (share * SCALE).round().clamp(0.0, SCALE) as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Time = Time::from_secs(1_700_000_000);

    /// Tries an hour apart.
    fn tried(outcomes: &[bool]) -> Uptime {
        let mut uptime = Uptime::default();
        let mut now = NOW;
        for up in outcomes {
            uptime.record_result(*up, now);
            now = now + Duration::from_hours(1);
        }
        uptime
    }

    #[test]
    fn nothing_is_known_of_who_was_never_tried() {
        assert_eq!(Uptime::default().share(WEEK), None);
        assert_eq!(tried(&[true]).share(WEEK), Some(1.0));
        assert_eq!(tried(&[false]).share(WEEK), Some(0.0));
    }

    #[test]
    fn a_short_window_forgets_soon_and_a_long_one_late() {
        let away_for_a_day = [[true; 24 * 30].as_slice(), &[false; 24]].concat();
        let shares: Vec<f64> = (0..4).map(|window| tried(&away_for_a_day).share(window).unwrap()).collect();
        assert!(shares[0] < 0.01, "{shares:?}");
        assert!((0.3..0.45).contains(&shares[1]), "{shares:?}");
        assert!((0.8..0.9).contains(&shares[2]), "{shares:?}");
        assert!(shares[3] > 0.94, "{shares:?}");
    }

    #[test]
    fn every_other_try_is_half_the_time() {
        let share = tried(&[true, false].repeat(500)).share(WEEK).unwrap();
        assert!((0.48..0.52).contains(&share), "{share}");
    }

    proptest! {
        #[test]
        fn a_share_is_one(steps in proptest::collection::vec((any::<bool>(), 0_u64..10_000_000), 1..50)) {
            let (mut uptime, mut now) = (Uptime::default(), NOW);
            for (up, secs) in steps {
                now = now + Duration::from_secs(secs);
                uptime.record_result(up, now);
                for window in 0..WINDOWS.len() {
                    let share = uptime.share(window);
                    prop_assert!(share.is_none_or(|share| (0.0..=1.0).contains(&share)));
                }
            }
        }
    }
}
