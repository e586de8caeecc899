//! The operator's seeds: taken in at every start and whenever they change, and reported where that fails.

use std::collections::HashSet;

use rand::Rng;

use super::policy::IntakeError;
use super::{Action, BookNotice, PeerBook, Source, policy};
use crate::clock::Time;
use crate::peer::{Host, RealName};

impl PeerBook {
    /// Takes in the seeds at the start.
    ///
    /// A known peer becomes the operator's own, but is not probed sooner, so a restart costs the seeds nothing.
    pub fn add_seeds(&mut self, now: Time, rng: &mut impl Rng) -> Vec<Action> {
        let mut actions = Vec::new();
        for name in self.usable_seeds() {
            if self.entries.contains_key(&name.host) {
                self.adopt(&name, Source::Seed, &mut actions);
            } else {
                // It was checked, and no budget applies to seeds.
                let _ = self.try_add(name, Source::Seed, now, rng, &mut actions);
            }
        }
        self.report_seeds(|_| true, &mut actions);
        self.start_due(now, rng, &mut actions);
        actions
    }

    /// The seeds that can't be taken in, and why.
    pub fn refused_seeds(&self) -> Vec<(RealName, IntakeError)> {
        let checked = self.checked_seeds().into_iter();
        checked.filter_map(|(name, refusal)| refusal.map(|reason| (name, reason))).collect()
    }

    /// Replaces the seeds. New ones are taken in and probed; a former one stays as an ordinary peer.
    pub(super) fn replace_seeds(
        &mut self,
        seeds: Vec<RealName>,
        now: Time,
        rng: &mut impl Rng,
        actions: &mut Vec<Action>,
    ) {
        let before = std::mem::replace(&mut self.settings.seeds, seeds);
        for name in self.usable_seeds().into_iter().filter(|name| !before.contains(name)) {
            let _ = self.try_add(name, Source::Seed, now, rng, actions);
        }
        self.report_seeds(|_| true, actions);
    }

    /// Takes forgotten seeds in again when no verified peer is left.
    pub(super) fn readd_seeds(&mut self, now: Time, rng: &mut impl Rng, actions: &mut Vec<Action>) {
        let mut seeds = self.usable_seeds();
        seeds.retain(|name| !self.entries.contains_key(&name.host));
        if !seeds.is_empty() {
            actions.push(Action::Notice(BookNotice::SeedsReused));
        }
        for name in seeds {
            let _ = self.try_add(name, Source::Seed, now, rng, actions);
        }
    }

    /// Reports those of these seeds that can't be taken in.
    pub(super) fn report_seeds(&self, is_meant: impl Fn(&RealName) -> bool, actions: &mut Vec<Action>) {
        let refused = self.refused_seeds().into_iter().filter(|(name, _)| is_meant(name));
        actions.extend(refused.map(|(name, reason)| Action::Notice(BookNotice::SeedRefused { name, reason })));
    }

    fn usable_seeds(&self) -> Vec<RealName> {
        self.checked_seeds().into_iter().filter(|(_, refusal)| refusal.is_none()).map(|(name, _)| name).collect()
    }

    fn checked_seeds(&self) -> Vec<(RealName, Option<IntakeError>)> {
        let mut hosts: HashSet<&Host> = HashSet::new();
        let check = |name: &RealName, is_first: bool| -> Result<(), IntakeError> {
            if !is_first {
                return Err(IntakeError::Duplicate);
            }
            let ports = self.admissible_ports(name, &Source::Seed)?;
            if policy::has_dialable_port(&name.host, self.via(&name.host), ports) {
                Ok(())
            } else {
                Err(IntakeError::TlsRequired)
            }
        };
        let seeds = self.settings.seeds.iter();
        seeds.map(|name| (name.clone(), check(name, hosts.insert(&name.host)).err())).collect()
    }
}
