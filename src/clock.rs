//! Points in time, and the only code that reads the machine's clocks.
//!
//! Only drivers call [`now`]; all other modules receive a [`Time`]. A simulator can therefore run
//! months in seconds.

use std::fmt;
use std::ops::{Add, Sub};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, DynamicClockId};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Point in time on the process's clock, in milliseconds since 1970.
///
/// The clock starts with the wall clock's time and then runs continuously, also while the machine
/// sleeps. A step of the wall clock does not move it, so no value in memory has to be corrected.
/// Serde and `Display` convert to the wall clock for files, JSON and text. Arithmetic saturates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(u64);

/// Smallest step of the wall clock that is followed. Smaller ones are corrections by NTP.
const SMALLEST_STEP: Duration = Duration::from_secs(2);

/// Maximum duration of reading both clocks for the readings to be comparable.
const LONGEST_READING: Duration = Duration::from_millis(100);

/// Readings of both clocks at the first call of [`now`].
static START: OnceLock<Reading> = OnceLock::new();

/// Milliseconds by which the wall clock is ahead of the process's clock.
static WALL_AHEAD_MILLIS: AtomicI64 = AtomicI64::new(0);

/// Readings of both clocks at one point in time.
#[derive(Debug, Clone, Copy)]
struct Reading {
    /// Wall clock in milliseconds since 1970.
    wall: u64,
    /// Time since boot, including sleep.
    running: Duration,
}

/// Returns the current time of the process's clock.
pub fn now() -> Time {
    let before = running();
    let reading = Reading { wall: wall(), running: running() };
    let start = START.get_or_init(|| reading);
    // A thread that was paused between the two readings would see a step where there is none.
    if reading.running.saturating_sub(before) <= LONGEST_READING {
        let known = WALL_AHEAD_MILLIS.load(Ordering::Relaxed);
        let ahead = start.wall_ahead(reading, known);
        if ahead != known {
            WALL_AHEAD_MILLIS.store(ahead, Ordering::Relaxed);
        }
    }
    start.process_time(reading.running)
}

/// Returns the milliseconds by which the wall clock was stepped ahead.
///
/// Negative after a step back.
pub fn wall_ahead_millis() -> i64 {
    WALL_AHEAD_MILLIS.load(Ordering::Relaxed)
}

impl Reading {
    /// Converts a reading of the running clock to the process's time.
    fn process_time(self, running: Duration) -> Time {
        Time(self.wall) + running.saturating_sub(self.running)
    }

    /// Returns how far the wall clock is ahead at a later reading; `known` unless it was stepped.
    fn wall_ahead(self, later: Reading, known: i64) -> i64 {
        let Time(expected) = self.process_time(later.running);
        let ahead = later.wall.cast_signed().saturating_sub(expected.cast_signed());
        let is_step = u128::from(ahead.abs_diff(known)) >= SMALLEST_STEP.as_millis();
        if is_step { ahead } else { known }
    }
}

/// Reads the wall clock in milliseconds since 1970.
#[expect(clippy::disallowed_methods, reason = "the only module that reads clocks")]
fn wall() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Reads the time since boot, including sleep if the kernel counts it.
fn running() -> Duration {
    let read = rustix::time::clock_gettime_dynamic(DynamicClockId::Boottime)
        .unwrap_or_else(|_| rustix::time::clock_gettime(ClockId::Monotonic));
    Duration::try_from(read).unwrap_or_default()
}

impl Time {
    /// Creates a time from milliseconds since 1970 on the process's clock.
    pub const fn from_millis(millis: u64) -> Time {
        Time(millis)
    }

    /// Creates a time from seconds since 1970 on the process's clock.
    pub const fn from_secs(secs: u64) -> Time {
        Time(secs.saturating_mul(1000))
    }

    /// Returns milliseconds since 1970 on the process's clock.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Returns whole seconds since 1970 on the process's clock.
    pub const fn as_secs(self) -> u64 {
        self.0 / 1000
    }

    /// Returns milliseconds since 1970 on the wall clock.
    pub fn wall_millis(self) -> u64 {
        self.0.saturating_add_signed(wall_ahead_millis())
    }

    /// Returns whole seconds since 1970 on the wall clock, as in block headers.
    pub fn wall_secs(self) -> u32 {
        u32::try_from(self.wall_millis() / 1000).unwrap_or(u32::MAX)
    }

    /// Creates a time from milliseconds since 1970 on the wall clock.
    pub fn from_wall_millis(millis: u64) -> Time {
        Time(millis.saturating_add_signed(wall_ahead_millis().saturating_neg()))
    }

    /// Returns the duration since `earlier`; zero if `earlier` is later.
    pub const fn since(self, earlier: Time) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Time;

    fn add(self, after: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(after.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Time {
    type Output = Time;

    fn sub(self, before: Duration) -> Time {
        Time(self.0.saturating_sub(u64::try_from(before.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// Writes milliseconds since 1970 on the wall clock.
impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.wall_millis().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Time, D::Error> {
        u64::deserialize(deserializer).map(Time::from_wall_millis)
    }
}

/// Writes RFC 3339 in UTC with seconds, by the wall clock.
impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // humantime cannot format times after the year 9999.
        let secs = (self.wall_millis() / 1000).min(253_402_300_799);
        humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(secs)).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates() {
        let hour = Duration::from_secs(3600);
        assert_eq!(Time::from_secs(10) - hour, Time::from_secs(0));
        assert_eq!(Time::from_millis(u64::MAX) + hour, Time::from_millis(u64::MAX));
        assert_eq!(Time::from_secs(10).since(Time::from_secs(20)), Duration::ZERO);
    }

    #[test]
    fn display_is_rfc_3339() {
        assert_eq!(Time::from_secs(1_795_000_000).to_string(), "2026-11-18T11:06:40Z");
        assert_eq!(Time::from_millis(u64::MAX).to_string(), "9999-12-31T23:59:59Z");
    }

    fn after(start: Reading, wall_secs: i64, running_secs: u64) -> Reading {
        let wall = start.wall.saturating_add_signed(wall_secs * 1000);
        Reading { wall, running: start.running + Duration::from_secs(running_secs) }
    }

    const START: Reading = Reading { wall: 1_795_000_000_000, running: Duration::from_secs(77) };
    const MONTH: i64 = 30 * 24 * 3600;

    #[test]
    fn process_time_when_wall_clock_steps_runs_on() {
        for step in [MONTH, -MONTH, 0] {
            let later = after(START, 60 + step, 60);
            assert_eq!(START.process_time(later.running), Time::from_millis(START.wall + 60_000));
            assert_eq!(START.wall_ahead(later, 0), step * 1000);
        }
        let back = after(START, 120, 120);
        assert_eq!(START.wall_ahead(back, MONTH * 1000), 0, "the clock that was ahead is set back");
    }

    #[test]
    fn process_time_after_sleep_has_passed() {
        // The running clock counts sleep as the wall clock does.
        let awake = after(START, 8 * 3600, 8 * 3600);
        assert_eq!(START.process_time(awake.running), Time::from_millis(awake.wall));
        assert_eq!(START.wall_ahead(awake, 0), 0);
    }

    #[test]
    fn wall_offset_when_clock_is_nudged_stays() {
        for (nudge, known) in [(1, 0), (-1, 0), (1, MONTH * 1000)] {
            let nudged = after(START, 60 + known / 1000 + nudge, 60);
            assert_eq!(START.wall_ahead(nudged, known), known);
        }
        assert_eq!(START.wall_ahead(after(START, 62, 60), 0), 2000, "nudges that add up are a step");
    }

    #[test]
    fn running_clock_never_runs_back() {
        let (first, second) = (running(), running());
        assert!(second >= first && first > Duration::ZERO);
    }
}
