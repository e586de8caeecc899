//! Administration interface: requests of operators and the types of the replies.
//!
//! The book's task answers a request with these types. `control` sends them as JSON, and the
//! commands read them back. contrib/JSON.md documents the fields.

mod peer_details;
mod peer_summary;
mod port_numbers;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

pub use peer_details::{DayVisits, PeerDetails, ReachedEndpoint, Visit};
pub use peer_summary::PeerSummary;
pub use port_numbers::PortNumbers;

use crate::ban_list::ListFormat;
use crate::book::{Counts, ListingCount, MAX_TIP_LAG, PeerState, Side, WEEK, WINDOWS};
use crate::chain::ChainName;
use crate::client_counters::ClientStats;
use crate::clock::Time;
use crate::peer::Host;
use crate::route::Route;
use crate::tor_state::{OnionError, TorSource, TorState};
use crate::trends::Trends;

/// Request to the book's task, with the sender of its reply.
#[derive(Debug)]
pub enum AdminRequest {
    /// Reads the daemon's state.
    Status(oneshot::Sender<Status>),
    /// Reads all peers.
    Peers(oneshot::Sender<Vec<PeerInfo>>),
    /// Reads the values by which all peers are sorted.
    Summaries(oneshot::Sender<Vec<PeerSummary>>),
    /// Reads these peers, each of one side.
    PeersNamed {
        /// Sides and hosts.
        names: Vec<(Side, Host)>,
        /// Receives the known ones in the same order.
        reply: oneshot::Sender<Vec<PeerInfo>>,
    },
    /// Reads everything about one peer.
    Peer {
        /// Host of the peer.
        host: Host,
        /// Receives the peer as each side knows it; nothing for an unknown host.
        reply: oneshot::Sender<Vec<PeerDetails>>,
    },
    /// Reads the samples of the last thirty days.
    Trends(oneshot::Sender<Trends>),
    /// Adds a peer.
    Add {
        /// Real name of the peer.
        name: String,
        /// Receives the reason if the peer is rejected.
        reply: oneshot::Sender<Result<(), String>>,
    },
    /// Removes a peer.
    Forget {
        /// Host of the peer.
        host: String,
        /// Receives the reason if there is no such peer.
        reply: oneshot::Sender<Result<(), String>>,
    },
}

/// State of the daemon.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// Version of the program.
    pub version: String,
    /// Configured chain.
    pub network: ChainName,
    /// Seconds since the start.
    pub uptime_secs: u64,
    /// State of Tor.
    pub tor: TorState,
    /// Time since which Tor is off, starting, ready or down; `None` while it was never used.
    pub tor_since: Option<Time>,
    /// Tor in use; `None` if Tor is off.
    pub tor_source: Option<TorSource>,
    /// With `tor.only`: why the Tor in use reaches no clearnet peer.
    pub clearnet_blocked: Option<String>,
    /// Whether no peer answers directly, including peers that were verified recently.
    pub network_down: bool,
    /// Onion service of this node; `None` without one.
    pub onion: Option<OnionStatus>,
    /// Why the embedded onion service does not run; `None` if it runs or is not configured.
    pub onion_error: Option<OnionError>,
    /// Clearnet name of this node, `identity.host`; `None` without one.
    pub clearnet: Option<ClearnetStatus>,
    /// Further clearnet names of this node.
    pub other_names: Vec<ClearnetStatus>,
    /// Addresses of the listeners, as `tcp://127.0.0.1:50001`.
    pub listeners: Vec<String>,
    /// URL of the status page; `None` without one.
    pub page: Option<String>,
    /// Backend; `None` without one.
    pub backend: Option<BackendStatus>,
    /// Visits to IRC; `None` without any.
    pub irc: Option<IrcStatus>,
    /// Ban lists, the own one first.
    pub ban_lists: Vec<BanListStatus>,
    /// Known chain with the most work; `None` if work is not followed.
    pub chain: Option<ChainStatus>,
    /// Number of peers by state.
    pub peers: Counts,
    /// Number of the onion side's peers by state; `None` if both sides share their peers.
    pub onion_side: Option<Counts>,
    /// Next time at which the book is due to act.
    pub next_probe: Time,
    /// Peer database on disk.
    pub store: StoreStatus,
    /// Counters of the clients.
    pub clients: ClientStats,
}

/// State of the onion service.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OnionStatus {
    /// Onion address.
    pub host: String,
    /// Port of the service.
    pub port: u16,
    /// Whether only clients with a key find the service, so that it is not advertised.
    pub restricted: bool,
    /// Port of the service for TLS; `None` if it has none.
    pub tls_port: Option<u16>,
    /// Cause of the last failure at the port for TLS; `None` after a success.
    pub tls_error: Option<String>,
    /// Time of the last successful self-probe; `None` if never. Advertised from the first one on.
    pub last_reached: Option<Time>,
    /// Number of failed self-probes in a row.
    pub failures: u32,
    /// Cause of the last failure; `None` after a success.
    pub error: Option<String>,
    /// How many onion peers list it.
    #[serde(flatten)]
    pub listings: Listings,
}

/// How many peers list an own name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Listings {
    /// Verified peers of the name's kind, onion or clearnet, that list it.
    pub listed_by: usize,
    /// Verified peers of that kind.
    pub peers_of_its_kind: usize,
}

impl Status {
    /// Returns the clearnet names, `identity.host` first.
    pub fn clearnet_names(&self) -> impl Iterator<Item = &ClearnetStatus> {
        self.clearnet.iter().chain(&self.other_names)
    }
}

impl ClearnetStatus {
    /// Returns whether the name was never reached, or the last test found a problem.
    pub fn is_doubtful(&self) -> bool {
        self.last_reached.is_none() || self.error.is_some() || !self.warnings.is_empty()
    }
}

impl From<ListingCount> for Listings {
    fn from(ListingCount { listed_by, peers }: ListingCount) -> Listings {
        Listings { listed_by, peers_of_its_kind: peers }
    }
}

impl fmt::Display for Listings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "listed by {} of {}", self.listed_by, self.peers_of_its_kind)
    }
}

/// Own name in the list of a peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnListingInfo {
    /// Own name.
    pub host: String,
    /// Ports with which it is listed.
    #[serde(flatten)]
    pub ports: PortNumbers,
    /// Time since which it was there in each visit.
    pub since: Time,
}

/// State of a clearnet name.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ClearnetStatus {
    /// Host name or address.
    pub host: String,
    /// Configured ports.
    #[serde(flatten)]
    pub ports: PortNumbers,
    /// Address that is advertised with the name.
    pub address: Option<String>,
    /// Route of the last successful test.
    pub via: Option<Route>,
    /// Time of the last successful test; `None` if never or if no test is possible.
    pub last_reached: Option<Time>,
    /// Number of failed tests in a row.
    pub failures: u32,
    /// Cause of the last failure; `None` after a success.
    pub error: Option<String>,
    /// Problems that do not prevent the name from being advertised.
    pub warnings: Vec<String>,
    /// How many clearnet peers list it.
    #[serde(flatten)]
    pub listings: Listings,
}

/// State of the backend.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BackendStatus {
    /// Value of `backend.electrum`, with commas between several targets.
    pub electrum: String,
    /// Why the backend does not work now; `None` if it works.
    pub error: Option<String>,
    /// The operator's servers, in the order of the configuration.
    pub servers: Vec<BackendServerStatus>,
    /// Name and version of its software.
    pub software: Option<String>,
    /// Height of its chain tip.
    pub tip: Option<u32>,
    /// Blocks by which its tip is below the known chain; zero at the tip. `None` if work is not followed.
    pub blocks_behind: Option<u32>,
    /// With peers as backend: number of sessions by host.
    pub sessions: BTreeMap<String, usize>,
    /// With peers as backend: number of answers to wallets that agreed with another peer's.
    pub checks_agreed: u64,
    /// With peers as backend: number of answers to wallets that two other peers contradicted.
    pub checks_differed: u64,
}

/// State of a server of the backend.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BackendServerStatus {
    /// Address as in `backend.electrum`.
    pub address: String,
    /// Why it is unusable; `None` if it is usable.
    pub error: Option<String>,
    /// Height of its chain tip; `None` if it was not reported.
    pub tip: Option<u32>,
    /// Number of sessions that it serves.
    pub sessions: usize,
}

impl BackendStatus {
    /// Returns whether the backend lacks blocks that peers have shown with their work.
    pub fn is_behind(&self) -> bool {
        self.blocks_behind.is_some_and(|blocks| blocks > MAX_TIP_LAG)
    }
}

/// Known chain with the most work, and the positions of verified and bad peers at their last visit.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ChainStatus {
    /// Height of the tip.
    pub height: u32,
    /// Hash of the tip in hexadecimal, in display order.
    pub hash: String,
    /// Binary logarithm of the work since the pinned block, in hashes; zero if no later block is known.
    pub log2_work: f64,
    /// Time in the tip's header; `None` if no block after the pinned one is known.
    pub tip_time: Option<Time>,
    /// Number of peers at the tip or at most five blocks below.
    pub level: usize,
    /// Number of peers above the tip, whose headers are not downloaded yet.
    pub ahead: usize,
    /// Number of peers more than five blocks below the tip.
    pub behind: usize,
    /// Number of peers on branches with less work.
    pub less_work: usize,
}

/// Results of the visits to IRC.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct IrcStatus {
    /// Host and port of the server.
    pub server: String,
    /// Time of the last visit; `None` before the first.
    pub last: Option<Time>,
    /// Cause of the last visit's failure; `None` after a success.
    pub error: Option<String>,
    /// Time of the next visit; `None` if none is scheduled.
    pub next: Option<Time>,
    /// Number of real names of servers.
    pub found: u64,
    /// Number of names rejected because the IRC server truncated them.
    pub cut_off: u64,
    /// Number of names rejected for control codes.
    pub control_codes: u64,
    /// Number of names that are not real names of servers.
    pub unreadable: u64,
}

/// State of a ban list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BanListStatus {
    /// Path of the file.
    pub path: String,
    /// Whether `waypost ban` and `waypost unban` edit it.
    pub own: bool,
    /// Format of the file.
    pub format: ListFormat,
    /// Number of patterns in force.
    pub patterns: usize,
    /// Number of entries without effect; zero for the text format.
    pub skipped: usize,
    /// Time at which the version in force was last read.
    pub last_read: Time,
    /// Time in its signature; `None` without a signature or a time.
    pub signed: Option<Time>,
    /// Why the last reading failed; the previous version then stays in force. `None` after a success.
    pub error: Option<String>,
}

impl BanListStatus {
    /// Returns whether the list has bans or a problem, or was configured.
    pub fn is_notable(&self) -> bool {
        !self.own || self.patterns > 0 || self.error.is_some()
    }
}

/// State of the store.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoreStatus {
    /// Whether the last write failed, as on a full disk.
    pub failing: bool,
    /// Number of records that are not on disk yet.
    pub pending: u64,
    /// Number of transactions since the start.
    pub batches: u64,
    /// Size of the file in bytes.
    pub bytes: u64,
}

/// One peer. Times are in milliseconds since 1970 in JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PeerInfo {
    /// Onion address, DNS name or IP address.
    pub host: String,
    /// Side of this node that knows the peer: `both`, or `clearnet` or `onion` if the sides are separate.
    pub side: Side,
    /// State in the book.
    pub state: PeerState,
    /// Address at which it was last reached.
    pub ip: Option<String>,
    /// Ports at which it was verified; of a candidate, the reported ones.
    #[serde(flatten)]
    pub ports: PortNumbers,
    /// Newest supported protocol version.
    pub protocol: Option<String>,
    /// Number of transactions kept for each address; `None` without a limit.
    pub pruning: Option<u32>,
    /// Name and version of its software.
    pub software: Option<String>,
    /// Genesis hash in hexadecimal.
    pub genesis_hash: Option<String>,
    /// SHA-256 of the TLS certificate's key, in hexadecimal.
    pub key: Option<String>,
    /// Time since which the key is known.
    pub key_since: Option<Time>,
    /// Number of times that the key changed.
    pub key_changes: u32,
    /// Height of its chain tip at the last success.
    pub tip: Option<u32>,
    /// Own names in its list.
    pub lists: Vec<OwnListingInfo>,
    /// Result of the last announcement to it; `None` if none was sent.
    pub announcement_accepted: Option<bool>,
    /// Source of the name.
    pub source: String,
    /// Whether the peer itself reported its ports.
    pub self_reported: bool,
    /// Time at which the name was added.
    pub first_seen: Time,
    /// Time of the last probe; `None` if never.
    pub last_try: Option<Time>,
    /// Time of the last successful probe; `None` if never.
    pub last_success: Option<Time>,
    /// Time of the next probe.
    pub next_try: Time,
    /// What delays the next probe past its time; `None` if nothing does.
    pub waiting_for: Option<String>,
    /// Number of failures since the last success.
    pub failures: u32,
    /// Violation that makes it bad, or the error of the last probe.
    pub error: Option<String>,
    /// Median duration of the last successful probes in milliseconds.
    pub latency_ms: Option<u64>,
    /// Share of time during which it was reachable, by window.
    ///
    /// From 0 to 1; the windows are two hours, a day, a week and a month. Older time counts with
    /// less weight.
    pub uptime: BTreeMap<String, f64>,
    /// Outcomes of the last probes, oldest first; true for a success.
    pub history: Vec<bool>,
}

impl PeerInfo {
    /// Returns the source, and the side if the peer is the onion side's.
    pub fn origin(&self) -> String {
        match self.side {
            Side::Both | Side::Clearnet => self.source.clone(),
            Side::Onion => format!("{}, onion side", self.source),
        }
    }

    /// Returns the known uptimes by window, shortest window first.
    pub fn uptimes(&self) -> impl Iterator<Item = (&'static str, f64)> {
        WINDOWS.iter().filter_map(|(window, _)| Some((*window, *self.uptime.get(*window)?)))
    }

    /// Returns the uptime of the last week, by which peers are compared; `None` if unknown.
    pub fn weekly_uptime(&self) -> Option<f64> {
        let (week, _) = WINDOWS.get(WEEK)?;
        self.uptime.get(*week).copied()
    }
}
