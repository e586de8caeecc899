//! Peer book: takes events, returns actions.
//!
//! Time and randomness are passed in, so that a simulator can run months of operation.

mod admission;
mod announced_names;
mod candidate_groups;
mod chain_consensus;
mod chain_votes;
mod chain_work;
mod config;
mod context;
mod daily_history;
mod dial_policy;
mod entry;
mod event;
mod eviction;
mod expiry;
mod fallback;
mod ingress;
mod intake;
mod intake_budgets;
mod known_chain;
mod listable;
mod own_listing;
mod path_health;
mod paths;
mod peer_group;
mod peer_limits;
mod port_claims;
mod probe_queue;
mod publication;
mod random_order;
mod rate_budget;
mod reached_endpoints;
mod results;
mod scheduler;
mod seeds;
mod selection;
mod self_announcement;
mod side;
mod slot_budget;
mod snapshot;
mod source;
mod source_group;
mod standing;
mod table;
mod upstream_candidates;
mod uptime;
mod waiting;
mod witnesses;

use std::time::Duration;

use rand::Rng;

use chain_consensus::ChainConsensus;
use chain_work::ChainWork;
use context::Context;
use expiry::SWEEP_INTERVAL;
use intake_budgets::IntakeBudgets;
use paths::{PathUsability, Paths};
use publication::TorView;
use self_announcement::{SelfEntries, VerifiedSelfEntry};
use slot_budget::SlotBudget;
use snapshot::ListRules;
use standing::PROMOTION_INTERVAL;
use table::PeerTable;

pub use admission::{IntakeError, MAX_NAMES_PER_PEER_LIST};
pub use announced_names::AnnouncedNames;
pub use chain_consensus::{Checkpoint, height_to_compare};
pub use chain_work::{ChainPosition, MAX_TIP_LAG};
pub use config::BookConfig;
pub use daily_history::{DAY, DailyHistory, DayCounts, MAX_DAYS};
pub use dial_policy::is_dialable;
pub use entry::{Entry, OwnListing, PeerState, PinnedKey, ProbeRecord, Promotion};
pub use event::{Action, BookNotice, Event};
pub use ingress::{Ingress, PerIngress};
pub use known_chain::ChainSummary;
pub use own_listing::ListingCount;
pub use publication::Publication;
pub use reached_endpoints::ReachedEndpoints;
pub use seeds::RefusedSeed;
pub use side::Side;
pub use snapshot::Snapshot;
pub use source::Source;
pub use upstream_candidates::UpstreamCandidate;
pub use uptime::{Uptime, WEEK, WINDOWS};
pub use waiting::Waiting;

use crate::clock::Time;
use crate::peer::Host;
use crate::route::{PerRoute, Route, RouteRules};
use crate::tor_state::{ClearnetAccess, TorState};

/// Peer database and its scheduling state.
#[derive(Debug)]
pub struct PeerBook {
    config: BookConfig,
    peers: PeerTable,
    paths: Paths,
    /// State of Tor as clients see it.
    tor_view: TorView,
    budgets: IntakeBudgets,
    slots: SlotBudget,
    chain: ChainConsensus,
    self_entries: SelfEntries,
    next_sweep: Time,
    next_promotion: Time,
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
    pub fn new(config: BookConfig, mut entries: Vec<Entry>, working_time: PerRoute<Duration>, now: Time) -> PeerBook {
        let rules = RouteRules { policy: config.routing, tor_clearnet: ClearnetAccess::default() };
        let tor_view = TorView::new(config.side, now);
        let mut peers = PeerTable::new(rules);
        // Verified peers come first, as their addresses pay for the candidates that they reported.
        entries.sort_by_key(|entry| entry.last_success.is_none());
        peers.reserve(entries.len());
        for mut entry in entries {
            entry.correct_times(now, config.recheck_interval);
            // The tables of blocked ports may have grown since the entry was stored.
            entry.ports = entry.permitted_ports().unwrap_or(entry.ports);
            peers.insert(entry);
        }
        PeerBook {
            peers,
            paths: Paths::new(working_time),
            tor_view,
            budgets: IntakeBudgets::default(),
            slots: SlotBudget::default(),
            chain: ChainConsensus::new(ChainWork::new(&config.chain, None)),
            self_entries: SelfEntries::default(),
            config,
            next_sweep: now + SWEEP_INTERVAL,
            next_promotion: now + PROMOTION_INTERVAL,
        }
    }

    /// Handles an event and returns the resulting actions.
    pub fn handle(&mut self, event: Event, now: Time, rng: &mut impl Rng) -> Vec<Action> {
        let mut ctx = Context::new(now, rng);
        match event {
            Event::Tick => {}
            Event::Resolved { host, addresses } => self.on_resolved(host, addresses, &mut ctx),
            Event::Probed { host, outcome } => self.on_probe_result(&host, *outcome, &mut ctx),
            Event::Tor(probe) => self.paths.on_tor_probe(probe, &mut ctx),
            Event::TorClearnet(access) => self.on_tor_clearnet(access, &mut ctx),
            Event::TorPathProven if self.paths.has_tor() => self.on_self_reached_through_tor(&mut ctx),
            Event::TorPathProven => {}
            Event::SuspectPeer(host) => self.recheck_soon(&host, now),
            Event::IrcPeerFound(name) => {
                // A rejection has no requester to report to.
                let _ = self.try_add(name, Source::Irc, &mut ctx);
            }
            Event::BackendTip { tip, block, standing } => {
                self.chain.set_backend_tip(tip, block, standing.as_ref(), now);
            }
            Event::SelfReachable(listed) => self.on_self_reachable(*listed, &mut ctx),
            Event::SelfUnreachable(host) => self.on_self_unreachable(&host, &mut ctx),
            Event::LocalHost(host) => self.remove_local_host(host, &mut ctx),
            Event::BansReplaced(bans) => self.apply_bans(bans, &mut ctx),
            Event::SeedsReplaced(seeds) => self.replace_seeds(seeds, &mut ctx),
            Event::AsMapReplaced(as_map) => {
                self.config.as_map = as_map;
                self.peers.on_new_as_map();
                ctx.snapshot_changed();
            }
        }
        if now >= self.next_sweep {
            self.prune(&mut ctx);
        }
        self.save_chain(&mut ctx);
        self.promote_due(&mut ctx);
        self.start_due(&mut ctx);
        if self.tor_view.update(self.paths.tor(), now, ctx.rng) {
            ctx.snapshot_changed();
        }
        ctx.actions
    }

    /// Drops a peer at the operator's request; `None` if the host is unknown.
    pub fn forget(&mut self, host: &Host) -> Option<Vec<Action>> {
        self.peers.remove(host).then(|| vec![Action::Remove(host.clone()), Action::SnapshotDirty])
    }

    /// Returns all entries, in no particular order.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.peers.entries()
    }

    /// Returns the entry of a host; `None` if the host is unknown.
    pub fn entry(&self, host: &Host) -> Option<&Entry> {
        self.peers.get(host)
    }

    /// Returns the state of Tor.
    pub fn tor(&self) -> &TorState {
        self.paths.tor()
    }

    /// Returns since when Tor is off, starting, ready or down; `None` while it was never used.
    pub fn tor_since(&self) -> Option<Time> {
        self.paths.tor_since()
    }

    /// Returns the time of the last success through Tor; `None` if there was none.
    pub fn tor_reached(&self) -> Option<Time> {
        self.paths.health(Route::Tor).last_proof()
    }

    /// Returns why no clearnet peer can be reached; `None` if they can.
    pub fn clearnet_blocked(&self) -> Option<&'static str> {
        self.peers.rules().clearnet_refusal()
    }

    /// Returns whether the direct path is considered down.
    pub fn network_is_down(&self) -> bool {
        self.paths.health(Route::Direct).is_down()
    }

    /// Returns when Waypost last reached an own name; `None` if never.
    pub fn last_reached(&self, own: &Host) -> Option<Time> {
        self.self_entries.last_reached(own)
    }

    /// Counts the peers by state.
    pub fn counts(&self, now: Time) -> Counts {
        let mut counts = Counts { probing: self.peers.probe_count(), ..Counts::default() };
        for entry in self.peers.entries() {
            let (all, onion) = match entry.state(now, self.config.max_advertised_age) {
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
    pub fn config(&self) -> &BookConfig {
        &self.config
    }

    /// Creates a snapshot of the advertised peers for sessions.
    pub fn snapshot(&self, now: Time, rng: &mut impl Rng) -> Snapshot {
        let BookConfig { fallback_onions, max_advertised_age, peers_as_backend, omits_itself, .. } = self.config;
        let as_map = self.config.as_map.clone();
        let own: Vec<&VerifiedSelfEntry> =
            self.self_entries.recent(max_advertised_age, now).filter(|_| !omits_itself).collect();
        let allow_private = self.config.allow_private;
        let peers = self.peers.listable().filter(|peer| peer.facts.may_be_advertised(allow_private));
        let tor = self.tor_view.shown().clone();
        let rules = ListRules { as_map, max_age: max_advertised_age, fallback_onions };
        let mut snapshot = Snapshot::new(self.config.side, peers, &own, tor, rules, now, rng);
        if peers_as_backend {
            snapshot.upstream_candidates = self.upstream_candidates(now, rng);
        }
        snapshot
    }

    /// Removes a name of this node from the peers and never accepts it again.
    fn remove_local_host(&mut self, host: Host, ctx: &mut Context<'_>) {
        if self.peers.remove(&host) {
            ctx.delete(&host);
        }
        if !self.config.local_hosts.contains(&host) {
            self.config.local_hosts.push(host.clone());
            self.report_seeds(|seed| seed.host == host, ctx);
        }
    }
}

#[cfg(test)]
mod tests;
