//! Exponential back-off for delays after repeated failures.

use std::time::Duration;

/// Delay that doubles with each consecutive failure, between two bounds.
///
/// No jitter is included; the caller of `after` adds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    min: Duration,
    max: Duration,
}

impl Backoff {
    /// Creates a back-off from the first and the longest delay.
    ///
    /// If `max` is shorter than `min`, every delay is `max`.
    pub const fn new(min: Duration, max: Duration) -> Backoff {
        Backoff { min, max }
    }

    /// Returns the delay after this many consecutive failures.
    ///
    /// Zero failures give the same delay as one.
    pub fn after(self, failures: u32) -> Duration {
        let factor = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        self.min.saturating_mul(factor).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delay_doubles_up_to_maximum() {
        let second = Duration::from_secs(1);
        let delays = Backoff::new(second, second * 10);
        for (failures, expected) in [(0, 1), (1, 1), (2, 2), (4, 8), (5, 10), (33, 10), (u32::MAX, 10)] {
            assert_eq!(delays.after(failures), second * expected, "{failures}");
        }
        assert_eq!(Backoff::new(second * 10, second).after(1), second);
        assert_eq!(Backoff::new(Duration::MAX, Duration::MAX).after(9), Duration::MAX);
    }
}
