//! Detection of peers that lag behind or follow another chain.
//!
//! The reference is the chain with the most work. Where work is not followed, and before the first header, it is the
//! backend or, without one, a vote of known peers by network group.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::chain_votes::{Vote, Voter, majority, median};
use super::chain_work::{ChainWork, MAX_TIP_LAG};
use crate::clock::Time;
use crate::connect::ProbeReport;
use crate::header_chain::{BlockHash, ChainStanding, REORG_DEPTH};
use crate::peer::Fault;

/// Height, and hash of the block at that height.
pub type Checkpoint = (u32, BlockHash);

/// Distance in blocks between two checkpoint heights.
///
/// All peers report the block at the same height, so that reports from different times can be compared.
const CHECKPOINT_INTERVAL: u32 = 100;

/// Lifetime of the backend's tip.
const BACKEND_TTL: Duration = Duration::from_hours(2);

/// Lifetime of a vote: two visits of each voter at the default interval.
///
/// Tips only grow, so an old one never marks a good peer as behind.
const VOTE_TTL: Duration = Duration::from_hours(48);

/// Maximum age of a median that is used again. Without new votes it changes only when votes expire.
const MEDIAN_TTL: Duration = Duration::from_mins(1);

/// Maximum number of checkpoint heights kept.
const MAX_CHECKPOINTS: usize = 8;

/// Maximum number of votes kept for each height, and for the tip. The oldest is dropped.
const MAX_VOTES: usize = 256;

/// Reports on the chain.
#[derive(Debug, Default)]
pub(super) struct ChainConsensus {
    /// Chain with the most work; `None` if work is not followed.
    pub work: Option<ChainWork>,
    /// Last report of the backend; `None` without one.
    backend: Option<BackendChain>,
    tips: Votes<u32>,
    /// Median of the last tips and the time of its computation. `None`: a vote was added since.
    median_tip: Option<(Time, Option<u32>)>,
    blocks: BTreeMap<u32, Votes<BlockHash>>,
}

#[derive(Debug)]
struct BackendChain {
    at: Time,
    tip: u32,
    block: Option<Checkpoint>,
}

/// Returns the height at which chains with this tip are compared.
pub fn height_to_compare(tip: u32) -> u32 {
    tip.saturating_sub(REORG_DEPTH) / CHECKPOINT_INTERVAL * CHECKPOINT_INTERVAL
}

impl ChainConsensus {
    /// Starts without votes.
    pub(super) fn new(work: Option<ChainWork>) -> ChainConsensus {
        ChainConsensus { work, ..ChainConsensus::default() }
    }

    /// Records the last report of the backend.
    pub(super) fn set_backend_tip(
        &mut self,
        tip: u32,
        block: Option<Checkpoint>,
        standing: Option<&ChainStanding>,
        now: Time,
    ) {
        if let Some(work) = &mut self.work {
            work.follow(Some(tip), standing);
        }
        self.backend = Some(BackendChain { at: now, tip, block });
    }

    /// Returns the height of the block to request from peers; `None` if no tip is known.
    pub(super) fn height_to_compare(&mut self, now: Time) -> Option<u32> {
        self.tip(now).map(height_to_compare)
    }

    /// Returns what is wrong with the chain of a peer, and records its report if it is a voter.
    pub(super) fn judge(&mut self, voter: Option<Voter>, report: &ProbeReport, now: Time) -> Option<Fault> {
        if let Some(work) = &mut self.work {
            work.follow(report.tip_height, report.standing.as_ref());
        }
        let fault = self.check(report, now);
        if let Some(voter) = voter {
            self.record(voter, report, now);
        }
        fault
    }

    /// Returns the known chain; `None` while it has no headers.
    fn proven(&self) -> Option<&ChainWork> {
        self.work.as_ref().filter(|work| !work.chain().is_empty())
    }

    fn check(&mut self, report: &ProbeReport, now: Time) -> Option<Fault> {
        if let Some(work) = self.proven() {
            return work.check(report);
        }
        if report.checkpoint.is_some_and(|block| self.is_of_another_chain(block, now)) {
            return Some(Fault::ChainFork);
        }
        let is_behind = report.tip_height?.saturating_add(MAX_TIP_LAG) < self.tip(now)?;
        is_behind.then_some(Fault::ChainBehind)
    }

    /// Returns whether a block differs from the backend's, or from the one that the voters agree on.
    ///
    /// The majority of the operator's peers protects every peer that agrees with it.
    fn is_of_another_chain(&self, (height, hash): Checkpoint, now: Time) -> bool {
        if let Some(backend) = &self.backend {
            return backend.block.is_some_and(|(at, block)| at == height && block != hash);
        }
        let Some(votes) = self.blocks.get(&height) else { return false };
        let operators: Vec<_> = votes.current(now).filter(|vote| vote.voter.is_trusted).collect();
        let protects = operators.iter().filter(|vote| vote.value == hash).count() * 2 > operators.len();
        !protects && majority(votes.current(now), self.tips.current(now)).is_some_and(|block| block != hash)
    }

    fn record(&mut self, voter: Voter, report: &ProbeReport, now: Time) {
        if let Some((height, hash)) = report.checkpoint {
            self.blocks.entry(height).or_default().record(voter.clone(), hash, now);
            while self.blocks.len() > MAX_CHECKPOINTS {
                self.blocks.pop_first();
            }
        }
        if let Some(tip) = report.tip_height {
            self.tips.record(voter, tip, now);
            self.median_tip = None;
        }
    }

    /// Returns the known tip, that of the backend, or the median of the voters' last tips.
    fn tip(&mut self, now: Time) -> Option<u32> {
        if let Some(work) = self.proven() {
            return Some(work.chain().height());
        }
        match &self.backend {
            Some(backend) => Some(backend.tip).filter(|_| now.since(backend.at) <= BACKEND_TTL),
            None => {
                // Each probe asks for it, and there may be many more probes than votes.
                let is_fresh = |(at, _): &(Time, _)| *at <= now && now.since(*at) <= MEDIAN_TTL;
                let computed =
                    self.median_tip.filter(is_fresh).unwrap_or_else(|| (now, median(self.tips.current(now))));
                self.median_tip = Some(computed);
                computed.1
            }
        }
    }
}

/// Last value of each voter, with its time.
#[derive(Debug)]
struct Votes<T>(HashMap<Voter, (Time, T)>);

impl<T> Default for Votes<T> {
    fn default() -> Votes<T> {
        Votes(HashMap::new())
    }
}

impl<T: Copy> Votes<T> {
    fn record(&mut self, voter: Voter, value: T, now: Time) {
        // A voter may have moved to another group since its last report.
        self.0.retain(|known, _| known.host != voter.host);
        if self.0.len() >= MAX_VOTES {
            let oldest = self.0.iter().min_by_key(|(_, (at, _))| *at).map(|(voter, _)| voter.clone());
            oldest.and_then(|oldest| self.0.remove(&oldest));
        }
        self.0.insert(voter, (now, value));
    }

    fn current(&self, now: Time) -> impl Iterator<Item = Vote<'_, T>> {
        let fresh = self.0.iter().filter(move |(_, (at, _))| now.since(*at) <= VOTE_TTL);
        fresh.map(|(voter, (_, value))| Vote { voter, value: *value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::book::chain_votes::tests::{clearnet, onion, trusted};
    use crate::peer::{PeerList, Version};

    const NOW: Time = Time::from_secs(1_700_000_000);

    fn report(tip: u32, block: Option<Checkpoint>) -> ProbeReport {
        let (software, features, listing) = (None, None, PeerList::default());
        ProbeReport {
            software,
            negotiated_version: Version::new(1, 4),
            features,
            peer_list: listing,
            tip_height: Some(tip),
            checkpoint: block,
            standing: None,
            add_peer_result: None,
        }
    }

    /// Voters of different networks with these tips, all with the same block.
    fn chain(tips: &[u32]) -> ChainConsensus {
        let mut chain = ChainConsensus::default();
        for (n, tip) in tips.iter().enumerate() {
            chain.record(clearnet(n), &report(*tip, Some((800, [1; 32]))), NOW);
        }
        chain
    }

    #[test]
    fn chain_check_below_quorum_reports_no_fault() {
        let mut chain = chain(&[900, 900]);
        assert_eq!(chain.height_to_compare(NOW), None);
        assert_eq!(chain.check(&report(1, Some((800, [2; 32]))), NOW), None);
    }

    #[test]
    fn peer_far_below_median_is_behind() {
        let mut chain = chain(&[900, 901, 5_000_000, 902, 1]);
        assert_eq!(chain.height_to_compare(NOW), Some(800));
        assert_eq!(chain.check(&report(895, None), NOW), Some(Fault::ChainBehind));
        assert_eq!(chain.check(&report(896, None), NOW), None);
        assert_eq!(chain.check(&report(1000, None), NOW), None, "a peer may know more blocks");
        assert_eq!(chain.check(&report(1, None), NOW + VOTE_TTL * 2), None, "no recent tip to compare with");
    }

    #[test]
    fn peer_with_minority_block_is_on_another_chain() {
        let mut chain = chain(&[900, 900, 900, 900]);
        chain.record(clearnet(7), &report(900, Some((800, [2; 32]))), NOW);
        assert_eq!(chain.check(&report(900, Some((800, [2; 32]))), NOW), Some(Fault::ChainFork));
        assert_eq!(chain.check(&report(900, Some((800, [1; 32]))), NOW), None);
        assert_eq!(chain.check(&report(900, Some((700, [2; 32]))), NOW), None, "no other peer reported that height");
        assert_eq!(chain.check(&report(900, Some((800, [2; 32]))), NOW + VOTE_TTL * 2), None, "votes expire");
    }

    #[test]
    fn onions_do_not_outvote_networks() {
        let mut chain = chain(&[900, 900, 900]);
        for n in 0..200 {
            chain.record(onion(n), &report(5_000, Some((800, [2; 32]))), NOW);
        }
        assert_eq!(chain.check(&report(900, Some((800, [1; 32]))), NOW), None);
        assert_eq!(chain.check(&report(900, Some((800, [2; 32]))), NOW), Some(Fault::ChainFork));
        assert_eq!(chain.height_to_compare(NOW), Some(800));
    }

    #[test]
    fn first_reports_at_a_height_decide_nothing() {
        let mut chain = chain(&[900; 20]);
        for n in 0..8 {
            chain.record(clearnet(n), &report(1000, Some((900, [2; 32]))), NOW);
        }
        assert_eq!(chain.check(&report(1000, Some((900, [1; 32]))), NOW), None, "8 of 20 voters");
        for n in 8..11 {
            chain.record(clearnet(n), &report(1000, Some((900, [2; 32]))), NOW);
        }
        assert_eq!(chain.check(&report(1000, Some((900, [1; 32]))), NOW), Some(Fault::ChainFork), "11 of 20 voters");
    }

    #[test]
    fn majority_of_seeds_protects_peers_that_agree_with_it() {
        let mut chain = chain(&[900; 40]);
        for n in 0..3 {
            chain.record(trusted(n), &report(900, Some((800, [3; 32]))), NOW);
        }
        assert_eq!(chain.check(&report(900, Some((800, [3; 32]))), NOW), None);
        assert_eq!(chain.check(&report(900, Some((800, [2; 32]))), NOW), Some(Fault::ChainFork));
    }

    #[test]
    fn backend_overrides_peer_reports() {
        let mut chain = chain(&[900, 900, 900]);
        chain.set_backend_tip(2000, Some((1900, [9; 32])), None, NOW);
        assert_eq!(chain.height_to_compare(NOW), Some(1900));
        assert_eq!(chain.check(&report(900, None), NOW), Some(Fault::ChainBehind));
        assert_eq!(chain.check(&report(2000, Some((1900, [1; 32]))), NOW), Some(Fault::ChainFork));
        assert_eq!(chain.check(&report(1996, Some((1900, [9; 32]))), NOW), None);
        assert_eq!(chain.check(&report(900, None), NOW + BACKEND_TTL * 2), None, "the backend's tip ages as well");
        chain.set_backend_tip(0, Some((0, [9; 32])), None, NOW);
        assert_eq!(chain.height_to_compare(NOW), Some(0));
    }
}
