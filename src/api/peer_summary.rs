//! Summary of a peer, by which the table of peers is filtered and sorted.

use crate::book::{PeerState, Side, Source};
use crate::clock::Time;
use crate::peer::Host;

/// Values of one peer that order the table.
///
/// The page keeps one for each peer, so names share the memory of the book.
#[derive(Debug, Clone)]
pub struct PeerSummary {
    /// Host of the peer.
    pub host: Host,
    /// Side of this node that knows the peer.
    pub side: Side,
    /// State in the book.
    pub state: PeerState,
    /// Name and version of its software.
    pub software: Option<Box<str>>,
    /// Source of the name.
    pub source: Source,
    /// Median duration of the last successful probes in milliseconds.
    pub latency_ms: Option<u32>,
    /// Share of the last week during which it was reachable, from 0 to 1.
    pub weekly_uptime: Option<f64>,
    /// Time of the last successful probe; `None` if never.
    pub last_success: Option<Time>,
}
