//! What the book is told, and what it wants done.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::chain::Block;
use super::entry::Entry;
use super::outcome::{Failure, Verified};
use super::policy::Refusal;
use crate::bans::Bans;
use crate::peer::{Host, Listed, Port, RealName, Transport};
use crate::route::{ClearnetAccess, TorSign, TorState, Via};

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
    /// Which clearnet connections the Tor in use accepts.
    TorClearnet(ClearnetAccess),
    /// Something of ours that is no probe of a peer got through Tor.
    TorReached,
    /// We reached ourselves by one of our names, as others would; this is how it is listed.
    ReachedOurselves(Box<Listed>),
    /// A name of this node turned out to be unreachable from outside, and is listed no more.
    LostOurselves(Host),
    /// A peer that was verified let a caller of ours down.
    Doubted(Host),
    /// A server's real name, as it was found on IRC.
    MetOnIrc(RealName),
    /// What the server behind us says of the chain.
    OurChain {
        tip: u32,
        block: Option<Block>,
    },
    /// A name turned out to be our own, and is nobody else's from now on.
    Ours(Host),
    /// These are banned from now on, and nobody else.
    Bans(Arc<Bans>),
    /// These are the operator's seeds from now on.
    Seeds(Vec<RealName>),
}

/// Something to be done outside.
#[derive(Debug)]
pub enum Action {
    /// Look a name up, this way, and answer with [`Event::Resolved`].
    Resolve(Host, Via),
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
    /// What is dialled, each of them found fit for it. Empty for onion services, which have none.
    pub addresses: Vec<IpAddr>,
    /// In the order in which to try them.
    pub doors: Vec<(Transport, Port)>,
    /// The first so many of them are what the peer is believed to have. The others are claims of somebody else's, which
    /// win by success and otherwise say nothing of it.
    pub believed: usize,
    /// Whether to tell the peer of us, should it not list us.
    pub announce: bool,
    /// The height at which to look at the peer's chain.
    pub compare: Option<u32>,
}

impl Attempt {
    /// One beside the book's: these doors, and nothing told or compared.
    pub fn plain(host: Host, via: Via, addresses: Vec<IpAddr>, doors: Vec<(Transport, Port)>) -> Attempt {
        Attempt { believed: doors.len(), host, via, addresses, doors, announce: false, compare: None }
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
    /// The operator wants nothing to do with it.
    Banned {
        host: Host,
    },
    KeyChanged {
        host: Host,
    },
    NetworkDown,
    NetworkUp,
    Tor(TorState),
    /// With `tor.only`: which clearnet connections Tor accepts has changed.
    TorClearnet(ClearnetAccess),
    SeedsAgain,
    /// A seed of the configuration can't be taken in.
    SeedRefused {
        name: RealName,
        why: Refusal,
    },
}
