//! One run: the book, the world, and the queue of what happens next.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use waypost::book::{Action, BookConfig, BookNotice, Entry, Event, PeerBook, Source};
use waypost::clock::Time;
use waypost::connect::{ProbeError, ProbeTarget, Verified};
use waypost::peer::{Fault, Features, Host, PeerList, Port, ProbeReport, Transport, Version};
use waypost::route::{PerRoute, Route};
use waypost::tor_state::TorProbe;

use super::invariants::{Ledger, Verdict};
use super::network_model::{Kind, World};
use super::outages::{Calendar, Manner};

/// How long a connection waits for an answer.
const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub peers: usize,
    pub days: u64,
    /// The book holds most of them from the start; otherwise it begins with a few seeds.
    pub filled: bool,
    /// About how many seconds pass between two attacks through `server.add_peer`.
    pub attack: u64,
}

#[derive(Debug)]
pub struct Run {
    pub seed: u64,
    pub size: Size,
    pub book: PeerBook,
    pub world: World,
    pub calendar: Calendar,
    pub ledger: Ledger,
    /// What a store would hold.
    pub disk: HashMap<Host, Entry>,
    reach: [Duration; 2],
    pub now: Time,
    /// The book's own chance, and the world's.
    pub rng: StdRng,
    pub lots: StdRng,
    queue: BinaryHeap<Reverse<(Time, u64)>>,
    coming: HashMap<u64, Coming>,
    numbered: u64,
    pub events: u64,
    /// Times that Tor or our network was thought down when it wasn't.
    pub false_alarms: u64,
}

/// What happens at its time.
#[derive(Debug)]
pub enum Coming {
    Resolved(Host, Result<Vec<IpAddr>, ProbeError>),
    Probed(Host, Box<Result<Verified, ProbeError>>),
    Sign(TorProbe),
    /// A newcomer or a mover tells us of itself.
    Announce(usize),
    Attack,
    Restart,
    Look,
}

impl Run {
    pub const START: Time = Time::from_secs(1_800_000_000);

    pub fn new(size: Size, seed: u64) -> Run {
        let mut lots = StdRng::seed_from_u64(seed);
        let world = World::new(size.peers, Run::START, size.days, &mut lots);
        let calendar = Calendar::new(Run::START, size.days, &mut lots);
        let seeds = world.peers.iter().filter(|peer| matches!(peer.kind, Kind::Good | Kind::Dead)).take(12);
        let settings = BookConfig { seeds: seeds.map(|peer| peer.name(Run::START)).collect(), ..BookConfig::default() };
        let mut run = Run {
            seed,
            size,
            book: PeerBook::new(settings.clone(), Vec::new(), PerRoute::default(), Run::START),
            world,
            calendar,
            ledger: Ledger::default(),
            disk: HashMap::new(),
            reach: [Duration::from_hours(1000); 2],
            now: Run::START,
            rng: StdRng::seed_from_u64(seed ^ 1),
            lots,
            queue: BinaryHeap::new(),
            coming: HashMap::new(),
            numbered: 0,
            events: 0,
            false_alarms: 0,
        };
        if size.filled {
            run.fill();
        }
        run.book =
            PeerBook::new(settings, run.entries(), PerRoute { direct: run.reach[0], tor: run.reach[1] }, Run::START);
        run
    }

    /// Goes on to the end, or to the first rule that is broken.
    pub fn run(&mut self) {
        let end = Run::START + Duration::from_hours(24) * u32::try_from(self.size.days).unwrap();
        let actions = match self.size.filled {
            true => self.book.handle(Event::Tick, self.now, &mut self.rng),
            false => self.book.add_seeds(self.now, &mut self.rng),
        };
        self.act(actions);
        self.plan();
        loop {
            let wake = self.book.next_wakeup();
            self.hold(super::invariants::that(wake > self.now, || format!("the wake-up at {wake} is in the past")));
            let next = self.queue.peek().map_or(end, |Reverse((at, _))| *at);
            if wake.min(next) >= end {
                return;
            }
            self.events += 1;
            if wake <= next {
                self.now = wake;
                let actions = self.book.handle(Event::Tick, self.now, &mut self.rng);
                if actions.is_empty() {
                    let verdict = self.ledger.idle_tick(self.now);
                    self.hold(verdict);
                }
                self.act(actions);
            } else if let Some(Reverse((at, number))) = self.queue.pop() {
                self.now = at;
                if let Some(coming) = self.coming.remove(&number) {
                    self.happen(coming);
                }
            }
        }
    }

    /// Ends the run where a rule is broken.
    pub fn hold(&self, verdict: Verdict) {
        if let Err(broken) = verdict {
            let minutes = self.now.since(Run::START).as_secs() / 60;
            let (day, hour, minute) = (minutes / 1440, minutes / 60 % 24, minutes % 60);
            let size = self.size;
            panic!("SIM_SEED={} ({size:?}), day {day} {hour:02}:{minute:02}: {broken}", self.seed);
        }
    }

    fn happen(&mut self, coming: Coming) {
        let now = self.now;
        let actions = match coming {
            Coming::Resolved(host, addresses) => {
                self.ledger.landed(&host);
                let record = self.ledger.records.entry(host.clone()).or_default();
                record.ended = now;
                self.book.handle(Event::Resolved { host, addresses }, now, &mut self.rng)
            }
            Coming::Probed(host, outcome) => {
                self.ledger.landed(&host);
                let record = self.ledger.records.entry(host.clone()).or_default();
                record.ended = now;
                match *outcome {
                    Ok(_) => record.last_ok = Some(now),
                    Err(ProbeError::ProtocolViolation(_)) => record.last_bad = Some(now),
                    Err(_) => {}
                }
                self.book.handle(Event::Probed { host, outcome }, now, &mut self.rng)
            }
            Coming::Sign(sign) => self.book.handle(Event::Tor(sign), now, &mut self.rng),
            Coming::Announce(peer) => self.announce(peer),
            Coming::Attack => self.attack(),
            Coming::Restart => self.restart(),
            Coming::Look => {
                self.look();
                let pause = Duration::from_mins(self.lots_in(300, 660));
                self.later(pause, Coming::Look);
                Vec::new()
            }
        };
        self.act(actions);
    }

    fn act(&mut self, actions: Vec<Action>) {
        let now = self.now;
        let unfounded =
            actions.iter().any(|action| matches!(action, Action::Notice(BookNotice::AddPeerSpoofed { .. })));
        for action in actions {
            let verdict = match action {
                Action::Resolve(host, _) => {
                    let verdict = self.ledger.lookup(&host, now);
                    self.look_up(host);
                    verdict
                }
                Action::Probe(attempt) => {
                    let verdict = self.ledger.probe(&attempt, self.book.config(), &self.calendar, now);
                    self.converse(attempt);
                    verdict
                }
                Action::Upsert(entry) => {
                    let verdict = match self.disk.get(&entry.host) {
                        None => self.ledger.admitted(&entry, now),
                        Some(old) if entry.failures > old.failures => self.ledger.blamed(&entry.host, &self.calendar),
                        Some(_) => Ok(()),
                    };
                    self.disk.insert(entry.host.clone(), *entry);
                    verdict
                }
                Action::Remove(host) => self.disk.remove(&host).map_or(Ok(()), |entry| {
                    self.ledger.removed(&entry, unfounded, self.book.config(), &self.calendar, now)
                }),
                Action::SavePathUptime(via, total) => {
                    self.reach[usize::from(via == Route::Tor)] = total;
                    Ok(())
                }
                Action::Notice(BookNotice::NetworkDown)
                    if self.calendar.worked(Route::Direct, now - TIMEOUT * 4, now) =>
                {
                    self.false_alarms += 1;
                    Ok(())
                }
                Action::Notice(BookNotice::Tor(waypost::tor_state::TorState::Down { .. }))
                    if self.calendar.worked(Route::Tor, now - TIMEOUT * 8, now) =>
                {
                    self.false_alarms += 1;
                    Ok(())
                }
                Action::SnapshotDirty | Action::Notice(_) => Ok(()),
            };
            self.hold(verdict);
        }
    }

    fn look_up(&mut self, host: Host) {
        let (addresses, takes) = match self.calendar.down(Route::Direct, self.now) {
            Some(Manner::NoRoute) => (Err(ProbeError::NameNotFound), Duration::from_millis(3)),
            Some(_) => (Err(ProbeError::NameNotFound), TIMEOUT),
            None => (self.world.resolve(&host, self.now), Duration::from_millis(self.lots_in(5, 300))),
        };
        self.later(takes, Coming::Resolved(host, addresses));
    }

    fn converse(&mut self, attempt: ProbeTarget) {
        let ProbeTarget { host, via, .. } = &attempt;
        let (host, via, now) = (host.clone(), *via, self.now);
        let (outcome, takes) = match self.calendar.down(via, now) {
            Some(Manner::NoRoute) => (Err(ProbeError::Unreachable), Duration::from_millis(2)),
            Some(Manner::Said) => (Err(ProbeError::TorUnavailable), Duration::from_millis(2)),
            Some(_) => (Err(ProbeError::Unreachable), TIMEOUT * 2),
            None => self.answer(attempt),
        };
        match self.calendar.breaks(via, now, now + takes) {
            // The line goes dead in the middle of it.
            Some(cut) => {
                let outcome = if self.lots.random() { ProbeError::Timeout } else { ProbeError::Unreachable };
                self.later((cut + TIMEOUT).since(now), Coming::Probed(host, Box::new(Err(outcome))));
            }
            None => self.later(takes, Coming::Probed(host, Box::new(outcome))),
        }
    }

    /// What the peer makes of it.
    fn answer(&mut self, attempt: ProbeTarget) -> (Result<Verified, ProbeError>, Duration) {
        let now = self.now;
        let slow = if attempt.via == Route::Tor { 5 } else { 1 };
        let quick = Duration::from_millis(self.lots_in(100, 2500) * slow);
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
            attempt.endpoints.iter().copied().find(|door| ports.iter().any(|open| open == *door))
        else {
            let failure = if self.lots.random() { ProbeError::Refused } else { ProbeError::Unreachable };
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
        let listing = self.world.listing(&attempt.host, now, &mut self.lots);
        (Ok(verified(ip, transport, port, quick, features, listing)), quick)
    }

    /// Everything that comes whatever the book does.
    fn plan(&mut self) {
        for (at, sign) in self.calendar.signs(Run::START, &mut self.lots) {
            self.at(at, Coming::Sign(sign));
        }
        let day = Duration::from_hours(24);
        for n in 0..self.world.peers.len() {
            let peer = &self.world.peers[n];
            let first = match peer.kind {
                Kind::Newcomer => peer.turn,
                // Half of those who move tell of it; of the others one must hear.
                Kind::Mover if n % 2 == 0 => Run::START + Duration::from_secs(self.lots_in(0, 86_400)),
                _ => continue,
            };
            self.at(first, Coming::Announce(n));
        }
        self.at(Run::START + Duration::from_mins(20), Coming::Attack);
        self.at(Run::START + Duration::from_hours(7), Coming::Look);
        self.at(Run::START + day * u32::try_from(self.size.days / 2).unwrap(), Coming::Restart);
    }

    /// The process is stopped, and started again with what was saved.
    fn restart(&mut self) -> Vec<Action> {
        let under_way = |coming: &Coming| matches!(coming, Coming::Resolved(..) | Coming::Probed(..));
        self.coming.retain(|_, coming| !under_way(coming));
        self.ledger.crashed();
        let [direct, tor] = self.reach;
        self.book = PeerBook::new(self.book.config().clone(), self.entries(), PerRoute { direct, tor }, self.now);
        let sign = match self.calendar.down(Route::Tor, self.now) {
            Some(Manner::Said) => TorProbe::Unavailable { reason: "nothing answers".to_owned() },
            _ => TorProbe::Reachable,
        };
        let mut actions = self.book.handle(Event::Tor(sign), self.now, &mut self.rng);
        actions.extend(self.book.add_seeds(self.now, &mut self.rng));
        actions
    }

    /// Nine of ten peers, as a daemon that has run for long would know them.
    fn fill(&mut self) {
        for n in 0..self.world.peers.len() {
            let peer = &self.world.peers[n];
            if self.lots.random_ratio(1, 10) || (peer.kind == Kind::Newcomer && peer.turn > Run::START) {
                continue;
            }
            let teller = Source::Peer(self.world.peers[0].host.clone());
            let mut entry = Entry::new(peer.name(Run::START), teller, self.reach[0], Run::START);
            let record = self.ledger.records.entry(entry.host.clone()).or_default();
            record.known_since = Run::START;
            if peer.is_fine(Run::START) {
                let ago = Duration::from_secs(self.lots.random_range(0..19 * 3600));
                entry.last_success = Some(Run::START - ago);
                record.last_ok = entry.last_success;
                entry.ip = peer.addresses.first().copied().filter(|_| !peer.host.is_onion());
                entry.next_probe_at = Run::START - ago + Duration::from_secs(self.lots.random_range(52_000..69_000));
            } else {
                entry.next_probe_at = Run::START + Duration::from_secs(self.lots.random_range(0..86_400));
            }
            self.disk.insert(entry.host.clone(), entry);
        }
    }

    fn entries(&self) -> Vec<Entry> {
        let mut entries: Vec<Entry> = self.disk.values().cloned().collect();
        entries.sort_by(|a, b| a.host.cmp(&b.host));
        entries
    }

    pub fn lots_in(&mut self, from: u64, to: u64) -> u64 {
        self.lots.random_range(from..to)
    }

    pub fn later(&mut self, pause: Duration, coming: Coming) {
        self.at(self.now + pause, coming);
    }

    fn at(&mut self, at: Time, coming: Coming) {
        self.numbered += 1;
        self.queue.push(Reverse((at, self.numbered)));
        self.coming.insert(self.numbered, coming);
    }
}

fn verified(
    ip: Option<IpAddr>,
    transport: Transport,
    port: Port,
    took: Duration,
    features: Option<Features>,
    listing: PeerList,
) -> Verified {
    let report = ProbeReport {
        software: Some("ElectrumX 1.16.0".to_owned()),
        negotiated_version: Version::new(1, 4),
        features,
        peer_list: listing,
        tip_height: Some(900_000),
        checkpoint: None,
        add_peer_result: None,
    };
    Verified { ip, transport, port, tls_key_hash: None, duration: took, report }
}
