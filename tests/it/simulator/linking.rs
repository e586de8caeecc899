//! Simulated observer who tries to find out which onion service and which clearnet server are one node.
//!
//! The observer polls both sides of the nodes once a minute, runs peers of both kinds, and introduces names at will. Each trick yields a score for every pair of sides. The best pair of each onion side is its guess.

mod growth;
mod own_names;

use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, IteratorRandom};
use rand::{RngExt, SeedableRng};
use waypost::book::{Action, BookConfig, Event, Ingress, PeerBook, Publication, Side};
use waypost::clock::Time;
use waypost::connect::{PeerLimits, ProbeError, ProbeReport, ProbeTarget, Verified};
use waypost::peer::{Features, Host, OnionAddress, PeerList, PeerListEntry, Port, Ports, RealName, Transport, Version};
use waypost::route::{PerRoute, Route, RoutingPolicy};
use waypost::tor_state::TorProbe;

const START: Time = Time::from_secs(1_800_000_000);
const MINUTE: Duration = Duration::from_mins(1);
/// Length of the intervals whose numbers of changes are compared, in minutes.
const BIN: usize = 15;

/// Peers of the network: all of these, of which some belong to the observer.
const CLEARNET_SERVERS: usize = 60;
const ONION_SERVERS: usize = 30;
const OBSERVERS_SERVERS: usize = 5;

/// Number of nodes, and of days for which they are observed.
#[derive(Clone, Copy)]
struct Extent {
    nodes: usize,
    days: usize,
}

impl Extent {
    fn minutes(self) -> usize {
        self.days * 24 * 60
    }
}

/// Side of a node, by number of the node.
type SideId = (usize, Ingress);

struct Server {
    /// Times at which the server is away.
    away: Vec<(Time, Time)>,
    lists: Vec<Host>,
    is_observers: bool,
}

struct SideState {
    book: PeerBook,
    publication: Publication,
    /// Hosts of the list that clients of each ingress see.
    lists: BTreeMap<Ingress, BTreeSet<Host>>,
    /// Time of the third verified peer.
    third_verified: Option<Time>,
    /// Number of list changes in each interval.
    changes: Vec<f64>,
}

struct Node {
    /// One side, or both.
    sides: Vec<(Vec<Ingress>, SideState)>,
    outages: Vec<(Time, Time)>,
    is_tor_up: bool,
    names: [Host; 2],
    /// Time from which both names are reachable.
    reachable_from: Time,
}

enum Pending {
    Resolved(Host),
    Probed(Box<ProbeTarget>),
}

struct Simulation {
    extent: Extent,
    rng: StdRng,
    now: Time,
    servers: HashMap<Host, Server>,
    nodes: Vec<Node>,
    queue: BinaryHeap<(std::cmp::Reverse<Time>, usize)>,
    pending: HashMap<usize, (usize, usize, Pending)>,
    sequence: usize,
    /// Sides on which each of the observer's names was seen: in a list, or in a direct dial.
    sightings: BTreeMap<Host, BTreeSet<SideId>>,
    /// Names that the observer's servers answer wrongly.
    wrong: BTreeSet<Host>,
    canaries: usize,
    /// First announcement of each side to a server of the observer's.
    announced: BTreeMap<SideId, Time>,
    scores: Scores,
}

/// Score of each pair of an onion side and a clearnet side, for each trick.
struct Scores {
    nodes: usize,
    matrices: BTreeMap<&'static str, Vec<Vec<f64>>>,
}

impl Scores {
    fn add(&mut self, trick: &'static str, onion: usize, clearnet: usize, score: f64) {
        let nodes = self.nodes;
        let matrix = self.matrices.entry(trick).or_insert_with(|| vec![vec![0.0; nodes]; nodes]);
        matrix[onion][clearnet] += score;
    }

    /// Returns the share of onion sides whose best-scoring clearnet side is the right one. Ties are broken at random.
    fn success(matrix: &[Vec<f64>], rng: &mut StdRng) -> f64 {
        let is_right = |(onion, row): (usize, &Vec<f64>)| {
            let best = row.iter().copied().fold(f64::MIN, f64::max);
            let candidates = (0..row.len()).filter(|clearnet| row[*clearnet] >= best);
            candidates.choose(rng) == Some(onion)
        };
        let right = matrix.iter().enumerate().map(is_right).filter(|is_right| *is_right).count();
        right as f64 / matrix.len() as f64
    }
}

#[test]
fn observer_cannot_link_the_sides_of_a_node() {
    let is_full = std::env::var_os("SIM_FULL").is_some_and(|full| full == "1");
    let extent = Extent { nodes: 20, days: if is_full { 7 } else { 3 } };
    let seed = std::env::var("SIM_SEED").map_or(7, |seed| seed.parse().unwrap());
    let separate = observe(extent, true, seed);
    let shared = observe(extent, false, seed);
    let Extent { nodes, days } = extent;
    println!(
        "share of {nodes} nodes whose names the observer links in {days} days (chance: {:.2})",
        1.0 / nodes as f64
    );
    println!("{:<24}{:>10}{:>10}", "trick", "two books", "one book");
    for (trick, rate) in &shared {
        // A trick that scores no pair leaves guesses to chance.
        let separate = separate.get(trick).map_or_else(|| "none".to_owned(), |rate| format!("{rate:.2}"));
        println!("{trick:<24}{separate:>10}{rate:>10.2}");
    }
    for (trick, rate) in &separate {
        // The clearnet side learns its onion name hours later than others do, because it has just visited its peers
        // to announce itself. Lists prefer young names, so it lists that name more often for some days.
        let bound = if *trick == "own name ever present" { 0.6 } else { 0.4 };
        assert!(*rate <= bound, "{trick}: {rate}");
    }
    assert!(shared["all tricks"] >= 0.9, "the observer must succeed where the sides share a book");
}

/// Runs the days, and returns the success rate of each trick.
fn observe(extent: Extent, has_two_books: bool, seed: u64) -> BTreeMap<&'static str, f64> {
    let mut simulation = Simulation::new(extent, has_two_books, seed);
    let mut own_names = own_names::OwnNames::new(extent.nodes);
    let mut growth = growth::Growth::default();
    for minute in 0..extent.minutes() {
        simulation.advance(START + MINUTE * u32::try_from(minute + 1).unwrap(), minute);
        simulation.report_own_names(minute);
        simulation.play_tricks(minute);
        own_names.sample(&simulation, minute);
        growth.sample(&simulation, minute);
    }
    simulation.score_sightings();
    simulation.score_changes();
    simulation.score_announcements();
    own_names.score(&mut simulation.scores);
    growth.print(&simulation, if has_two_books { "two books" } else { "one book" });
    let Simulation { scores, mut rng, .. } = simulation;
    let mut all = vec![vec![0.0; extent.nodes]; extent.nodes];
    let mut rates = BTreeMap::new();
    for (trick, matrix) in &scores.matrices {
        rates.insert(*trick, Scores::success(matrix, &mut rng));
        // Each trick counts by how far a score lies above the mean of its row.
        for (row, sums) in matrix.iter().zip(&mut all) {
            let mean = row.iter().sum::<f64>() / extent.nodes as f64;
            let deviation =
                (row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / extent.nodes as f64).sqrt().max(1e-9);
            for (score, sum) in row.iter().zip(sums) {
                *sum += (score - mean) / deviation;
            }
        }
    }
    rates.insert("all tricks", Scores::success(&all, &mut rng));
    rates
}

impl Simulation {
    fn new(extent: Extent, has_two_books: bool, seed: u64) -> Simulation {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut hosts: Vec<Host> =
            (0..CLEARNET_SERVERS).map(|n| format!("s{n}.server{n}.example").parse().unwrap()).collect();
        hosts.extend((0..ONION_SERVERS).map(|n| onion(u8::try_from(n).unwrap(), 1)));
        let servers = hosts.iter().enumerate().map(|(n, host)| {
            let kind_index = if n < CLEARNET_SERVERS { n } else { n - CLEARNET_SERVERS };
            let lists = hosts.iter().cloned().sample(&mut rng, 20);
            let away = outages(&mut rng, extent, Duration::from_hours(60), Duration::from_hours(2));
            let server = Server { away, lists, is_observers: kind_index < OBSERVERS_SERVERS };
            (host.clone(), server)
        });
        let servers: HashMap<Host, Server> = servers.collect();
        let seeds: Vec<RealName> =
            (0..15).chain(CLEARNET_SERVERS..CLEARNET_SERVERS + 8).map(|n| name(&hosts[n])).collect();
        let nodes = (0..extent.nodes).map(|n| Node::new(n, extent, has_two_books, &seeds, &mut rng)).collect();
        let mut simulation = Simulation {
            extent,
            rng,
            now: START,
            servers,
            nodes,
            queue: BinaryHeap::new(),
            pending: HashMap::new(),
            sequence: 0,
            sightings: BTreeMap::new(),
            wrong: BTreeSet::new(),
            canaries: 0,
            announced: BTreeMap::new(),
            scores: Scores { nodes: extent.nodes, matrices: BTreeMap::new() },
        };
        for node in 0..extent.nodes {
            for side in 0..simulation.nodes[node].sides.len() {
                simulation.handle(node, side, Event::Tor(TorProbe::Reachable));
                let (now, rng) = (simulation.now, &mut simulation.rng);
                let actions = simulation.nodes[node].sides[side].1.book.add_seeds(now, rng);
                simulation.execute(node, side, actions);
            }
        }
        simulation
    }

    /// Goes on to this time.
    fn advance(&mut self, until: Time, minute: usize) {
        while let Some((std::cmp::Reverse(at), number)) = self.queue.peek().copied() {
            if at > until {
                break;
            }
            self.queue.pop();
            self.now = at;
            let Some((node, side, pending)) = self.pending.remove(&number) else { continue };
            let event = match pending {
                Pending::Resolved(host) => {
                    let addresses = Ok(vec![address(&host)]);
                    Event::Resolved { host, addresses }
                }
                Pending::Probed(target) => {
                    let outcome = Box::new(self.probe(&target));
                    Event::Probed { host: target.host, outcome }
                }
            };
            self.handle(node, side, event);
        }
        self.now = until;
        for node in 0..self.extent.nodes {
            let is_up = !is_within(&self.nodes[node].outages, until);
            let has_changed = std::mem::replace(&mut self.nodes[node].is_tor_up, is_up) != is_up;
            for side in 0..self.nodes[node].sides.len() {
                if has_changed {
                    let probe =
                        if is_up { TorProbe::Reachable } else { TorProbe::Unavailable { reason: "outage".to_owned() } };
                    self.handle(node, side, Event::Tor(probe));
                }
                if self.nodes[node].sides[side].1.book.next_wakeup() <= until {
                    self.handle(node, side, Event::Tick);
                }
                self.publish(node, side, minute);
            }
        }
    }

    fn handle(&mut self, node: usize, side: usize, event: Event) {
        let state = &mut self.nodes[node].sides[side].1;
        let actions = state.book.handle(event, self.now, &mut self.rng);
        if state.third_verified.is_none() && state.book.counts(self.now).verified >= 3 {
            state.third_verified = Some(self.now);
        }
        self.execute(node, side, actions);
    }

    fn execute(&mut self, node: usize, side: usize, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Resolve(host, route) => {
                    self.observe_dial(node, side, &host, route);
                    let delay = self.rng.random_range(0.05..if route == Route::Tor { 4.0 } else { 0.5 });
                    self.schedule(node, side, Duration::from_secs_f64(delay), Pending::Resolved(host));
                }
                Action::Probe(target) => {
                    self.observe_dial(node, side, &target.host, target.via);
                    self.observe_announcement(node, &target);
                    let delay = self.rng.random_range(0.3..if target.via == Route::Tor { 12.0 } else { 2.0 });
                    self.schedule(node, side, Duration::from_secs_f64(delay), Pending::Probed(Box::new(target)));
                }
                Action::SnapshotDirty => {
                    let (now, rng) = (self.now, &mut self.rng);
                    let state = &mut self.nodes[node].sides[side].1;
                    state.publication.on_change(|| state.book.counts(now).verified, now, rng);
                }
                Action::Upsert(_)
                | Action::Remove(_)
                | Action::SavePathUptime(..)
                | Action::SaveChain(_)
                | Action::Notice(_) => {}
            }
        }
    }

    fn schedule(&mut self, node: usize, side: usize, delay: Duration, pending: Pending) {
        self.sequence += 1;
        self.queue.push((std::cmp::Reverse(self.now + delay), self.sequence));
        self.pending.insert(self.sequence, (node, side, pending));
    }

    /// A direct dial shows the address of the node, which is that of its clearnet name.
    fn observe_dial(&mut self, node: usize, _side: usize, host: &Host, route: Route) {
        if route == Route::Direct && self.sightings.contains_key(host) {
            self.sightings.get_mut(host).unwrap().insert((node, Ingress::Clearnet));
        }
    }

    fn probe(&mut self, target: &ProbeTarget) -> Result<Verified, ProbeError> {
        let is_canary = self.sightings.contains_key(&target.host);
        let mut lists = Vec::new();
        if let Some(server) = self.servers.get(&target.host) {
            if is_within(&server.away, self.now) {
                return Err(ProbeError::Timeout);
            }
            lists.clone_from(&server.lists);
            if server.is_observers {
                lists = vec![self.canary(), self.canary()];
            }
        } else if let Some(list) = self.list_of_own_name(&target.host) {
            lists.extend(list?);
        } else if !is_canary {
            return Err(ProbeError::Timeout);
        }
        if self.wrong.contains(&target.host) {
            return Err(ProbeError::ProtocolViolation(waypost::peer::Fault::WrongGenesis));
        }
        let list =
            lists.iter().map(|host| PeerListEntry { ip: (!host.is_onion()).then(|| address(host)), name: name(host) });
        let report = ProbeReport {
            software: Some("ElectrumX 1.18".to_owned()),
            negotiated_version: Version::new(1, 4),
            features: None,
            peer_list: PeerList(list.collect()),
            tip_height: Some(900_000),
            checkpoint: None,
            standing: None,
            add_peer_result: None,
        };
        Ok(Verified {
            ip: (!target.host.is_onion()).then(|| address(&target.host)),
            transport: Transport::Tls,
            port: Port::new(50002).unwrap(),
            certificate: None,
            web_sockets: Vec::new(),
            since_response: Duration::ZERO,
            limits: PeerLimits::default(),
            tls_failed: false,
            duration: Duration::from_secs(1),
            report,
        })
    }

    /// Creates a server of the observer's that nothing else names.
    fn canary(&mut self) -> Host {
        self.canaries += 1;
        let host: Host = format!("c.canary{}.example", self.canaries).parse().unwrap();
        self.sightings.insert(host.clone(), BTreeSet::new());
        host
    }

    fn publish(&mut self, node: usize, side: usize, minute: usize) {
        let (ingresses, state) = &mut self.nodes[node].sides[side];
        if !state.publication.take_due(self.now) {
            return;
        }
        let snapshot = state.book.snapshot(self.now, &mut self.rng);
        for ingress in &*ingresses {
            let json = snapshot.peers(*ingress, self.now, &mut self.rng).to_vec();
            let ports = Ports::new(None, Port::new(50002)).unwrap();
            let list = PeerList::parse(std::str::from_utf8(&json).unwrap(), ports).unwrap();
            let hosts: BTreeSet<Host> = list.0.into_iter().map(|entry| entry.name.host).collect();
            let known = state.lists.entry(*ingress).or_default();
            if *ingress == ingresses[0] && hosts != *known {
                state.changes[minute / BIN] += 1.0;
            }
            for host in hosts.difference(known) {
                if let Some(sides) = self.sightings.get_mut(host) {
                    sides.insert((node, *ingress));
                }
            }
            *known = hosts;
        }
    }

    /// Introduces names, and compares what the sides answer.
    fn play_tricks(&mut self, minute: usize) {
        // Names that are introduced to one onion service only, every six hours.
        if minute % 360 == 90 {
            for node in 0..self.extent.nodes {
                let canary = self.canary();
                self.add_peer(node, Ingress::Onion, &canary);
            }
        }
        // The side to which a misbehaving name was introduced knows it as such. Does another side know it?
        if minute == 600 {
            for onion in 0..self.extent.nodes {
                let wrong = self.canary();
                self.wrong.insert(wrong.clone());
                self.add_peer(onion, Ingress::Onion, &wrong);
            }
        }
        if minute == 2000 {
            let wrong: Vec<Host> = self.wrong.iter().cloned().collect();
            let informed =
                |host: &Host, simulation: &Simulation| simulation.nodes.iter().position(|node| node.knows(host));
            for host in wrong {
                let onion = informed(&host, self);
                for clearnet in 0..self.extent.nodes {
                    let is_refused = !self.add_peer(clearnet, Ingress::Clearnet, &host);
                    if let Some(onion) = onion.filter(|_| is_refused) {
                        self.scores.add("refused bad peer", onion, clearnet, 1.0);
                    }
                }
            }
        }
        // A node refuses its own names.
        if minute == 3000 {
            for onion in 0..self.extent.nodes {
                for clearnet in 0..self.extent.nodes {
                    let [clearnet_name, _] = self.nodes[clearnet].names.clone();
                    if !self.add_peer(onion, Ingress::Onion, &clearnet_name) {
                        self.scores.add("refused own name", onion, clearnet, 1.0);
                    }
                    // The budget of new names refills.
                    self.now = self.now + Duration::from_mins(10);
                }
            }
            self.now = START + MINUTE * 3001;
        }
        // Servers spread the names that the lists of others have shown for a day, as real ones do.
        if minute % 1440 == 1439 {
            let seen: Vec<Host> =
                self.sightings.iter().filter(|(_, sides)| !sides.is_empty()).map(|(host, _)| host.clone()).collect();
            for server in self.servers.values_mut() {
                server.lists.extend(seen.choose(&mut self.rng).cloned());
            }
        }
    }

    fn add_peer(&mut self, node: usize, ingress: Ingress, host: &Host) -> bool {
        let ports = Ports::new(None, Port::new(50002)).unwrap();
        let features = Features { hosts: Some(vec![(host.clone(), Some(ports))]), ..Features::default() };
        let from = (ingress == Ingress::Clearnet).then(|| address(host));
        let sides = &mut self.nodes[node].sides;
        let side = sides.iter().position(|(ingresses, _)| ingresses.contains(&ingress)).unwrap();
        match sides[side].1.book.add_peer(&features, from, self.now, &mut self.rng) {
            Ok(actions) => {
                self.execute(node, side, actions);
                true
            }
            Err(_) => false,
        }
    }

    fn score_sightings(&mut self) {
        for sides in self.sightings.values() {
            let of = |ingress| sides.iter().filter(move |(_, at)| *at == ingress).map(|(node, _)| *node);
            let weight = 1.0 / (of(Ingress::Onion).count() * of(Ingress::Clearnet).count()).max(1) as f64;
            for onion in of(Ingress::Onion) {
                for clearnet in of(Ingress::Clearnet) {
                    self.scores.add("names on both sides", onion, clearnet, weight);
                }
            }
        }
    }

    fn score_changes(&mut self) {
        for onion in 0..self.extent.nodes {
            for clearnet in 0..self.extent.nodes {
                let series = |node: usize, ingress: Ingress| {
                    let side = self.nodes[node].side(ingress);
                    // The first day of a node is like that of any other.
                    side.changes[1440 / BIN..].to_vec()
                };
                let score = correlation(&series(onion, Ingress::Onion), &series(clearnet, Ingress::Clearnet));
                self.scores.add("times of changes", onion, clearnet, score);
            }
        }
    }
}

impl Node {
    fn new(number: usize, extent: Extent, has_two_books: bool, seeds: &[RealName], rng: &mut StdRng) -> Node {
        let clearnet: Host = format!("n{number}.node{number}.example").parse().unwrap();
        let names = [clearnet, onion(u8::try_from(number).unwrap(), 2)];
        let side = |side: Side, routing: RoutingPolicy, local_hosts: Vec<Host>| {
            let seeds = seeds.to_vec();
            let config = BookConfig { side, routing, local_hosts, seeds, announce: true, ..BookConfig::default() };
            SideState {
                book: PeerBook::new(config, Vec::new(), PerRoute::default(), START),
                publication: Publication::new(side, START),
                lists: BTreeMap::new(),
                third_verified: None,
                changes: vec![0.0; extent.minutes().div_ceil(BIN)],
            }
        };
        let sides = if has_two_books {
            let [clearnet, onion] = names.clone();
            vec![
                (vec![Ingress::Clearnet], side(Side::Clearnet, RoutingPolicy::Split, vec![clearnet])),
                (vec![Ingress::Onion], side(Side::Onion, RoutingPolicy::TorOnly, vec![onion])),
            ]
        } else {
            vec![(Ingress::ALL.to_vec(), side(Side::Both, RoutingPolicy::Split, names.to_vec()))]
        };
        let outages = outages(rng, extent, Duration::from_hours(48), Duration::from_mins(15));
        let reachable_from = START + Duration::from_hours(24).mul_f64(rng.random_range(0.0..1.0));
        Node { sides, outages, is_tor_up: true, names, reachable_from }
    }

    /// Returns the state that clients of an ingress see.
    fn side(&self, ingress: Ingress) -> &SideState {
        &self.sides.iter().find(|(ingresses, _)| ingresses.contains(&ingress)).unwrap().1
    }

    fn knows(&self, host: &Host) -> bool {
        self.sides.iter().any(|(_, side)| side.book.entries().any(|entry| entry.host == *host))
    }
}

fn outages(rng: &mut StdRng, extent: Extent, between: Duration, length: Duration) -> Vec<(Time, Time)> {
    let mut outages = Vec::new();
    let mut at = START + between.mul_f64(rng.random_range(0.1..1.0));
    while at < START + MINUTE * u32::try_from(extent.minutes()).unwrap() {
        let end = at + length.mul_f64(rng.random_range(0.2..2.0));
        outages.push((at, end));
        at = end + between.mul_f64(rng.random_range(0.2..2.0));
    }
    outages
}

fn is_within(outages: &[(Time, Time)], now: Time) -> bool {
    outages.iter().any(|(from, until)| (*from..*until).contains(&now))
}

fn onion(n: u8, kind: u8) -> Host {
    let mut key = [kind; 32];
    key[0] = n;
    Host::Onion(OnionAddress::from_public_key(key))
}

fn name(host: &Host) -> RealName {
    let ports = Ports::new(None, Port::new(50002)).unwrap();
    RealName { host: host.clone(), version: Some(Version::new(1, 4)), pruning: None, ports }
}

/// Each host has an address in a subnet of its own.
fn address(host: &Host) -> IpAddr {
    let number = hash(host);
    let [a, b, c, ..] = number.to_be_bytes();
    Ipv4Addr::new(60 + a % 30, b, c, 1).into()
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    let (mean_a, mean_b) = (mean(a), mean(b));
    let sum = |x: &mut dyn Iterator<Item = f64>| x.sum::<f64>();
    let product = sum(&mut a.iter().zip(b).map(|(x, y)| (x - mean_a) * (y - mean_b)));
    let squares_a = sum(&mut a.iter().map(|x| (x - mean_a).powi(2)));
    let squares_b = sum(&mut b.iter().map(|y| (y - mean_b).powi(2)));
    product / (squares_a * squares_b).sqrt().max(1e-9)
}
