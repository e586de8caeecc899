//! Requests for the headers between the known chain and the tip of a peer.

use std::sync::Arc;

use super::{BlockHash, HeaderChain, HeaderError, PERIOD, REORG_DEPTH};
use crate::block_header::BlockHeader;

/// Blocks below the known tip at which a branch is searched, one request after another.
///
/// Branches of more than a few blocks are rare. Beyond the last depth, the branch is followed from the anchor.
const SEARCH_DEPTHS: [u32; 2] = [144, PERIOD];

/// Maximum number of requests in one visit.
const MAX_REQUESTS: u32 = 64;

/// Chain to which a peer's tip is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainReference {
    /// Known chain with the most work.
    pub chain: Arc<HeaderChain>,
    /// Whether a peer that is far ahead delivers its headers.
    pub catch_up: CatchUp,
    /// Wall clock, in seconds since 1970.
    pub now: u32,
}

/// Whether a visit downloads the headers of a peer that is more than a period ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CatchUp {
    /// The peer must deliver its headers.
    Required,
    /// Other visits already download the headers after the known tip.
    Deferred,
}

/// Position of a peer's tip relative to the known chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChainStanding {
    /// The tip is a block of the known chain.
    OnChain,
    /// The peer delivered headers with more work. They may end below its tip.
    MoreWork(Arc<HeaderChain>),
    /// The peer follows a branch with less work, or with as much.
    LessWork {
        /// Last block that both chains have.
        fork_height: u32,
        /// Hash of the peer's tip.
        tip_hash: BlockHash,
    },
    /// The position was not determined: the peer is far ahead and other peers deliver headers, or the next header is
    /// in the future by the local clock.
    Unknown,
}

impl ChainStanding {
    /// Returns whether a tip at this height is on a branch with less work than the known chain.
    ///
    /// A server may follow another branch for a few blocks. The chain may also have changed since the comparison.
    pub fn has_less_work(&self, tip_height: u32, known: &HeaderChain) -> bool {
        match self {
            ChainStanding::LessWork { fork_height, tip_hash } => {
                let is_on_chain = known.hash_at(tip_height) == Some(*tip_hash);
                !is_on_chain && known.height().saturating_sub(*fork_height) > REORG_DEPTH
            }
            _ => false,
        }
    }
}

/// What follows after a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SyncStep {
    /// Request headers.
    Request {
        /// Height of the first header.
        start: u32,
        /// Maximum number of headers.
        count: u32,
    },
    /// No more headers are needed.
    Done(ChainStanding),
}

/// Comparison of a peer's tip with the known chain.
///
/// Headers are requested, 2,016 at a time, until the branch has more work than the chain, or until the tip. At most one
/// branch is in memory, and it is dropped at the end of the visit unless it has more work.
#[derive(Debug)]
pub struct HeaderSync {
    chain: Arc<HeaderChain>,
    now: u32,
    tip_height: u32,
    tip_hash: BlockHash,
    /// Branch that the delivered headers form; `None` until the first common block is found.
    branch: Option<Branch>,
    /// Height of the next header.
    start: u32,
    /// Height after the last requested header.
    requested_until: u32,
    /// Index of the next depth of the search.
    next_depth: usize,
    requests: u32,
}

#[derive(Debug)]
struct Branch {
    chain: HeaderChain,
    fork_height: u32,
}

impl HeaderSync {
    /// Compares the tip with the known chain.
    pub fn start(
        reference: ChainReference,
        tip_height: u32,
        tip: &BlockHeader,
    ) -> Result<(HeaderSync, SyncStep), HeaderError> {
        let ChainReference { chain, catch_up, now } = reference;
        let known_height = chain.height();
        let is_far_ahead = tip_height > known_height.saturating_add(PERIOD);
        let is_on_chain = chain.hash_at(tip_height) == Some(tip.hash());
        let mut sync = HeaderSync {
            chain,
            now,
            tip_height,
            tip_hash: tip.hash(),
            branch: None,
            start: known_height + 1,
            requested_until: 0,
            next_depth: 0,
            requests: 0,
        };
        if is_on_chain {
            return Ok((sync, SyncStep::Done(ChainStanding::OnChain)));
        }
        if !tip.meets_own_target() {
            return Err(HeaderError::TooLittleWork);
        }
        if is_far_ahead && catch_up == CatchUp::Deferred {
            return Ok((sync, SyncStep::Done(ChainStanding::Unknown)));
        }
        if sync.connects(tip_height, tip) {
            // The tip itself is the only header that is missing.
            sync.start = tip_height;
            let step = sync.on_headers(&[*tip])?;
            return Ok((sync, step));
        }
        let step = if tip_height > known_height { sync.request() } else { sync.search_deeper() };
        step.map(|step| (sync, step))
    }

    /// Handles the headers of a response, in the order of their heights.
    pub fn on_headers(&mut self, headers: &[BlockHeader]) -> Result<SyncStep, HeaderError> {
        let first = headers.first().ok_or(HeaderError::Missing)?;
        if self.branch.is_none() && !self.connects(self.start, first) {
            return self.search_deeper();
        }
        let wanted = (self.tip_height - self.start).saturating_add(1) as usize;
        for header in headers.iter().take(wanted) {
            match self.follow(header) {
                // The local clock may be wrong, so the headers before count, and the peer is not blamed.
                Err(HeaderError::InFuture) => {
                    return Ok(SyncStep::Done(self.more_work().unwrap_or(ChainStanding::Unknown)));
                }
                result => result?,
            }
            self.start += 1;
        }
        // Without the whole request, one new block would do for a peer that claims to be far ahead.
        if self.start < self.requested_until {
            return self.request();
        }
        let is_complete = self.start > self.tip_height;
        if is_complete && self.followed_hash() != Some(self.tip_hash) {
            return Err(HeaderError::BrokenLink);
        }
        match self.more_work() {
            Some(standing) => Ok(SyncStep::Done(standing)),
            None if is_complete => {
                let fork_height = self.branch.as_ref().map_or(self.tip_height, |branch| branch.fork_height);
                Ok(SyncStep::Done(ChainStanding::LessWork { fork_height, tip_hash: self.tip_hash }))
            }
            None => self.request(),
        }
    }

    /// Appends a header to the branch, unless it is a block of the known chain.
    fn follow(&mut self, header: &BlockHeader) -> Result<(), HeaderError> {
        if self.branch.is_none() && self.chain.hash_at(self.start) == Some(header.hash()) {
            return Ok(());
        }
        if self.branch.is_none() {
            let fork_height = self.start - 1;
            let chain = self.chain.branch_at(fork_height).ok_or(HeaderError::BrokenLink)?;
            self.branch = Some(Branch { chain, fork_height });
        }
        self.branch.as_mut().map_or(Ok(()), |branch| branch.chain.append(*header, self.now))
    }

    /// Returns whether a header at this height has a parent from which its branch can be followed.
    fn connects(&self, height: u32, header: &BlockHeader) -> bool {
        let parent = height.checked_sub(1).and_then(|parent| self.chain.fork_hash(parent));
        parent == Some(header.previous_hash())
    }

    fn anchor_height(&self) -> u32 {
        self.chain.rules.anchor_height
    }

    /// Returns the hash of the last header that was followed.
    fn followed_hash(&self) -> Option<BlockHash> {
        match &self.branch {
            Some(branch) => Some(branch.chain.tip_hash()),
            None => self.chain.hash_at(self.start - 1),
        }
    }

    /// Returns the branch if it has more work than the chain, and drops it.
    fn more_work(&mut self) -> Option<ChainStanding> {
        let branch = self.branch.take_if(|branch| branch.chain.has_more_work_than(&self.chain))?;
        Some(ChainStanding::MoreWork(Arc::new(branch.chain)))
    }

    /// Requests headers from a lower height.
    fn search_deeper(&mut self) -> Result<SyncStep, HeaderError> {
        let upper = self.chain.height().min(self.tip_height);
        let lowest = self.anchor_height() + 1;
        if self.start == lowest && self.requests > 0 {
            return Err(HeaderError::BrokenLink);
        }
        let start = SEARCH_DEPTHS.get(self.next_depth).map(|depth| upper.saturating_sub(*depth));
        self.next_depth += 1;
        let can_follow = |start: &u32| *start > lowest && self.chain.fork_hash(*start - 1).is_some();
        self.start = start.filter(can_follow).unwrap_or(lowest);
        self.requested_until = 0;
        self.request()
    }

    fn request(&mut self) -> Result<SyncStep, HeaderError> {
        self.requests += 1;
        if self.requests > MAX_REQUESTS || self.start > self.tip_height {
            return Err(HeaderError::Missing);
        }
        if self.start >= self.requested_until {
            self.requested_until = self.start + (self.tip_height - self.start).saturating_add(1).min(PERIOD);
        }
        Ok(SyncStep::Request { start: self.start, count: self.requested_until - self.start })
    }
}
