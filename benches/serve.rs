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
//! bare server has as many threads as Waypost. Figures are medians of nine rounds, in which the servers take turns. The clients
//! share the processors with the servers; the processor time of a server per response is shown next to its rate.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a benchmark prints, and reads the clock"
)]

mod fixture;
mod load_generator;
#[path = "../tests/it/support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use load_generator::{Figures, Load, Target, Transport};
use support::{ChildGuard, Daemon, Lab, call_onion, cpu_time, lab_script, resident_bytes, run, wait_until};

const ROUNDS: usize = 9;
const PEERS: u32 = 200;
const WAYPOST: &str = "127.0.0.1:50001";
const WAYPOST_TLS: &str = "127.0.0.1:50002";
const BARE: &str = "127.0.0.1:50011";
const BARE_TLS: &str = "127.0.0.1:50012";
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

fn speed(time: Duration) {
    let dir = tempfile::tempdir().unwrap();
    run(Command::new(lab_script("electrumx-full.sh"))
        .arg("up")
        .arg(dir.path().join("electrumx"))
        .arg(PEERS.to_string()));
    let (daemon, data) = start_daemon(dir.path(), PEERS, "[tor]\nmode = \"off\"\n");
    let target = |address: &str, transport| Target { address: address.parse().unwrap(), transport };
    for method in ["server.peers.subscribe", "server.features"] {
        let length = load_generator::length(&target(WAYPOST, Transport::Tcp), method);
        let electrumx = load_generator::length(&target(ELECTRUMX, Transport::Tcp), method);
        println!("\n{method}: responses of {length} bytes, and of {electrumx} bytes from ElectrumX");
        let bare = Bare::start(length, &data);
        let pids = [daemon.id(), bare.id()];
        for (transport, name, addresses) in [
            (Transport::Tcp, "TCP", [WAYPOST, BARE, ELECTRUMX]),
            (Transport::Tls, "TLS", [WAYPOST_TLS, BARE_TLS, ELECTRUMX_TLS]),
        ] {
            for connections in [1, 64, 1000] {
                let targets = addresses.map(|address| target(address, transport.clone()));
                let load = Load { method, connections, depth: 1, time };
                compare(&format!("{name}, {connections} connections"), &targets, &pids, &load);
            }
        }
    }
    daemon.stop();
}

fn small(time: Duration) {
    for (peers, method, depth) in [
        (PEERS, "server.features", 1),
        (2, "server.peers.subscribe", 1),
        (PEERS, "server.ping", 1),
        (PEERS, "server.ping", 16),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (daemon, data) = start_daemon(dir.path(), peers, "[tor]\nmode = \"off\"\n");
        let [waypost, bare] =
            [WAYPOST, BARE].map(|address| Target { address: address.parse().unwrap(), transport: Transport::Tcp });
        let length = load_generator::length(&waypost, method);
        let server = Bare::start(length, &data);
        println!("\n{method}, {depth} at once: responses of {length} bytes, {peers} peers");
        for connections in [1, 64] {
            let load = Load { method, connections, depth, time };
            compare(
                &format!("{connections} connections"),
                &[waypost.clone(), bare.clone()],
                &[daemon.id(), server.id()],
                &load,
            );
        }
        daemon.stop();
    }
}

/// Measures the servers in turn: Waypost, the bare server and a third. `pids` are the processes of the first ones.
fn compare(what: &str, targets: &[Target], pids: &[u32], load: &Load) {
    let mut rounds: Vec<Vec<Figures>> = vec![Vec::new(); targets.len()];
    let mut costs = vec![Duration::ZERO; pids.len()];
    for _ in 0..ROUNDS {
        for (number, (target, figures)) in targets.iter().zip(&mut rounds).enumerate() {
            let used = || pids.get(number).map(|pid| cpu_time(*pid));
            let before = used();
            figures.push(load_generator::run(target, load));
            if let (Some(cost), Some(before), Some(after)) = (costs.get_mut(number), before, used()) {
                *cost += after - before;
            }
        }
    }
    let third =
        if targets.last().is_some_and(|target| target.address.to_string() == BARE) { "direct" } else { "ElectrumX" };
    let names = ["Waypost", "bare", third];
    println!("{what}");
    for (number, (name, figures)) in names.iter().zip(&rounds).enumerate() {
        let (rate, p50, p99) = medians(figures);
        print!("  {name:9} {rate:9.0} per second   p50 {p50:8.2} ms   p99 {p99:8.2} ms");
        let responses: f64 = figures.iter().map(|f| f.rate * load.time.as_secs_f64()).sum();
        match costs.get(number) {
            Some(cost) => println!("   {:6.1} \u{b5}s of processor per response", cost.as_secs_f64() * 1e6 / responses),
            None => println!(),
        }
    }
    let ratio = |of: fn(&Figures) -> f64| {
        let mut ratios: Vec<f64> =
            rounds[0].iter().zip(&rounds[1]).map(|(waypost, bare)| of(waypost) / of(bare)).collect();
        ratios.sort_by(f64::total_cmp);
        ratios[ratios.len() / 2]
    };
    println!("  Waypost / bare: rate {:.2}, p99 {:.2}", ratio(|f| f.rate), ratio(|f| f.p99));
}

fn medians(figures: &[Figures]) -> (f64, f64, f64) {
    let median = |of: fn(&Figures) -> f64| {
        let mut values: Vec<f64> = figures.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    (median(|f| f.rate), median(|f| f.p50), median(|f| f.p99))
}

fn onion(time: Duration) {
    let dir = tempfile::tempdir().unwrap();
    let lab = Lab::start(dir.path());
    let (daemon, data) = start_daemon(dir.path(), PEERS, &lab.embedded_tor());
    wait_until(60, "the onion service is reached", || daemon.status()["onion"]["last_reached"].is_u64());
    let own = daemon.status()["onion"]["host"].as_str().unwrap().to_owned();
    let socks: SocketAddr = lab.read("tor/socks").parse().unwrap();
    let reached = |host: &str| {
        let address = format!("{host}:50001");
        wait_until(60, "C tor reaches the onion services", || {
            call_onion(&lab.read("tor/socks"), &address, "server.ping").is_some()
        });
    };
    let method = "server.peers.subscribe";
    let length =
        load_generator::length(&Target { address: WAYPOST.parse().unwrap(), transport: Transport::Tcp }, method);
    reached(&own);
    let _bare = Bare::start(length, &data);
    println!(
        "\n{method}, {length} bytes, through C tor: the onion service of Waypost, and one of C tor with the bare server"
    );
    let target = |host: &str| Target { address: socks, transport: Transport::Onion(host.to_owned()) };
    let targets = [target(&own), target(&lab.read("tor/onion-2"))];
    for connections in [1, 64, 1000] {
        compare(&format!("{connections} connections"), &targets, &[], &Load { method, connections, depth: 1, time });
    }
    daemon.stop();
}

fn relay(time: Duration) {
    let method = "blockchain.headers.subscribe";
    for length in [200, 100_000] {
        let dir = tempfile::tempdir().unwrap();
        let (daemon, data) = start_daemon(
            dir.path(),
            PEERS,
            &format!("[tor]\nmode = \"off\"\n[backend]\nelectrum = \"tcp://{BARE}\"\n"),
        );
        let (_server, bare) = (Bare::start(length, &data), Bare::relay());
        println!("\nresponses of {length} bytes: through Waypost, through a bare relay, and from the backend");
        let targets = [WAYPOST, BARE_RELAY, BARE]
            .map(|address| Target { address: address.parse().unwrap(), transport: Transport::Tcp });
        for connections in [1, 64] {
            let pids = [daemon.id(), bare.id()];
            let load = Load { method, connections, depth: 1, time };
            compare(&format!("{connections} connections"), &targets, &pids, &load);
        }
        daemon.stop();
    }
}

fn memory(sessions: usize) {
    let dir = tempfile::tempdir().unwrap();
    let (daemon, data) = start_daemon(dir.path(), PEERS, "[tor]\nmode = \"off\"\n");
    let bare_server = Bare::start(1024, &data);
    for (name, transport, address, bare) in
        [("TCP", Transport::Tcp, WAYPOST, BARE), ("TLS", Transport::Tls, WAYPOST_TLS, BARE_TLS)]
    {
        for (server, address, pid) in [("Waypost", address, daemon.id()), ("bare", bare, bare_server.id())] {
            let target = Target { address: address.parse().unwrap(), transport: transport.clone() };
            let before = resident_bytes(pid);
            let held = load_generator::hold(&target, sessions);
            std::thread::sleep(Duration::from_secs(2));
            let with = resident_bytes(pid);
            drop(held);
            wait_until(20, "the sessions have ended", || daemon.status()["clients"]["open_sessions"] == 0);
            std::thread::sleep(Duration::from_secs(3));
            let after = resident_bytes(pid);
            println!(
                "{name}, {server}: {sessions} idle sessions: {:.2} KiB each ({:.1} MB before, {:.1} MB with them, {:.1} MB \
                 after)",
                (with.saturating_sub(before)) as f64 / 1024.0 / sessions as f64,
                before as f64 / 1e6,
                with as f64 / 1e6,
                after as f64 / 1e6
            );
        }
    }
    daemon.stop();
}
