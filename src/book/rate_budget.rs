//! How much of something is allowed in a while.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use crate::clock::Time;

/// So many at once, and one more after each `refill`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BucketConfig {
    pub burst: u32,
    pub refill: Duration,
}

/// A leaky bucket for each key: how far in the future it will have leaked empty is all that need be kept.
#[derive(Debug)]
pub struct KeyedBucket<K> {
    allowance: BucketConfig,
    empty_at: HashMap<K, Time>,
}

impl<K: Eq + Hash> KeyedBucket<K> {
    pub fn new(allowance: BucketConfig) -> KeyedBucket<K> {
        KeyedBucket { allowance, empty_at: HashMap::new() }
    }

    /// Takes one, or says when there will be one.
    pub fn take(&mut self, key: K, now: Time) -> Result<(), Time> {
        self.has(&key, 0, now)?;
        let empty_at = self.empty_at.entry(key).or_insert(now);
        *empty_at = (*empty_at).max(now) + self.allowance.refill;
        Ok(())
    }

    /// Whether one could be taken with so many spared, or when there will be one.
    pub fn has(&self, key: &K, spared: u32, now: Time) -> Result<(), Time> {
        let BucketConfig { burst, refill } = self.allowance;
        let empty_at = self.empty_at.get(key).copied().unwrap_or(now).max(now);
        let full_until = empty_at + refill;
        let limit = now + refill * burst.saturating_sub(spared);
        if full_until > limit { Err(now + full_until.since(limit)) } else { Ok(()) }
    }

    /// Drops the keys that have their whole allowance again.
    pub fn prune(&mut self, now: Time) {
        self.empty_at.retain(|_, empty_at| *empty_at > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bursts_are_allowed_and_paid_back() {
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
