//! Chain with the most work, which decides where work is followed.
//!
//! Peers deliver its headers within their verification. Votes and the operator's server do not override it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::PeerBook;
use super::chain_consensus::MAX_TIP_LAG;
use super::context::Context;
use super::entry::PeerState;
use super::event::Action;
use super::peer_group::PeerGroup;
use crate::clock::Time;
use crate::connect::ProbeReport;
use crate::header_chain::{CatchUp, ChainReference, ChainStanding, HeaderChain};
use crate::network::Network;
use crate::peer::{Fault, Host};

/// Maximum number of visits that download headers at the same time while the chain is far behind its peers.
///
/// Each is of another network, so that no single network delays the others. All download the same headers.
const MAX_DOWNLOADS: usize = 4;

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

/// Known chain, and the positions of the peers.
#[derive(Debug, Clone)]
pub struct ChainSummary {
    /// Known chain with the most work.
    pub chain: Arc<HeaderChain>,
    /// Peers at the tip or at most five blocks below.
    pub level: usize,
    /// Peers above the tip.
    pub ahead: usize,
    /// Peers more than five blocks below the tip.
    pub behind: usize,
    /// Peers on branches with less work.
    pub less_work: usize,
}

impl ChainWork {
    /// Starts with the stored chain, or at the anchor; `None` if the work of the network is not followed.
    pub(super) fn new(network: Network, stored: Option<HeaderChain>) -> Option<ChainWork> {
        let chain = match stored {
            Some(stored) => stored,
            None => HeaderChain::new(network)?,
        };
        Some(ChainWork { stored_height: chain.height(), chain: Arc::new(chain), is_catching_up: true })
    }

    /// Returns the known chain.
    pub(super) fn chain(&self) -> &Arc<HeaderChain> {
        &self.chain
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

impl PeerBook {
    /// Continues with a stored chain of headers.
    #[must_use]
    pub fn with_chain(mut self, stored: Option<HeaderChain>) -> PeerBook {
        self.chain.work = ChainWork::new(self.config.network, stored);
        self
    }

    /// Returns the known chain with the most work; `None` if work is not followed.
    pub fn header_chain(&self) -> Option<&Arc<HeaderChain>> {
        self.chain.work.as_ref().map(ChainWork::chain)
    }

    /// Returns the known chain and the positions of verified and bad peers at their last visit; `None` if work is not followed.
    pub fn chain_summary(&self, now: Time) -> Option<ChainSummary> {
        let chain = Arc::clone(self.chain.work.as_ref()?.chain());
        let mut summary = ChainSummary { chain, level: 0, ahead: 0, behind: 0, less_work: 0 };
        let current = self.peers.entries().filter(|entry| {
            let state = entry.state(now, self.config.max_advertised_age);
            matches!(state, PeerState::Verified | PeerState::Bad)
        });
        for position in current.filter_map(|entry| entry.chain_position) {
            *match position {
                ChainPosition::Level => &mut summary.level,
                ChainPosition::Ahead => &mut summary.ahead,
                ChainPosition::Behind => &mut summary.behind,
                ChainPosition::LessWork => &mut summary.less_work,
            } += 1;
        }
        Some(summary)
    }

    /// Returns the chain to which the tip of a peer is compared; `None` if work is not followed.
    pub(super) fn chain_reference(&mut self, host: &Host, now: Time) -> Option<ChainReference> {
        let work = self.chain.work.as_ref()?;
        let catch_up =
            if work.is_catching_up && !self.may_download(host) { CatchUp::Deferred } else { CatchUp::Required };
        let downloads = work.is_catching_up && catch_up == CatchUp::Required;
        if let Some(probe) = self.peers.probe_mut(host) {
            probe.downloads_headers = downloads;
        }
        let chain = Arc::clone(self.chain.work.as_ref()?.chain());
        Some(ChainReference { chain, catch_up, now: now.wall_secs() })
    }

    /// Returns whether a peer may deliver headers while others do.
    fn may_download(&self, host: &Host) -> bool {
        let group = |host: &Host| {
            let entry = self.peers.get(host)?;
            PeerGroup::network_of(entry, self.config.as_map.as_deref())
        };
        let own = group(host);
        let mut others = self.peers.probes().filter(|(other, probe)| probe.downloads_headers && *other != host);
        let groups: Vec<_> = others.by_ref().map(|(other, _)| group(other)).collect();
        groups.len() < MAX_DOWNLOADS && !groups.contains(&own)
    }

    /// Stores the chain if it has grown enough.
    pub(super) fn save_chain(&mut self, ctx: &mut Context<'_>) {
        let Some(work) = &mut self.chain.work else { return };
        let height = work.chain.height();
        if height.abs_diff(work.stored_height) >= STORE_INTERVAL {
            work.stored_height = height;
            ctx.actions.push(Action::SaveChain(Arc::clone(&work.chain)));
        }
    }
}
