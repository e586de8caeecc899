//! Seeds of the operator: added at every start and after every change, and reported where that fails.

use std::collections::HashSet;

use rand::Rng;

use super::admission::IntakeError;
use super::context::Context;
use super::{Action, BookNotice, PeerBook, Source, dial_policy};
use crate::clock::Time;
use crate::peer::{Host, RealName};

/// Seed that can't be added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedSeed {
    /// Name in the configuration.
    pub name: RealName,
    /// Reason of the refusal.
    pub reason: IntakeError,
}

impl PeerBook {
    /// Adds the seeds at the start.
    ///
    /// A known peer becomes the operator's, but is not probed sooner. So a restart costs the seeds nothing.
    pub fn add_seeds(&mut self, now: Time, rng: &mut impl Rng) -> Vec<Action> {
        let mut ctx = Context::new(now, rng);
        // A book that knows working peers treats a new seed as one that is added at run time.
        let is_first_start = self.peers.entries().all(|entry| entry.last_success.is_none());
        for name in self.usable_seeds() {
            if self.peers.contains(&name.host) {
                self.adopt(&name, Source::Seed, &mut ctx);
            } else if is_first_start {
                self.add_seed(name, &mut ctx);
            } else {
                // A usable seed was checked already, and no budget applies to seeds.
                let _ = self.add_for_operator(name, Source::Seed, &mut ctx);
            }
        }
        self.report_seeds(|_| true, &mut ctx);
        self.start_due(&mut ctx);
        ctx.actions
    }

    /// Returns the seeds that can't be added.
    pub fn refused_seeds(&self) -> Vec<RefusedSeed> {
        let mut hosts: HashSet<&Host> = HashSet::new();
        let refused = |name: &RealName, is_first: bool| {
            let refusal = if is_first { self.check_seed(name) } else { Err(IntakeError::Duplicate) };
            refusal.err().map(|reason| RefusedSeed { name: name.clone(), reason })
        };
        self.config.seeds.iter().filter_map(|name| refused(name, hosts.insert(&name.host))).collect()
    }

    /// Replaces the seeds. New ones are added and probed; a former one stays as an ordinary peer.
    pub(super) fn replace_seeds(&mut self, seeds: Vec<RealName>, ctx: &mut Context<'_>) {
        let before = std::mem::replace(&mut self.config.seeds, seeds);
        for name in self.usable_seeds().into_iter().filter(|name| !before.contains(name)) {
            // A usable seed was checked already, and no budget applies to seeds.
            let _ = self.add_for_operator(name, Source::Seed, ctx);
        }
        self.report_seeds(|_| true, ctx);
    }

    /// Adds forgotten seeds again when no verified peer is left.
    pub(super) fn readd_seeds(&mut self, ctx: &mut Context<'_>) {
        let mut seeds = self.usable_seeds();
        seeds.retain(|name| !self.peers.contains(&name.host));
        if !seeds.is_empty() {
            ctx.notify(BookNotice::SeedsReused);
        }
        for name in seeds {
            self.add_seed(name, ctx);
        }
    }

    /// Reports the seeds among these that can't be added.
    pub(super) fn report_seeds(&self, is_meant: impl Fn(&RealName) -> bool, ctx: &mut Context<'_>) {
        for seed in self.refused_seeds().into_iter().filter(|seed| is_meant(&seed.name)) {
            ctx.notify(BookNotice::SeedRefused { name: seed.name, reason: seed.reason });
        }
    }

    fn add_seed(&mut self, name: RealName, ctx: &mut Context<'_>) {
        // A usable seed was checked already, and no budget applies to seeds.
        let _ = self.try_add(name, Source::Seed, ctx);
    }

    fn usable_seeds(&self) -> Vec<RealName> {
        let mut hosts: HashSet<&Host> = HashSet::new();
        let unique = self.config.seeds.iter().filter(|name| hosts.insert(&name.host));
        unique.filter(|name| self.check_seed(name).is_ok()).cloned().collect()
    }

    fn check_seed(&self, name: &RealName) -> Result<(), IntakeError> {
        let ports = self.config.admissible_ports(name, &Source::Seed)?;
        let is_dialable = dial_policy::has_dialable_port(&name.host, self.peers.route(&name.host), ports);
        if is_dialable { Ok(()) } else { Err(IntakeError::TlsRequired) }
    }
}
