//! Entry of one peer.

use data_encoding::HEXLOWER_PERMISSIVE;
use std::collections::VecDeque;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::policy;
use super::source::Source;
use super::uptime::{Uptime, WEEK};
use crate::clock::Time;
use crate::connect::{KeyHash, ProbeError, Verified};
use crate::netgroup;
use crate::peer::{Host, PeerListEntry, Ports, RealName, Version};

/// Age and weekly uptime share from which a peer counts as long-standing.
const LONG_STANDING: Duration = Duration::from_hours(7 * 24);
const RELIABLE: f64 = 0.9;

/// Difference between the clocks of two processes that is no sign of a wrong clock.
const CLOCK_TOLERANCE: Duration = Duration::from_mins(1);

/// One peer, in memory and on disk.
///
/// A change of its fields requires a migration of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub host: Host,
    /// Where it was last reached; None for onion services.
    pub ip: Option<IpAddr>,
    pub ports: Ports,
    pub software: Option<String>,
    /// The newest protocol it speaks.
    pub protocol: Option<Version>,
    pub pruning: Option<u32>,
    pub genesis_hash: Option<[u8; 32]>,
    pub key: Option<PinnedKey>,
    pub tip: Option<u32>,
    pub source: Source,
    /// Whether what stands here was said by the peer itself.
    pub self_reported: bool,
    pub first_seen: Time,
    pub last_try: Option<Time>,
    pub last_success: Option<Time>,
    /// Since the last success.
    pub failures: u32,
    /// None unless it misbehaved when last reached.
    pub violation: Option<ProbeError>,
    /// The last few verifications, oldest first.
    pub history: VecDeque<ProbeRecord>,
    /// When to try it next.
    pub next_probe_at: Time,
    /// Total working time of its path at the last success, or at `first_seen`.
    ///
    /// Expiry is measured on this clock, which does not advance during local outages.
    pub path_uptime_at_success: Duration,
    /// Time of the last announcement to the peer; `None` if never.
    pub last_announced_at: Option<Time>,
    /// How much of the time it was there.
    pub uptime: Uptime,
}

/// TLS key that a peer presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedKey {
    pub sha256: KeyHash,
    pub since: Time,
    /// How often another key stood here before.
    pub rotation_count: u32,
}

/// One verification that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeRecord {
    pub at: Time,
    /// None where it succeeded.
    pub failure: Option<ProbeError>,
    /// How long it took; zero where it failed.
    pub duration_ms: u32,
}

/// State of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerState {
    /// Verified recently; can be advertised.
    Verified,
    /// Verified once, but not recently.
    Stale,
    /// Never verified.
    Candidate,
    /// It misbehaved.
    Bad,
}

impl Entry {
    /// Outcomes that are kept.
    const HISTORY: usize = 16;

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
        }
    }

    /// Corrects moments after `now`, from a time when the machine's clock was ahead.
    ///
    /// How old such an entry is cannot be known, so its next probe is due now.
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
        if let Some(key) = &mut self.key {
            key.since = key.since.min(now);
        }
        for past in &mut self.history {
            past.at = past.at.min(now);
        }
        self.uptime.correct_times(now);
    }

    pub fn state(&self, now: Time, recent: Duration) -> PeerState {
        match (self.violation, self.last_success) {
            (Some(_), _) => PeerState::Bad,
            (None, Some(success)) if now.since(success) <= recent => PeerState::Verified,
            (None, Some(_)) => PeerState::Stale,
            (None, None) => PeerState::Candidate,
        }
    }

    pub fn listed(&self) -> PeerListEntry {
        let name =
            RealName { host: self.host.clone(), version: self.protocol, pruning: self.pruning, ports: self.ports };
        // Where it was reached through NAT64, only the embedded address is of use to others.
        PeerListEntry { ip: self.ip.map(netgroup::canonical), name }
    }

    /// The ports that may be dialled and advertised; `None` where there are none.
    pub fn permitted_ports(&self) -> Option<Ports> {
        policy::permitted_ports(&self.host, self.ports, self.source.port_origin())
    }

    /// The middle one of the times that its successes took.
    pub fn latency(&self) -> Option<Duration> {
        let mut millis: Vec<u32> =
            self.history.iter().filter(|past| past.failure.is_none()).map(|past| past.duration_ms).collect();
        millis.sort_unstable();
        millis.get(millis.len() / 2).map(|millis| Duration::from_millis(u64::from(*millis)))
    }

    /// Whether it was there for long, and most of that time.
    pub fn is_long_standing(&self, now: Time) -> bool {
        now.since(self.first_seen) >= LONG_STANDING && self.uptime.share(WEEK).is_some_and(|share| share >= RELIABLE)
    }

    /// Takes over what the peer said of itself. Whether its key is another than before is the answer.
    pub fn verified(&mut self, verified: &Verified, reach: Duration, now: Time) -> bool {
        let Verified { report, .. } = verified;
        self.ip = verified.ip;
        let met = Ports::single(verified.transport, verified.port);
        if !self.ports.iter().any(|door| door == (verified.transport, verified.port)) {
            self.ports = met;
        }
        self.protocol = Some(report.negotiated_version);
        if let Some(features) = &report.features {
            let declared = features.ports_for(&self.host).flatten();
            let declared =
                declared.and_then(|ports| policy::first_hand_ports(&self.host, ports, self.permitted_ports()));
            self.ports = declared.unwrap_or(self.ports);
            self.protocol = features.protocol_max.or(self.protocol);
            self.pruning = features.pruning;
            let hash = features
                .genesis_hash
                .as_ref()
                .and_then(|hash| HEXLOWER_PERMISSIVE.decode(hash.as_bytes()).ok()?.try_into().ok());
            self.genesis_hash = hash.or(self.genesis_hash);
            self.self_reported = true;
        }
        if report.add_peer_result.is_some() {
            self.last_announced_at = Some(now);
        }
        self.software = report.software.clone();
        self.tip = report.tip_height;
        self.last_success = Some(now);
        self.failures = 0;
        self.violation = None;
        self.path_uptime_at_success = reach;
        self.uptime.record_result(true, now);
        self.push_history(None, verified.duration, now);
        verified.tls_key_hash.is_some_and(|key| self.update_key(key, now))
    }

    /// Counts a failure that is the peer's own.
    pub fn record_failure(&mut self, failure: ProbeError, now: Time) {
        self.failures = self.failures.saturating_add(1);
        self.uptime.record_result(false, now);
        // A local DNS server that redirects, as in a hotel, must not mark known peers bad.
        let misbehaved = match failure {
            ProbeError::ProtocolViolation(_) => true,
            ProbeError::NotPublic => self.last_success.is_none(),
            _ => false,
        };
        // What misbehaved stays bad while it can't be reached, until it behaves.
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

    fn push_history(&mut self, failure: Option<ProbeError>, took: Duration, at: Time) {
        if self.history.len() >= Self::HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(ProbeRecord {
            at,
            failure,
            duration_ms: u32::try_from(took.as_millis()).unwrap_or(u32::MAX),
        });
    }
}

impl PeerState {
    pub const ALL: [PeerState; 4] = [PeerState::Verified, PeerState::Stale, PeerState::Candidate, PeerState::Bad];

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
