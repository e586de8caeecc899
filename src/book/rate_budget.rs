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

/// Leaky buckets by key, each stored as the time at which it will be empty.
#[derive(Debug)]
pub(super) struct KeyedBuckets<K> {
    empty_at: HashMap<K, Time>,
}

impl<K> Default for KeyedBuckets<K> {
    fn default() -> KeyedBuckets<K> {
        KeyedBuckets { empty_at: HashMap::new() }
    }
}

impl<K: Eq + Hash> KeyedBuckets<K> {
    /// Takes one unit from each bucket, or none from any. The error is the first key without a unit.
    pub(super) fn take_all(&mut self, buckets: Vec<(K, BucketConfig)>, now: Time) -> Result<(), K> {
        if let Some(full) = buckets.iter().position(|(key, config)| self.has(key, *config, 0, now).is_err()) {
            return buckets.into_iter().nth(full).map_or(Ok(()), |(key, _)| Err(key));
        }
        for (key, config) in buckets {
            self.charge(key, config.refill, now);
        }
        Ok(())
    }

    /// Checks for one unit beyond a reserve. The error is the time at which it is available.
    pub(super) fn has(&self, key: &K, config: BucketConfig, reserve: u32, now: Time) -> Result<(), Time> {
        let BucketConfig { burst, refill } = config;
        let full_until = self.empty_at(key).unwrap_or(now).max(now) + refill;
        let limit = now + refill * burst.saturating_sub(reserve);
        if full_until > limit { Err(now + full_until.since(limit)) } else { Ok(()) }
    }

    /// Adds what takes this long to leak, without a check.
    pub(super) fn charge(&mut self, key: K, leak_time: Duration, now: Time) {
        let empty_at = self.empty_at.entry(key).or_insert(now);
        *empty_at = (*empty_at).max(now) + leak_time;
    }

    /// Returns when a bucket will be or was empty; `None` if it was never charged.
    pub(super) fn empty_at(&self, key: &K) -> Option<Time> {
        self.empty_at.get(key).copied()
    }

    /// Drops the buckets that are full of units again.
    pub(super) fn prune(&mut self, now: Time) {
        self.empty_at.retain(|_, empty_at| *empty_at > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: BucketConfig = BucketConfig { burst: 3, refill: Duration::from_secs(10) };

    #[test]
    fn burst_is_allowed_and_refilled() {
        let mut buckets = KeyedBuckets::default();
        let mut take = |key, now| buckets.take_all(vec![(key, CONFIG)], now);
        let start = Time::from_secs(1000);
        for _ in 0..3 {
            assert_eq!(take('a', start), Ok(()));
        }
        assert_eq!(take('a', start), Err('a'));
        assert_eq!(take('b', start), Ok(()));
        assert_eq!(take('a', start + Duration::from_secs(10)), Ok(()));
        assert_eq!(take('a', start + Duration::from_secs(15)), Err('a'));
        let available = Err(start + Duration::from_secs(20));
        assert_eq!(buckets.has(&'a', CONFIG, 0, start + Duration::from_secs(15)), available);
        buckets.prune(start + Duration::from_secs(60));
        assert!(buckets.empty_at.is_empty());
    }

    #[test]
    fn refusal_of_one_bucket_charges_no_other() {
        let mut buckets = KeyedBuckets::default();
        let now = Time::from_secs(1000);
        let one = BucketConfig { burst: 1, ..CONFIG };
        buckets.take_all(vec![('a', one)], now).unwrap();
        assert_eq!(buckets.take_all(vec![('b', one), ('a', one)], now), Err('a'));
        assert_eq!(buckets.take_all(vec![('b', one)], now), Ok(()));
    }
}
