//! Events for the book, and the actions it returns.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::admission::IntakeError;
use super::chain_consensus::Checkpoint;
use super::entry::Entry;
use super::ingress::Ingress;
use super::side::Side;
use crate::as_map::AsMap;
use crate::ban_list::{Ban, Bans, ListName};
use crate::connect::{ProbeError, ProbeTarget, Verified};
use crate::header_chain::{ChainStanding, HeaderChain};
use crate::peer::{Host, PeerListEntry, RealName};
use crate::route::Route;
use crate::tor_state::{ClearnetAccess, TorProbe, TorState};

/// Input of the book.
#[derive(Debug, Clone)]
pub enum Event {
    /// Time has passed; sent at [`PeerBook::next_wakeup`](super::PeerBook::next_wakeup) at the latest.
    Tick,
    /// Result of [`Action::Resolve`].
    Resolved {
        /// Host whose name was looked up.
        host: Host,
        /// Addresses of the host.
        addresses: Result<Vec<IpAddr>, ProbeError>,
    },
    /// Result of [`Action::Probe`].
    Probed {
        /// Host of the target.
        host: Host,
        /// Report of the peer, or the reason of the failure.
        outcome: Box<Result<Verified, ProbeError>>,
    },
    /// Result of a check of Tor.
    Tor(TorProbe),
    /// Clearnet connections that the Tor in use accepts.
    TorClearnet(ClearnetAccess),
    /// A connection through Tor other than a probe succeeded.
    TorPathProven,
    /// Waypost reached itself by one of its names; this is its list entry.
    SelfReachable(Box<PeerListEntry>),
    /// A name of this node is unreachable from outside and no longer advertised.
    SelfUnreachable(Host),
    /// A verified peer failed to serve a client.
    SuspectPeer(Host),
    /// Real name of a server found on IRC.
    IrcPeerFound(RealName),
    /// The backend reported its chain.
    BackendTip {
        /// Height of the tip.
        tip: u32,
        /// Block at the compared height; `None` if the backend did not return it.
        block: Option<Checkpoint>,
        /// Position relative to the known chain; `None` if it was not compared.
        standing: Option<ChainStanding>,
    },
    /// A name belongs to this node and is never accepted as a peer again.
    LocalHost(Host),
    /// The ban lists were replaced.
    BansReplaced(Arc<Bans>),
    /// The operator's seeds were replaced.
    SeedsReplaced(Vec<RealName>),
    /// The AS map was replaced; `None` if it is no longer configured.
    AsMapReplaced(Option<Arc<AsMap>>),
}

impl Event {
    /// Returns the side that an event concerns by its content; `None` if it concerns both.
    pub fn side(&self) -> Option<Side> {
        match self {
            Event::SelfReachable(listed) => Some(Side::of(Ingress::of(&listed.name.host))),
            Event::SelfUnreachable(host) | Event::LocalHost(host) => Some(Side::of(Ingress::of(host))),
            _ => None,
        }
    }
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
    /// Store the chain of headers.
    SaveChain(Arc<HeaderChain>),
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
        /// Host of the peer.
        host: Host,
        /// Software of the peer; `None` if unknown.
        software: Option<String>,
    },
    /// The last success is too old to advertise the peer.
    NoLongerAdvertised {
        /// Host of the peer.
        host: Host,
        /// Last failure.
        reason: ProbeError,
    },
    /// The peer violated the protocol and is marked bad.
    Misbehaved {
        /// Host of the peer.
        host: Host,
        /// Violation.
        reason: ProbeError,
    },
    /// The peer expired or was evicted.
    Forgotten {
        /// Host of the peer.
        host: Host,
    },
    /// An `add_peer` request named a host that does not resolve to the client's address.
    AddPeerSpoofed {
        /// Host that was named.
        host: Host,
    },
    /// The peer is on a ban list, and was removed.
    Banned {
        /// Host of the peer.
        host: Host,
        /// Pattern that bans it, and its list.
        ban: Ban,
    },
    /// The ban lists were replaced, and peers were removed.
    BansApplied {
        /// List that bans the peers.
        list: Arc<ListName>,
        /// Number of removed peers.
        removed: usize,
    },
    /// The peer presented another TLS key than before.
    KeyChanged {
        /// Host of the peer.
        host: Host,
    },
    /// No peer can be reached directly.
    NetworkDown,
    /// A peer was reached directly again.
    NetworkUp,
    /// The state of Tor has changed.
    Tor(TorState),
    /// With `tor.only`: the clearnet connections that Tor accepts have changed.
    TorClearnet(ClearnetAccess),
    /// No healthy peer is left, so the seeds were added again.
    SeedsReused,
    /// A seed of the configuration can't be added.
    SeedRefused {
        /// Name in the configuration.
        name: RealName,
        /// Reason of the refusal.
        reason: IntakeError,
    },
}
