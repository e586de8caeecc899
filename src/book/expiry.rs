//! Removal of expired peers, and of candidates before their table is full.

use std::cmp::Reverse;
use std::time::Duration;

use super::context::Context;
use super::{BookNotice, Entry, PeerBook};
use crate::peer::Host;

/// Interval between two removals of expired peers.
pub(super) const SWEEP_INTERVAL: Duration = Duration::from_hours(1);

/// Number of failures after which a candidate may be evicted. They take a few hours.
const EVICT_AFTER_FAILURES: u32 = 5;

impl PeerBook {
    /// Removes expired peers, and adds the seeds again if no healthy peer is left.
    pub(super) fn prune(&mut self, ctx: &mut Context<'_>) {
        self.next_sweep = ctx.now + SWEEP_INTERVAL;
        self.budgets.prune(ctx.now);
        self.paths.prune(ctx.now);
        let is_expired = |entry: &&Entry| {
            let working_time = self.paths.working_time_for(&entry.host);
            working_time.saturating_sub(entry.path_uptime_at_success) >= self.config.expire_after
        };
        let mut expired: Vec<Host> = self.idle().filter(is_expired).map(|entry| entry.host.clone()).collect();
        expired.sort();
        expired.extend(self.evictable_candidates());
        for host in expired {
            if self.peers.remove(&host) {
                ctx.delete(&host);
                ctx.notify(BookNotice::Forgotten { host });
            }
        }
        if !self.peers.entries().any(|entry| self.is_healthy(entry, ctx.now)) {
            self.readd_seeds(ctx);
        }
    }

    /// Returns never-verified names to evict before the table is full.
    ///
    /// Names with the most failures go first, so that invented names can't fill the table.
    fn evictable_candidates(&self) -> Vec<Host> {
        let excess = self.peers.candidate_count().saturating_sub(self.config.max_candidates / 8 * 7);
        if excess == 0 {
            return Vec::new();
        }
        let failures = |entry: &Entry| entry.failures.saturating_add(self.peers.unattributed_failures(&entry.host));
        let candidates = self.idle().filter(|entry| entry.last_success.is_none());
        let mut evictable: Vec<(Reverse<u32>, &Host)> = candidates
            .map(|entry| (Reverse(failures(entry)), &entry.host))
            .filter(|(failures, _)| failures.0 >= EVICT_AFTER_FAILURES)
            .collect();
        evictable.sort();
        evictable.truncate(excess);
        evictable.into_iter().map(|(_, host)| host.clone()).collect()
    }

    fn idle(&self) -> impl Iterator<Item = &Entry> {
        self.peers.entries().filter(|entry| self.peers.probe(&entry.host).is_none())
    }
}
