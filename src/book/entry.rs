//! Entry of one peer.

use data_encoding::HEXLOWER_PERMISSIVE;
use std::collections::VecDeque;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::announced_names::AnnouncedNames;
use super::chain_work::ChainPosition;
use super::daily_history::DailyHistory;
use super::dial_policy;
use super::reached_endpoints::ReachedEndpoints;
use super::source::Source;
use super::uptime::Uptime;
use crate::clock::Time;
use crate::connect::{CertificateBatch, FailureOrigin, KeyHash, ProbeError, Verified, WebSocketCheck};
use crate::netgroup;
use crate::peer::{Host, PeerListEntry, Ports, RealName, Transport, Version};

/// Maximum difference between the clocks of two processes that is not taken as a wrong clock.
const CLOCK_TOLERANCE: Duration = Duration::from_mins(1);

/// Version in the list entry of a peer whose version is unknown. Electrum requires at least 1.4.
const ASSUMED_VERSION: Version = Version::new(1, 4);

/// One peer, in memory and on disk.
///
/// A change of its fields requires a migration of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Host, which identifies the peer.
    pub host: Host,
    /// Address at the last success; `None` through Tor, and before the first success of a name.
    pub ip: Option<IpAddr>,
    /// Ports that the peer claims; otherwise the one that answered, or those of the source.
    pub ports: Ports,
    /// Software from the last `server.version`; `None` before the first success.
    pub software: Option<String>,
    /// Newest protocol version; `None` if unknown.
    pub protocol: Option<Version>,
    /// Pruning limit in blocks; `None` without one.
    pub pruning: Option<u32>,
    /// Genesis hash that the peer reported, in display order; `None` if it reports none.
    pub genesis_hash: Option<[u8; 32]>,
    /// TLS key at the last success with TLS; `None` if there was none.
    pub key: Option<PinnedKey>,
    /// Height of the tip that the peer reported; `None` if it serves no headers.
    pub tip: Option<u32>,
    /// First source of the name, or the operator.
    pub source: Source,
    /// Whether the peer described itself at the last success, by `server.features`.
    pub self_reported: bool,
    /// Time at which the name was added.
    pub first_seen: Time,
    /// Start of the last probe; `None` if there was none.
    pub last_try: Option<Time>,
    /// Time of the last success; `None` for a candidate.
    pub last_success: Option<Time>,
    /// Attributed failures since the last success.
    pub failures: u32,
    /// Violation when the peer was last reached; `None` if there was none.
    pub violation: Option<ProbeError>,
    /// Last 16 probes with a conclusive result, oldest first.
    pub history: VecDeque<ProbeRecord>,
    /// Due time of the next probe.
    pub next_probe_at: Time,
    /// Total working time of its path at the last success, or at `first_seen`.
    ///
    /// Expiry is measured on this clock, which does not advance during local outages.
    pub path_uptime_at_success: Duration,
    /// Time of the last announcement of any own name to the peer; `None` if never.
    pub last_announced_at: Option<Time>,
    /// Share of time in which the peer answered.
    pub uptime: Uptime,
    /// Endpoints at which the peer was verified. Empty for a candidate, and for a peer of an older store.
    pub reached: ReachedEndpoints,
    /// Promotion to a long-standing peer; `None` for newcomers.
    pub promotion: Option<Promotion>,
    /// Batch of the TLS certificate at the last success with TLS; `None` if there was none.
    pub certificate_batch: Option<CertificateBatch>,
    /// WebSockets at which the peer was verified.
    pub reached_web_sockets: ReachedEndpoints,
    /// Own names in its list at the last success.
    pub own_listings: Vec<OwnListing>,
    /// Result of the last `server.add_peer` to it; `None` if none was sent.
    pub announcement_accepted: Option<bool>,
    /// Visits by day, from the first success on.
    pub days: DailyHistory,
    /// Whether its TLS handshake failed at the last success, over TCP, of this process.
    #[serde(skip)]
    pub tls_failed: bool,
    /// Position of its tip at the last visit of this process; `None` if it was not compared.
    #[serde(skip)]
    pub chain_position: Option<ChainPosition>,
    /// Own names that this process announced to it, with the times. `None` after a start.
    #[serde(skip)]
    pub announced_names: Option<Box<AnnouncedNames>>,
}

/// Promotion of a newcomer to a long-standing peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promotion {
    /// Time of the promotion.
    pub at: Time,
    /// Address of the peer at that time, in whose network it stays long-standing. `None` for onion services.
    pub ip: Option<IpAddr>,
}

/// Entry of an own name in the list of a peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnListing {
    /// Own name.
    pub host: Host,
    /// Ports with which the peer lists it.
    pub ports: Ports,
    /// Time at which it was first seen there; it was there in each visit since.
    pub since: Time,
}

/// TLS key that a peer presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedKey {
    /// SHA-256 of the public key.
    pub sha256: KeyHash,
    /// Time at which this key was first seen.
    pub since: Time,
    /// Number of key changes.
    pub rotation_count: u32,
}

/// Result of one probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeRecord {
    /// End of the probe.
    pub at: Time,
    /// Cause of the failure; `None` for a success.
    pub failure: Option<ProbeError>,
    /// Duration in milliseconds; zero for a failure.
    pub duration_ms: u32,
}

/// State of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerState {
    /// Verified recently; can be advertised.
    Verified,
    /// Verified once, but not recently, or unproven when last reached.
    Stale,
    /// Never verified.
    Candidate,
    /// Misbehaved when last reached.
    Bad,
}

impl Entry {
    /// Maximum number of results kept.
    const HISTORY: usize = 16;

    /// Creates a candidate that is due now.
    pub fn new(name: RealName, source: Source, path_uptime_at_success: Duration, now: Time) -> Entry {
        let ip = match name.host {
            Host::Ip(ip) => Some(ip),
            Host::Onion(_) | Host::Dns(_) => None,
        };
        Entry {
            host: name.host,
            ip,
            ports: name.ports,
            software: None,
            protocol: name.version,
            pruning: name.pruning,
            genesis_hash: None,
            key: None,
            tip: None,
            source,
            self_reported: false,
            first_seen: now,
            last_try: None,
            last_success: None,
            failures: 0,
            violation: None,
            history: VecDeque::new(),
            next_probe_at: now,
            path_uptime_at_success,
            last_announced_at: None,
            uptime: Uptime::default(),
            reached: ReachedEndpoints::default(),
            promotion: None,
            certificate_batch: None,
            reached_web_sockets: ReachedEndpoints::default(),
            own_listings: Vec::new(),
            announcement_accepted: None,
            days: DailyHistory::default(),
            tls_failed: false,
            chain_position: None,
            announced_names: None,
        }
    }

    /// Corrects times in the future, written while the machine's clock was ahead.
    ///
    /// The age of such an entry is unknown, so its next probe is due now.
    pub fn correct_times(&mut self, now: Time, recheck: Duration) {
        let latest = [self.last_try, self.last_success].into_iter().flatten().fold(self.first_seen, Time::max);
        if latest.since(now) > CLOCK_TOLERANCE {
            self.next_probe_at = self.next_probe_at.min(now);
        }
        self.next_probe_at = self.next_probe_at.min(now + recheck);
        self.first_seen = self.first_seen.min(now);
        for at in [&mut self.last_try, &mut self.last_success, &mut self.last_announced_at].into_iter().flatten() {
            *at = (*at).min(now);
        }
        if let Some(promotion) = &mut self.promotion {
            promotion.at = promotion.at.min(now);
        }
        if let Some(key) = &mut self.key {
            key.since = key.since.min(now);
        }
        for past in &mut self.history {
            past.at = past.at.min(now);
        }
        self.uptime.correct_times(now);
        self.days.correct_times(now);
        self.reached.correct_times(now);
        self.reached_web_sockets.correct_times(now);
        for listing in &mut self.own_listings {
            listing.since = listing.since.min(now);
        }
    }

    /// Returns whether the peer was verified recently and has not failed since.
    pub fn is_healthy(&self, now: Time, max_age: Duration) -> bool {
        self.failures == 0 && self.state(now, max_age) == PeerState::Verified
    }

    /// Returns the state. A success counts as recent for `max_age`, unless the peer failed to prove its chain since.
    pub fn state(&self, now: Time, max_age: Duration) -> PeerState {
        match (self.violation, self.last_success) {
            (Some(_), _) => PeerState::Bad,
            (None, Some(success)) if now.since(success) <= max_age && !self.is_unproven() => PeerState::Verified,
            (None, Some(_)) => PeerState::Stale,
            (None, None) => PeerState::Candidate,
        }
    }

    /// Returns whether the peer was reached last without proof of its chain.
    fn is_unproven(&self) -> bool {
        self.history.back().is_some_and(|past| past.failure == Some(ProbeError::Unproven))
    }

    /// Returns when an own name was last announced to the peer; `None` if never.
    ///
    /// After a start, the last announcement counts for all names, as its name is not stored.
    pub fn announced_at(&self, own: &Host) -> Option<Time> {
        match &self.announced_names {
            None => self.last_announced_at,
            Some(names) => names.at(own),
        }
    }

    /// Records that an own name was announced to the peer.
    pub fn record_announcement(&mut self, own: &Host, now: Time) {
        self.announced_names.get_or_insert_default().record(own, now);
    }

    /// Returns whether the peer listed an own name at the last success.
    pub fn lists(&self, own: &Host) -> bool {
        self.own_listings.iter().any(|listing| listing.host == *own)
    }

    /// Returns the entry as it appears in peer lists, with reached endpoints only.
    pub fn listed(&self) -> PeerListEntry {
        let name = RealName {
            host: self.host.clone(),
            // Electrum drops entries without a version.
            version: Some(self.protocol.unwrap_or(ASSUMED_VERSION)),
            pruning: self.pruning,
            ports: self.verified_ports().unwrap_or(self.ports),
        };
        // Of an address behind NAT64, only the embedded IPv4 address is of use to others.
        PeerListEntry { ip: self.ip.map(netgroup::canonical), name }
    }

    /// Returns the ports at which the peer was verified and that may be dialled; `None` if there are none.
    ///
    /// Without a record, the claimed ports count: candidates are listed only while Tor is unavailable, and a peer of an
    /// older store until its next visit. Ports of WebSockets never count without a record.
    pub fn verified_ports(&self) -> Option<Ports> {
        let reached = |transport| self.reached_web_sockets.port(transport);
        let ports = self.reached.ports().unwrap_or(self.ports);
        let ports = ports.with_web_sockets(reached(Transport::Tcp), reached(Transport::Tls));
        dial_policy::permitted_ports(&self.host, ports, self.source.port_origin())
    }

    /// Returns the claimed ports that may be dialled; `None` if there are none.
    pub fn permitted_ports(&self) -> Option<Ports> {
        dial_policy::permitted_ports(&self.host, self.ports, self.source.port_origin())
    }

    /// Returns the median duration of successful probes; `None` without one.
    pub fn latency(&self) -> Option<Duration> {
        let mut millis: Vec<u32> =
            self.history.iter().filter(|past| past.failure.is_none()).map(|past| past.duration_ms).collect();
        millis.sort_unstable();
        millis.get(millis.len() / 2).map(|millis| Duration::from_millis(u64::from(*millis)))
    }

    /// Records a success and the peer's report. Returns whether its TLS key has changed.
    pub fn verified(&mut self, verified: &Verified, working_time: Duration, now: Time) -> bool {
        let Verified { report, .. } = verified;
        self.ip = verified.ip;
        let endpoint = (verified.transport, verified.port);
        self.reached.record(endpoint, now);
        if !self.ports.iter().any(|known| known == endpoint) {
            self.ports = Ports::single(verified.transport, verified.port);
        }
        self.protocol = Some(report.negotiated_version);
        if let Some(features) = &report.features {
            let declared = features.ports_for(&self.host).flatten();
            let declared =
                declared.and_then(|ports| dial_policy::first_hand_ports(&self.host, ports, self.permitted_ports()));
            self.ports = declared.unwrap_or(self.ports);
            self.protocol = features.protocol_max.or(self.protocol);
            self.pruning = features.pruning;
            let hash = features
                .genesis_hash
                .as_ref()
                .and_then(|hash| HEXLOWER_PERMISSIVE.decode(hash.as_bytes()).ok()?.try_into().ok());
            self.genesis_hash = hash.or(self.genesis_hash);
        }
        // A peer that does not describe itself could be any server behind the name.
        self.self_reported = report.features.is_some();
        self.record_web_sockets(&verified.web_sockets, now);
        if let Some(accepted) = report.add_peer_result {
            self.last_announced_at = Some(now);
            self.announcement_accepted = Some(accepted);
        }
        self.tls_failed = verified.tls_failed;
        self.software = report.software.clone();
        self.tip = report.tip_height;
        self.last_success = Some(now);
        self.failures = 0;
        self.violation = None;
        self.path_uptime_at_success = working_time;
        self.uptime.record_result(true, now);
        self.days.record(Some(verified.duration), now);
        self.push_history(None, verified.duration, now);
        verified.certificate.is_some_and(|certificate| {
            self.certificate_batch = Some(certificate.batch);
            self.update_key(certificate.key, now)
        })
    }

    /// Records the results of WebSockets. Those that the peer no longer claims are dropped.
    fn record_web_sockets(&mut self, checks: &[WebSocketCheck], now: Time) {
        for WebSocketCheck { endpoint, failure } in checks {
            match failure.map(ProbeError::blame) {
                None => self.reached_web_sockets.record(*endpoint, now),
                Some(FailureOrigin::Peer | FailureOrigin::PeerUnconfirmed) => {
                    self.reached_web_sockets.remove(*endpoint)
                }
                // The path may be at fault.
                Some(FailureOrigin::Ambiguous | FailureOrigin::Local) => {}
            }
        }
        let claimed = self.ports;
        self.reached_web_sockets.retain(|endpoint| claimed.web_sockets().any(|of| of == endpoint), now);
    }

    /// Records a failure that is attributed to the peer.
    pub fn record_failure(&mut self, failure: ProbeError, now: Time) {
        self.failures = self.failures.saturating_add(1);
        self.uptime.record_result(false, now);
        if self.last_success.is_some() {
            self.days.record(None, now);
        }
        // A local DNS server that redirects, as in a hotel, must not mark known peers bad.
        let misbehaved = match failure {
            ProbeError::ProtocolViolation(_) => true,
            ProbeError::NotPublic => self.last_success.is_none(),
            _ => false,
        };
        // A bad peer stays bad while it is unreachable.
        if misbehaved {
            self.violation = Some(failure);
        }
        self.push_history(Some(failure), Duration::ZERO, now);
    }

    fn update_key(&mut self, sha256: KeyHash, now: Time) -> bool {
        match &mut self.key {
            Some(known) if known.sha256 == sha256 => false,
            Some(known) => {
                *known = PinnedKey { sha256, since: now, rotation_count: known.rotation_count.saturating_add(1) };
                true
            }
            None => {
                self.key = Some(PinnedKey { sha256, since: now, rotation_count: 0 });
                false
            }
        }
    }

    fn push_history(&mut self, failure: Option<ProbeError>, duration: Duration, at: Time) {
        if self.history.len() >= Self::HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(ProbeRecord {
            at,
            failure,
            duration_ms: u32::try_from(duration.as_millis()).unwrap_or(u32::MAX),
        });
    }
}

impl PeerState {
    /// All states.
    pub const ALL: [PeerState; 4] = [PeerState::Verified, PeerState::Stale, PeerState::Candidate, PeerState::Bad];

    /// Returns the name used in JSON, metrics and tables.
    pub fn name(self) -> &'static str {
        match self {
            PeerState::Verified => "verified",
            PeerState::Stale => "stale",
            PeerState::Candidate => "candidate",
            PeerState::Bad => "bad",
        }
    }
}

impl fmt::Display for PeerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
