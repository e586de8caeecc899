//! Warning when the number of verified peers falls by half within a day.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Time;

/// Time between two samples.
const SAMPLE_INTERVAL: Duration = Duration::from_mins(10);

/// Time within which the number must have fallen. Peers are verified once a day each.
const WINDOW: Duration = Duration::from_hours(26);

/// Number of peers below which a fall says nothing.
const MIN_PEERS: usize = 10;

/// Numbers of verified peers of the last day.
#[derive(Debug)]
pub(crate) struct PeerDecline {
    next: Time,
    /// Samples in order of time, each smaller than the one before: the first is the largest of the window.
    peaks: VecDeque<(Time, usize)>,
}

impl PeerDecline {
    /// Starts without samples.
    pub(crate) fn new(now: Time) -> PeerDecline {
        PeerDecline { next: now + SAMPLE_INTERVAL, peaks: VecDeque::new() }
    }

    /// Returns whether a sample is due.
    pub(crate) fn is_due(&self, now: Time) -> bool {
        now >= self.next
    }

    /// Records the number of verified peers, and returns a warning if it has fallen by half.
    ///
    /// The window then starts again, so that a further fall by half is needed for the next warning.
    pub(crate) fn sample(&mut self, verified: usize, now: Time) -> Option<String> {
        self.next = now + SAMPLE_INTERVAL;
        while self.peaks.front().is_some_and(|(at, _)| now.since(*at) > WINDOW) {
            self.peaks.pop_front();
        }
        while self.peaks.back().is_some_and(|(_, count)| *count <= verified) {
            self.peaks.pop_back();
        }
        self.peaks.push_back((now, verified));
        let (_, peak) = *self.peaks.front()?;
        if peak < MIN_PEERS || verified > peak / 2 {
            return None;
        }
        self.peaks = VecDeque::from([(now, verified)]);
        Some(format!(
            "verified peers fell from {peak} to {verified} within a day; `waypost peers --state stale` shows those that no \
             longer answer, and `waypost doctor` looks for a cause on this machine"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Time = Time::from_secs(1_700_000_000);

    /// Returns the hours at which samples of these numbers, one per hour, cause a warning.
    fn warnings(numbers: &[usize]) -> Vec<usize> {
        let mut decline = PeerDecline::new(START);
        let samples = numbers.iter().zip(1..);
        samples
            .filter_map(|(verified, hour)| {
                let now = START + Duration::from_hours(hour);
                assert!(decline.is_due(now));
                decline.sample(*verified, now).map(|_| usize::try_from(hour).unwrap())
            })
            .collect()
    }

    #[test]
    fn fall_by_half_within_a_day_is_reported_once() {
        assert_eq!(warnings(&[100, 120, 90, 60, 50, 45]), [4]);
        assert_eq!(warnings(&[100, 50, 40, 25, 10]), [2, 4, 5]);
        assert_eq!(warnings(&[100, 90, 100, 51]), [0; 0]);
    }

    #[test]
    fn slow_decline_and_few_peers_are_not_reported() {
        let slow: Vec<usize> = (0..200).map(|hour| 200 - hour / 2).collect();
        assert_eq!(warnings(&slow), [0; 0]);
        assert_eq!(warnings(&[9, 0]), [0; 0]);
    }

    #[test]
    fn samples_of_constant_numbers_take_no_memory() {
        let mut decline = PeerDecline::new(START);
        for minute in 0..1000 {
            decline.sample(100, START + Duration::from_mins(minute));
        }
        assert_eq!(decline.peaks.len(), 1);
    }
}
