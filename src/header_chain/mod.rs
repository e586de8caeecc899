//! Chain of block headers with the most work, from the pinned block to the tip.
//!
//! A chain is only made longer by headers that follow the consensus rules for links, proof of work, difficulty and
//! time. Votes and claims do not change it. Memory is bounded: only the last headers are kept, and the total work.

mod chain_rules;
mod header_sync;
mod record;

use std::collections::VecDeque;
use std::fmt;

use bitcoin::pow::Work;

pub use chain_rules::{ChainRules, HeaderError};
pub use header_sync::{CatchUp, ChainReference, ChainStanding, HeaderSync, SyncStep};
pub use record::RecordError;

pub use crate::chain::BlockHash;

use crate::block_header::BlockHeader;
use crate::chain::ChainParams;

/// Blocks of a difficulty period, and the maximum number of headers in one response.
pub const PERIOD: u32 = 2016;

/// Depth in blocks to which a chain may be reorganised. ElectrumX and Fulcrum compare at about that depth.
pub const REORG_DEPTH: u32 = 10;

/// Blocks before a header whose times it is checked against.
const MEDIAN_TIMES: u32 = 11;

/// Maximum number of headers kept: a branch may leave the chain up to one period below the tip, and its first retarget
/// needs the headers of the whole period before. They take 324 KB.
const MAX_HEADERS: u32 = 2 * PERIOD + MEDIAN_TIMES;

/// Valid headers from a known block to a tip, with their work.
#[derive(Clone, PartialEq, Eq)]
pub struct HeaderChain {
    rules: ChainRules,
    /// Block below the first kept header: the anchor of the rules, or a later one.
    root: Root,
    headers: VecDeque<BlockHeader>,
    /// Work of all blocks after the anchor.
    work: Work,
}

/// Block below the kept headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Root {
    height: u32,
    hash: BlockHash,
    bits: u32,
}

impl Root {
    fn anchor(rules: &ChainRules) -> Root {
        Root { height: rules.anchor_height, hash: rules.anchor_hash, bits: rules.anchor_bits }
    }
}

impl HeaderChain {
    /// Creates a chain that ends at the anchor. `None` if the work of this chain is not followed.
    pub fn new(chain: &ChainParams) -> Option<HeaderChain> {
        ChainRules::of(chain).map(HeaderChain::at_anchor)
    }

    fn at_anchor(rules: ChainRules) -> HeaderChain {
        HeaderChain { root: Root::anchor(&rules), rules, headers: VecDeque::new(), work: no_work() }
    }

    /// Returns whether no block after the anchor is known.
    pub fn is_empty(&self) -> bool {
        self.headers.is_empty()
    }

    /// Returns the height of the tip.
    pub fn height(&self) -> u32 {
        self.root.height + u32::try_from(self.headers.len()).unwrap_or(u32::MAX)
    }

    /// Returns the hash of the tip.
    pub fn tip_hash(&self) -> BlockHash {
        self.headers.back().map_or(self.root.hash, BlockHeader::hash)
    }

    /// Returns the time in the tip's header, in seconds since 1970; `None` if the chain is empty.
    pub fn tip_time(&self) -> Option<u32> {
        self.headers.back().map(BlockHeader::time)
    }

    /// Returns the binary logarithm of the work after the anchor; zero if the chain is empty.
    pub fn log2_work(&self) -> f64 {
        if self.is_empty() { 0.0 } else { self.work.log2() }
    }

    /// Returns whether this chain has more work than another. With equal work, the one known first stays.
    pub fn has_more_work_than(&self, other: &HeaderChain) -> bool {
        self.work > other.work
    }

    /// Returns the hash of the block at a height; `None` above the tip, and below the kept headers.
    pub fn hash_at(&self, height: u32) -> Option<BlockHash> {
        match height.checked_sub(self.root.height)? {
            0 => Some(self.root.hash),
            _ if height == self.height() => Some(self.tip_hash()),
            // The next header names its parent, which saves a hash.
            _ => self.header_at(height.checked_add(1)?).map(BlockHeader::previous_hash),
        }
    }

    /// Appends a header that follows the rules.
    ///
    /// `now` is the wall clock in seconds since 1970. On an error the chain is unchanged.
    pub fn append(&mut self, header: BlockHeader, now: u32) -> Result<(), HeaderError> {
        if header.previous_hash() != self.tip_hash() {
            return Err(HeaderError::BrokenLink);
        }
        self.rules.check(&header, self.next_bits(), self.median_time(), now)?;
        self.work = self.work + header.work();
        self.headers.push_back(header);
        if self.headers.len() > MAX_HEADERS as usize
            && let Some(first) = self.headers.pop_front()
        {
            self.root = Root { height: self.root.height + 1, hash: first.hash(), bits: first.bits() };
        }
        Ok(())
    }

    /// Returns the hash of the block at a height from which another branch can be followed.
    ///
    /// `None` above the tip, and if headers that the rules need are no longer kept. The anchor is always known.
    fn fork_hash(&self, height: u32) -> Option<BlockHash> {
        let ChainRules { anchor_height, anchor_hash, .. } = self.rules;
        if height == anchor_height {
            return Some(anchor_hash);
        }
        let kept = height.checked_sub(self.root.height)?;
        let has_rules = self.root.height == anchor_height || kept >= PERIOD + MEDIAN_TIMES;
        has_rules.then(|| self.hash_at(height)).flatten()
    }

    /// Returns the chain up to a height, to follow another branch from there; `None` without a [`fork_hash`].
    ///
    /// [`fork_hash`]: HeaderChain::fork_hash
    fn branch_at(&self, height: u32) -> Option<HeaderChain> {
        self.fork_hash(height)?;
        if height == self.rules.anchor_height {
            return Some(HeaderChain::at_anchor(self.rules));
        }
        let mut branch = self.clone();
        for header in branch.headers.split_off((height - self.root.height) as usize) {
            branch.work = branch.work - header.work();
        }
        Some(branch)
    }

    fn header_at(&self, height: u32) -> Option<&BlockHeader> {
        let index = height.checked_sub(self.root.height)?.checked_sub(1)?;
        self.headers.get(index as usize)
    }

    /// Returns the compact target that the next block must have.
    fn next_bits(&self) -> u32 {
        let last = self.headers.back();
        let bits = last.map_or(self.root.bits, BlockHeader::bits);
        let height = self.height() + 1;
        let first = height.checked_sub(PERIOD).and_then(|first| self.header_at(first));
        match (first, last) {
            (Some(first), Some(last)) if height.is_multiple_of(PERIOD) => self.rules.retarget(bits, first, last),
            // The anchor is the last block of its period, and its bits are those of the next one.
            _ => bits,
        }
    }

    /// Returns the median time of the last eleven blocks, or of those after the anchor; `None` if there are none.
    fn median_time(&self) -> Option<u32> {
        let mut times: Vec<u32> =
            self.headers.iter().rev().take(MEDIAN_TIMES as usize).map(BlockHeader::time).collect();
        times.sort_unstable();
        times.get(times.len() / 2).copied()
    }
}

impl fmt::Debug for HeaderChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeaderChain").field("height", &self.height()).field("work", &self.work).finish_non_exhaustive()
    }
}

fn no_work() -> Work {
    Work::from_be_bytes([0; 32])
}

#[cfg(test)]
pub(crate) mod tests;
