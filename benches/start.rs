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

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

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
    println!("store of {PEERS} peers: {:.2} MB, {} bytes a peer", mb(size), size / u64::from(PEERS));

    let mut bare = Vec::new();
    let mut first_responses = Vec::new();
    let mut resident = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        assert!(Command::new(WAYPOST).arg("--version").stdout(Stdio::null()).status().unwrap().success());
        bare.push(start.elapsed());
        let (latency, memory) = measure_start(dir.path(), &data);
        first_responses.push(latency);
        resident.push(memory);
    }
    let (bare, first_response) = (median(bare), median(first_responses));
    println!(
        "start to first response: {:.1} ms (median of {ROUNDS}); `waypost --version` alone takes {:.1} ms",
        first_response.as_secs_f64() * 1000.0,
        bare.as_secs_f64() * 1000.0
    );
    println!("resident after the first response: {}", median(resident));

    measure_pages(dir.path(), &data);

    let empty = dir.path().join("empty");
    let (_, memory) = measure_start(dir.path(), &empty);
    println!("resident with an empty book: {memory}");
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
        .env("MALLOC_MMAP_THRESHOLD_", "131072") // as in contrib/systemd/waypost.service
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

impl std::fmt::Display for Resident {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Resident { anonymous, file } = self;
        write!(f, "{:.1} MB, {:.1} MB of it anonymous", mb(anonymous + file), mb(*anonymous))
    }
}

/// Prints the time of pages and of `waypost peers`, and the memory that they add.
fn measure_pages(dir: &Path, data: &Path) {
    let [listener, page, public] = [(); 3].map(|()| support::free_address());
    let config = dir.join("pages.toml");
    let text = format!(
        "data_dir = {data:?}\n[listen]\ntcp = [\"{listener}\"]\n[tor]\nmode = \"off\"\n[discovery]\nseeds = []\n\
         [status]\nlisten = \"{page}\"\npublic = [\"{public}\"]\n"
    );
    std::fs::write(&config, text).unwrap();
    let mut daemon = Command::new(WAYPOST)
        .env("MALLOC_MMAP_THRESHOLD_", "131072") // as in contrib/systemd/waypost.service
        .args(["run", "--log", "warn", "--config"])
        .arg(&config)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    first_response_length(listener);
    std::thread::sleep(Duration::from_secs(1));
    let before = Resident::of(daemon.id());
    let peer = "/peer/electrum1.example-host1.org";
    for (address, path) in [(page, "/healthz"), (page, "/"), (page, peer), (page, "/trends.json"), (public, "/")] {
        let times = (0..ROUNDS).map(|_| {
            // The page keeps its values for three seconds.
            std::thread::sleep(Duration::from_millis(if path == "/" { 3100 } else { 10 }));
            let start = Instant::now();
            let (code, _) = support::fetch(&address.to_string(), path);
            assert_eq!(code, 200, "{path}");
            start.elapsed()
        });
        let what = if address == public { "public page" } else { path };
        let latency = median(times.collect()).as_secs_f64() * 1000.0;
        let added = Resident::of(daemon.id()).anonymous.saturating_sub(before.anonymous);
        println!("{what}: {latency:.1} ms (median of {ROUNDS}); {:.1} MB of anonymous memory added so far", mb(added));
    }
    let after = Resident::of(daemon.id());
    println!(
        "the pages add {:.1} MB of anonymous memory, and {:.1} MB of the program's file",
        mb(after.anonymous.saturating_sub(before.anonymous)),
        mb(after.file.saturating_sub(before.file))
    );
    let times = (0..ROUNDS).map(|_| {
        let start = Instant::now();
        let output = Command::new(WAYPOST).args(["peers", "--config"]).arg(&config).output().unwrap();
        assert!(output.status.success());
        start.elapsed()
    });
    println!("waypost peers: {:.1} ms (median of {ROUNDS})", median(times.collect()).as_secs_f64() * 1000.0);
    daemon.kill().unwrap();
    daemon.wait().unwrap();
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
