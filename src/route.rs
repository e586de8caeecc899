//! Which way a host is reached, and how Tor is.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::clock::Time;
use crate::peer::Host;

/// The two ways out of here. What we can say of a peer depends on how well the way to it works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Route {
    Direct,
    Tor,
}

impl Route {
    pub const ALL: [Route; 2] = [Route::Direct, Route::Tor];
}

/// Who is reached which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RoutingPolicy {
    /// Onion services through Tor, all else directly.
    #[default]
    Split,
    /// Everybody through Tor, and nothing leaves otherwise. Names are looked up, and clearnet hosts called, by Tor's exits.
    TorOnly,
}

impl RoutingPolicy {
    pub fn via(self, host: &Host) -> Route {
        if host.is_onion() || self == RoutingPolicy::TorOnly { Route::Tor } else { Route::Direct }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Route::Direct => "directly",
            Route::Tor => "through Tor",
        })
    }
}

/// How Tor is, as far as we know.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum TorState {
    /// We were told not to use it.
    #[default]
    Off,
    /// It is there and makes its way into the network.
    Starting {
        /// None where nobody can say.
        percent: Option<u8>,
        waiting_for: String,
    },
    /// It reached something for us.
    Ready,
    Down {
        since: Time,
        reason: String,
    },
}

impl TorState {
    pub fn is_ready(&self) -> bool {
        *self == TorState::Ready
    }
}

impl fmt::Display for TorState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TorState::Off => f.write_str("off"),
            TorState::Starting { percent: Some(percent), waiting_for: waits_for } => {
                write!(f, "starting, {percent} %: {waits_for}")
            }
            TorState::Starting { percent: None, waiting_for: waits_for } => write!(f, "starting: {waits_for}"),
            TorState::Ready => f.write_str("ready"),
            TorState::Down { since, reason } => write!(f, "down since {since}: {reason}"),
        }
    }
}

/// Which connections to clearnet a Tor accepts from Waypost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClearnetAccess {
    #[default]
    Allowed,
    /// Onion services alone, as `OnionTrafficOnly` and `NoIPv4Traffic` have it.
    OnionOnly,
    /// Clearnet by name alone, as `SafeSocks` has it. Waypost dials checked addresses only.
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
    /// With `tor.mode = "auto"`: a Tor on a SOCKS port is still awaited.
    Undecided,
    /// Arti in this process.
    Embedded,
    /// A Tor on a SOCKS port.
    Socks,
}

impl TorKind {
    pub const ALL: [TorKind; 3] = [TorKind::Undecided, TorKind::Embedded, TorKind::Socks];
}

/// The Tor that Waypost uses, for operators.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TorSource {
    pub kind: TorKind,
    /// SOCKS address in use; all candidates while none of them answers. Empty for the embedded Tor.
    pub addresses: Vec<SocketAddr>,
    /// While undecided: when the embedded Tor starts.
    pub until: Option<Time>,
    pub clearnet: ClearnetAccess,
}

impl TorSource {
    pub fn new(kind: TorKind, addresses: Vec<SocketAddr>) -> TorSource {
        TorSource { kind, addresses, until: None, clearnet: ClearnetAccess::default() }
    }

    /// The candidate addresses in one phrase.
    pub fn places(&self) -> String {
        let places: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        places.join(" or ")
    }
}

impl fmt::Display for TorSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.kind, self.until) {
            (TorKind::Undecided, Some(until)) => {
                write!(f, "waiting for a Tor on {} until {until}, then embedded", self.places())
            }
            (TorKind::Undecided, None) => write!(f, "waiting for a Tor on {}", self.places()),
            (TorKind::Embedded, _) => f.write_str("embedded"),
            (TorKind::Socks, _) => write!(f, "SOCKS {}", self.places()),
        }?;
        match self.clearnet {
            ClearnetAccess::Allowed => Ok(()),
            ClearnetAccess::OnionOnly => f.write_str(", onion services only"),
            ClearnetAccess::NamesOnly => f.write_str(", no connections by address"),
        }
    }
}

/// Stage at which the embedded onion service fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnionFailure {
    /// The embedded Tor can't start on its directory.
    TorStart,
    /// Tor runs, and refuses to launch the service.
    Launch,
}

impl OnionFailure {
    pub const ALL: [OnionFailure; 2] = [OnionFailure::TorStart, OnionFailure::Launch];
}

/// Why the embedded onion service does not run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnionError {
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

/// What a watcher of Tor can tell without using it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TorProbe {
    Off,
    /// Nothing answers where Tor should be, or something that isn't Tor.
    Unavailable {
        reason: String,
    },
    /// Tor says that it isn't ready yet.
    Starting {
        percent: u8,
        waits_for: String,
    },
    /// Tor is there, and in the network for all it says. Whether it reaches anything, only use can tell.
    Reachable,
}
