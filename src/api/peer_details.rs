//! Everything known about one peer, for its page.

use super::{PeerInfo, PortNumbers};
use crate::clock::Time;
use crate::peer::{Port, Transport};

/// One peer with its history.
#[derive(Debug, Clone)]
pub struct PeerDetails {
    /// Summary, as for all peers.
    pub info: PeerInfo,
    /// Ports that the peer claims.
    pub claimed_ports: PortNumbers,
    /// Endpoints at which the peer was verified, with the times of the last success.
    pub endpoints: Vec<ReachedEndpoint>,
    /// Visits by day, oldest first, without gaps. Empty for a peer that was never verified.
    pub days: Vec<DayVisits>,
    /// Last visits with a conclusive result, oldest first.
    pub visits: Vec<Visit>,
}

/// Endpoint at which a peer was verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReachedEndpoint {
    /// Transport, below WebSockets if there are any.
    pub transport: Transport,
    /// Port.
    pub port: Port,
    /// Whether the peer speaks WebSocket there.
    pub is_web_socket: bool,
    /// Time of the last success.
    pub at: Time,
}

/// Visits of one day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DayVisits {
    /// Start of the day.
    pub start: Time,
    /// Number of successful visits, at most 255.
    pub successes: u8,
    /// Number of failed visits, at most 255.
    pub failures: u8,
    /// Mean duration of the successful visits in milliseconds; `None` without one.
    pub mean_ms: Option<u16>,
}

/// One visit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visit {
    /// End of the visit.
    pub at: Time,
    /// Cause of the failure; `None` for a success.
    pub error: Option<String>,
    /// Duration in milliseconds; zero for a failure.
    pub duration_ms: u32,
}
