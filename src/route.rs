//! Which way a host is reached, and how Tor is.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::clock::Time;
use crate::peer::Host;

/// The two ways out of here. What we can say of a peer depends on how well the way to it works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Via {
    Direct,
    Tor,
}

impl Via {
    pub const ALL: [Via; 2] = [Via::Direct, Via::Tor];
}

/// Who is reached which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Routing {
    /// Onion services through Tor, all else directly.
    #[default]
    Mixed,
    /// Everybody through Tor, and nothing leaves otherwise. Names are looked up, and clearnet hosts called, by Tor's exits.
    TorOnly,
}

impl Routing {
    pub fn via(self, host: &Host) -> Via {
        if host.is_onion() || self == Routing::TorOnly { Via::Tor } else { Via::Direct }
    }
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Via::Direct => "directly",
            Via::Tor => "through Tor",
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
        waits_for: String,
    },
    /// It reached something for us.
    Ready,
    Down {
        since: Time,
        why: String,
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
            TorState::Starting { percent: Some(percent), waits_for } => write!(f, "starting, {percent} %: {waits_for}"),
            TorState::Starting { percent: None, waits_for } => write!(f, "starting: {waits_for}"),
            TorState::Ready => f.write_str("ready"),
            TorState::Down { since, why } => write!(f, "down since {since}: {why}"),
        }
    }
}

/// What a watcher of Tor can tell without using it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TorSign {
    Off,
    /// Nothing answers where Tor should be, or something that isn't Tor.
    Gone {
        why: String,
    },
    /// Tor says that it isn't ready yet.
    Starting {
        percent: u8,
        waits_for: String,
    },
    /// Tor is there, and in the network for all it says. Whether it reaches anything, only use can tell.
    Answers,
}
