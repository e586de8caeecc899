//! Onion peers that are advertised while Tor can't verify them.

use std::time::Duration;

use rand::Rng;
use rand::seq::{IteratorRandom, SliceRandom, index};

use super::listable::Listable;
use super::standing::Tier;
use crate::clock::Time;

/// Maximum age of a recent verification.
const RECENT: Duration = Duration::from_hours(24);

/// Maximum age of a verification that still makes an answer likely.
const WITHIN_WEEKS: Duration = Duration::from_hours(14 * 24);

/// Onion peers by class, the most likely to answer first.
///
/// A sample takes from a class only what the classes before lack. Names that cost nothing come last: first the trusted
/// and long-standing peers by their last success, then newcomers by theirs, then seeds that never answered.
/// Names of untrusted sources that never answered are used only if the others are fewer than a sample.
#[derive(Debug)]
pub(super) struct FallbackClasses<T>([Vec<T>; CLASSES]);

const CLASSES: usize = 8;

/// Maximum number of members of a class in a snapshot. Each client gets a few of them.
const MAX_MEMBERS: usize = 250;

impl<T> Default for FallbackClasses<T> {
    fn default() -> FallbackClasses<T> {
        FallbackClasses(std::array::from_fn(|_| Vec::new()))
    }
}

impl<'a> FallbackClasses<Listable<'a>> {
    /// Replaces random members of each class by other values, and drops the rest.
    ///
    /// A class may have as many members as there are free names, and each value costs something.
    pub(super) fn map_some<T>(self, value: impl Fn(Listable<'a>) -> T, rng: &mut impl Rng) -> FallbackClasses<T> {
        FallbackClasses(self.0.map(|members| {
            let drawn = index::sample(rng, members.len(), members.len().min(MAX_MEMBERS));
            drawn.into_iter().filter_map(|at| members.get(at)).map(|peer| value(*peer)).collect()
        }))
    }
}

impl<T> FallbackClasses<T> {
    /// Adds a peer with the value that a sample returns for it.
    pub(super) fn add(&mut self, peer: Listable<'_>, value: T, now: Time) {
        if let Some(members) = self.0.get_mut(class(peer, now)) {
            members.push(value);
        }
    }

    /// Samples at most `count` peers, in random order.
    pub(super) fn sample(&self, count: usize, rng: &mut impl Rng) -> Vec<&T> {
        let mut drawn: Vec<&T> = Vec::new();
        for members in &self.0 {
            drawn.extend(members.iter().sample(rng, count.saturating_sub(drawn.len())));
        }
        drawn.shuffle(rng);
        drawn
    }
}

fn class(peer: Listable<'_>, now: Time) -> usize {
    let is_settled = peer.tier(now) != Tier::Newcomer;
    let first = if is_settled { 0 } else { 3 };
    match peer.facts.last_success.map(|success| now.since(success)) {
        Some(age) if age <= RECENT => first,
        Some(age) if age <= WITHIN_WEEKS => first + 1,
        Some(_) => first + 2,
        None if is_settled => 6,
        None => 7,
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::super::entry::Entry;
    use super::super::listable::ListFacts;
    use super::super::source::Source;
    use super::super::tests::{START, aged, onion_entry, promoted};
    use super::*;

    const NOW: Time = START;

    /// Samples from these peers a hundred times, and returns the number of each peer's appearances.
    fn appearances(entries: &[Entry]) -> Vec<usize> {
        let mut classes = FallbackClasses::default();
        for (n, entry) in entries.iter().enumerate() {
            classes.add(Listable { entry, facts: &ListFacts::of(entry) }, n, NOW);
        }
        let mut counts = vec![0; entries.len()];
        let mut rng = StdRng::seed_from_u64(1);
        for _ in 0..100 {
            for n in classes.sample(3, &mut rng) {
                counts[*n] += 1;
            }
        }
        counts
    }

    fn untried(n: u16) -> Entry {
        Entry { last_success: None, ..onion_entry(n) }
    }

    fn last_reached(entry: Entry, days: u64) -> Entry {
        Entry { last_success: Some(NOW - Duration::from_hours(24 * days)), ..entry }
    }

    #[test]
    fn free_names_take_no_place_of_known_peers() {
        let mut entries: Vec<Entry> = (0..5).map(|n| promoted(aged(onion_entry(n), 30))).collect();
        entries.extend((5..300).map(untried));
        entries.extend((300..600).map(onion_entry));
        let counts = appearances(&entries);
        assert_eq!(counts[..5].iter().sum::<usize>(), 300);
        assert!(counts[..5].iter().all(|count| *count > 40), "{:?}", &counts[..5]);
    }

    #[test]
    fn classes_are_used_in_order() {
        let seed = |n| Entry { source: Source::Seed, ..untried(n) };
        let entries =
            [untried(0), seed(1), last_reached(onion_entry(2), 20), last_reached(onion_entry(3), 3), onion_entry(4)];
        assert_eq!(appearances(&entries), [0, 0, 100, 100, 100]);
        assert_eq!(appearances(&entries[..2]), [100, 100]);
        assert_eq!(appearances(&[entries[0].clone(), entries[1].clone(), entries[4].clone()]), [100, 100, 100]);
        assert_eq!(appearances(&[untried(0), seed(1), seed(2), seed(3)]), [0, 100, 100, 100]);
    }
}
