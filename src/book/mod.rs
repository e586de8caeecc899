//! What is known of every peer, and what to do next: events in, actions out.
//!
//! The book asks no clock and draws no lots of its own; it is handed both. So a simulator can lead it through months.

mod answer;
mod budget;
mod carriers;
mod chain;
mod dispatch;
mod entry;
mod event;
mod introduce;
mod learn;
mod outcome;
mod own;
mod policy;
mod reach;
mod schedule;
mod seeds;
mod uptime;
mod waiting;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;

use chain::Chain;
use own::Own;
use policy::Budgets;
use reach::Reach;
use schedule::Queue;

pub use answer::{Caller, Snapshot};
pub use carriers::Carrier;
pub use chain::{Block, BlockHash, height_to_compare};
pub use entry::{Entry, Key, Past, PeerState, Source};
pub use event::{Action, Attempt, Event, Notice};
pub use outcome::{Blame, Failure, KeyHash, Verified};
pub use policy::{FROM_ONE_ANSWER, Refusal, may_knock};
pub use uptime::{Uptime, WINDOWS};
pub use waiting::Waiting;

use crate::bans::Bans;
use crate::clock::Time;
use crate::netgroup::{self, Netgroup};
use crate::network::Network;
use crate::peer::{Host, Ports, RealName};
use crate::route::{ClearnetAccess, Routing, TorSign, TorState, Via};

/// How the book is kept.
#[derive(Debug, Clone)]
pub struct Settings {
    pub network: Network,
    pub routing: Routing,
    /// Where an empty book begins.
    pub seeds: Vec<RealName>,
    /// Names of ours, which are nobody else's.
    pub own: Vec<Host>,
    /// Whether peers who don't know us are told of us.
    pub announce: bool,
    /// Whether our peers carry our callers' sessions. Who hands others' servers on tells nobody of itself.
    pub fronts_peers: bool,
    /// A good peer is connected to again within this.
    pub recheck: Duration,
    /// Verified within this: fit to be told of.
    pub recent: Duration,
    /// No success for this long: removed.
    pub forget: Duration,
    /// From the first failure to the next try.
    pub retry: Duration,
    /// Onion peers told of when Tor is unavailable.
    pub fallback_onions: usize,
    /// Whether loopback and private addresses may be peers.
    pub allow_private: bool,
    /// Probes at once.
    pub probes: usize,
    /// Those of them that go through Tor.
    pub onion_probes: usize,
    /// Names that were never verified; beyond that none is taken in.
    pub candidates: usize,
    /// Whom the operator wants nothing to do with.
    pub bans: Arc<Bans>,
}

impl Default for Settings {
    fn default() -> Settings {
        let day = Duration::from_hours(24);
        Settings {
            network: Network::default(),
            routing: Routing::default(),
            seeds: Network::default().built_in_peers(),
            own: Vec::new(),
            announce: false,
            fronts_peers: false,
            recheck: day,
            recent: day,
            forget: day * 14,
            retry: Duration::from_mins(5),
            fallback_onions: 3,
            allow_private: false,
            probes: 32,
            onion_probes: 8,
            candidates: 5000,
            bans: Arc::default(),
        }
    }
}

/// Between two looks for what is to be forgotten.
const SWEEP: Duration = Duration::from_hours(1);

#[derive(Debug)]
pub struct Book {
    settings: Settings,
    entries: HashMap<Host, Entry>,
    /// Each entry is in the queue at its `next`, or in flight.
    queue: Queue,
    flights: HashMap<Host, Flight>,
    /// How often in a row one was tried in vain without anybody's fault being plain.
    excuses: HashMap<Host, u32>,
    /// How many of the entries were never verified.
    unverified: usize,
    /// What others say of a peer's ports, to be tried as well.
    claims: HashMap<Host, Vec<Claim>>,
    /// Peers whose probe was put off, and the subnet whose dial budget they wait for.
    held: HashMap<Host, Netgroup>,
    direct: Reach,
    tor_reach: Reach,
    tor: TorState,
    tor_sign: TorSign,
    /// Clearnet peers wait outside the queue while Tor refuses them and there is no other route.
    tor_clearnet: ClearnetAccess,
    budgets: Budgets,
    chain: Chain,
    /// Names of ours that we reached.
    own: HashMap<Host, Own>,
    next_sweep: Time,
}

#[derive(Debug)]
struct Flight {
    began: Time,
    /// It was never tried before.
    first: bool,
    /// The addresses have yet to be looked up.
    resolving: bool,
    /// It was verified recently.
    good: bool,
    /// It is told of us, should it not know us.
    announces: bool,
}

#[derive(Debug)]
struct Claim {
    /// Permitted by the rule on port numbers when the claim was made.
    ports: Ports,
    /// The host must mean this address, or the claim is nothing.
    from: Option<IpAddr>,
}

/// How much a way out may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Open,
    /// Only to find out whether it works.
    Trial,
    Closed,
}

/// How many peers stand how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Counts {
    pub verified: usize,
    pub stale: usize,
    pub candidate: usize,
    pub bad: usize,
    /// Onion peers among those.
    pub verified_onion: usize,
    pub stale_onion: usize,
    pub candidate_onion: usize,
    pub bad_onion: usize,
    pub probing: usize,
}

impl Book {
    /// A book with what was kept of it: the entries, and how long each way out has worked in all.
    pub fn new(settings: Settings, entries: Vec<Entry>, direct: Duration, tor: Duration, now: Time) -> Book {
        let mut book = Book {
            settings,
            entries: HashMap::new(),
            queue: Queue::default(),
            flights: HashMap::new(),
            excuses: HashMap::new(),
            unverified: 0,
            claims: HashMap::new(),
            held: HashMap::new(),
            direct: Reach::new(direct),
            tor_reach: Reach::new(tor),
            tor: TorState::Off,
            tor_sign: TorSign::Off,
            tor_clearnet: ClearnetAccess::default(),
            budgets: Budgets::default(),
            chain: Chain::default(),
            own: HashMap::new(),
            next_sweep: now + SWEEP,
        };
        for mut entry in entries {
            entry.correct_times(now, book.settings.recheck);
            // The tables of blocked ports may have grown since it was stored.
            entry.ports = entry.permitted_ports().unwrap_or(entry.ports);
            book.insert(entry);
        }
        book
    }

    pub fn handle(&mut self, event: Event, now: Time, rng: &mut impl Rng) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Tick => {}
            Event::Resolved { host, addresses } => self.resolved(host, addresses, now, rng, &mut actions),
            Event::Probed { host, outcome } => self.probed(host, *outcome, now, rng, &mut actions),
            Event::Tor(sign) => self.tor_said(sign, now, &mut actions),
            Event::TorClearnet(access) => self.on_tor_clearnet(access, &mut actions),
            Event::TorReached if self.tor_sign != TorSign::Off => self.proven(Via::Tor, now, rng, &mut actions),
            Event::TorReached => {}
            Event::Doubted(host) => self.doubt(&host, now),
            Event::MetOnIrc(name) => {
                // Where it isn't let in there is nobody to be told.
                let _ = self.introduce_one(name, Source::Irc, now, rng, &mut actions);
            }
            Event::OurChain { tip, block } => self.chain.trust(tip, block),
            Event::ReachedOurselves(listed) => self.reached_ourselves(*listed, now, rng, &mut actions),
            Event::LostOurselves(host) => self.lost_ourselves(&host, &mut actions),
            Event::Ours(host) => self.disown(host, &mut actions),
            Event::Bans(bans) => self.ban(bans, &mut actions),
            Event::Seeds(seeds) => self.reseed(seeds, now, rng, &mut actions),
        }
        if now >= self.next_sweep {
            self.sweep(now, rng, &mut actions);
        }
        self.start_due(now, rng, &mut actions);
        actions
    }

    /// Drops a peer at the operator's wish; None where it isn't known.
    pub fn forget(&mut self, host: &Host) -> Option<Vec<Action>> {
        self.remove(host).then(|| vec![Action::Remove(host.clone()), Action::Publish])
    }

    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    pub fn tor(&self) -> &TorState {
        &self.tor
    }

    /// When something got through Tor last.
    pub fn tor_reached(&self) -> Option<Time> {
        self.tor_reach.last_proof()
    }

    /// Reason why no clearnet peer can be reached, where Tor is the only route and refuses them.
    pub fn clearnet_blocked(&self) -> Option<&'static str> {
        (self.settings.routing == Routing::TorOnly).then(|| self.tor_clearnet.refusal()).flatten()
    }

    /// Whether the way through our own network seems to work.
    pub fn network_is_down(&self) -> bool {
        self.direct.is_down()
    }

    pub fn counts(&self, now: Time) -> Counts {
        let mut counts = Counts { probing: self.flights.len(), ..Counts::default() };
        for entry in self.entries.values() {
            let (all, onion) = match entry.state(now, self.settings.recent) {
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

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub fn snapshot(&self, now: Time, rng: &mut impl Rng) -> Snapshot {
        let Settings { fallback_onions, recent, fronts_peers, .. } = self.settings;
        let own: Vec<&Own> = if fronts_peers { Vec::new() } else { self.own_names(now).collect() };
        let tor = self.tor.clone();
        let entries = self.entries.values().filter(|entry| self.may_advertise(entry));
        let mut snapshot = Snapshot::new(entries, &own, tor, fallback_onions, recent, now, rng);
        if fronts_peers {
            snapshot.carriers = self.carriers(now, rng);
        }
        snapshot
    }
}

/// Small parts.
impl Book {
    fn usable(&self, via: Via) -> Use {
        match (via, &self.tor_sign) {
            (Via::Direct, _) if self.direct.is_down() => Use::Trial,
            (Via::Direct, _) => Use::Open,
            (Via::Tor, TorSign::Off | TorSign::Gone { .. } | TorSign::Starting { .. }) => Use::Closed,
            (Via::Tor, TorSign::Answers) if self.tor.is_ready() => Use::Open,
            (Via::Tor, TorSign::Answers) => Use::Trial,
        }
    }

    fn has_slot(&self, via: Via) -> bool {
        let free = self.flights.len() < self.settings.probes;
        match via {
            Via::Direct => free,
            Via::Tor => free && self.in_flight(Via::Tor) < self.settings.onion_probes,
        }
    }

    fn via(&self, host: &Host) -> Via {
        self.settings.routing.via(host)
    }

    fn in_flight(&self, via: Via) -> usize {
        self.flights.keys().filter(|host| self.via(host) == via).count()
    }

    /// For how long in all we were able to reach hosts of this kind, whichever way they went.
    fn uptime(&self, host: &Host) -> Duration {
        self.reach(Routing::default().via(host)).total()
    }

    fn reach(&self, via: Via) -> &Reach {
        match via {
            Via::Direct => &self.direct,
            Via::Tor => &self.tor_reach,
        }
    }

    fn reach_mut(&mut self, via: Via) -> &mut Reach {
        match via {
            Via::Direct => &mut self.direct,
            Via::Tor => &mut self.tor_reach,
        }
    }

    /// Sets when an entry is tried next. One in flight comes back into the queue when its attempt is over.
    fn reschedule(&mut self, host: &Host, at: Time) {
        let via = self.via(host);
        let Some(entry) = self.entries.get_mut(host) else { return };
        self.queue.remove(via, entry.next, host);
        entry.next = at;
        self.enqueue(host);
    }

    fn insert(&mut self, entry: Entry) {
        self.unverified += usize::from(entry.last_success.is_none());
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
        if !self.flights.contains_key(host) && self.has_door(entry) && self.has_route(host) {
            self.queue.insert(self.via(host), entry.next, host.clone(), entry.last_success.is_some());
        }
    }

    fn has_door(&self, entry: &Entry) -> bool {
        let claims = self.claims.get(&entry.host).into_iter().flatten().map(|claim| claim.ports);
        let mut ports = entry.permitted_ports().into_iter().chain(claims);
        ports.any(|ports| policy::has_door(&entry.host, self.via(&entry.host), ports))
    }

    /// Whether today's settings and rules still let the peer be advertised, whatever was verified before.
    fn may_advertise(&self, entry: &Entry) -> bool {
        let is_permitted = self.settings.allow_private || entry.ip.is_none_or(netgroup::is_public);
        is_permitted && entry.permitted_ports().is_some()
    }

    /// Removes a peer. An attempt stays in flight, so that a peer that is introduced again is not asked twice at once.
    fn remove(&mut self, host: &Host) -> bool {
        self.claims.remove(host);
        self.excuses.remove(host);
        self.held.remove(host);
        let Some(entry) = self.entries.remove(host) else { return false };
        self.unverified -= usize::from(entry.last_success.is_none());
        self.queue.remove(self.settings.routing.via(host), entry.next, host);
        true
    }

    /// What others told us of ourselves is no peer.
    fn disown(&mut self, host: Host, actions: &mut Vec<Action>) {
        if self.remove(&host) {
            actions.push(Action::Remove(host.clone()));
            actions.push(Action::Publish);
        }
        if !self.settings.own.contains(&host) {
            self.settings.own.push(host.clone());
            self.report_seeds(|seed| seed.host == host, actions);
        }
    }

    fn save(&self, host: &Host, actions: &mut Vec<Action>) {
        actions.extend(self.entries.get(host).map(|entry| Action::Save(Box::new(entry.clone()))));
    }

    fn idle(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values().filter(|entry| !self.flights.contains_key(&entry.host))
    }
}

#[cfg(test)]
mod tests;
