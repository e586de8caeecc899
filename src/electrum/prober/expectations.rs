//! What a peer is checked against, and which requests it gets.

use crate::chain::Chain;
use crate::connect::PeerLimits;
use crate::header_chain::ChainReference;
use crate::peer::{Features, Host, Ports};

/// What a peer is checked against.
#[derive(Debug, Clone)]
pub struct ProbeExpectations {
    /// Host that features must list; `None` for own names, the backend and the operator's peers.
    pub host: Option<Host>,
    /// Chain that the peer must serve.
    pub chain: Chain,
    /// Whether the peer must prove that it serves the chain.
    pub proof: ChainProof,
    /// Whether `server.features` is requested. Some servers close the connection at it, or never answer.
    pub features: FeaturesStep,
    /// Whether requests that need no earlier response are sent together.
    pub order: RequestOrder,
    /// Own name to announce if the peer does not list it. `None`: it is not announced.
    pub announce: Option<AddPeerOffer>,
    /// Height at which the peer's block is requested. `None`: no block is requested.
    pub checkpoint_height: Option<u32>,
    /// Chain to which the tip is compared. `None`: the tip needs no headers before it.
    pub reference: Option<ChainReference>,
}

/// Whether a peer must prove that it serves the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainProof {
    /// It must show the pinned block, the block at the compared height, and the work that the chain requires. Nothing
    /// is required on chains without a pin.
    Required,
    /// Nothing is required, as of own names.
    NotRequired,
}

/// Whether a probe requests `server.features`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeaturesStep {
    /// It is requested. Peers must list the dialled host there.
    Included,
    /// It is left out, and the report has no features.
    Skipped,
}

/// Whether a probe waits for a response before it sends the next request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestOrder {
    /// Requests that need no earlier response are sent together, and answered in any order.
    Together,
    /// Each request waits for the response to the one before, for servers that can't handle two at once.
    OneByOne,
}

/// Own name, as it is announced to peers.
#[derive(Debug, Clone)]
pub struct AddPeerOffer {
    /// The announced host.
    pub host: Host,
    /// Its ports.
    pub ports: Ports,
    /// Features with this host only, as some servers read only the first host.
    pub features: Features,
}

impl FeaturesStep {
    /// Returns the step for a peer with these limits.
    pub fn within(limits: PeerLimits) -> FeaturesStep {
        if limits.skips_features { FeaturesStep::Skipped } else { FeaturesStep::Included }
    }
}

impl RequestOrder {
    /// Returns the order for a peer with these limits.
    pub fn within(limits: PeerLimits) -> RequestOrder {
        if limits.one_by_one { RequestOrder::OneByOne } else { RequestOrder::Together }
    }
}
