//! Bytes that the store writes: for batches of verifications, and in a day without clients.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use waypost::book::{Action, BookConfig, Entry, Event, PeerBook, Side};
use waypost::chain::Chain;
use waypost::clock::{self, Time};
use waypost::peer::Host;
use waypost::route::PerRoute;
use waypost::store::{Change, Store};
use waypost::tor_state::TorProbe;
use waypost::trends::{TREND_INTERVAL, TrendSample, Trends};

use super::table::{FigureTable, count, figure};
use super::{fixture, mb, scale};

/// Number of peers of a large network, and of one that is larger than any.
const BOOKS: [u32; 2] = [300, 10_000];

/// Number of verifications in the batches of each size. They fill the journal several times.
const VERIFICATIONS: u32 = 2000;

/// Days of the idle node. The first one is not counted, as all peers of the fixture were visited at the same time.
const DAYS: u32 = 3;

pub(super) fn run() {
    let mut batch_table = FigureTable::new(
        "Bytes written for each batch of verifications",
        ["peers", "verifications", "to the disk, KB", "in calls, KB", "to the disk per verification, KB"],
    );
    let mut day_table = FigureTable::new(
        "Bytes written in a day without clients",
        ["peers", "verifications", "batches", "to the disk, MB", "in calls, MB", "to the disk per verification, KB"],
    );
    for peers in BOOKS {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        fixture::fill(&data, peers, 4);
        let now = clock::now();
        let (mut store, loaded) = Store::open(&data.join("peers.redb"), &Chain::BITCOIN, now).unwrap();
        let mut rng = StdRng::seed_from_u64(7);
        for size in [1, 10, 100] {
            let batches = VERIFICATIONS / size;
            let changes: Vec<Vec<Change>> =
                (0..batches).map(|_| verifications(&loaded.entries, size as usize, now, &mut rng)).collect();
            let written = Written::by(|| changes.iter().for_each(|batch| store.write(batch).unwrap())) / batches;
            let per_verification = kb((written / size).disk);
            let figures = [kb(written.disk), kb(written.calls), per_verification].map(figure);
            batch_table.add_row([peers, size].map(|number| count(number.into())).into_iter().chain(figures));
        }
        drop(store);
        let Day { written, batches, visits } = idle_day(&data);
        let figures = [mb(written.disk), mb(written.calls), kb((written / visits.max(1)).disk)].map(figure);
        day_table.add_row([peers, visits, batches].map(|number| count(number.into())).into_iter().chain(figures));
    }
    batch_table.print();
    day_table.print();
}

/// Returns changes of so many peers, each after another visit.
fn verifications(entries: &[Entry], count: usize, now: Time, rng: &mut StdRng) -> Vec<Change> {
    let visited = entries.sample(rng, count).map(|entry| {
        let mut entry = entry.clone();
        (entry.last_try, entry.last_success) = (Some(now), Some(now));
        entry.uptime.record_result(true, now);
        entry.days.record(Some(Duration::from_millis(rng_millis(&entry.host))), now);
        Change::Save(Side::Both, Box::new(entry))
    });
    visited.collect()
}

fn rng_millis(host: &Host) -> u64 {
    80 + host.to_string().len() as u64
}

/// What a daemon wrote in a day.
struct Day {
    written: Written,
    batches: u32,
    visits: u32,
}

/// Runs the book over some virtual days in which each peer answers, and writes what a daemon would.
///
/// Returns the mean of the counted days.
fn idle_day(data: &Path) -> Day {
    let mut now = clock::now();
    let (mut store, loaded) = Store::open(&data.join("peers.redb"), &Chain::BITCOIN, now).unwrap();
    let config = BookConfig { seeds: Vec::new(), ..BookConfig::default() };
    let mut book = PeerBook::new(config, loaded.entries, PerRoute::default(), now);
    let (mut rng, mut trends) = (StdRng::seed_from_u64(7), full_trends(now));
    let mut results: BTreeSet<(Time, Host)> = BTreeSet::new();
    book.handle(Event::Tor(TorProbe::Reachable), now, &mut rng);
    book.handle(Event::TorPathProven, now, &mut rng);
    let (end, counted_from) = (now + DAY * DAYS, now + DAY);
    // Changes by the end of their batch, as the writer collects them for a fifth of a second.
    let (mut batch, mut batch_ends): (BTreeMap<String, Change>, Option<Time>) = (BTreeMap::new(), None);
    let (mut written, mut batches, mut visits) = (Written::default(), 0, 0);
    while now < end {
        let result_at = results.first().map(|(at, _)| *at);
        let times = [Some(book.next_wakeup()), result_at, batch_ends, Some(now + Duration::from_mins(1))];
        now = times.into_iter().flatten().min().unwrap().max(now);
        if batch_ends.is_some_and(|at| at <= now) {
            let changes: Vec<Change> = std::mem::take(&mut batch).into_values().collect();
            let bytes = Written::by(|| store.write(&changes).unwrap());
            batch_ends = None;
            if now >= counted_from {
                written = written + bytes;
                batches += 1;
            }
        }
        let event = match results.pop_first() {
            Some((at, host)) if at <= now => {
                visits += u32::from(now >= counted_from);
                let known = book.entry(&host).unwrap();
                Event::Probed { outcome: Box::new(Ok(scale::verified_as(known))), host }
            }
            Some(later) => {
                results.insert(later);
                Event::Tick
            }
            None => Event::Tick,
        };
        let mut actions = book.handle(event, now, &mut rng);
        while let Some(action) = actions.pop() {
            let (key, change) = match action {
                Action::Resolve(host, _) => {
                    let addresses = Ok(book.entry(&host).and_then(|entry| entry.ip).into_iter().collect());
                    actions.extend(book.handle(Event::Resolved { host, addresses }, now, &mut rng));
                    continue;
                }
                Action::Probe(target) => {
                    results.insert((now + Duration::from_millis(rng.random_range(200..3000)), target.host));
                    continue;
                }
                Action::Upsert(entry) => (entry.host.to_string(), Change::Save(Side::Both, entry)),
                Action::SavePathUptime(route, total) => {
                    (format!(" {route:?}"), Change::Reach(Side::Both, route, total))
                }
                _ => continue,
            };
            batch.insert(key, change);
        }
        if trends.is_due(now) {
            trends.record(sample(now));
            batch.insert(" trends".to_owned(), Change::SaveTrends(Box::new(trends.clone())));
        }
        if !batch.is_empty() {
            batch_ends.get_or_insert(now + Duration::from_millis(200));
        }
    }
    let days = DAYS - 1;
    Day { written: written / days, batches: batches / days, visits: visits / days }
}

const DAY: Duration = Duration::from_hours(24);

fn full_trends(now: Time) -> Trends {
    let mut trends = Trends::default();
    (0..30 * 24).for_each(|hour| trends.record(sample(now - TREND_INTERVAL * (30 * 24 - hour))));
    trends
}

fn sample(at: Time) -> TrendSample {
    TrendSample { at, verified_clearnet: 225, verified_onion: 75, clearnet_name: None, onion_name: None }
}

/// Bytes that this process gave to the file system.
#[derive(Debug, Clone, Copy, Default)]
struct Written {
    /// Bytes of the calls, by the process.
    calls: u64,
    /// Bytes of whole pages that the system writes to the disk; without those of the file system's journal.
    disk: u64,
}

impl Written {
    fn by(action: impl FnOnce()) -> Written {
        let before = Written::now();
        action();
        let after = Written::now();
        Written { calls: after.calls - before.calls, disk: after.disk - before.disk }
    }

    fn now() -> Written {
        let io = std::fs::read_to_string("/proc/self/io").unwrap();
        let of = |field: &str| io.lines().find_map(|line| line.strip_prefix(field)?.trim().parse().ok()).unwrap();
        Written { calls: of("wchar:"), disk: of("write_bytes:") }
    }
}

impl std::ops::Add for Written {
    type Output = Written;

    fn add(self, other: Written) -> Written {
        Written { calls: self.calls + other.calls, disk: self.disk + other.disk }
    }
}

impl std::ops::Div<u32> for Written {
    type Output = Written;

    fn div(self, count: u32) -> Written {
        Written { calls: self.calls / u64::from(count), disk: self.disk / u64::from(count) }
    }
}

fn kb(bytes: u64) -> f64 {
    mb(bytes) * 1000.0
}
