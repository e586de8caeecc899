//! Cost of decisions and snapshots in a book of a hundred thousand peers, and the start of a daemon with it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use waypost::book::{Action, BookConfig, Entry, Event, Ingress, PeerBook};
use waypost::chain::Chain;
use waypost::clock::{self, Time};
use waypost::connect::{PeerLimits, ProbeError, ProbeReport, Verified};
use waypost::peer::{Host, PeerList, RealName, Transport, Version};
use waypost::route::PerRoute;
use waypost::store::Store;
use waypost::tor_state::TorProbe;

use super::table::{FigureTable, count, figure};
use super::{Starts, fixture, millis};

const PEERS: u32 = 100_000;
const ROUNDS: u32 = 5;

/// Number of visits whose decisions are measured.
const VISITS: u32 = 400;

pub(super) fn run() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    fixture::fill(&data, PEERS, 4);
    let size = std::fs::metadata(data.join("peers.redb")).unwrap().len();
    let mut starts = Starts::table();
    starts.add_row(Starts::measure(dir.path(), &data, ROUNDS).row(PEERS, Some(size)));
    starts.print();

    let now = clock::now();
    let start = Instant::now();
    let (_store, loaded) = Store::open(&data.join("peers.redb"), &Chain::BITCOIN, now).unwrap();
    let opening = start.elapsed();
    let start = Instant::now();
    let config = BookConfig { seeds: Vec::new(), ..BookConfig::default() };
    let book = PeerBook::new(config, loaded.entries, PerRoute::default(), now);
    let creation = start.elapsed();
    let mut table = FigureTable::new("Parts of the start", ["part", "ms"]);
    table.add_row(["opening of the database", &figure(millis(opening))]);
    table.add_row(["creation of the book", &figure(millis(creation))]);
    table.print();
    let mut bench = Bench { book, now, rng: StdRng::seed_from_u64(7), times: BTreeMap::new() };
    bench.snapshots();
    bench.visits();
    bench.announcements();
    bench.hours();
    bench.print();
}

struct Bench {
    book: PeerBook,
    now: Time,
    rng: StdRng,
    /// Durations by what was measured.
    times: BTreeMap<&'static str, Vec<Duration>>,
}

impl Bench {
    fn handle(&mut self, what: &'static str, event: Event) -> Vec<Action> {
        let start = Instant::now();
        let actions = self.book.handle(event, self.now, &mut self.rng);
        let _ = self.book.next_wakeup();
        self.times.entry(what).or_default().push(start.elapsed());
        actions
    }

    fn snapshot(&mut self, what: &'static str) {
        let start = Instant::now();
        let snapshot = self.book.snapshot(self.now, &mut self.rng);
        self.times.entry(what).or_default().push(start.elapsed());
        assert!(snapshot.peers(Ingress::Clearnet, self.now, &mut self.rng).len() > 1000);
    }

    /// Publishes the first snapshot, and others after one changed peer each.
    fn snapshots(&mut self) {
        self.snapshot("snapshot: first");
        // No peer is visited within ten minutes of the last visit.
        self.now = self.now + Duration::from_mins(20);
        for n in 0..40 {
            self.visit(n, Ok(verified(n)));
            self.snapshot("snapshot: after one changed peer");
        }
        self.handle("Tor becomes ready", Event::Tor(TorProbe::Reachable));
        self.handle("Tor becomes ready", Event::TorPathProven);
        self.snapshot("snapshot: with Tor");
    }

    /// Visits peers, each in a network of its own. A few do not answer.
    fn visits(&mut self) {
        for n in 40..VISITS {
            self.now = self.now + Duration::from_secs(1);
            let outcome = match n % 16 {
                0 => Err(ProbeError::Timeout),
                1 => Err(ProbeError::Closed),
                _ => Ok(verified(n)),
            };
            self.visit(n, outcome);
            self.handle("tick without a due peer", Event::Tick);
        }
    }

    fn visit(&mut self, n: u32, outcome: Result<Verified, ProbeError>) {
        let host = fixture::entry(n * 4, false, self.now).host;
        let actions = self.handle("next probe: choice and start", Event::SuspectPeer(host.clone()));
        let starts = |action: &Action| matches!(action, Action::Resolve(started, _) if *started == host);
        assert!(actions.iter().any(starts), "{host} is not visited: {actions:?}");
        self.answer(actions, &host, &outcome);
    }

    /// Answers the requests of these actions. Peers other than the host are witnesses, which answer.
    fn answer(&mut self, mut actions: Vec<Action>, host: &Host, outcome: &Result<Verified, ProbeError>) {
        while let Some(action) = actions.pop() {
            actions.extend(match action {
                Action::Resolve(host, _) => {
                    let addresses = Ok(self.book.entry(&host).and_then(|entry| entry.ip).into_iter().collect());
                    self.handle("lookup of a name", Event::Resolved { host, addresses })
                }
                Action::Probe(target) if target.host == *host => {
                    let what = match outcome {
                        Ok(_) => "result: success",
                        Err(ProbeError::Closed) => "result: failure of the peer",
                        Err(_) => "result: failure of peer or path",
                    };
                    let outcome = Box::new(outcome.clone());
                    self.handle(what, Event::Probed { host: target.host, outcome })
                }
                Action::Probe(target) => {
                    let verified = verified_as(self.book.entry(&target.host).unwrap());
                    let event = Event::Probed { host: target.host, outcome: Box::new(Ok(verified)) };
                    self.handle("result: success of a witness", event)
                }
                _ => continue,
            });
        }
    }

    /// Adds names that an IRC channel reports, until some displace others.
    fn announcements(&mut self) {
        for n in 0..6000 {
            let name = format!("new{n}.site{n}.example.org v1.4 s50002");
            let name = RealName::parse(&name, Chain::BITCOIN.default_ports).unwrap();
            self.now = self.now + Duration::from_mins(11);
            // Work that takes place once an hour does not count.
            self.handle("ticks, some with hourly work", Event::Tick);
            self.handle("announced name", Event::IrcPeerFound(name));
        }
    }

    /// Passes some hours, each with the checks that take place once an hour.
    fn hours(&mut self) {
        for _ in 0..5 {
            self.now = self.now + Duration::from_hours(1);
            self.handle("hourly removal and promotion", Event::Tick);
        }
    }

    fn print(&mut self) {
        let mut table = FigureTable::new(
            &format!("Decisions and snapshots with {} peers", count(PEERS.into())),
            ["event", "p50, µs", "p99, µs", "maximum, µs", "events measured"],
        );
        for (what, times) in &mut self.times {
            times.sort_unstable();
            let at = |share: usize| times.get((times.len() * share / 100).min(times.len() - 1)).map_or(0.0, micros);
            let figures = [50, 99, 100].map(|share| figure(at(share)));
            let measured = count(times.len() as u64);
            table.add_row([(*what).to_owned()].into_iter().chain(figures).chain([measured]));
        }
        table.print();
    }
}

fn verified(n: u32) -> Verified {
    verified_as(&fixture::entry(n * 4, false, clock::now()))
}

/// Returns the result of a visit to a peer in which it tells what is known already.
pub(super) fn verified_as(entry: &Entry) -> Verified {
    let host = &entry.host;
    let genesis = &Chain::BITCOIN.genesis_hash;
    let features = format!(
        r#"{{"hosts":{{"{host}":{{"ssl_port":50002,"tcp_port":50001}}}},"genesis_hash":"{genesis}",
        "hash_function":"sha256","server_version":"ElectrumX 1.16.0","protocol_min":"1.4","protocol_max":"1.4.2"}}"#
    );
    let listed =
        (0..100).map(|n| format!(r#"["20.7.7.1","electrum{}.example-host{}.org",["v1.4.2","s50002"]]"#, n, n % 977));
    let list = format!("[{}]", listed.collect::<Vec<_>>().join(","));
    Verified {
        ip: entry.ip,
        transport: Transport::Tls,
        port: 50002.try_into().unwrap(),
        certificate: None,
        web_sockets: Vec::new(),
        since_response: Duration::ZERO,
        limits: PeerLimits::default(),
        tls_failed: false,
        duration: Duration::from_millis(80),
        report: ProbeReport {
            software: Some("ElectrumX 1.16.0".to_owned()),
            negotiated_version: Version::new(1, 4),
            features: Some(serde_json::from_str(&features).unwrap()),
            peer_list: PeerList::parse(&list, Chain::BITCOIN.default_ports).unwrap(),
            tip_height: Some(900_001),
            checkpoint: None,
            standing: None,
            add_peer_result: None,
        },
    }
}

fn micros(duration: &Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
