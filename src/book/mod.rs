//! Peer book: takes events, returns actions.
//!
//! Time and randomness are passed in, so that a simulator can run months of operation.

mod chain_consensus;
mod entry;
mod event;
mod intake;
mod path_health;
mod policy;
mod probe_queue;
mod rate_budget;
mod results;
mod scheduler;
mod seeds;
mod self_announcement;
mod snapshot;
mod source;
mod upstream_candidates;
mod uptime;
mod waiting;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;

use chain_consensus::Chain;
use path_health::PathHealth;
use policy::IntakeBudgets;
use probe_queue::ProbeQueue;
use self_announcement::VerifiedSelfEntry;

pub use chain_consensus::{BlockHash, Checkpoint, height_to_compare};
pub use entry::{Entry, PeerState, PinnedKey, ProbeRecord};
pub use event::{Action, BookNotice, Event};
pub use policy::{IntakeError, MAX_NAMES_PER_PEER_LIST, is_dialable};
pub use snapshot::{Ingress, Snapshot};
pub use source::Source;
pub use upstream_candidates::UpstreamCandidate;
pub use uptime::{Uptime, WEEK, WINDOWS};
pub use waiting::Waiting;

use crate::ban_list::Bans;
use crate::clock::Time;
use crate::netgroup::{self, Netgroup};
use crate::network::Network;
use crate::peer::{Host, Ports, RealName};
use crate::route::{Route, RoutingPolicy};
use crate::tor_state::{ClearnetAccess, TorProbe, TorState};

/// Configuration of the peer book.
#[derive(Debug, Clone)]
pub struct BookConfig {
    /// Network whose peers are kept.
    pub network: Network,
    /// Route for each kind of host.
    pub routing: RoutingPolicy,
    /// Peers added at every start.
    pub seeds: Vec<RealName>,
    /// Names of this node, which are never accepted as peers.
    pub local_hosts: Vec<Host>,
    /// Whether Waypost announces itself to peers that do not list it.
    pub announce: bool,
    /// Whether peers serve the clients' sessions as backend. Waypost does not advertise itself then.
    pub peers_as_backend: bool,
    /// Maximum time between two probes of a verified peer; 24 hours by default.
    pub recheck_interval: Duration,
    /// Maximum age of a verification for a peer to be advertised; 24 hours by default.
    pub max_advertised_age: Duration,
    /// Time without success after which a peer is removed; 14 days by default.
    pub expire_after: Duration,
    /// Delay from the first failure to the next probe; 5 minutes by default.
    pub initial_retry: Duration,
    /// Number of onion peers advertised while Tor is unavailable; 3 by default.
    pub fallback_onions: usize,
    /// Whether loopback and private addresses may be peers; false by default.
    pub allow_private: bool,
    /// Maximum number of concurrent probes; 32 by default.
    pub max_probes: usize,
    /// Maximum number of concurrent probes through Tor; 8 by default.
    pub max_tor_probes: usize,
    /// Maximum number of never-verified peers; further ones are rejected. 5000 by default.
    pub max_candidates: usize,
    /// Ban list of the operator.
    pub bans: Arc<Bans>,
}

impl Default for BookConfig {
    fn default() -> BookConfig {
        BookConfig {
            network: Network::default(),
            routing: RoutingPolicy::default(),
            seeds: Network::default().default_seeds(),
            local_hosts: Vec::new(),
            announce: false,
            peers_as_backend: false,
            recheck_interval: Duration::from_hours(24),
            max_advertised_age: Duration::from_hours(24),
            expire_after: Duration::from_hours(14 * 24),
            initial_retry: Duration::from_mins(5),
            fallback_onions: 3,
            allow_private: false,
            max_probes: 32,
            max_tor_probes: 8,
            max_candidates: 5000,
            bans: Arc::default(),
        }
    }
}

/// Interval between two removals of expired entries.
const SWEEP: Duration = Duration::from_hours(1);

/// Peer database and its scheduling state.
#[derive(Debug)]
pub struct PeerBook {
    settings: BookConfig,
    entries: HashMap<Host, Entry>,
    /// Entries that can be dialled, by `next_probe_at`, unless they are in flight.
    queue: ProbeQueue,
    in_flight: HashMap<Host, InFlightProbe>,
    /// Number of consecutive failures of a peer that were not attributed.
    unattributed_failures: HashMap<Host, u32>,
    /// Number of entries that were never verified.
    candidate_count: usize,
    /// Unverified reports of a peer's ports, dialled after its known ones.
    port_claims: HashMap<Host, Vec<PortClaim>>,
    /// Deferred peers, and the subnet whose dial budget they wait for.
    held: HashMap<Host, Netgroup>,
    direct: PathHealth,
    tor_reach: PathHealth,
    tor: TorState,
    tor_probe: TorProbe,
    /// Clearnet connections that Tor accepts. Refused peers stay out of the queue if Tor is the only route.
    tor_clearnet: ClearnetAccess,
    budgets: IntakeBudgets,
    chain: Chain,
    /// Names of this node that Waypost reached itself.
    self_entries: HashMap<Host, VerifiedSelfEntry>,
    next_sweep: Time,
}

#[derive(Debug)]
struct InFlightProbe {
    started_at: Time,
    /// The peer was never tried before.
    is_first_probe: bool,
    /// The name lookup has not finished.
    resolving: bool,
    /// The peer was verified recently.
    was_verified_recently: bool,
    /// The probe announces Waypost if the peer does not list it.
    announces_self: bool,
}

#[derive(Debug)]
struct PortClaim {
    /// Permitted by the rule on port numbers when the claim was made.
    ports: Ports,
    /// Address to which the host must resolve for the claim to hold.
    from: Option<IpAddr>,
}

/// Degree to which a path may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PathUsability {
    Usable,
    /// Only trial probes are allowed.
    Trial,
    Unavailable,
}

/// Number of peers by state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Counts {
    /// Peers verified recently.
    pub verified: usize,
    /// Peers verified once, but not recently.
    pub stale: usize,
    /// Peers never verified.
    pub candidate: usize,
    /// Peers that misbehaved when last reached.
    pub bad: usize,
    /// Onion peers among `verified`.
    pub verified_onion: usize,
    /// Onion peers among `stale`.
    pub stale_onion: usize,
    /// Onion peers among `candidate`.
    pub candidate_onion: usize,
    /// Onion peers among `bad`.
    pub bad_onion: usize,
    /// Probes in flight.
    pub probing: usize,
}

impl PeerBook {
    /// Creates a book from stored entries and the total working time of each path.
    pub fn new(settings: BookConfig, entries: Vec<Entry>, direct: Duration, tor: Duration, now: Time) -> PeerBook {
        let mut book = PeerBook {
            settings,
            entries: HashMap::new(),
            queue: ProbeQueue::default(),
            in_flight: HashMap::new(),
            unattributed_failures: HashMap::new(),
            candidate_count: 0,
            port_claims: HashMap::new(),
            held: HashMap::new(),
            direct: PathHealth::new(direct),
            tor_reach: PathHealth::new(tor),
            tor: TorState::Off,
            tor_probe: TorProbe::Off,
            tor_clearnet: ClearnetAccess::default(),
            budgets: IntakeBudgets::default(),
            chain: Chain::default(),
            self_entries: HashMap::new(),
            next_sweep: now + SWEEP,
        };
        for mut entry in entries {
            entry.correct_times(now, book.settings.recheck_interval);
            // The tables of blocked ports may have grown since it was stored.
            entry.ports = entry.permitted_ports().unwrap_or(entry.ports);
            book.insert(entry);
        }
        book
    }

    /// Handles an event and returns the resulting actions.
    pub fn handle(&mut self, event: Event, now: Time, rng: &mut impl Rng) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Tick => {}
            Event::Resolved { host, addresses } => self.on_resolved(host, addresses, now, rng, &mut actions),
            Event::Probed { host, outcome } => self.on_probe_result(host, *outcome, now, rng, &mut actions),
            Event::Tor(sign) => self.on_tor_probe(sign, now, &mut actions),
            Event::TorClearnet(access) => self.on_tor_clearnet(access, &mut actions),
            Event::TorPathProven if self.tor_probe != TorProbe::Off => {
                self.on_path_proven(Route::Tor, now, rng, &mut actions)
            }
            Event::TorPathProven => {}
            Event::SuspectPeer(host) => self.recheck_soon(&host, now),
            Event::IrcPeerFound(name) => {
                // A rejection has no requester to report to.
                let _ = self.try_add(name, Source::Irc, now, rng, &mut actions);
            }
            Event::BackendTip { tip, block } => self.chain.trust(tip, block),
            Event::SelfReachable(listed) => self.reached_ourselves(*listed, now, rng, &mut actions),
            Event::LostOurselves(host) => self.lost_ourselves(&host, &mut actions),
            Event::LocalHost(host) => self.remove_local_host(host, &mut actions),
            Event::BansReplaced(bans) => self.apply_bans(bans, &mut actions),
            Event::SeedsReplaced(seeds) => self.replace_seeds(seeds, now, rng, &mut actions),
        }
        if now >= self.next_sweep {
            self.prune(now, rng, &mut actions);
        }
        self.start_due(now, rng, &mut actions);
        actions
    }

    /// Drops a peer at the operator's request; `None` if it is unknown.
    pub fn forget(&mut self, host: &Host) -> Option<Vec<Action>> {
        self.remove(host).then(|| vec![Action::Remove(host.clone()), Action::SnapshotDirty])
    }

    /// Returns all entries, in no particular order.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// Returns the state of Tor.
    pub fn tor(&self) -> &TorState {
        &self.tor
    }

    /// Returns the time of the last success through Tor.
    pub fn tor_reached(&self) -> Option<Time> {
        self.tor_reach.last_proof()
    }

    /// Reason why no clearnet peer can be reached, where Tor is the only route and refuses them.
    pub fn clearnet_blocked(&self) -> Option<&'static str> {
        (self.settings.routing == RoutingPolicy::TorOnly).then(|| self.tor_clearnet.refusal()).flatten()
    }

    /// Returns whether the direct path is considered down.
    pub fn network_is_down(&self) -> bool {
        self.direct.is_down()
    }

    /// Counts the peers by state.
    pub fn counts(&self, now: Time) -> Counts {
        let mut counts = Counts { probing: self.in_flight.len(), ..Counts::default() };
        for entry in self.entries.values() {
            let (all, onion) = match entry.state(now, self.settings.max_advertised_age) {
                PeerState::Verified => (&mut counts.verified, &mut counts.verified_onion),
                PeerState::Stale => (&mut counts.stale, &mut counts.stale_onion),
                PeerState::Candidate => (&mut counts.candidate, &mut counts.candidate_onion),
                PeerState::Bad => (&mut counts.bad, &mut counts.bad_onion),
            };
            *all += 1;
            *onion += usize::from(entry.host.is_onion());
        }
        counts
    }

    /// Returns the configuration in use.
    pub fn settings(&self) -> &BookConfig {
        &self.settings
    }

    /// Creates a snapshot of the advertised peers for sessions.
    pub fn snapshot(&self, now: Time, rng: &mut impl Rng) -> Snapshot {
        let BookConfig { fallback_onions, max_advertised_age: recent, peers_as_backend: fronts_peers, .. } =
            self.settings;
        let own: Vec<&VerifiedSelfEntry> = if fronts_peers { Vec::new() } else { self.own_names(now).collect() };
        let tor = self.tor.clone();
        let entries = self.entries.values().filter(|entry| self.may_advertise(entry));
        let mut snapshot = Snapshot::new(entries, &own, tor, fallback_onions, recent, now, rng);
        if fronts_peers {
            snapshot.upstream_candidates = self.upstream_candidates(now, rng);
        }
        snapshot
    }
}

impl PeerBook {
    fn path_usability(&self, via: Route) -> PathUsability {
        match (via, &self.tor_probe) {
            (Route::Direct, _) if self.direct.is_down() => PathUsability::Trial,
            (Route::Direct, _) => PathUsability::Usable,
            (Route::Tor, TorProbe::Off | TorProbe::Unavailable { .. } | TorProbe::Starting { .. }) => {
                PathUsability::Unavailable
            }
            (Route::Tor, TorProbe::Reachable) if self.tor.is_ready() => PathUsability::Usable,
            (Route::Tor, TorProbe::Reachable) => PathUsability::Trial,
        }
    }

    fn has_probe_capacity(&self, via: Route) -> bool {
        let free = self.in_flight.len() < self.settings.max_probes;
        match via {
            Route::Direct => free,
            Route::Tor => free && self.in_flight(Route::Tor) < self.settings.max_tor_probes,
        }
    }

    fn via(&self, host: &Host) -> Route {
        self.settings.routing.via(host)
    }

    fn in_flight(&self, via: Route) -> usize {
        self.in_flight.keys().filter(|host| self.via(host) == via).count()
    }

    /// Returns the total working time of the path type natural to this host.
    fn path_uptime_for(&self, host: &Host) -> Duration {
        self.reach(RoutingPolicy::default().via(host)).working_time()
    }

    fn reach(&self, via: Route) -> &PathHealth {
        match via {
            Route::Direct => &self.direct,
            Route::Tor => &self.tor_reach,
        }
    }

    fn reach_mut(&mut self, via: Route) -> &mut PathHealth {
        match via {
            Route::Direct => &mut self.direct,
            Route::Tor => &mut self.tor_reach,
        }
    }

    /// Sets the next probe time. An entry in flight is queued again when its probe ends.
    fn reschedule(&mut self, host: &Host, at: Time) {
        let via = self.via(host);
        let Some(entry) = self.entries.get_mut(host) else { return };
        self.queue.remove(via, entry.next_probe_at, host);
        entry.next_probe_at = at;
        self.enqueue(host);
    }

    fn insert(&mut self, entry: Entry) {
        self.candidate_count += usize::from(entry.last_success.is_none());
        let host = entry.host.clone();
        self.entries.insert(host.clone(), entry);
        self.enqueue(&host);
    }

    /// Whether Tor's SOCKS port, where it is the only route, accepts this host.
    fn has_route(&self, host: &Host) -> bool {
        host.is_onion() || self.clearnet_blocked().is_none()
    }

    /// Adds an entry to the queue unless it is in flight, or has no permitted port or route.
    fn enqueue(&mut self, host: &Host) {
        let Some(entry) = self.entries.get(host) else { return };
        if !self.in_flight.contains_key(host) && self.has_dialable_endpoint(entry) && self.has_route(host) {
            self.queue.insert(self.via(host), entry.next_probe_at, host.clone(), entry.last_success.is_some());
        }
    }

    fn has_dialable_endpoint(&self, entry: &Entry) -> bool {
        let claims = self.port_claims.get(&entry.host).into_iter().flatten().map(|claim| claim.ports);
        let mut ports = entry.permitted_ports().into_iter().chain(claims);
        ports.any(|ports| policy::has_dialable_port(&entry.host, self.via(&entry.host), ports))
    }

    /// Returns whether the current configuration and rules allow advertising the peer.
    fn may_advertise(&self, entry: &Entry) -> bool {
        let is_permitted = self.settings.allow_private || entry.ip.is_none_or(netgroup::is_public);
        is_permitted && entry.permitted_ports().is_some()
    }

    /// Removes a peer. A probe stays in flight, so that a peer added again is not probed twice at once.
    fn remove(&mut self, host: &Host) -> bool {
        self.port_claims.remove(host);
        self.unattributed_failures.remove(host);
        self.held.remove(host);
        let Some(entry) = self.entries.remove(host) else { return false };
        self.candidate_count -= usize::from(entry.last_success.is_none());
        self.queue.remove(self.settings.routing.via(host), entry.next_probe_at, host);
        true
    }

    /// Removes a name of this node from the peers and never accepts it again.
    fn remove_local_host(&mut self, host: Host, actions: &mut Vec<Action>) {
        if self.remove(&host) {
            actions.push(Action::Remove(host.clone()));
            actions.push(Action::SnapshotDirty);
        }
        if !self.settings.local_hosts.contains(&host) {
            self.settings.local_hosts.push(host.clone());
            self.report_seeds(|seed| seed.host == host, actions);
        }
    }

    fn save(&self, host: &Host, actions: &mut Vec<Action>) {
        actions.extend(self.entries.get(host).map(|entry| Action::Upsert(Box::new(entry.clone()))));
    }

    fn idle(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values().filter(|entry| !self.in_flight.contains_key(&entry.host))
    }
}

#[cfg(test)]
mod tests;
