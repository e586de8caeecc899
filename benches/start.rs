//! Size of a store of ten thousand peers, time until the first response and of pages, and memory.
//!
//! `cargo bench --bench start` prints the figures. The comparison is the same program when it only prints its version,
//! and for pages its health check, which reads no peer. `-- scale` measures a hundred thousand peers, and `-- disk` the
//! bytes that the store writes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark prints, and reads the clock"
)]

mod disk;
mod fixture;
mod scale;
#[path = "../tests/it/support/mod.rs"]
mod support;
mod table;

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use waypost::book::{DayCounts, Entry, MAX_DAYS, ProbeRecord};
use waypost::clock;

use table::{FigureTable, count, figure};

const PEERS: u32 = 10_000;
const ROUNDS: u32 = 11;
const WAYPOST: &str = env!("CARGO_BIN_EXE_waypost");

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("scale") => scale::run(),
        Some("disk") => disk::run(),
        _ => measure_usual_book(),
    }
}

/// Measures a book that is larger than the whole network.
fn measure_usual_book() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    fixture::fill(&data, PEERS, 4);
    let size = std::fs::metadata(data.join("peers.redb")).unwrap().len();
    let starts = Starts::measure(dir.path(), &data, ROUNDS);
    let empty = Starts::measure(dir.path(), &dir.path().join("empty"), ROUNDS);
    let mut table = Starts::table();
    table.add_row(starts.row(PEERS, Some(size)));
    table.add_row(empty.row(0, None));
    table.print();
    print_bytes(&starts, &empty);
    measure_pages(dir.path(), &data, starts.bare);
}

/// Prints where the anonymous memory is.
fn print_bytes(starts: &Starts, empty: &Starts) {
    let peer = fixture::entry(0, false, clock::now());
    let of_peers = starts.resident.anonymous.saturating_sub(empty.resident.anonymous);
    let parts = [
        ("entry of the book", size_of::<Entry>()),
        ("last 16 visits", peer.history.capacity() * size_of::<ProbeRecord>()),
        ("visits of 35 days", MAX_DAYS * size_of::<DayCounts>()),
    ];
    let known: usize = parts.iter().map(|(_, bytes)| bytes).sum();
    let rest = (of_peers / u64::from(PEERS)).saturating_sub(known as u64);
    let mut table = FigureTable::new("Anonymous memory per peer, in bytes", ["part", "bytes"]);
    for (part, bytes) in parts {
        table.add_row([part.to_owned(), count(bytes as u64)]);
    }
    table.add_row(["indexes, lists, names, and unused memory of the allocator".to_owned(), count(rest)]);
    table.add_row(["all".to_owned(), count(of_peers / u64::from(PEERS))]);
    table.print();
}

/// Medians of several starts.
struct Starts {
    /// Time until the first response.
    first_response: Duration,
    /// Time of the same program when it only prints its version.
    bare: Duration,
    resident: Resident,
}

impl Starts {
    fn measure(dir: &Path, data: &Path, rounds: u32) -> Starts {
        let (mut bare, mut first_responses, mut resident) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            let start = Instant::now();
            assert!(Command::new(WAYPOST).arg("--version").stdout(Stdio::null()).status().unwrap().success());
            bare.push(start.elapsed());
            let (latency, memory) = measure_start(dir, data);
            first_responses.push(latency);
            resident.push(memory);
        }
        Starts { first_response: median(first_responses), bare: median(bare), resident: median(resident) }
    }

    fn table() -> FigureTable {
        FigureTable::new(
            "Peer database, time from the start to the first response, and memory after it",
            [
                "peers",
                "database, MB",
                "bytes per peer",
                "start, ms",
                "`--version`, ms",
                "start / `--version`",
                "resident, MB",
                "anonymous, MB",
            ],
        )
    }

    /// Returns a row of the table. The size of the database is in bytes; an empty one has none that counts.
    fn row(&self, peers: u32, size: Option<u64>) -> Vec<String> {
        let Starts { first_response, bare, resident } = self;
        vec![
            count(peers.into()),
            size.map_or_else(String::new, |size| figure(mb(size))),
            size.map_or_else(String::new, |size| count(size / u64::from(peers))),
            figure(millis(*first_response)),
            figure(millis(*bare)),
            figure(first_response.as_secs_f64() / bare.as_secs_f64()),
            figure(mb(resident.anonymous + resident.file)),
            figure(mb(resident.anonymous)),
        ]
    }
}

/// Starts a daemon on this store. Returns the time until its first response, and its memory one second later.
fn measure_start(dir: &Path, data: &Path) -> (Duration, Resident) {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = dir.join("waypost.toml");
    // No peer is due for hours, and there are no seeds, so nothing is probed.
    let text = format!(
        "data_dir = {data:?}\n[listen]\ntcp = [\"{address}\"]\n[tor]\nmode = \"off\"\n[discovery]\nseeds = []\n"
    );
    std::fs::write(&config, text).unwrap();
    let start = Instant::now();
    let mut daemon = Command::new(WAYPOST)
        .args(["run", "--log", "warn", "--config"])
        .arg(&config)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let length = first_response_length(address);
    let latency = start.elapsed();
    assert!(length > 1000, "a response of {length} bytes");
    std::thread::sleep(Duration::from_secs(1));
    let memory = Resident::of(daemon.id());
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    (latency, memory)
}

/// Resident memory by its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Resident {
    /// Bytes of the heap and of stacks.
    anonymous: u64,
    /// Bytes of the program's file and of the peer database, which the system can drop.
    file: u64,
}

impl Resident {
    fn of(process: u32) -> Resident {
        let bytes = |field| support::memory_bytes(process, field);
        Resident { anonymous: bytes("RssAnon"), file: bytes("RssFile") }
    }
}

/// Prints the time of pages and of `waypost peers`, and the memory that they add.
///
/// `bare` is the time of `waypost --version`.
fn measure_pages(dir: &Path, data: &Path, bare: Duration) {
    let [listener, page, public] = [(); 3].map(|()| support::free_address());
    let config = dir.join("pages.toml");
    let text = format!(
        "data_dir = {data:?}\n[listen]\ntcp = [\"{listener}\"]\n[tor]\nmode = \"off\"\n[discovery]\nseeds = []\n\
         [status]\nlisten = \"{page}\"\npublic = [\"{public}\"]\n"
    );
    std::fs::write(&config, text).unwrap();
    let mut daemon = Command::new(WAYPOST)
        .args(["run", "--log", "warn", "--config"])
        .arg(&config)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    first_response_length(listener);
    std::thread::sleep(Duration::from_secs(1));
    let before = Resident::of(daemon.id());
    let mut table = FigureTable::new(
        &format!("Pages and `waypost peers` with {} peers, and the memory added so far", count(PEERS.into())),
        ["request", "ms", "compared with", "its ms", "ratio", "anonymous, MB", "program's file, MB"],
    );
    let mut health = None;
    let peer = "/peer/electrum1.example-host1.org";
    for (address, path, name) in [
        (page, "/healthz", "health check"),
        (page, "/", "status page"),
        (page, peer, "page of a peer"),
        (page, "/trends.json", "`/trends.json`"),
        (public, "/", "public page"),
    ] {
        let times = (0..ROUNDS).map(|_| {
            // The page keeps its values for three seconds.
            std::thread::sleep(Duration::from_millis(if path == "/" { 3100 } else { 10 }));
            let start = Instant::now();
            let (code, _) = support::fetch(&address.to_string(), path);
            assert_eq!(code, 200, "{path}");
            start.elapsed()
        });
        let latency = median(times.collect());
        let health = *health.get_or_insert(latency);
        let mut row = compared(name, latency, "health check", health);
        let now = Resident::of(daemon.id());
        row.push(figure(mb(now.anonymous.saturating_sub(before.anonymous))));
        row.push(figure(mb(now.file.saturating_sub(before.file))));
        table.add_row(row);
    }
    let times = (0..ROUNDS).map(|_| {
        let start = Instant::now();
        let output = Command::new(WAYPOST).args(["peers", "--config"]).arg(&config).output().unwrap();
        assert!(output.status.success());
        start.elapsed()
    });
    table.add_row(compared("`waypost peers`", median(times.collect()), "`waypost --version`", bare));
    table.print();
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}

/// Returns a row with a duration and the one that it is compared with.
fn compared(name: &str, duration: Duration, other: &str, other_duration: Duration) -> Vec<String> {
    let ratio = duration.as_secs_f64() / other_duration.as_secs_f64();
    vec![name.to_owned(), figure(millis(duration)), other.to_owned(), figure(millis(other_duration)), figure(ratio)]
}

/// Waits for the listener, and returns the length of the first response.
fn first_response_length(address: SocketAddr) -> usize {
    for _ in 0..10_000 {
        if let Ok(mut stream) = TcpStream::connect(address) {
            stream.write_all(b"{\"id\":1,\"method\":\"server.peers.subscribe\",\"params\":[]}\n").unwrap();
            let mut line = String::new();
            return BufReader::new(stream).read_line(&mut line).unwrap();
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    panic!("no listener on {address}");
}

fn median<T: Ord + Copy>(mut values: Vec<T>) -> T {
    values.sort_unstable();
    *values.get(values.len() / 2).unwrap()
}

fn mb(bytes: u64) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "printed only")]
    let bytes = bytes as f64;
    bytes / 1e6
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
