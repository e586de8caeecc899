//! Event loop of one attack.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::IpAddr;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use waypost::book::{Action, BookConfig, BookNotice, Entry, Event, PeerBook, Source};
use waypost::clock::Time;
use waypost::connect::{ProbeError, ProbeTarget, Verified};
use waypost::peer::{Host, PeerList, RealName, Version};
use waypost::route::{PerRoute, Route};
use waypost::tor_state::TorProbe;

use super::adversary::Adversary;
use super::measures::Measures;
use super::replies::{ShownChain, Visit, features, is_real_view, listed, past_visit};
use super::strategy::{Strategy, Trick};
use super::world::{Owner, Scale, Server, World};

/// Time until a connection without a response fails, directly and through Tor.
const TIMEOUT: Duration = Duration::from_secs(10);
const TOR_TIMEOUT: Duration = Duration::from_secs(40);

/// Duration of the daily outage of Tor, in which clients get fallback onions.
const OUTAGE: Duration = Duration::from_mins(10);

/// Interval between two samples of the lists.
const SAMPLE_INTERVAL: Duration = Duration::from_hours(6);

/// Number of honest servers in the list of an honest one, and of attackers among them.
const HONEST_LIST: usize = 24;
const ATTACKERS_IN_HONEST_LIST: usize = 6;

/// Working time of both paths before the start of a run.
const PAST_WORKING_TIME: Duration = Duration::from_hours(2000);

const MINUTE: Duration = Duration::from_mins(1);
const DAY: Duration = Duration::from_hours(24);

#[derive(Debug)]
pub(super) struct Engine {
    scale: Scale,
    pub book: PeerBook,
    pub world: World,
    adversary: Adversary,
    pub measures: Measures,
    pub now: Time,
    /// Randomness of the book.
    rng: StdRng,
    /// Randomness of everything else.
    world_rng: StdRng,
    queue: BinaryHeap<Scheduled>,
    next_id: u64,
    tor_fails: bool,
}

#[derive(Debug)]
enum SimEvent {
    Resolved(Host),
    Probed(Host, Box<Result<Verified, ProbeError>>),
    /// An honest server announces itself.
    Announce(usize),
    Minute,
    Sample,
    TorFails,
    TorReturns,
}

/// Event with its time. Events of one time keep their order.
#[derive(Debug)]
struct Scheduled(Reverse<(Time, u64)>, SimEvent);

impl Engine {
    pub(super) const START: Time = Time::from_secs(1_800_000_000);

    pub(super) fn new(strategy: Strategy, scale: Scale, seed: u64) -> Engine {
        let mut world_rng = StdRng::seed_from_u64(seed);
        let plan = strategy.plan();
        let world = World::new(scale, plan, Engine::START, &mut world_rng);
        let adversary = Adversary::new(&world, plan, scale, Engine::START, &mut world_rng);
        let entries = if plan.has(Trick::EmptyBook) { Vec::new() } else { known_entries(&world, &mut world_rng) };
        let seeds = world.seeds().map(name).collect();
        let config = BookConfig {
            seeds,
            peers_as_backend: true,
            as_map: scale.has_map.then(|| world.networks.as_map()),
            ..BookConfig::default()
        };
        let uptime = PerRoute { direct: PAST_WORKING_TIME, tor: PAST_WORKING_TIME };
        Engine {
            scale,
            book: PeerBook::new(config, entries, uptime, Engine::START),
            measures: Measures::new(scale),
            world,
            adversary,
            now: Engine::START,
            rng: StdRng::seed_from_u64(seed ^ 1),
            world_rng,
            queue: BinaryHeap::new(),
            next_id: 0,
            tor_fails: false,
        }
    }

    pub(super) fn run(&mut self) {
        let end = Engine::START + DAY * self.scale.days;
        let actions = self.book.handle(Event::Tor(TorProbe::Reachable), self.now, &mut self.rng);
        self.execute(actions);
        let actions = self.book.add_seeds(self.now, &mut self.rng);
        self.execute(actions);
        self.schedule_fixed_events();
        loop {
            let wake = self.book.next_wakeup();
            let next = self.queue.peek().map_or(end, |Scheduled(Reverse((at, _)), _)| *at);
            if wake.min(next) >= end {
                return;
            }
            if wake <= next {
                self.now = wake.max(self.now);
                let actions = self.book.handle(Event::Tick, self.now, &mut self.rng);
                self.execute(actions);
            } else if let Some(Scheduled(Reverse((at, _)), event)) = self.queue.pop() {
                self.now = at;
                self.on_event(event);
            }
        }
    }

    fn schedule_fixed_events(&mut self) {
        for at in 0..self.world.honest {
            let first = self.world.servers[at].online_from.max(Engine::START);
            let pause = Duration::from_secs(self.world_rng.random_range(60..7200));
            self.schedule(first + pause, SimEvent::Announce(at));
        }
        self.schedule(Engine::START + MINUTE, SimEvent::Minute);
        self.schedule(Engine::START + Duration::from_hours(5), SimEvent::Sample);
        self.schedule(Engine::START + Duration::from_hours(15), SimEvent::TorFails);
    }

    fn on_event(&mut self, event: SimEvent) {
        let now = self.now;
        let actions = match event {
            SimEvent::Resolved(host) => {
                let addresses = self.addresses(&host);
                self.book.handle(Event::Resolved { host, addresses }, now, &mut self.rng)
            }
            SimEvent::Probed(host, outcome) => self.book.handle(Event::Probed { host, outcome }, now, &mut self.rng),
            SimEvent::Announce(at) => {
                let pause = DAY.mul_f64(self.world_rng.random_range(0.8..1.2));
                self.schedule(now + pause, SimEvent::Announce(at));
                let Server { host, ip, ports, .. } = &self.world.servers[at];
                self.book.add_peer(&features(host, *ports), *ip, now, &mut self.rng).unwrap_or_default()
            }
            SimEvent::Minute => {
                self.schedule(now + MINUTE, SimEvent::Minute);
                if !self.tor_fails {
                    self.measures.on_tor_check(self.book.tor().is_ready(), now);
                }
                self.attack();
                return;
            }
            SimEvent::Sample => {
                let pause = SAMPLE_INTERVAL.mul_f64(self.world_rng.random_range(0.9..1.1));
                self.schedule(now + pause, SimEvent::Sample);
                self.measures.sample(&self.book, &self.world, now, &mut self.rng);
                return;
            }
            SimEvent::TorFails => {
                self.tor_fails = true;
                self.schedule(now + OUTAGE, SimEvent::TorReturns);
                let failure = TorProbe::Unavailable { reason: "nothing answers".to_owned() };
                self.book.handle(Event::Tor(failure), now, &mut self.rng)
            }
            SimEvent::TorReturns => {
                self.measures.sample_fallback(&self.book, &self.world, now, &mut self.rng);
                self.tor_fails = false;
                let pause = DAY.mul_f64(self.world_rng.random_range(0.9..1.1));
                self.schedule(now + pause, SimEvent::TorFails);
                self.book.handle(Event::Tor(TorProbe::Reachable), now, &mut self.rng)
            }
        };
        self.execute(actions);
    }

    fn attack(&mut self) {
        for (features, from) in self.adversary.announcements(&self.world, self.now, &mut self.world_rng) {
            if let Ok(actions) = self.book.add_peer(&features, from, self.now, &mut self.rng) {
                self.execute(actions);
            }
        }
    }

    fn execute(&mut self, actions: Vec<Action>) {
        let now = self.now;
        for action in actions {
            match action {
                Action::Resolve(host, _) => {
                    let pause = Duration::from_millis(self.world_rng.random_range(5..300));
                    self.schedule(now + pause, SimEvent::Resolved(host));
                }
                Action::Probe(target) => self.start_probe(target),
                Action::Notice(BookNotice::Misbehaved { host, .. }) => self.measures.on_bad(&host, &self.world),
                Action::Remove(host) => self.measures.on_removed(&host, &self.world),
                Action::SnapshotDirty if !self.measures.has_started() => {
                    self.measures.check_start(&self.book, now, &mut self.rng);
                }
                Action::SnapshotDirty
                | Action::Notice(_)
                | Action::Upsert(_)
                | Action::SavePathUptime(..)
                | Action::SaveChain(_) => {}
            }
        }
    }

    fn addresses(&self, host: &Host) -> Result<Vec<IpAddr>, ProbeError> {
        let at = self.world.find(host).ok_or(ProbeError::NameNotFound)?;
        let server = &self.world.servers[at];
        let ip = match server.owner {
            Owner::Honest => server.ip,
            Owner::Attacker | Owner::Junk => self.adversary.address(at, &self.world, self.now),
        };
        ip.map(|ip| vec![ip]).ok_or(ProbeError::NameNotFound)
    }

    fn start_probe(&mut self, target: ProbeTarget) {
        let elapsed = self.now.since(Engine::START);
        self.measures.on_probe(self.world.is_honest(&target.host), is_real_view(&target, elapsed));
        let (outcome, duration) = self.answer(&target);
        self.schedule(self.now + duration, SimEvent::Probed(target.host, Box::new(outcome)));
    }

    /// Returns the result and duration of a probe.
    fn answer(&mut self, target: &ProbeTarget) -> (Result<Verified, ProbeError>, Duration) {
        let now = self.now;
        let (slowness, timeout, absence) = match target.via {
            Route::Direct => (1, TIMEOUT, ProbeError::Unreachable),
            Route::Tor => (5, TOR_TIMEOUT, ProbeError::OnionDescriptorNotFound),
        };
        if target.via == Route::Tor && self.tor_fails {
            return (Err(ProbeError::TorUnavailable), Duration::from_millis(2));
        }
        let rng = &mut self.world_rng;
        let duration = Duration::from_millis(rng.random_range(100..2500) * slowness);
        let Some(server) = self.world.find(&target.host).map(|at| &self.world.servers[at]) else {
            return (Err(absence), timeout);
        };
        let is_honest = server.owner == Owner::Honest;
        let is_up = if is_honest { server.online_from <= now } else { self.adversary.is_up(server, now) };
        if !is_up {
            return (Err(absence), timeout);
        }
        let is_open = |endpoint| !is_honest || server.ports.iter().any(|open| open == endpoint);
        let Some(endpoint) = target.endpoints.iter().copied().find(|endpoint| is_open(*endpoint)) else {
            return (Err(ProbeError::Refused), duration);
        };
        let (ports, key, peer_list, chain) = if is_honest {
            (server.ports, server.key, honest_list(&self.world, &self.adversary, now, rng), ShownChain::default())
        } else {
            let list = self.adversary.peer_list(&self.world, rng);
            (self.adversary.ports(server, rng), self.adversary.key(server, rng), list, self.adversary.chain(now))
        };
        let elapsed = now.since(Engine::START);
        let visit = Visit { server, target, endpoint, ports, key, peer_list, chain, elapsed, duration };
        (Ok(visit.into_verified()), duration)
    }

    fn schedule(&mut self, at: Time, event: SimEvent) {
        self.next_id += 1;
        self.queue.push(Scheduled(Reverse((at, self.next_id)), event));
    }
}

/// Returns the list of an honest server, which has verified some attackers too.
fn honest_list(world: &World, adversary: &Adversary, now: Time, rng: &mut StdRng) -> PeerList {
    let mut list = Vec::new();
    for _ in 0..HONEST_LIST {
        let server = &world.servers[rng.random_range(0..world.honest)];
        // Honest servers have found a newcomer after a day.
        if server.online_from + DAY <= now {
            list.push(listed(server, server.ports));
        }
    }
    for at in adversary.sample(ATTACKERS_IN_HONEST_LIST, world, now, rng) {
        let server = &world.servers[at];
        list.push(listed(server, server.ports));
    }
    PeerList(list)
}

fn name(server: &Server) -> RealName {
    RealName { host: server.host.clone(), version: Some(Version::new(1, 4)), pruning: None, ports: server.ports }
}

/// Returns the entries of honest servers that a long-running daemon knows.
fn known_entries(world: &World, rng: &mut StdRng) -> Vec<Entry> {
    let seeds: Vec<&Host> = world.seeds().map(|seed| &seed.host).collect();
    let early = world.honest_at(Engine::START).filter(|server| server.online_from < Engine::START);
    let known = early.map(|server| {
        let source = if seeds.contains(&&server.host) { Source::Seed } else { Source::Peer(seeds[0].clone()) };
        let mut entry = Entry::new(name(server), source, PAST_WORKING_TIME, Engine::START - DAY * 50);
        let ago = Duration::from_secs(rng.random_range(0..14 * 3600));
        for days in (0..50).rev() {
            let at = Engine::START - ago - DAY * days;
            entry.verified(&past_visit(server), PAST_WORKING_TIME, at);
            entry.last_try = Some(at);
        }
        entry.next_probe_at = Engine::START - ago + DAY.mul_f64(rng.random_range(0.6..0.8));
        entry.promote_from_older_store(Engine::START);
        entry
    });
    known.collect()
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Scheduled) -> bool {
        self.0 == other.0
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Scheduled) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Scheduled) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}
