//! Choice of the candidate that leaves a full table.
//!
//! The largest group loses a candidate, at each level: onion or clearnet, provenance, allocation, subnet. So every
//! group keeps a fair share whatever others send, and an unused share is free for the others. A flood of
//! onion names displaces onion names only, and a flood of one source displaces that source's names.

use rand::Rng;
use rand::seq::{IteratorRandom, index};

use super::PeerBook;
use super::context::Context;
use crate::peer::Host;

/// Number of failures after which a candidate is evicted before others of its group. They take a few hours.
const EVICT_AFTER_FAILURES: u32 = 5;

/// Number of candidates of the group that are compared. A group may be as large as the table.
const MAX_COMPARED: usize = 32;

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
        // Few peers are in flight, and they stay.
        let is_idle = |host: &&Host| self.peers.probe(host).is_none();
        let groups = self.peers.candidate_groups();
        let largest = groups.largest()?;
        let drawn = index::sample(rng, largest.len(), largest.len().min(MAX_COMPARED));
        let idle: Vec<&Host> = drawn.into_iter().filter_map(|at| largest.get_index(at)).filter(is_idle).collect();
        let often_failed = idle.iter().find(|host| self.has_failed_often(host));
        let victim = often_failed.or(idle.first()).copied();
        victim.or_else(|| groups.iter().filter(is_idle).choose(rng)).cloned()
    }

    fn has_failed_often(&self, host: &Host) -> bool {
        let attributed = self.peers.get(host).map_or(0, |entry| entry.failures);
        attributed.saturating_add(self.peers.unattributed_failures(host)) >= EVICT_AFTER_FAILURES
    }
}
