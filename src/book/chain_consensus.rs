//! Detection of peers that lag behind or follow another chain.
//!
//! The reference is the backend or, without one, the majority of the known peers.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use super::entry::Entry;
use crate::clock::Time;
use crate::peer::{Fault, Host, ProbeReport};

/// Double SHA-256 of a block header.
pub type BlockHash = [u8; 32];

/// Height, and hash of the block at that height.
pub type Checkpoint = (u32, BlockHash);

/// Depth in blocks to which a chain may be reorganised. ElectrumX and Fulcrum compare at about that depth.
const REORG_DEPTH: u32 = 10;

/// Distance in blocks between two checkpoint heights.
///
/// All peers report the block at the same height, so that reports from different times can be compared.
const CHECKPOINT_INTERVAL: u32 = 100;

/// Maximum difference of two tips, in blocks; ElectrumX allows as many.
const MAX_TIP_LAG: u32 = 5;

/// Lifetime of a reported tip. Tips only grow, so an old report never marks a good peer as behind.
const TIP_TTL: Duration = Duration::from_hours(2);

/// Minimum number of peer reports for a check without a backend.
const QUORUM: usize = 3;

/// Maximum number of checkpoint heights kept.
const MAX_CHECKPOINTS: usize = 8;

/// Maximum number of tips kept.
const MAX_TIPS: usize = 256;

/// Minimum time since a peer became known for its reports to count.
const VOTING_AGE: Duration = Duration::from_hours(24);

/// Reports on the chain.
#[derive(Debug, Default)]
pub(super) struct ChainConsensus {
    /// Last report of the backend; `None` without one.
    backend: Option<BackendChain>,
    tips: VecDeque<(Time, Host, u32)>,
    /// Block of each peer by height.
    blocks: BTreeMap<u32, HashMap<Host, BlockHash>>,
}

#[derive(Debug)]
struct BackendChain {
    tip: u32,
    block: Option<Checkpoint>,
}

/// Returns the height at which chains with this tip are compared.
pub fn height_to_compare(tip: u32) -> u32 {
    tip.saturating_sub(REORG_DEPTH) / CHECKPOINT_INTERVAL * CHECKPOINT_INTERVAL
}

impl ChainConsensus {
    /// Records the last report of the backend.
    pub(super) fn set_backend_tip(&mut self, tip: u32, block: Option<Checkpoint>) {
        self.backend = Some(BackendChain { tip, block });
    }

    /// Returns the height of the block to request from peers; `None` if no tip is known.
    pub(super) fn height_to_compare(&self, now: Time) -> Option<u32> {
        self.tip(now).map(height_to_compare)
    }

    /// Returns what is wrong with the chain of a peer, and records its report if the peer may vote.
    pub(super) fn judge(&mut self, entry: Option<&Entry>, report: &ProbeReport, now: Time) -> Option<Fault> {
        let fault = self.check(report, now);
        if let Some(entry) = entry.filter(|entry| may_vote(entry, now)) {
            self.record(&entry.host, report, now);
        }
        fault
    }

    fn check(&self, report: &ProbeReport, now: Time) -> Option<Fault> {
        let other =
            report.checkpoint.is_some_and(|(height, hash)| self.block(height).is_some_and(|block| block != hash));
        let behind = || Some(report.tip_height?.saturating_add(MAX_TIP_LAG) < self.tip(now)?);
        match other {
            true => Some(Fault::ChainFork),
            false => behind().unwrap_or(false).then_some(Fault::ChainBehind),
        }
    }

    fn record(&mut self, host: &Host, report: &ProbeReport, now: Time) {
        self.tips.retain(|(at, from, _)| from != host && now.since(*at) <= TIP_TTL);
        if let Some(tip) = report.tip_height {
            if self.tips.len() == MAX_TIPS {
                self.tips.pop_front();
            }
            self.tips.push_back((now, host.clone(), tip));
        }
        if let Some((height, hash)) = report.checkpoint {
            self.blocks.entry(height).or_default().insert(host.clone(), hash);
            while self.blocks.len() > MAX_CHECKPOINTS {
                self.blocks.pop_first();
            }
        }
    }

    /// Returns the backend's tip, or the median of the reported tips.
    fn tip(&self, now: Time) -> Option<u32> {
        if let Some(own) = &self.backend {
            return Some(own.tip);
        }
        let mut tips: Vec<u32> =
            self.tips.iter().filter(|(at, ..)| now.since(*at) <= TIP_TTL).map(|(.., tip)| *tip).collect();
        tips.sort_unstable();
        (tips.len() >= QUORUM).then(|| tips.get(tips.len() / 2).copied()).flatten()
    }

    /// Returns the reference block at this height: the backend's or the majority's.
    fn block(&self, height: u32) -> Option<BlockHash> {
        if let Some(own) = &self.backend {
            return own.block.filter(|(at, _)| *at == height).map(|(_, hash)| hash);
        }
        let votes = self.blocks.get(&height)?;
        let mut counts: HashMap<BlockHash, usize> = HashMap::new();
        for hash in votes.values() {
            *counts.entry(*hash).or_default() += 1;
        }
        let (hash, count) = counts.into_iter().max_by_key(|(_, count)| *count)?;
        (votes.len() >= QUORUM && count * 2 > votes.len()).then_some(hash)
    }
}

/// Returns whether the reports of a peer count: those of the operator's peers, and of peers known for a day.
fn may_vote(entry: &Entry, now: Time) -> bool {
    entry.source.is_operator() || (entry.last_success.is_some() && now.since(entry.first_seen) >= VOTING_AGE)
}

#[cfg(test)]
mod tests {
    use super::*;
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
            add_peer_result: None,
        }
    }

    fn host(n: usize) -> Host {
        format!("h{n}.example").parse().unwrap()
    }

    /// Peers with these tips, all with the same block.
    fn chain(tips: &[u32]) -> ChainConsensus {
        let mut chain = ChainConsensus::default();
        for (n, tip) in tips.iter().enumerate() {
            chain.record(&host(n), &report(*tip, Some((800, [1; 32]))), NOW);
        }
        chain
    }

    #[test]
    fn chain_check_below_quorum_reports_no_fault() {
        let chain = chain(&[900, 900]);
        assert_eq!(chain.height_to_compare(NOW), None);
        assert_eq!(chain.check(&report(1, Some((800, [2; 32]))), NOW), None);
    }

    #[test]
    fn peer_far_below_median_is_behind() {
        let chain = chain(&[900, 901, 5_000_000, 902, 1]);
        assert_eq!(chain.height_to_compare(NOW), Some(800));
        assert_eq!(chain.check(&report(895, None), NOW), Some(Fault::ChainBehind));
        assert_eq!(chain.check(&report(896, None), NOW), None);
        assert_eq!(chain.check(&report(1000, None), NOW), None, "a peer may know more blocks");
        assert_eq!(chain.check(&report(1, None), NOW + TIP_TTL * 2), None, "no recent tip to compare with");
    }

    #[test]
    fn peer_with_minority_block_is_on_another_chain() {
        let mut chain = chain(&[900, 900, 900, 900]);
        chain.record(&host(7), &report(900, Some((800, [2; 32]))), NOW);
        assert_eq!(chain.check(&report(900, Some((800, [2; 32]))), NOW), Some(Fault::ChainFork));
        assert_eq!(chain.check(&report(900, Some((800, [1; 32]))), NOW), None);
        assert_eq!(chain.check(&report(900, Some((700, [2; 32]))), NOW), None, "no other peer reported that height");
    }

    #[test]
    fn backend_overrides_peer_reports() {
        let mut chain = chain(&[900, 900, 900]);
        chain.set_backend_tip(2000, Some((1900, [9; 32])));
        assert_eq!(chain.height_to_compare(NOW), Some(1900));
        assert_eq!(chain.check(&report(900, None), NOW), Some(Fault::ChainBehind));
        assert_eq!(chain.check(&report(2000, Some((1900, [1; 32]))), NOW), Some(Fault::ChainFork));
        assert_eq!(chain.check(&report(1996, Some((1900, [9; 32]))), NOW), None);
        chain.set_backend_tip(0, Some((0, [9; 32])));
        assert_eq!(chain.height_to_compare(NOW), Some(0));
    }
}
