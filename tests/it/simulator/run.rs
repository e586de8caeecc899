//! Event loop of one simulation.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use waypost::book::{Action, BookConfig, BookNotice, Entry, Event, PeerBook, Source};
use waypost::clock::Time;
use waypost::connect::{PeerLimits, ProbeError, ProbeReport, ProbeTarget, Verified};
use waypost::peer::{Fault, Features, Host, PeerList, Port, Transport, Version};
use waypost::route::{PerRoute, Route};
use waypost::tor_state::TorProbe;

use super::invariants::{CheckResult, Invariants};
use super::network_model::{Kind, World};
use super::outages::{OutageKind, OutageSchedule};

/// Time until a connection without a response fails.
const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub peers: usize,
    pub days: u64,
    /// Most peers are known from the start; otherwise only a few seeds.
    pub filled: bool,
    /// Mean time between two attacks through `server.add_peer`, in seconds.
    pub attack: u64,
}

#[derive(Debug)]
pub(super) struct Run {
    pub seed: u64,
    pub size: Size,
    pub book: PeerBook,
    pub world: World,
    pub outages: OutageSchedule,
    pub invariants: Invariants,
    /// Entries in the simulated store.
    pub disk: HashMap<Host, Entry>,
    path_uptime: [Duration; 2],
    pub now: Time,
    /// Randomness of the book.
    pub rng: StdRng,
    /// Randomness of peers, outages and attackers.
    pub world_rng: StdRng,
    queue: BinaryHeap<Reverse<(Time, u64)>>,
    scheduled: HashMap<u64, SimEvent>,
    next_id: u64,
    pub events: u64,
    /// Number of times that a working path was marked down.
    pub false_alarms: u64,
}

/// Event scheduled for a time.
#[derive(Debug)]
pub(super) enum SimEvent {
    Resolved(Host, Result<Vec<IpAddr>, ProbeError>),
    Probed(Host, Box<Result<Verified, ProbeError>>),
    TorProbed(TorProbe),
    /// A newcomer or a mover announces itself.
    Announce(usize),
    Attack,
    Restart,
    Check,
}

impl Run {
    pub(super) const START: Time = Time::from_secs(1_800_000_000);

    pub(super) fn new(size: Size, seed: u64) -> Run {
        let mut world_rng = StdRng::seed_from_u64(seed);
        let world = World::new(size.peers, Run::START, size.days, &mut world_rng);
        let outages = OutageSchedule::new(Run::START, size.days, &mut world_rng);
        let seeds = world.peers.iter().filter(|peer| matches!(peer.kind, Kind::Good | Kind::Dead)).take(12);
        let settings = BookConfig { seeds: seeds.map(|peer| peer.name(Run::START)).collect(), ..BookConfig::default() };
        let mut run = Run {
            seed,
            size,
            book: PeerBook::new(settings.clone(), Vec::new(), PerRoute::default(), Run::START),
            world,
            outages,
            invariants: Invariants::default(),
            disk: HashMap::new(),
            path_uptime: [Duration::from_hours(1000); 2],
            now: Run::START,
            rng: StdRng::seed_from_u64(seed ^ 1),
            world_rng,
            queue: BinaryHeap::new(),
            scheduled: HashMap::new(),
            next_id: 0,
            events: 0,
            false_alarms: 0,
        };
        if size.filled {
            run.fill();
        }
        let [direct, tor] = run.path_uptime;
        run.book = PeerBook::new(settings, run.entries(), PerRoute { direct, tor }, Run::START);
        run
    }

    /// Runs until the end. Panics when a rule is violated.
    pub(super) fn run(&mut self) {
        let end = Run::START + Duration::from_hours(24) * u32::try_from(self.size.days).unwrap();
        let actions = match self.size.filled {
            true => self.book.handle(Event::Tick, self.now, &mut self.rng),
            false => self.book.add_seeds(self.now, &mut self.rng),
        };
        self.execute(actions);
        self.schedule_fixed_events();
        loop {
            let wake = self.book.next_wakeup();
            self.require(super::invariants::check(wake > self.now, || format!("the wake-up at {wake} is in the past")));
            let next = self.queue.peek().map_or(end, |Reverse((at, _))| *at);
            if wake.min(next) >= end {
                return;
            }
            self.events += 1;
            if wake <= next {
                self.now = wake;
                let actions = self.book.handle(Event::Tick, self.now, &mut self.rng);
                if actions.is_empty() {
                    let result = self.invariants.idle_tick(self.now);
                    self.require(result);
                }
                self.execute(actions);
            } else if let Some(Reverse((at, number))) = self.queue.pop() {
                self.now = at;
                if let Some(scheduled) = self.scheduled.remove(&number) {
                    self.on_event(scheduled);
                }
            }
        }
    }

    /// Panics with the seed and the time when a rule is violated.
    pub(super) fn require(&self, result: CheckResult) {
        if let Err(broken) = result {
            let minutes = self.now.since(Run::START).as_secs() / 60;
            let (day, hour, minute) = (minutes / 1440, minutes / 60 % 24, minutes % 60);
            let size = self.size;
            panic!("SIM_SEED={} ({size:?}), day {day} {hour:02}:{minute:02}: {broken}", self.seed);
        }
    }

    fn on_event(&mut self, scheduled: SimEvent) {
        let now = self.now;
        let actions = match scheduled {
            SimEvent::Resolved(host, addresses) => {
                self.invariants.finished(&host);
                let record = self.invariants.records.entry(host.clone()).or_default();
                record.ended = now;
                self.book.handle(Event::Resolved { host, addresses }, now, &mut self.rng)
            }
            SimEvent::Probed(host, outcome) => {
                self.invariants.finished(&host);
                let record = self.invariants.records.entry(host.clone()).or_default();
                record.ended = now;
                match *outcome {
                    Ok(_) => record.last_ok = Some(now),
                    Err(ProbeError::ProtocolViolation(_)) => record.last_bad = Some(now),
                    Err(_) => {}
                }
                self.book.handle(Event::Probed { host, outcome }, now, &mut self.rng)
            }
            SimEvent::TorProbed(probe) => self.book.handle(Event::Tor(probe), now, &mut self.rng),
            SimEvent::Announce(peer) => self.announce(peer),
            SimEvent::Attack => self.attack(),
            SimEvent::Restart => self.restart(),
            SimEvent::Check => {
                self.check_book();
                let pause = Duration::from_mins(self.world_random(300, 660));
                self.schedule_in(pause, SimEvent::Check);
                Vec::new()
            }
        };
        self.execute(actions);
    }

    fn execute(&mut self, actions: Vec<Action>) {
        let now = self.now;
        let unfounded =
            actions.iter().any(|action| matches!(action, Action::Notice(BookNotice::AddPeerSpoofed { .. })));
        for action in actions {
            let result = match action {
                Action::Resolve(host, _) => {
                    let result = self.invariants.lookup(&host, now);
                    self.start_lookup(host);
                    result
                }
                Action::Probe(attempt) => {
                    let result = self.invariants.probe(&attempt, self.book.config(), &self.outages, now);
                    self.start_probe(attempt);
                    result
                }
                Action::Upsert(entry) => {
                    let result = match self.disk.get(&entry.host) {
                        None => self.invariants.on_added(&entry, now),
                        Some(old) if entry.failures > old.failures => {
                            self.invariants.on_failure_counted(&entry.host, &self.outages)
                        }
                        Some(_) => Ok(()),
                    };
                    self.disk.insert(entry.host.clone(), *entry);
                    result
                }
                Action::Remove(host) => self.disk.remove(&host).map_or(Ok(()), |entry| {
                    // Bad peers that were never verified take places in the table as well.
                    let candidates = self.book.entries().filter(|entry| entry.last_success.is_none()).count();
                    self.invariants.on_removed(&entry, unfounded, candidates, self.book.config(), &self.outages, now)
                }),
                Action::SavePathUptime(via, total) => {
                    self.path_uptime[usize::from(via == Route::Tor)] = total;
                    Ok(())
                }
                Action::Notice(BookNotice::NetworkDown)
                    if self.outages.worked(Route::Direct, now - TIMEOUT * 4, now) =>
                {
                    self.false_alarms += 1;
                    Ok(())
                }
                Action::Notice(BookNotice::Tor(waypost::tor_state::TorState::Down { .. }))
                    if self.outages.worked(Route::Tor, now - TIMEOUT * 8, now) =>
                {
                    self.false_alarms += 1;
                    Ok(())
                }
                Action::SnapshotDirty | Action::SaveChain(_) | Action::Notice(_) => Ok(()),
            };
            self.require(result);
        }
    }

    fn start_lookup(&mut self, host: Host) {
        let (addresses, duration) = match self.outages.down(Route::Direct, self.now) {
            Some(OutageKind::NoRoute) => (Err(ProbeError::NameNotFound), Duration::from_millis(3)),
            Some(_) => (Err(ProbeError::NameNotFound), TIMEOUT),
            None => (self.world.resolve(&host, self.now), Duration::from_millis(self.world_random(5, 300))),
        };
        self.schedule_in(duration, SimEvent::Resolved(host, addresses));
    }

    fn start_probe(&mut self, attempt: ProbeTarget) {
        let ProbeTarget { host, via, .. } = &attempt;
        let (host, via, now) = (host.clone(), *via, self.now);
        let (outcome, takes) = match self.outages.down(via, now) {
            Some(OutageKind::NoRoute) => (Err(ProbeError::Unreachable), Duration::from_millis(2)),
            Some(OutageKind::Reported) => (Err(ProbeError::TorUnavailable), Duration::from_millis(2)),
            Some(_) => (Err(ProbeError::Unreachable), TIMEOUT * 2),
            None => self.answer(attempt),
        };
        match self.outages.first_outage_in(via, now, now + takes) {
            // The outage begins during the probe.
            Some(cut) => {
                let outcome = if self.world_rng.random() { ProbeError::Timeout } else { ProbeError::Unreachable };
                self.schedule_in((cut + TIMEOUT).since(now), SimEvent::Probed(host, Box::new(Err(outcome))));
            }
            None => self.schedule_in(takes, SimEvent::Probed(host, Box::new(outcome))),
        }
    }

    /// Returns the result and duration of a probe that reaches the network.
    fn answer(&mut self, attempt: ProbeTarget) -> (Result<Verified, ProbeError>, Duration) {
        let now = self.now;
        let slow = if attempt.via == Route::Tor { 5 } else { 1 };
        let quick = Duration::from_millis(self.world_random(100, 2500) * slow);
        let Some(peer) = self.world.get(&attempt.host) else {
            let failure =
                if attempt.via == Route::Tor { ProbeError::OnionDescriptorNotFound } else { ProbeError::Unreachable };
            return (Err(failure), TIMEOUT);
        };
        if !peer.is_up(now) {
            let takes = if peer.absence() == ProbeError::Refused { quick } else { TIMEOUT * slow.try_into().unwrap() };
            return (Err(peer.absence()), takes);
        }
        let ports = peer.ports(now);
        let Some((transport, port)) =
            attempt.endpoints.iter().copied().find(|endpoint| ports.iter().any(|open| open == *endpoint))
        else {
            let failure = if self.world_rng.random() { ProbeError::Refused } else { ProbeError::Unreachable };
            return (Err(failure), quick * 2);
        };
        match peer.kind {
            Kind::WrongChain => return (Err(ProbeError::ProtocolViolation(Fault::WrongGenesis)), quick),
            Kind::Malformed => return (Err(ProbeError::ProtocolViolation(Fault::Malformed)), quick),
            Kind::Turncoat if now >= peer.turn => {
                return (Err(ProbeError::ProtocolViolation(Fault::WrongGenesis)), quick);
            }
            Kind::Silent => return (Err(ProbeError::Timeout), TIMEOUT * 3),
            _ => {}
        }
        let features = peer.has_features.then(|| peer.features(now));
        let ip = attempt.addresses.first().copied();
        let peer_list = self.world.peer_list(&attempt.host, now, &mut self.world_rng);
        (Ok(verified(ip, transport, port, quick, features, peer_list)), quick)
    }

    /// Schedules the events that do not depend on the book.
    fn schedule_fixed_events(&mut self) {
        for (at, probe) in self.outages.tor_probes(Run::START, &mut self.world_rng) {
            self.schedule_at(at, SimEvent::TorProbed(probe));
        }
        let day = Duration::from_hours(24);
        for n in 0..self.world.peers.len() {
            let peer = &self.world.peers[n];
            let first = match peer.kind {
                Kind::Newcomer => peer.turn,
                // Half of the movers announce themselves; the others must be found in lists.
                Kind::Mover if n % 2 == 0 => Run::START + Duration::from_secs(self.world_random(0, 86_400)),
                _ => continue,
            };
            self.schedule_at(first, SimEvent::Announce(n));
        }
        self.schedule_at(Run::START + Duration::from_mins(20), SimEvent::Attack);
        self.schedule_at(Run::START + Duration::from_hours(7), SimEvent::Check);
        self.schedule_at(Run::START + day * u32::try_from(self.size.days / 2).unwrap(), SimEvent::Restart);
    }

    /// Restarts the process with the entries of the store.
    fn restart(&mut self) -> Vec<Action> {
        let is_in_flight = |scheduled: &SimEvent| matches!(scheduled, SimEvent::Resolved(..) | SimEvent::Probed(..));
        self.scheduled.retain(|_, scheduled| !is_in_flight(scheduled));
        self.invariants.restarted();
        let [direct, tor] = self.path_uptime;
        self.book = PeerBook::new(self.book.config().clone(), self.entries(), PerRoute { direct, tor }, self.now);
        let probe = match self.outages.down(Route::Tor, self.now) {
            Some(OutageKind::Reported) => TorProbe::Unavailable { reason: "nothing answers".to_owned() },
            _ => TorProbe::Reachable,
        };
        let mut actions = self.book.handle(Event::Tor(probe), self.now, &mut self.rng);
        actions.extend(self.book.add_seeds(self.now, &mut self.rng));
        actions
    }

    /// Adds nine of ten peers as a long-running daemon would know them.
    fn fill(&mut self) {
        for n in 0..self.world.peers.len() {
            let peer = &self.world.peers[n];
            if self.world_rng.random_ratio(1, 10) || (peer.kind == Kind::Newcomer && peer.turn > Run::START) {
                continue;
            }
            let source = Source::Peer(self.world.peers[0].host.clone());
            let mut entry = Entry::new(peer.name(Run::START), source, self.path_uptime[0], Run::START);
            let record = self.invariants.records.entry(entry.host.clone()).or_default();
            record.known_since = Run::START;
            if peer.is_fine(Run::START) {
                let ago = Duration::from_secs(self.world_rng.random_range(0..19 * 3600));
                entry.last_success = Some(Run::START - ago);
                record.last_ok = entry.last_success;
                entry.ip = peer.addresses.first().copied().filter(|_| !peer.host.is_onion());
                entry.next_probe_at =
                    Run::START - ago + Duration::from_secs(self.world_rng.random_range(52_000..69_000));
            } else {
                entry.next_probe_at = Run::START + Duration::from_secs(self.world_rng.random_range(0..86_400));
            }
            self.disk.insert(entry.host.clone(), entry);
        }
    }

    fn entries(&self) -> Vec<Entry> {
        let mut entries: Vec<Entry> = self.disk.values().cloned().collect();
        entries.sort_by(|a, b| a.host.cmp(&b.host));
        entries
    }

    pub(super) fn world_random(&mut self, from: u64, to: u64) -> u64 {
        self.world_rng.random_range(from..to)
    }

    pub(super) fn schedule_in(&mut self, pause: Duration, scheduled: SimEvent) {
        self.schedule_at(self.now + pause, scheduled);
    }

    fn schedule_at(&mut self, at: Time, scheduled: SimEvent) {
        self.next_id += 1;
        self.queue.push(Reverse((at, self.next_id)));
        self.scheduled.insert(self.next_id, scheduled);
    }
}

fn verified(
    ip: Option<IpAddr>,
    transport: Transport,
    port: Port,
    duration: Duration,
    features: Option<Features>,
    peer_list: PeerList,
) -> Verified {
    let report = ProbeReport {
        software: Some("ElectrumX 1.16.0".to_owned()),
        negotiated_version: Version::new(1, 4),
        features,
        peer_list,
        tip_height: Some(900_000),
        checkpoint: None,
        standing: None,
        add_peer_result: None,
    };
    let (web_sockets, since_response, tls_failed) = (Vec::new(), Duration::ZERO, false);
    let limits = PeerLimits::default();
    Verified {
        ip,
        transport,
        port,
        certificate: None,
        web_sockets,
        since_response,
        limits,
        tls_failed,
        duration,
        report,
    }
}
