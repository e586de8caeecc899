//! Chain with the most work, which decides where work is followed.
//!
//! Peers deliver its headers within their verification. Votes and the operator's server do not override it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::chain::Chain;
use crate::connect::ProbeReport;
use crate::header_chain::{ChainStanding, HeaderChain};
use crate::peer::Fault;

/// Maximum difference of two tips, in blocks; ElectrumX allows as many.
pub const MAX_TIP_LAG: u32 = 5;

/// Blocks after which the chain is stored again: a day.
///
/// After a crash, at most these headers are downloaded again. Storing each block would write 47 MB a day.
const STORE_INTERVAL: u32 = 144;

/// Position of a peer's tip at its last visit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChainPosition {
    /// At most five blocks below the known tip.
    Level,
    /// Above the known tip: its next headers are not downloaded yet.
    Ahead,
    /// More than five blocks below the known tip.
    Behind,
    /// On a branch with less work.
    LessWork,
}

/// Known chain with the most work.
#[derive(Debug)]
pub(super) struct ChainWork {
    chain: Arc<HeaderChain>,
    /// Whether the last peer had more headers than it delivered.
    is_catching_up: bool,
    stored_height: u32,
}

impl ChainWork {
    /// Starts with the stored chain, or at the anchor; `None` if the work of the chain is not followed.
    pub(super) fn new(chain: &Chain, stored: Option<HeaderChain>) -> Option<ChainWork> {
        let chain = match stored {
            Some(stored) => stored,
            None => HeaderChain::new(chain)?,
        };
        Some(ChainWork { stored_height: chain.height(), chain: Arc::new(chain), is_catching_up: true })
    }

    /// Returns the known chain.
    pub(super) fn chain(&self) -> &Arc<HeaderChain> {
        &self.chain
    }

    /// Returns whether the last peer had more headers than it delivered.
    pub(super) fn is_catching_up(&self) -> bool {
        self.is_catching_up
    }

    /// Returns the chain if it has grown enough since it was stored.
    pub(super) fn take_unsaved(&mut self) -> Option<Arc<HeaderChain>> {
        let height = self.chain.height();
        if height.abs_diff(self.stored_height) < STORE_INTERVAL {
            return None;
        }
        self.stored_height = height;
        Some(Arc::clone(&self.chain))
    }

    /// Takes over the chain of a peer or of the backend if it has more work.
    pub(super) fn follow(&mut self, tip_height: Option<u32>, standing: Option<&ChainStanding>) {
        if let Some(ChainStanding::MoreWork(chain)) = standing
            && chain.has_more_work_than(&self.chain)
        {
            self.chain = Arc::clone(chain);
        }
        self.is_catching_up = match standing {
            Some(ChainStanding::MoreWork(_)) => tip_height > Some(self.chain.height()),
            Some(ChainStanding::OnChain) => self.is_catching_up && tip_height != Some(self.chain.height()),
            _ => self.is_catching_up,
        };
    }

    /// Returns the position of a peer's tip; `None` if it was not compared.
    pub(super) fn position(&self, report: &ProbeReport) -> Option<ChainPosition> {
        let (tip_height, standing) = (report.tip_height?, report.standing.as_ref()?);
        Some(if standing.has_less_work(tip_height, &self.chain) {
            ChainPosition::LessWork
        } else if self.is_behind(tip_height) {
            ChainPosition::Behind
        } else if tip_height > self.chain.height() {
            ChainPosition::Ahead
        } else {
            ChainPosition::Level
        })
    }

    /// Returns what is wrong with the chain of a peer.
    pub(super) fn check(&self, report: &ProbeReport) -> Option<Fault> {
        let differs = |(height, hash)| self.chain.hash_at(height).is_some_and(|known| known != hash);
        if self.position(report) == Some(ChainPosition::LessWork) {
            return Some(Fault::LessWork);
        }
        if report.checkpoint.is_some_and(differs) {
            return Some(Fault::ChainFork);
        }
        report.tip_height.filter(|tip| self.is_behind(*tip)).map(|_| Fault::ChainBehind)
    }

    fn is_behind(&self, tip_height: u32) -> bool {
        tip_height.saturating_add(MAX_TIP_LAG) < self.chain.height()
    }
}
