//! Detection of peers that lag behind or follow another chain.
//!
//! The reference is the backend or, without one, the majority of the known peers.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use super::{Entry, PeerBook};
use crate::clock::Time;
use crate::peer::{Fault, Host, ProbeReport};

/// The SHA-256 of a block's header, twice.
pub type BlockHash = [u8; 32];

/// A height, and which block is there.
pub type Checkpoint = (u32, BlockHash);

/// Blocks may still be replaced so far below the tip. ElectrumX and Fulcrum compare at about that depth.
const DEPTH: u32 = 10;

/// Distance in blocks between two checkpoint heights.
///
/// All peers report the block at the same height, so that reports from different times can be compared.
const STRIDE: u32 = 100;

/// Tips may differ by so many; ElectrumX allows as many.
const LAG: u32 = 5;

/// Lifetime of a reported tip. Tips only grow, so an old report never marks a good peer as behind.
const FRESH: Duration = Duration::from_hours(2);

/// Minimum number of peer reports for a check without a backend.
const QUORUM: usize = 3;

/// Heights at which blocks were compared that are still remembered.
const HEIGHTS: usize = 8;

/// Tips that are remembered.
const TIPS: usize = 256;

/// A peer that was verified for the first time so long ago has a voice.
const LONG_KNOWN: Duration = Duration::from_hours(24);

/// What is known of the chain.
#[derive(Debug, Default)]
pub struct Chain {
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

/// At which height chains with this tip are compared.
pub fn height_to_compare(tip: u32) -> u32 {
    tip.saturating_sub(DEPTH) / STRIDE * STRIDE
}

impl Chain {
    /// Records the last report of the backend.
    pub fn trust(&mut self, tip: u32, block: Option<Checkpoint>) {
        self.backend = Some(BackendChain { tip, block });
    }

    /// The height at which a peer's block is to be looked at.
    pub fn height_to_compare(&self, now: Time) -> Option<u32> {
        self.tip(now).map(height_to_compare)
    }

    /// What is wrong with a peer's chain, if anything is.
    pub fn check(&self, report: &ProbeReport, now: Time) -> Option<Fault> {
        let other =
            report.checkpoint.is_some_and(|(height, hash)| self.block(height).is_some_and(|block| block != hash));
        let behind = || Some(report.tip_height?.saturating_add(LAG) < self.tip(now)?);
        match other {
            true => Some(Fault::ChainFork),
            false => behind().unwrap_or(false).then_some(Fault::ChainBehind),
        }
    }

    /// Takes a peer's word for what it's worth.
    pub fn hear(&mut self, host: &Host, report: &ProbeReport, now: Time) {
        self.tips.retain(|(at, from, _)| from != host && now.since(*at) <= FRESH);
        if let Some(tip) = report.tip_height {
            if self.tips.len() == TIPS {
                self.tips.pop_front();
            }
            self.tips.push_back((now, host.clone(), tip));
        }
        if let Some((height, hash)) = report.checkpoint {
            self.blocks.entry(height).or_default().insert(host.clone(), hash);
            while self.blocks.len() > HEIGHTS {
                self.blocks.pop_first();
            }
        }
    }

    /// The height of the chain: the middle one of what is said of it.
    fn tip(&self, now: Time) -> Option<u32> {
        if let Some(own) = &self.backend {
            return Some(own.tip);
        }
        let mut tips: Vec<u32> =
            self.tips.iter().filter(|(at, ..)| now.since(*at) <= FRESH).map(|(.., tip)| *tip).collect();
        tips.sort_unstable();
        (tips.len() >= QUORUM).then(|| tips.get(tips.len() / 2).copied()).flatten()
    }

    /// Returns the reference block at this height: the backend's or the majority's.
    fn block(&self, height: u32) -> Option<BlockHash> {
        if let Some(own) = &self.backend {
            return own.block.filter(|(at, _)| *at == height).map(|(_, hash)| hash);
        }
        let voices = self.blocks.get(&height)?;
        let mut counts: HashMap<BlockHash, usize> = HashMap::new();
        for hash in voices.values() {
            *counts.entry(*hash).or_default() += 1;
        }
        let (hash, count) = counts.into_iter().max_by_key(|(_, count)| *count)?;
        (voices.len() >= QUORUM && count * 2 > voices.len()).then_some(hash)
    }
}

impl PeerBook {
    /// What is wrong with a peer's chain; its own word counts from now on, if it is one that counts.
    pub(super) fn judge_chain(&mut self, host: &Host, report: &ProbeReport, now: Time) -> Option<Fault> {
        let fault = self.chain.check(report, now);
        if self.entries.get(host).is_some_and(|entry| has_voice(entry, now)) {
            self.chain.hear(host, report, now);
        }
        fault
    }
}

/// Names cost nothing: those that the operator chose have a voice, and those that were there for a day.
fn has_voice(entry: &Entry, now: Time) -> bool {
    entry.source.is_operator() || (entry.last_success.is_some() && now.since(entry.first_seen) >= LONG_KNOWN)
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
    fn chain(tips: &[u32]) -> Chain {
        let mut chain = Chain::default();
        for (n, tip) in tips.iter().enumerate() {
            chain.hear(&host(n), &report(*tip, Some((800, [1; 32]))), NOW);
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
        assert_eq!(chain.check(&report(1000, None), NOW), None, "it may know of more than we do");
        assert_eq!(chain.check(&report(1, None), NOW + FRESH * 2), None, "nothing fresh to go by");
    }

    #[test]
    fn peer_with_minority_block_is_on_another_chain() {
        let mut chain = chain(&[900, 900, 900, 900]);
        chain.hear(&host(7), &report(900, Some((800, [2; 32]))), NOW);
        assert_eq!(chain.check(&report(900, Some((800, [2; 32]))), NOW), Some(Fault::ChainFork));
        assert_eq!(chain.check(&report(900, Some((800, [1; 32]))), NOW), None);
        assert_eq!(chain.check(&report(900, Some((700, [2; 32]))), NOW), None, "nobody else was asked of that one");
    }

    #[test]
    fn backend_overrides_peer_reports() {
        let mut chain = chain(&[900, 900, 900]);
        chain.trust(2000, Some((1900, [9; 32])));
        assert_eq!(chain.height_to_compare(NOW), Some(1900));
        assert_eq!(chain.check(&report(900, None), NOW), Some(Fault::ChainBehind));
        assert_eq!(chain.check(&report(2000, Some((1900, [1; 32]))), NOW), Some(Fault::ChainFork));
        assert_eq!(chain.check(&report(1996, Some((1900, [9; 32]))), NOW), None);
        chain.trust(0, Some((0, [9; 32])));
        assert_eq!(chain.height_to_compare(NOW), Some(0));
    }
}
