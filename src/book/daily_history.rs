//! Results of a peer's visits by day, for five weeks.
//!
//! Names are free, so days are kept only for peers that were verified at least once, in four bytes each.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Time;

/// Maximum number of days: five weeks.
pub const MAX_DAYS: usize = 35;

/// Length of a day.
pub const DAY: Duration = Duration::from_hours(24);

/// Visits of the last days; nothing before the first visit.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DailyHistory(Option<Box<Days>>);

/// Days with visits, without gaps between the first and the last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Days {
    /// Start of the newest day. A step of the wall clock moves all days by the same time.
    newest: Time,
    /// Counts of each day, oldest first. A boxed slice has no spare capacity.
    counts: Box<[DayCounts]>,
}

/// Visits of one day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DayCounts {
    /// Number of successful visits, at most 255.
    pub successes: u8,
    /// Number of failed visits, at most 255.
    pub failures: u8,
    /// Mean duration of the successful visits in milliseconds, at most 65,535; zero without one.
    pub mean_ms: u16,
}

impl DailyHistory {
    /// Records a visit with its duration; `None` for a failed one.
    pub fn record(&mut self, duration: Option<Duration>, now: Time) {
        let days = self.0.get_or_insert_with(|| {
            Box::new(Days { newest: start_of_day(now), counts: Box::new([DayCounts::default()]) })
        });
        days.advance(now);
        let Some(today) = days.counts.last_mut() else { return };
        match duration {
            Some(duration) => {
                today.successes = today.successes.saturating_add(1);
                today.mean_ms = mean(today.mean_ms, duration, today.successes);
            }
            None => today.failures = today.failures.saturating_add(1),
        }
    }

    /// Returns the start and the counts of each day, oldest first.
    pub fn days(&self) -> impl Iterator<Item = (Time, DayCounts)> {
        self.0.iter().flat_map(|days| {
            let last = days.counts.len().saturating_sub(1);
            let start = move |index: usize| days.newest - days_long(last.saturating_sub(index));
            days.counts.iter().enumerate().map(move |(index, counts)| (start(index), *counts))
        })
    }

    /// Moves days that lie in the future into the past.
    pub(super) fn correct_times(&mut self, now: Time) {
        let Some(days) = &mut self.0 else { return };
        days.newest = days.newest.min(start_of_day(now));
        // A damaged record must not hold more than a written one.
        let surplus = days.counts.len().saturating_sub(MAX_DAYS);
        if surplus > 0 {
            days.counts = days.counts.iter().skip(surplus).copied().collect();
        }
    }
}

impl Days {
    /// Appends the days that have begun since the last visit, and drops those that are too old.
    fn advance(&mut self, now: Time) {
        let begun = now.since(self.newest).as_secs() / DAY.as_secs();
        let Ok(begun) = usize::try_from(begun) else { return };
        if begun == 0 {
            return;
        }
        self.newest = self.newest + days_long(begun);
        let added = begun.min(MAX_DAYS);
        let kept = self.counts.len().min(MAX_DAYS - added);
        let mut counts = Vec::with_capacity(kept + added);
        counts.extend(self.counts.iter().skip(self.counts.len() - kept).copied());
        counts.resize(kept + added, DayCounts::default());
        self.counts = counts.into_boxed_slice();
    }
}

/// Returns the start of a UTC day on the process's clock.
fn start_of_day(now: Time) -> Time {
    Time::from_secs(now.as_secs() - now.as_secs() % DAY.as_secs())
}

/// Returns the length of so many days.
fn days_long(count: usize) -> Duration {
    DAY.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX))
}

/// Returns the mean after one more value; `count` includes it.
fn mean(before: u16, duration: Duration, count: u8) -> u16 {
    let value = u16::try_from(duration.as_millis()).unwrap_or(u16::MAX);
    let (before, value, count) = (i64::from(before), i64::from(value), i64::from(count.max(1)));
    let change = value - before;
    let rounding = count / 2 * change.signum();
    u16::try_from(before + (change + rounding) / count).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Noon of a day.
    const NOON: Time = Time::from_secs(19_675 * 86_400 + 43_200);
    const MS: Duration = Duration::from_millis(1);

    fn recorded(visits: &[(u64, Option<u32>)]) -> DailyHistory {
        let mut history = DailyHistory::default();
        for (hours, ms) in visits {
            history.record(ms.map(|ms| MS * ms), NOON + Duration::from_hours(*hours));
        }
        history
    }

    fn counts(history: &DailyHistory) -> Vec<(u8, u8, u16)> {
        history.days().map(|(_, day)| (day.successes, day.failures, day.mean_ms)).collect()
    }

    #[test]
    fn visits_are_counted_by_utc_day() {
        let history = recorded(&[(0, Some(100)), (11, Some(200)), (12, None), (36, Some(70)), (84, Some(50))]);
        assert_eq!(counts(&history), [(2, 0, 150), (0, 1, 0), (1, 0, 70), (0, 0, 0), (1, 0, 50)]);
        let starts: Vec<Time> = history.days().map(|(start, _)| start).collect();
        assert_eq!(starts[0], NOON - Duration::from_hours(12));
        assert_eq!(starts[4], NOON + Duration::from_hours(84));
    }

    #[test]
    fn days_older_than_five_weeks_are_dropped() {
        let every_day: Vec<(u64, Option<u32>)> = (0..100).map(|day| (day * 24, Some(10))).collect();
        let history = recorded(&every_day);
        assert_eq!(counts(&history), [(1, 0, 10); MAX_DAYS]);
        let mut after_a_pause = history.clone();
        after_a_pause.record(None, NOON + DAY * 1000);
        assert_eq!(after_a_pause.days().count(), MAX_DAYS);
        assert_eq!(counts(&after_a_pause)[MAX_DAYS - 2..], [(0, 0, 0), (0, 1, 0)]);
    }

    #[test]
    fn mean_of_many_visits_is_close_to_the_exact_one() {
        let visits: Vec<(u64, Option<u32>)> = [80, 120, 100, 300].map(|ms| (0, Some(ms))).into();
        assert_eq!(counts(&recorded(&visits)), [(4, 0, 150)]);
        let slow = recorded(&[(0, Some(90_000))]);
        assert_eq!(counts(&slow), [(1, 0, u16::MAX)]);
    }

    #[test]
    fn future_days_are_moved_to_today() {
        let mut history = recorded(&[(24 * 365, Some(10)), (24 * 366, None)]);
        history.correct_times(NOON);
        history.record(Some(MS * 30), NOON);
        assert_eq!(counts(&history), [(1, 0, 10), (1, 1, 30)]);
        assert_eq!(history.days().last().unwrap().0, NOON - Duration::from_hours(12));
    }

    #[test]
    fn record_of_five_weeks_takes_few_bytes() {
        let visits: Vec<(u64, Option<u32>)> = (0..70).map(|half| (half * 12, Some(900))).collect();
        let history = recorded(&visits);
        let in_memory = size_of::<DailyHistory>() + size_of::<Days>() + MAX_DAYS * size_of::<DayCounts>();
        let on_disk = postcard::to_stdvec(&history).unwrap().len();
        println!("history of {MAX_DAYS} days: {in_memory} bytes in memory, {on_disk} bytes on disk");
        assert!(in_memory <= 200 && on_disk <= 200, "{in_memory}, {on_disk}");
        assert_eq!(postcard::to_stdvec(&DailyHistory::default()).unwrap(), [0], "the format of the migration");
    }

    proptest! {
        #[test]
        fn history_is_bounded_and_reads_back(
            visits in proptest::collection::vec((0_u64..2000, proptest::option::of(0_u32..100_000)), 1..60)
        ) {
            let mut hours = 0;
            let visits: Vec<_> = visits.into_iter().map(|(step, ms)| { hours += step; (hours, ms) }).collect();
            let history = recorded(&visits);
            prop_assert!((1..=MAX_DAYS).contains(&history.days().count()));
            let (start, today) = history.days().last().unwrap();
            prop_assert!(today.successes > 0 || today.failures > 0);
            prop_assert!((NOON + Duration::from_hours(hours)).since(start) < DAY);
            let record = postcard::to_stdvec(&history).unwrap();
            prop_assert_eq!(postcard::from_bytes::<DailyHistory>(&record).unwrap(), history);
        }
    }
}
