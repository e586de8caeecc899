//! What the book is told, and what it wants done.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::entry::{Entry, KeyHash};
use crate::peer::{Fault, Host, Port, Report, Transport};
use crate::route::{TorSign, TorState, Via};

/// Something that happened outside.
#[derive(Debug)]
pub enum Event {
    /// The time that `next_wakeup` named has come.
    Tick,
    /// What became of [`Action::Resolve`].
    Resolved {
        host: Host,
        addresses: Result<Vec<IpAddr>, Failure>,
    },
    /// What became of [`Action::Probe`].
    Probed {
        host: Host,
        outcome: Box<Result<Verified, Failure>>,
    },
    Tor(TorSign),
}

/// Something to be done outside.
#[derive(Debug)]
pub enum Action {
    /// Look a name up, and answer with [`Event::Resolved`].
    Resolve(Host),
    /// Connect and converse, and answer with [`Event::Probed`].
    Probe(Attempt),
    /// Keep this on disk.
    Save(Box<Entry>),
    /// Take this off the disk.
    Remove(Host),
    /// Keep on disk for how long this way out has worked in all.
    SaveReach(Via, Duration),
    /// What callers are told has changed.
    Publish,
    /// Something that an operator may want to know.
    Notice(Notice),
}

/// One verification, decided on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    pub host: Host,
    pub via: Via,
    /// What a direct connection dials, each of them found fit to be dialled. Empty for the way through Tor.
    pub addresses: Vec<IpAddr>,
    /// In the order in which to try them.
    pub doors: Vec<(Transport, Port)>,
    /// The first so many of them are what the peer is believed to have. The others are claims of somebody else's, which
    /// win by success and otherwise say nothing of it.
    pub believed: usize,
}

/// A verification that succeeded.
#[derive(Debug, Clone)]
pub struct Verified {
    /// None through Tor.
    pub ip: Option<IpAddr>,
    pub transport: Transport,
    pub port: Port,
    /// The TLS certificate's key.
    pub key: Option<KeyHash>,
    /// From the first packet to the last answer.
    pub took: Duration,
    pub report: Report,
}

/// Why a verification failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Failure {
    #[error("it refused the connection")]
    Refused,
    #[error("it didn't answer the connection")]
    Unreachable,
    #[error("its name wasn't found")]
    NotFound,
    #[error("its onion service wasn't found")]
    NoDescriptor,
    #[error("it fell silent")]
    Silent,
    #[error("it closed the connection")]
    Closed,
    #[error("its TLS failed")]
    Tls,
    #[error("its name means an address that isn't public")]
    NotPublic,
    #[error("{0}")]
    Bad(Fault),
    #[error("our Tor wasn't there")]
    OurTor,
    #[error("the probe broke down")]
    Internal,
    #[error("we ran out of descriptors or memory")]
    OurLimits,
}

/// Who is to blame for a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The peer, and it was reached: so the way to it works.
    Peer,
    /// The peer, whatever else.
    PeerUnreached,
    /// The peer or our own network. Only what happens on the same way about the same time can tell.
    Unclear,
    Us,
}

impl Failure {
    pub fn blame(self) -> Blame {
        match self {
            Failure::Closed | Failure::Tls | Failure::Bad(_) => Blame::Peer,
            // A firewall on our side refuses like a peer does, so this proves no way.
            Failure::Refused | Failure::NotPublic => Blame::PeerUnreached,
            // When our network breaks down in the middle of a conversation, the peer seems to fall silent.
            Failure::Unreachable | Failure::NotFound | Failure::NoDescriptor | Failure::Silent => Blame::Unclear,
            Failure::OurTor | Failure::Internal | Failure::OurLimits => Blame::Us,
        }
    }
}

/// News for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// For the first time, or again after it was thought lost.
    Verified {
        host: Host,
        software: Option<String>,
    },
    /// Too long without a success to be told of.
    Lost {
        host: Host,
        why: Failure,
    },
    Bad {
        host: Host,
        why: Failure,
    },
    Forgotten {
        host: Host,
    },
    /// An `add_peer` named a host that isn't its caller's.
    NotTheCaller {
        host: Host,
    },
    KeyChanged {
        host: Host,
    },
    NetworkDown,
    NetworkUp,
    Tor(TorState),
    SeedsAgain,
}
