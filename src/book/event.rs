//! Events for the book, and the actions it returns.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::chain_consensus::Checkpoint;
use super::entry::Entry;
use super::policy::IntakeError;
use crate::ban_list::Bans;
use crate::connect::{ProbeError, ProbeTarget, Verified};
use crate::peer::{Host, PeerListEntry, RealName};
use crate::route::Route;
use crate::tor_state::{ClearnetAccess, TorProbe, TorState};

/// Input of the book.
#[derive(Debug)]
pub enum Event {
    /// The time that `next_wakeup` named has come.
    Tick,
    /// Result of [`Action::Resolve`].
    Resolved {
        host: Host,
        addresses: Result<Vec<IpAddr>, ProbeError>,
    },
    /// Result of [`Action::Probe`].
    Probed {
        host: Host,
        outcome: Box<Result<Verified, ProbeError>>,
    },
    Tor(TorProbe),
    /// Which clearnet connections the Tor in use accepts.
    TorClearnet(ClearnetAccess),
    /// A connection through Tor other than a probe succeeded.
    TorPathProven,
    /// Waypost reached itself by one of its names; this is its list entry.
    SelfReachable(Box<PeerListEntry>),
    /// A name of this node is unreachable from outside and no longer advertised.
    LostOurselves(Host),
    /// A verified peer failed to serve a client.
    SuspectPeer(Host),
    /// Real name of a server found on IRC.
    IrcPeerFound(RealName),
    /// The backend reported its chain.
    BackendTip {
        tip: u32,
        block: Option<Checkpoint>,
    },
    /// A name belongs to this node and is never accepted as a peer again.
    LocalHost(Host),
    /// The ban list was replaced.
    BansReplaced(Arc<Bans>),
    /// The operator's seeds were replaced.
    SeedsReplaced(Vec<RealName>),
}

/// Output of the book, executed by its task.
#[derive(Debug)]
pub enum Action {
    /// Resolve a name on this route and report with [`Event::Resolved`].
    Resolve(Host, Route),
    /// Probe the peer and report with [`Event::Probed`].
    Probe(ProbeTarget),
    /// Store this entry.
    Upsert(Box<Entry>),
    /// Delete the stored entry.
    Remove(Host),
    /// Store the total working time of this path.
    SavePathUptime(Route, Duration),
    /// The advertised peers have changed.
    SnapshotDirty,
    /// Notice for the operator.
    Notice(BookNotice),
}

/// Notice for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BookNotice {
    /// The peer was verified for the first time, or again after it was no longer advertised.
    Verified {
        host: Host,
        software: Option<String>,
    },
    /// The last success is too old to advertise the peer.
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
    /// An `add_peer` request named a host that isn't its client's.
    AddPeerSpoofed {
        host: Host,
    },
    /// The peer is on the ban list.
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
