//! Choice of the candidate that leaves a full table.
//!
//! The largest group loses a candidate, at each level: onion or clearnet, provenance, allocation, subnet. So every
//! group keeps a fair share whatever others send, and an unused share is free for the others. A flood of
//! onion names displaces onion names only, and a flood of one source displaces that source's names.

use std::collections::BTreeMap;

use rand::Rng;
use rand::seq::IteratorRandom;

use super::context::Context;
use super::source_group::SourceGroup;
use super::{Entry, PeerBook};
use crate::peer::Host;

/// Number of failures after which a candidate is evicted before others of its group. They take a few hours.
const EVICT_AFTER_FAILURES: u32 = 5;

impl PeerBook {
    /// Makes room for one more candidate. Returns whether there is room.
    pub(super) fn make_room(&mut self, ctx: &mut Context<'_>) -> bool {
        // More than one is evicted only after a start with a smaller table.
        while self.peers.candidate_count() >= self.config.max_candidates {
            let Some(host) = self.choose_victim(ctx.rng) else { return false };
            self.peers.remove(&host);
            ctx.delete(&host);
        }
        true
    }

    /// Returns a random candidate of the largest group; `None` if none may be evicted.
    fn choose_victim(&self, rng: &mut dyn Rng) -> Option<Host> {
        let candidates = self.peers.entries().filter(|entry| entry.last_success.is_none());
        let grouped = candidates.filter_map(|entry| Some((entry, SourceGroup::of(&entry.source, &self.peers)?)));
        let all: Vec<(&Entry, SourceGroup)> = grouped.collect();
        let mut group: Vec<&(&Entry, SourceGroup)> = all.iter().collect();
        keep_largest(&mut group, |(entry, _)| entry.host.is_onion());
        keep_largest(&mut group, |(_, source)| source.provenance);
        keep_largest(&mut group, |(_, source)| source.payer.allocation());
        keep_largest(&mut group, |(_, source)| source.payer.clone());
        // Few peers are in flight, and they stay.
        let is_idle = |entry: &&Entry| self.peers.probe(&entry.host).is_none();
        let mut group: Vec<&Entry> = group.into_iter().map(|(entry, _)| *entry).filter(is_idle).collect();
        if group.is_empty() {
            group = all.iter().map(|(entry, _)| *entry).filter(is_idle).collect();
        }
        let has_failed_often = |entry: &&Entry| {
            entry.failures.saturating_add(self.peers.unattributed_failures(&entry.host)) >= EVICT_AFTER_FAILURES
        };
        if group.iter().any(has_failed_often) {
            group.retain(has_failed_often);
        }
        // The table has no order, and the choice must depend on the generator alone.
        let index = (0..group.len()).choose(rng)?;
        let (_, victim, _) = group.select_nth_unstable_by(index, |a, b| a.host.cmp(&b.host));
        Some(victim.host.clone())
    }
}

/// Keeps the items of the key that most items have.
fn keep_largest<T, K: Ord>(items: &mut Vec<T>, key: impl Fn(&T) -> K) {
    let mut counts: BTreeMap<K, usize> = BTreeMap::new();
    for item in items.iter() {
        *counts.entry(key(item)).or_default() += 1;
    }
    if let Some((largest, _)) = counts.into_iter().max_by_key(|(_, count)| *count) {
        items.retain(|item| key(item) == largest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_of_the_most_frequent_key_are_kept() {
        let mut items = vec![1, 2, 3, 5, 7, 8];
        keep_largest(&mut items, |item| item % 2);
        assert_eq!(items, [1, 3, 5, 7]);
        keep_largest(&mut Vec::<u8>::new(), |item| *item);
    }
}
