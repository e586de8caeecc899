//! Requests per second and latency, against ElectrumX and a bare server; memory of an idle session.
//!
//! ```text
//! cargo bench --bench serve -- speed [S]      200 peers; TCP and TLS; 1, 64 and 1,000 connections; S (1) seconds per figure
//! cargo bench --bench serve -- small [S]      short responses, and requests sent 16 at a time, against the bare server
//! cargo bench --bench serve -- onion [S]      the same through onion services of Waypost and of C tor
//! cargo bench --bench serve -- relay [S]      requests forwarded to a backend, against a bare relay and the backend
//! cargo bench --bench serve -- memory [N]     N (10,000) idle sessions, TCP and TLS
//! ```
//!
//! It needs what the tests need (`contrib/test.sh` installs it), and runs in a namespace. Each server is a process, and the
//! bare server has as many threads as Waypost. Figures are medians of nine rounds, in which the servers take turns, and so
//! are the ratios of rates within a round. The clients share the processors with the servers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a benchmark prints, and reads the clock"
)]

mod comparison;
mod fixture;
mod load_generator;
#[path = "../tests/it/support/mod.rs"]
mod support;
mod table;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use comparison::{Comparison, Server};
use load_generator::{Load, Target, Transport};
use support::{ChildGuard, Daemon, Lab, call_onion, lab_script, resident_bytes, run, wait_until};
use table::{FigureTable, count, figure};

const PEERS: u32 = 200;
const WAYPOST: &str = "127.0.0.1:50001";
const WAYPOST_TLS: &str = "127.0.0.1:50002";
const BARE: &str = "127.0.0.1:50011";
const BARE_TLS: &str = "127.0.0.1:50012";
/// The bare server with responses of 33 bytes, which shows the cost of padding.
const BARE_UNPADDED: &str = "127.0.0.1:50014";
const BARE_RELAY: &str = "127.0.0.1:50013";
const ELECTRUMX: &str = "5.9.0.1:51001";
const ELECTRUMX_TLS: &str = "5.9.0.1:51002";
/// Limits that no client of the benchmark reaches.
const UNLIMITED: &str = "[limits]\nmax_sessions = 100000\nsessions_per_source = 100000\nrequests_per_second = 1000000000\n\
    source_requests_per_second = 1000000000\nforwarded_requests_per_second = 1000000000\nbytes_in_per_second = 1000000000\nbytes_out_per_second = 1000000000\n\
    idle_timeout = \"24h\"\n";

fn main() {
    let args = support::benchmark_in_namespace();
    let number = |default: u64| args.get(1).map_or(default, |text| text.parse().unwrap());
    match args.first().map_or("speed", String::as_str) {
        "speed" => speed(Duration::from_secs(number(1))),
        "small" => small(Duration::from_secs(number(1))),
        "onion" => onion(Duration::from_secs(number(5))),
        "relay" => relay(Duration::from_secs(number(1))),
        "memory" => memory(number(10_000) as usize),
        "bare" => load_generator::bare(number(0) as usize, Path::new(&args[2])),
        "bare-relay" => load_generator::bare_relay(BARE_RELAY, BARE),
        other => panic!("speed, small, onion, relay or memory, and not {other}"),
    }
}

/// Process of the bare server or of the bare relay.
struct Bare(ChildGuard);

impl Bare {
    fn start(length: usize, data: &Path) -> Bare {
        Bare::spawn(&["bare", &length.to_string(), data.to_str().unwrap()], &[BARE, BARE_TLS])
    }

    /// Starts the relay to the bare server.
    fn relay() -> Bare {
        Bare::spawn(&["bare-relay"], &[BARE_RELAY])
    }

    fn spawn(args: &[&str], addresses: &[&str]) -> Bare {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let process = ChildGuard::spawn(command.args(args).env(support::IN_NAMESPACE, "1"));
        for address in addresses {
            wait_until(10, "the bare server listens", || std::net::TcpStream::connect(address).is_ok());
        }
        Bare(process)
    }

    fn id(&self) -> u32 {
        self.0.0.id()
    }
}

/// Starts a daemon with so many peers, none of them due. Returns it and its data directory.
fn start_daemon(dir: &Path, peers: u32, more: &str) -> (Daemon, PathBuf) {
    let data = dir.join("data");
    fixture::fill(&data, peers, u32::MAX);
    let config = dir.join("waypost.toml");
    let text = format!(
        "data_dir = {data:?}\n[listen]\ntcp = [\"{WAYPOST}\"]\ntls = [\"{WAYPOST_TLS}\"]\n[discovery]\nseeds = []\n{UNLIMITED}{more}"
    );
    std::fs::write(&config, text).unwrap();
    (Daemon::start(&config), data)
}

/// Returns a server at an address of this machine.
fn server(name: &'static str, address: &str, transport: &Transport, pid: Option<u32>) -> Server {
    Server { name, target: Target { address: address.parse().unwrap(), transport: transport.clone() }, pid }
}

fn speed(time: Duration) {
    let dir = tempfile::tempdir().unwrap();
    run(Command::new(lab_script("electrumx-full.sh"))
        .arg("up")
        .arg(dir.path().join("electrumx"))
        .arg(PEERS.to_string()));
    let (daemon, data) = start_daemon(dir.path(), PEERS, "[tor]\nmode = \"off\"\n");
    for method in ["server.peers.subscribe", "server.features"] {
        let length = |address| load_generator::length(&server("", address, &Transport::Tcp, None).target, method);
        let (own, electrumx) = (length(WAYPOST), length(ELECTRUMX));
        let bare = Bare::start(own, &data);
        let mut comparison = Comparison::new(
            &format!("`{method}`, {} bytes ({} from ElectrumX)", count(own as u64), count(electrumx as u64)),
            "connections",
        );
        for (transport, name, addresses) in [
            (Transport::Tcp, "TCP", [WAYPOST, BARE, ELECTRUMX]),
            (Transport::Tls, "TLS", [WAYPOST_TLS, BARE_TLS, ELECTRUMX_TLS]),
        ] {
            let servers = [
                server("Waypost", addresses[0], &transport, Some(daemon.id())),
                server("bare", addresses[1], &transport, Some(bare.id())),
                server("ElectrumX", addresses[2], &transport, None),
            ];
            for connections in [1, 64, 1000] {
                let load = Load { method, connections, depth: 1, time };
                comparison.measure(&format!("{name}, {}", count(connections as u64)), &servers, &load);
            }
        }
        comparison.print();
    }
    daemon.stop();
}

fn small(time: Duration) {
    let mut comparison = Comparison::new("Short responses over TCP", "method, bytes, connections");
    for (peers, method, depth, name) in [
        (PEERS, "server.features", 1, "`server.features`"),
        (2, "server.peers.subscribe", 1, "`server.peers.subscribe`"),
        (PEERS, "server.ping", 1, "`server.ping`"),
        (PEERS, "server.ping", 16, "`server.ping`, 16 at once"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (daemon, data) = start_daemon(dir.path(), peers, "[tor]\nmode = \"off\"\n");
        let waypost = server("Waypost", WAYPOST, &Transport::Tcp, Some(daemon.id()));
        let length = load_generator::length(&waypost.target, method);
        let bare = Bare::start(length, &data);
        let [padded, unpadded] = [("bare", BARE), ("unpadded", BARE_UNPADDED)]
            .map(|(name, address)| server(name, address, &Transport::Tcp, Some(bare.id())));
        let servers = [waypost, padded, unpadded];
        for connections in [1, 64] {
            let load = Load { method, connections, depth, time };
            comparison.measure(&format!("{name}, {}, {connections}", count(length as u64)), &servers, &load);
        }
        daemon.stop();
    }
    comparison.print();
}

fn onion(time: Duration) {
    let dir = tempfile::tempdir().unwrap();
    let lab = Lab::start(dir.path());
    let (daemon, data) = start_daemon(dir.path(), PEERS, &lab.embedded_tor());
    wait_until(60, "the onion service is reached", || daemon.status()["onion"]["last_reached"].is_u64());
    let own = daemon.status()["onion"]["host"].as_str().unwrap().to_owned();
    let socks = lab.read("tor/socks");
    let reached = |host: &str| {
        let address = format!("{host}:50001");
        wait_until(60, "C tor reaches the onion services", || call_onion(&socks, &address, "server.ping").is_some());
    };
    let method = "server.peers.subscribe";
    let length = load_generator::length(&server("", WAYPOST, &Transport::Tcp, None).target, method);
    reached(&own);
    let _bare = Bare::start(length, &data);
    // Most processor time is that of the Tor processes and of the clients, so that of the servers is not measured.
    let service = |name, host: &str| server(name, &socks, &Transport::Onion(host.to_owned()), None);
    let servers = [service("Waypost", &own), service("C tor", &lab.read("tor/onion-2"))];
    let subject = format!("`{method}`, {} bytes, through onion services", count(length as u64));
    let mut comparison = Comparison::new(&subject, "connections");
    for connections in [1, 64, 1000] {
        let load = Load { method, connections, depth: 1, time };
        comparison.measure(&count(connections as u64), &servers, &load);
    }
    comparison.print();
    daemon.stop();
}

fn relay(time: Duration) {
    let method = "blockchain.headers.subscribe";
    let mut comparison = Comparison::new("Forwarded requests", "bytes, connections");
    for length in [200, 100_000] {
        let dir = tempfile::tempdir().unwrap();
        let (daemon, data) = start_daemon(
            dir.path(),
            PEERS,
            &format!("[tor]\nmode = \"off\"\n[backend]\nelectrum = \"tcp://{BARE}\"\n"),
        );
        let (_backend, relay) = (Bare::start(length, &data), Bare::relay());
        let servers = [
            server("Waypost", WAYPOST, &Transport::Tcp, Some(daemon.id())),
            server("bare relay", BARE_RELAY, &Transport::Tcp, Some(relay.id())),
            server("backend", BARE, &Transport::Tcp, None),
        ];
        for connections in [1, 64] {
            let load = Load { method, connections, depth: 1, time };
            comparison.measure(&format!("{}, {connections}", count(length as u64)), &servers, &load);
        }
        daemon.stop();
    }
    comparison.print();
}

fn memory(sessions: usize) {
    let dir = tempfile::tempdir().unwrap();
    let (daemon, data) = start_daemon(dir.path(), PEERS, "[tor]\nmode = \"off\"\n");
    let bare_server = Bare::start(1024, &data);
    let mut table = FigureTable::new(
        &format!("{} idle sessions after one request each, and the resident memory of Waypost", count(sessions as u64)),
        [
            "transport",
            "Waypost, KiB per session",
            "bare, KiB per session",
            "Waypost / bare",
            "before, MB",
            "with sessions, MB",
            "after, MB",
            "after / before",
        ],
    );
    for (name, transport, waypost, bare) in
        [("TCP", Transport::Tcp, WAYPOST, BARE), ("TLS", Transport::Tls, WAYPOST_TLS, BARE_TLS)]
    {
        let [own, other] = [(waypost, daemon.id()), (bare, bare_server.id())].map(|(address, pid)| {
            eprintln!("{name}, {address}: {sessions} sessions");
            let before = resident_bytes(pid);
            let held = load_generator::hold(&server("", address, &transport, None).target, sessions);
            std::thread::sleep(Duration::from_secs(2));
            let with = resident_bytes(pid);
            drop(held);
            wait_until(20, "the sessions have ended", || daemon.status()["clients"]["open_sessions"] == 0);
            // The allocator of Waypost returns memory within some seconds.
            std::thread::sleep(Duration::from_secs(10));
            [before, with, resident_bytes(pid)]
        });
        let each = |[before, with, _]: [u64; 3]| with.saturating_sub(before) as f64 / 1024.0 / sessions as f64;
        let (own_each, other_each) = (each(own), each(other));
        let figures = [own_each, other_each, own_each / other_each].into_iter();
        let figures =
            figures.chain(own.map(|bytes| bytes as f64 / 1e6)).chain([own[2] as f64 / own[0] as f64]).map(figure);
        table.add_row(std::iter::once(name.to_owned()).chain(figures));
    }
    table.print();
    daemon.stop();
}
