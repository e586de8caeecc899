//! A daemon with ten thousand peers in its store: how large the store is, how soon the first caller is answered, and
//! how much memory it takes. `cargo bench --bench start` prints the figures.
//!
//! The bare limit beside them is the same program doing nothing but printing its version.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark prints, and reads the clock"
)]

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use waypost::book::{Entry, Key, Past, Source};
use waypost::clock::{self, Time};
use waypost::network::Network;
use waypost::peer::{Host, Onion, RealName};
use waypost::store::{Change, Store};

const PEERS: u32 = 10_000;
const ROUNDS: u32 = 11;
const WAYPOST: &str = env!("CARGO_BIN_EXE_waypost");

fn main() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    std::fs::DirBuilder::new().mode(0o700).create(&data).unwrap();
    fill(&data.join("peers.redb"));
    let size = std::fs::metadata(data.join("peers.redb")).unwrap().len();
    println!("store of {PEERS} peers: {:.2} MB, {} bytes a peer", mb(size), size / u64::from(PEERS));

    let mut bare = Vec::new();
    let mut answered = Vec::new();
    let mut resident = Vec::new();
    for _ in 0..ROUNDS {
        let began = Instant::now();
        assert!(Command::new(WAYPOST).arg("--version").stdout(Stdio::null()).status().unwrap().success());
        bare.push(began.elapsed());
        let (after, memory) = start(dir.path(), &data);
        answered.push(after);
        resident.push(memory);
    }
    let (bare, answered) = (median(bare), median(answered));
    println!(
        "start to first answer: {:.1} ms (median of {ROUNDS}); `waypost --version` alone takes {:.1} ms",
        answered.as_secs_f64() * 1000.0,
        bare.as_secs_f64() * 1000.0
    );
    println!("resident after the first answer: {:.1} MB", mb(median(resident)));

    let empty = dir.path().join("empty");
    let (_, memory) = start(dir.path(), &empty);
    println!("resident with an empty book: {:.1} MB", mb(memory));
}

/// Starts a daemon on this store; the time until it answered, and its memory a moment later.
fn start(dir: &Path, data: &Path) -> (Duration, u64) {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = dir.join("waypost.toml");
    // Nobody is due for hours, and with no seeds nobody is asked.
    let text = format!(
        "data_dir = {data:?}\n[listen]\ntcp = [\"{address}\"]\n[tor]\nmode = \"off\"\n[discovery]\nseeds = []\n"
    );
    std::fs::write(&config, text).unwrap();
    let began = Instant::now();
    let mut daemon = Command::new(WAYPOST)
        .args(["run", "--log", "warn", "--config"])
        .arg(&config)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let length = ask(address);
    let answered = began.elapsed();
    assert!(length > 1000, "an answer of {length} bytes");
    std::thread::sleep(Duration::from_secs(1));
    let memory = resident(daemon.id());
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    (answered, memory)
}

/// The length of the first answer, from as soon as anybody listens.
fn ask(address: SocketAddr) -> usize {
    for _ in 0..10_000 {
        if let Ok(mut stream) = TcpStream::connect(address) {
            stream.write_all(b"{\"id\":1,\"method\":\"server.peers.subscribe\",\"params\":[]}\n").unwrap();
            let mut line = String::new();
            return BufReader::new(stream).read_line(&mut line).unwrap();
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    panic!("nobody listens on {address}");
}

fn fill(path: &Path) {
    let (mut store, _) = Store::open(path, clock::now()).unwrap();
    let now = clock::now();
    // In batches, as the daemon would have written them.
    let changes: Vec<Change> = (0..PEERS).map(|n| Change::Save(Box::new(entry(n, now)))).collect();
    for batch in changes.chunks(100) {
        store.write(batch).unwrap();
    }
}

/// A peer as it is after two weeks of good service; every fourth an onion service.
fn entry(n: u32, now: Time) -> Entry {
    let ip = Ipv4Addr::from(n.wrapping_mul(0x9e37_79b9) | 0x0500_0000);
    let mut seed = [0; 32];
    seed.iter_mut().zip(n.to_le_bytes()).for_each(|(byte, part)| *byte = part);
    let host = match n % 4 {
        0 => Host::Onion(Onion::from_public_key(seed)).to_string(),
        _ => format!("electrum{n}.example-host{}.org", n % 977),
    };
    let line = format!("{host} v1.4.2 s50002 t50001");
    let name = RealName::parse(&line, Network::Bitcoin.default_ports()).unwrap();
    let source = Source::Peer("electrum.blockstream.info".parse().unwrap());
    let mut entry = Entry::new(name, source, Duration::from_hours(300), now - Duration::from_hours(24 * 14));
    entry.ip = (!entry.host.is_onion()).then_some(IpAddr::V4(ip));
    entry.software = Some("ElectrumX 1.16.0".to_owned());
    entry.genesis_hash = hex::decode(Network::Bitcoin.genesis_hash()).unwrap().try_into().ok();
    entry.key = Some(Key { sha256: seed, since: entry.first_seen, changes: 0 });
    entry.tip = Some(900_000);
    entry.first_hand = true;
    entry.last_try = Some(now);
    entry.last_success = Some(now);
    entry.next = now + Duration::from_hours(16);
    for day in 0..14 {
        let at = entry.first_seen + Duration::from_hours(24 * day);
        entry.history.push_back(Past { at, failure: None, millis: 120 + n % 900 });
    }
    entry
}

fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    let kib: u64 = line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}

fn median<T: Ord + Copy>(mut values: Vec<T>) -> T {
    values.sort_unstable();
    *values.get(values.len() / 2).unwrap()
}

fn mb(bytes: u64) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "to be printed")]
    let bytes = bytes as f64;
    bytes / 1e6
}
