//! Removal of expired peers.

use std::time::Duration;

use super::context::Context;
use super::{BookNotice, Entry, PeerBook};
use crate::peer::Host;

/// Interval between two removals of expired peers.
pub(super) const SWEEP_INTERVAL: Duration = Duration::from_hours(1);

impl PeerBook {
    /// Removes expired peers, and adds the seeds again if no healthy peer is left.
    pub(super) fn prune(&mut self, ctx: &mut Context<'_>) {
        self.next_sweep = ctx.now + SWEEP_INTERVAL;
        self.budgets.prune(ctx.now);
        self.slots.prune(ctx.now);
        self.paths.prune(ctx.now);
        let is_expired = |entry: &&Entry| {
            let working_time = self.paths.working_time_for(&entry.host);
            working_time.saturating_sub(entry.path_uptime_at_success) >= self.config.expire_after
        };
        let is_idle = |entry: &&Entry| self.peers.probe(&entry.host).is_none();
        let expired = self.peers.entries().filter(is_expired).filter(is_idle);
        let mut expired: Vec<Host> = expired.map(|entry| entry.host.clone()).collect();
        expired.sort();
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
}
