//! Samples of the node's state over thirty days.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Time;

/// Interval between two samples.
pub const TREND_INTERVAL: Duration = Duration::from_hours(1);

/// Maximum age of a sample.
pub const TREND_SPAN: Duration = Duration::from_hours(30 * 24);

/// Maximum number of samples: one for each interval of the span.
const MAX_SAMPLES: usize = 30 * 24;

/// Maximum difference between the clocks of two processes that is not taken as a wrong clock.
const CLOCK_TOLERANCE: Duration = Duration::from_mins(1);

/// Samples in the order of their times.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Trends(VecDeque<TrendSample>);

/// State of the node at one point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrendSample {
    /// Time of the sample.
    pub at: Time,
    /// Number of verified clearnet peers.
    pub verified_clearnet: u32,
    /// Number of verified onion peers.
    pub verified_onion: u32,
    /// Peers that list the clearnet name; `None` without one.
    pub clearnet_name: Option<NameListing>,
    /// Peers that list the onion name; `None` without one.
    pub onion_name: Option<NameListing>,
}

/// How many peers list an own name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameListing {
    /// Verified peers of the name's kind that list it.
    pub listed_by: u32,
    /// Verified peers of that kind.
    pub peers_of_its_kind: u32,
}

impl Trends {
    /// Returns whether a sample should be recorded now.
    pub fn is_due(&self, now: Time) -> bool {
        self.0.back().is_none_or(|last| now.since(last.at) >= TREND_INTERVAL)
    }

    /// Adds a sample, and drops those that are too old.
    pub fn record(&mut self, sample: TrendSample) {
        self.drop_future(sample.at);
        self.0.push_back(sample);
        self.drop_old(sample.at);
    }

    /// Drops samples in the future, written while the machine's clock was ahead, and those that are too old.
    pub fn correct_times(&mut self, now: Time) {
        self.drop_future(now + CLOCK_TOLERANCE);
        self.drop_old(now);
    }

    /// Returns the samples, oldest first.
    pub fn samples(&self) -> impl DoubleEndedIterator<Item = &TrendSample> + ExactSizeIterator {
        self.0.iter()
    }

    fn drop_future(&mut self, latest: Time) {
        // Samples of a clock that was set back may follow later ones.
        self.0.retain(|sample| sample.at <= latest);
    }

    fn drop_old(&mut self, now: Time) {
        let surplus = self.0.len().saturating_sub(MAX_SAMPLES);
        self.0.drain(..surplus);
        while self.0.front().is_some_and(|oldest| now.since(oldest.at) > TREND_SPAN) {
            self.0.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time::from_secs(1_700_000_000);

    fn sample(at: Time) -> TrendSample {
        let name = NameListing { listed_by: 31, peers_of_its_kind: 42 };
        TrendSample { at, verified_clearnet: 42, verified_onion: 7, clearnet_name: Some(name), onion_name: None }
    }

    fn hourly(count: u64) -> Trends {
        let mut trends = Trends::default();
        for hour in 0..count {
            let at = NOW + Duration::from_hours(hour);
            assert!(trends.is_due(at));
            trends.record(sample(at));
            assert!(!trends.is_due(at + Duration::from_mins(59)));
        }
        trends
    }

    #[test]
    fn samples_of_thirty_days_are_kept() {
        let trends = hourly(2000);
        assert_eq!(trends.samples().len(), MAX_SAMPLES);
        assert_eq!(trends.samples().last().unwrap().at, NOW + Duration::from_hours(1999));
        let mut after_a_pause = trends;
        after_a_pause.record(sample(NOW + Duration::from_hours(9000)));
        assert_eq!(after_a_pause.samples().len(), 1);
    }

    #[test]
    fn samples_of_a_clock_that_was_ahead_are_dropped() {
        let mut trends = hourly(3);
        trends.record(sample(NOW + Duration::from_hours(30)));
        trends.correct_times(NOW + Duration::from_hours(3));
        assert_eq!(trends.samples().len(), 3);
        assert!(trends.is_due(NOW + Duration::from_hours(3)));
        trends.record(sample(NOW + Duration::from_hours(1)));
        assert!(trends.samples().is_sorted_by_key(|sample| sample.at), "the clock was set back by two hours");
    }

    #[test]
    fn thirty_days_take_few_bytes() {
        let trends = hourly(MAX_SAMPLES as u64);
        let record = postcard::to_stdvec(&trends).unwrap();
        println!(
            "{MAX_SAMPLES} samples: {} bytes in memory, {} on disk",
            size_of::<TrendSample>() * MAX_SAMPLES,
            record.len()
        );
        assert!(size_of::<TrendSample>() <= 48 && record.len() <= 16 * MAX_SAMPLES, "{}", record.len());
        assert_eq!(postcard::from_bytes::<Trends>(&record).unwrap(), trends);
    }
}
