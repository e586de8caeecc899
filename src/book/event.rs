//! What the book is told, and what it wants done.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::chain_consensus::Checkpoint;
use super::entry::Entry;
use super::policy::IntakeError;
use crate::ban_list::Bans;
use crate::connect::{ProbeError, ProbeTarget, Verified};
use crate::peer::{Host, PeerListEntry, RealName};
use crate::route::{ClearnetAccess, Route, TorProbe, TorState};

/// Something that happened outside.
#[derive(Debug)]
pub enum Event {
    /// The time that `next_wakeup` named has come.
    Tick,
    /// What became of [`Action::Resolve`].
    Resolved {
        host: Host,
        addresses: Result<Vec<IpAddr>, ProbeError>,
    },
    /// What became of [`Action::Probe`].
    Probed {
        host: Host,
        outcome: Box<Result<Verified, ProbeError>>,
    },
    Tor(TorProbe),
    /// Which clearnet connections the Tor in use accepts.
    TorClearnet(ClearnetAccess),
    /// Something of ours that is no probe of a peer got through Tor.
    TorPathProven,
    /// We reached ourselves by one of our names, as others would; this is how it is listed.
    SelfReachable(Box<PeerListEntry>),
    /// A name of this node turned out to be unreachable from outside, and is listed no more.
    LostOurselves(Host),
    /// A peer that was verified let a caller of ours down.
    SuspectPeer(Host),
    /// A server's real name, as it was found on IRC.
    IrcPeerFound(RealName),
    /// What the server behind us says of the chain.
    BackendTip {
        tip: u32,
        block: Option<Checkpoint>,
    },
    /// A name turned out to be our own, and is nobody else's from now on.
    LocalHost(Host),
    /// These are banned from now on, and nobody else.
    BansReplaced(Arc<Bans>),
    /// These are the operator's seeds from now on.
    SeedsReplaced(Vec<RealName>),
}

/// Something to be done outside.
#[derive(Debug)]
pub enum Action {
    /// Look a name up, this way, and answer with [`Event::Resolved`].
    Resolve(Host, Route),
    /// Connect and converse, and answer with [`Event::Probed`].
    Probe(ProbeTarget),
    /// Keep this on disk.
    Upsert(Box<Entry>),
    /// Take this off the disk.
    Remove(Host),
    /// Keep on disk for how long this way out has worked in all.
    SavePathUptime(Route, Duration),
    /// What callers are told has changed.
    SnapshotDirty,
    /// Something that an operator may want to know.
    Notice(BookNotice),
}

/// News for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BookNotice {
    /// For the first time, or again after it was thought lost.
    Verified {
        host: Host,
        software: Option<String>,
    },
    /// Too long without a success to be told of.
    NoLongerAdvertised {
        host: Host,
        reason: ProbeError,
    },
    Misbehaved {
        host: Host,
        reason: ProbeError,
    },
    Forgotten {
        host: Host,
    },
    /// An `add_peer` named a host that isn't its caller's.
    AddPeerSpoofed {
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
    SeedsReused,
    /// A seed of the configuration can't be taken in.
    SeedRefused {
        name: RealName,
        reason: IntakeError,
    },
}
