//! State of Tor, its clearnet access, and the onion service.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::clock::Time;
use crate::socks_address::SocksAddress;

/// State of Tor, as observed by Waypost.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum TorState {
    /// The configuration disables Tor.
    #[default]
    Off,
    /// Tor runs and is bootstrapping.
    Starting {
        /// Bootstrap progress in percent; `None` if unknown.
        percent: Option<u8>,
        /// What the bootstrap waits for.
        waiting_for: String,
    },
    /// A connection through Tor succeeded.
    Ready,
    /// Tor does not work.
    Down {
        /// Start of the outage.
        since: Time,
        /// Cause of the outage.
        reason: String,
    },
}

impl TorState {
    /// Returns whether Tor is ready for use.
    pub fn is_ready(&self) -> bool {
        *self == TorState::Ready
    }
}

impl fmt::Display for TorState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TorState::Off => f.write_str("off"),
            TorState::Starting { percent: Some(percent), waiting_for } => {
                write!(f, "starting, {percent} %: {waiting_for}")
            }
            TorState::Starting { percent: None, waiting_for } => write!(f, "starting: {waiting_for}"),
            TorState::Ready => f.write_str("ready"),
            TorState::Down { since, reason } => write!(f, "down since {since}: {reason}"),
        }
    }
}

/// Clearnet connections that Tor accepts from Waypost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClearnetAccess {
    /// All clearnet connections.
    #[default]
    Allowed,
    /// Onion services only, because of `OnionTrafficOnly` or `NoIPv4Traffic`.
    OnionOnly,
    /// Clearnet by name only, because of `SafeSocks`. Waypost dials checked addresses only.
    NamesOnly,
}

impl ClearnetAccess {
    /// Reason why no clearnet peer can be dialled through this Tor.
    pub fn refusal(self) -> Option<&'static str> {
        match self {
            ClearnetAccess::Allowed => None,
            ClearnetAccess::OnionOnly => Some(
                "Tor's SOCKS port accepts onion services only; remove OnionTrafficOnly or NoIPv4Traffic from torrc",
            ),
            ClearnetAccess::NamesOnly => Some("Tor refuses connections by address; remove SafeSocks 1 from torrc"),
        }
    }
}

/// Kind of Tor that Waypost uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TorKind {
    /// Not decided yet: with `tor.mode = "auto"`, startup waits for a Tor on a SOCKS port.
    Undecided,
    /// Arti in this process.
    Embedded,
    /// A Tor on a SOCKS port.
    Socks,
}

impl TorKind {
    /// All kinds.
    pub const ALL: [TorKind; 3] = [TorKind::Undecided, TorKind::Embedded, TorKind::Socks];
}

/// Description, for operators, of the Tor in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TorSource {
    /// Kind of Tor.
    pub kind: TorKind,
    /// SOCKS address in use; all candidates while none of them answers. Empty for the embedded Tor.
    pub addresses: Vec<SocksAddress>,
    /// Start time of the embedded Tor while undecided; `None` if none is planned.
    pub until: Option<Time>,
    /// Clearnet connections that this Tor accepts.
    pub clearnet: ClearnetAccess,
    /// Whether streams may share circuits, because the proxy accepts a single user name.
    pub shares_circuits: bool,
}

impl TorSource {
    /// Creates a source without a deadline that allows clearnet and isolates streams.
    pub fn new(kind: TorKind, addresses: Vec<SocksAddress>) -> TorSource {
        TorSource { kind, addresses, until: None, clearnet: ClearnetAccess::default(), shares_circuits: false }
    }

    /// Joins the addresses with "or".
    pub fn joined_addresses(&self) -> String {
        let addresses: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        addresses.join(" or ")
    }
}

impl fmt::Display for TorSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.kind, self.until) {
            (TorKind::Undecided, Some(until)) => {
                write!(f, "waiting for a Tor on {} until {until}, then embedded", self.joined_addresses())
            }
            (TorKind::Undecided, None) => write!(f, "waiting for a Tor on {}", self.joined_addresses()),
            (TorKind::Embedded, _) => f.write_str("embedded"),
            (TorKind::Socks, _) => write!(f, "SOCKS {}", self.joined_addresses()),
        }?;
        match self.clearnet {
            ClearnetAccess::Allowed => Ok(()),
            ClearnetAccess::OnionOnly => f.write_str(", onion services only"),
            ClearnetAccess::NamesOnly => f.write_str(", no connections by address"),
        }?;
        if self.shares_circuits { f.write_str(", streams may share circuits") } else { Ok(()) }
    }
}

/// Stage at which the embedded onion service fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnionFailure {
    /// The embedded Tor can't start on its directory.
    TorStart,
    /// Tor runs, but refuses to launch the service.
    Launch,
}

impl OnionFailure {
    /// All stages.
    pub const ALL: [OnionFailure; 2] = [OnionFailure::TorStart, OnionFailure::Launch];
}

/// Failure of the embedded onion service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnionError {
    /// Stage that failed.
    pub stage: OnionFailure,
    /// Cause and remedy.
    pub reason: String,
}

impl fmt::Display for OnionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.stage {
            OnionFailure::TorStart => write!(f, "the embedded Tor can't start: {}", self.reason),
            OnionFailure::Launch => f.write_str(&self.reason),
        }
    }
}

/// Result of a Tor check that opens no connection through Tor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TorProbe {
    /// The configuration disables Tor.
    Off,
    /// No process answers at Tor's address, or it is not Tor.
    Unavailable {
        /// Cause of the failure.
        reason: String,
    },
    /// Tor reports that it is bootstrapping.
    Starting {
        /// Bootstrap progress in percent.
        percent: u8,
        /// What the bootstrap waits for.
        waiting_for: String,
    },
    /// Tor reports no problem. Only a connection proves that it works.
    Reachable,
}
