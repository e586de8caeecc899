//! Known chain of a book: its headers for probes, and the positions of the peers.

use std::sync::Arc;

use super::PeerBook;
use super::chain_work::{ChainPosition, ChainWork};
use super::context::Context;
use super::entry::PeerState;
use super::event::Action;
use super::peer_group::PeerGroup;
use crate::clock::Time;
use crate::header_chain::{CatchUp, ChainReference, HeaderChain};
use crate::peer::Host;

/// Maximum number of visits that download headers at the same time while the chain is far behind its peers.
///
/// Each is of another network, so that no single network delays the others. All download the same headers.
const MAX_DOWNLOADS: usize = 4;

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

impl PeerBook {
    /// Continues with a stored chain of headers.
    #[must_use]
    pub fn with_chain(mut self, stored: Option<HeaderChain>) -> PeerBook {
        self.chain.work = ChainWork::new(&self.config.chain, stored);
        self
    }

    /// Returns the known chain with the most work; `None` if work is not followed.
    pub fn header_chain(&self) -> Option<&Arc<HeaderChain>> {
        self.chain.work.as_ref().map(ChainWork::chain)
    }

    /// Returns the known chain, and the positions of verified and bad peers at their last visit.
    ///
    /// `None` if work is not followed.
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
        let (chain, is_catching_up) = (Arc::clone(work.chain()), work.is_catching_up());
        let catch_up = if is_catching_up && !self.may_download(host) { CatchUp::Deferred } else { CatchUp::Required };
        if let Some(probe) = self.peers.probe_mut(host) {
            probe.downloads_headers = is_catching_up && catch_up == CatchUp::Required;
        }
        Some(ChainReference { chain, catch_up, now: now.wall_secs() })
    }

    /// Returns whether a peer may deliver headers while others do.
    fn may_download(&self, host: &Host) -> bool {
        let group = |host: &Host| {
            let entry = self.peers.get(host)?;
            PeerGroup::network_of(entry, self.config.as_map.as_deref())
        };
        let own = group(host);
        let others = self.peers.probes().filter(|(other, probe)| probe.downloads_headers && *other != host);
        let groups: Vec<_> = others.map(|(other, _)| group(other)).collect();
        groups.len() < MAX_DOWNLOADS && !groups.contains(&own)
    }

    /// Stores the chain if it has grown enough.
    pub(super) fn save_chain(&mut self, ctx: &mut Context<'_>) {
        let unsaved = self.chain.work.as_mut().and_then(ChainWork::take_unsaved);
        ctx.actions.extend(unsaved.map(Action::SaveChain));
    }
}
