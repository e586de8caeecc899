//! The one place that asks what time it is.
//!
//! Everything below the drivers is handed its `Time`; only they call [`now`], so that a simulator can run months in
//! seconds and a test can stand at any moment it likes.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A moment on the wall clock, in milliseconds since 1970.
///
/// Wall time rather than a monotonic one, because the book outlives the process. Arithmetic saturates: a clock that
/// jumps must not bring the daemon down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Time(u64);

/// What the wall clock says.
#[expect(clippy::disallowed_methods, reason = "this is the place that the lint sends everybody else to")]
pub fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

impl Time {
    pub const fn from_millis(millis: u64) -> Time {
        Time(millis)
    }

    pub const fn from_secs(secs: u64) -> Time {
        Time(secs.saturating_mul(1000))
    }

    pub const fn as_millis(self) -> u64 {
        self.0
    }

    pub const fn as_secs(self) -> u64 {
        self.0 / 1000
    }

    /// How long after `earlier` this is; nothing if it is before.
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

/// RFC 3339 in UTC, to the second.
impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // humantime refuses to format past the year 9999.
        let secs = self.as_secs().min(253_402_300_799);
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
}
