//! Keyed token buckets on the book's clock.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use crate::clock::Time;

/// Capacity and refill time of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BucketConfig {
    /// Number of units available at once.
    pub burst: u32,
    /// Time after which one more unit is available.
    pub refill: Duration,
}

/// One leaky bucket for each key, stored as the time at which it will be empty.
#[derive(Debug)]
pub(super) struct KeyedBucket<K> {
    config: BucketConfig,
    empty_at: HashMap<K, Time>,
}

impl<K: Eq + Hash> KeyedBucket<K> {
    /// Creates buckets that are all full of units.
    pub(super) fn new(config: BucketConfig) -> KeyedBucket<K> {
        KeyedBucket { config, empty_at: HashMap::new() }
    }

    /// Takes one unit. The error is the time of the next available unit.
    pub(super) fn take(&mut self, key: K, now: Time) -> Result<(), Time> {
        self.has(&key, 0, now)?;
        let empty_at = self.empty_at.entry(key).or_insert(now);
        *empty_at = (*empty_at).max(now) + self.config.refill;
        Ok(())
    }

    /// Checks for one unit beyond a reserve. The error is the time at which it is available.
    pub(super) fn has(&self, key: &K, reserve: u32, now: Time) -> Result<(), Time> {
        let BucketConfig { burst, refill } = self.config;
        let empty_at = self.empty_at.get(key).copied().unwrap_or(now).max(now);
        let full_until = empty_at + refill;
        let limit = now + refill * burst.saturating_sub(reserve);
        if full_until > limit { Err(now + full_until.since(limit)) } else { Ok(()) }
    }

    /// Drops the buckets that are full of units again.
    pub(super) fn prune(&mut self, now: Time) {
        self.empty_at.retain(|_, empty_at| *empty_at > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_is_allowed_and_refilled() {
        let mut budget = KeyedBucket::new(BucketConfig { burst: 3, refill: Duration::from_secs(10) });
        let start = Time::from_secs(1000);
        for _ in 0..3 {
            assert_eq!(budget.take('a', start), Ok(()));
        }
        assert_eq!(budget.take('a', start), Err(start + Duration::from_secs(10)));
        assert_eq!(budget.take('b', start), Ok(()));
        assert_eq!(budget.take('a', start + Duration::from_secs(10)), Ok(()));
        assert_eq!(budget.take('a', start + Duration::from_secs(15)), Err(start + Duration::from_secs(20)));
        budget.prune(start + Duration::from_secs(60));
        assert!(budget.empty_at.is_empty());
    }
}
