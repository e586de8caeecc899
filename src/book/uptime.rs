//! Share of time in which a peer answered, over several windows.
//!
//! Each result stands for the time since the previous one. Older time counts exponentially less: the weight halves about
//! every 0.7 windows. So each window needs two numbers only.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Time;

/// Name and length of each window, shortest first. Time older than the length has a weight of e⁻¹ or less.
pub const WINDOWS: [(&str, Duration); 4] = [
    ("2h", Duration::from_hours(2)),
    ("1d", Duration::from_hours(24)),
    ("1w", Duration::from_hours(7 * 24)),
    ("1m", Duration::from_hours(30 * 24)),
];

/// Index of the week in [`WINDOWS`], by which peers are compared.
pub const WEEK: usize = 2;

/// Time for which the first result stands.
const INITIAL_CREDIT: Duration = Duration::from_mins(10);

/// Uptime of a peer in each window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Uptime {
    /// Time of the last result.
    at: Option<Time>,
    windows: [UptimeShare; WINDOWS.len()],
}

/// Shares of a window, in units of 1/65535: time with a result, and time in which the peer answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
struct UptimeShare {
    known: u16,
    up: u16,
}

impl Uptime {
    /// Records whether the peer answered.
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

    /// Corrects a time in the future.
    pub fn correct_times(&mut self, now: Time) {
        self.at = self.at.map(|at| at.min(now));
    }

    /// Returns the name and the share of each window with a result.
    pub fn shares(&self) -> impl Iterator<Item = (&'static str, f64)> {
        WINDOWS.iter().enumerate().filter_map(|(window, (name, _))| Some((*name, self.share(window)?)))
    }

    /// Returns the share from 0 to 1; `None` without a result.
    pub fn share(&self, window: usize) -> Option<f64> {
        let share = self.windows.get(window)?;
        (share.known > 0).then(|| (from_u16(share.up) / from_u16(share.known)).min(1.0))
    }

    /// Returns the weight of time with a result, from 0 to 1. After one length of the window it is 1 − e⁻¹.
    pub fn observed(&self, window: usize) -> f64 {
        self.windows.get(window).map_or(0.0, |share| from_u16(share.known))
    }
}

const SCALE: f64 = 65_535.0;

fn from_u16(stored: u16) -> f64 {
    f64::from(stored) / SCALE
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the value is clamped before")]
fn to_u16(share: f64) -> u16 {
    (share * SCALE).round().clamp(0.0, SCALE) as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Time = Time::from_secs(1_700_000_000);

    /// Records results at intervals of one hour.
    fn recorded(outcomes: &[bool]) -> Uptime {
        let mut uptime = Uptime::default();
        let mut now = NOW;
        for up in outcomes {
            uptime.record_result(*up, now);
            now = now + Duration::from_hours(1);
        }
        uptime
    }

    #[test]
    fn share_without_result_is_none() {
        assert_eq!(Uptime::default().share(WEEK), None);
        assert_eq!(recorded(&[true]).share(WEEK), Some(1.0));
        assert_eq!(recorded(&[false]).share(WEEK), Some(0.0));
    }

    #[test]
    fn short_window_decays_faster_than_long_one() {
        let away_for_a_day = [[true; 24 * 30].as_slice(), &[false; 24]].concat();
        let shares: Vec<f64> = (0..4).map(|window| recorded(&away_for_a_day).share(window).unwrap()).collect();
        assert!(shares[0] < 0.01, "{shares:?}");
        assert!((0.3..0.45).contains(&shares[1]), "{shares:?}");
        assert!((0.8..0.9).contains(&shares[2]), "{shares:?}");
        assert!(shares[3] > 0.94, "{shares:?}");
    }

    #[test]
    fn alternating_results_give_half() {
        let share = recorded(&[true, false].repeat(500)).share(WEEK).unwrap();
        assert!((0.48..0.52).contains(&share), "{share}");
    }

    proptest! {
        #[test]
        fn share_stays_between_zero_and_one(steps in proptest::collection::vec((any::<bool>(), 0_u64..10_000_000), 1..50)) {
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
