//! Random order of a slice, drawn one by one.

use std::collections::HashMap;

use rand::{Rng, RngExt};

/// Items of a slice in a random order. Each costs the same, so that a few of very many can be drawn.
///
/// It is the shuffle of Fisher and Yates, of which only the items that were moved are stored.
#[derive(Debug)]
pub(super) struct RandomOrder<'p, T> {
    items: &'p [T],
    drawn: usize,
    /// Indices of the items that were moved, by their new positions.
    moved: HashMap<usize, usize>,
}

impl<'p, T: Copy> RandomOrder<'p, T> {
    /// Begins an order of these items.
    pub(super) fn new(items: &'p [T]) -> RandomOrder<'p, T> {
        RandomOrder { items, drawn: 0, moved: HashMap::new() }
    }

    /// Returns whether no item is left.
    pub(super) fn is_empty(&self) -> bool {
        self.drawn == self.items.len()
    }

    /// Draws the next item; `None` if there is none.
    pub(super) fn next(&mut self, rng: &mut impl Rng) -> Option<T> {
        if self.is_empty() {
            return None;
        }
        let position = rng.random_range(self.drawn..self.items.len());
        let first = self.moved.remove(&self.drawn).unwrap_or(self.drawn);
        let index = if position == self.drawn { first } else { self.moved.insert(position, first).unwrap_or(position) };
        self.drawn += 1;
        self.items.get(index).copied()
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn order(rng: &mut StdRng) -> Vec<u32> {
        let items = [0, 1, 2, 3];
        let mut order = RandomOrder::new(&items);
        std::iter::from_fn(|| order.next(rng)).collect()
    }

    #[test]
    fn orders_are_equally_likely() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut counts: HashMap<Vec<u32>, u32> = HashMap::new();
        for _ in 0..24_000 {
            *counts.entry(order(&mut rng)).or_default() += 1;
        }
        assert_eq!(counts.len(), 24);
        assert!(counts.values().all(|count| (850..1150).contains(count)), "{counts:?}");
    }

    #[test]
    fn each_item_is_drawn_once() {
        let items: Vec<u32> = (0..1000).collect();
        let mut order = RandomOrder::new(&items);
        let mut rng = StdRng::seed_from_u64(2);
        let mut drawn: Vec<u32> = std::iter::from_fn(|| order.next(&mut rng)).collect();
        assert!(order.is_empty() && drawn != items);
        drawn.sort_unstable();
        assert_eq!(drawn, items);
    }
}
