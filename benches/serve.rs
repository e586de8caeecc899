//! What callers get: requests a second and how long each takes, against ElectrumX and a bare server that sends as many bytes for
//! any line; and what an idle session costs in memory. It prints figures.
//!
//! ```text
//! cargo bench --bench serve -- speed [S]      200 peers; TCP and TLS; 1, 64 and 1,000 connections; S (1) seconds a figure
//! cargo bench --bench serve -- onion [S]      the same by onion services, ours and C tor's, called through C tor
//! cargo bench --bench serve -- relay [S]      what is passed on to a server behind us, against a bare relay and the server itself
//! cargo bench --bench serve -- memory [N]     N (10,000) idle sessions, TCP and TLS
//! ```
//!
//! It needs what the tests need (`contrib/test.sh` installs it), and runs in a namespace of its own. All servers are processes
//! of their own, the bare one with as many threads as ours. Of nine rounds, in which they take turns, the medians are shown. The
//! callers share the processors with the servers; what an answer costs a server alone is shown next to its rate.

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
#[path = "../tests/it/support.rs"]
mod support;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use load_generator::{Figures, Target, Way};
use support::{Daemon, call_onion, lab_script, processor, resident, run, wait_until};

const ROUNDS: usize = 9;
const PEERS: u32 = 200;
const OURS: &str = "127.0.0.1:50001";
const OURS_TLS: &str = "127.0.0.1:50002";
const BARE: &str = "127.0.0.1:50011";
const BARE_TLS: &str = "127.0.0.1:50012";
const BARE_RELAY: &str = "127.0.0.1:50013";
const ELECTRUMX: &str = "5.9.0.1:51001";
const ELECTRUMX_TLS: &str = "5.9.0.1:51002";
/// No limits but our own speed.
const UNLIMITED: &str = "[limits]\nmax_sessions = 100000\nsessions_per_source = 100000\nrequests_per_second = 1000000000\n\
    source_requests_per_second = 1000000000\nforwarded_requests_per_second = 1000000000\nbytes_in_per_second = 1000000000\nbytes_out_per_second = 1000000000\n\
    idle_timeout = \"24h\"\n";

fn main() {
    let args = support::benchmark_in_namespace();
    let number = |default: u64| args.get(1).map_or(default, |text| text.parse().unwrap());
    match args.first().map_or("speed", String::as_str) {
        "speed" => speed(Duration::from_secs(number(1))),
        "onion" => onion(Duration::from_secs(number(5))),
        "relay" => relay(Duration::from_secs(number(1))),
        "memory" => memory(number(10_000) as usize),
        "bare" => load_generator::bare(number(0) as usize, Path::new(&args[2])),
        "bare-relay" => load_generator::bare_relay(BARE_RELAY, BARE),
        other => panic!("speed, onion, relay or memory, and not {other}"),
    }
}

/// A server that sends so many bytes for any line, whatever it says.
struct Bare(Child);

impl Bare {
    fn start(length: usize, data: &Path) -> Bare {
        Bare::spawn(&["bare", &length.to_string(), data.to_str().unwrap()], &[BARE, BARE_TLS])
    }

    /// One that passes on to the first, and knows nothing of lines.
    fn relay() -> Bare {
        Bare::spawn(&["bare-relay"], &[BARE_RELAY])
    }

    fn spawn(args: &[&str], addresses: &[&str]) -> Bare {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(args)
            .env(support::IN_NAMESPACE, "1")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        for address in addresses {
            wait_until(10, "the bare server listens", || std::net::TcpStream::connect(address).is_ok());
        }
        Bare(child)
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A daemon that knows 200 peers, none of them due, and a data directory that the bare server takes its certificate from.
fn ours(dir: &Path, more: &str) -> (Daemon, PathBuf) {
    let data = dir.join("data");
    fixture::fill(&data, PEERS, u32::MAX);
    let config = dir.join("waypost.toml");
    let text = format!(
        "data_dir = {data:?}\n[listen]\ntcp = [\"{OURS}\"]\ntls = [\"{OURS_TLS}\"]\n[discovery]\nseeds = []\n{UNLIMITED}{more}"
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
    let (daemon, data) = ours(dir.path(), "[tor]\nmode = \"off\"\n");
    let target = |address: &str, way| Target { address: address.parse().unwrap(), way };
    for method in ["server.peers.subscribe", "server.features"] {
        let length = load_generator::length(&target(OURS, Way::Tcp), method);
        let electrumx = load_generator::length(&target(ELECTRUMX, Way::Tcp), method);
        println!("\n{method}: ours is an answer of {length} bytes, ElectrumX's one of {electrumx}");
        let bare = Bare::start(length, &data);
        let pids = [daemon.id(), bare.0.id()];
        for (way, name, addresses) in
            [(Way::Tcp, "TCP", [OURS, BARE, ELECTRUMX]), (Way::Tls, "TLS", [OURS_TLS, BARE_TLS, ELECTRUMX_TLS])]
        {
            for connections in [1, 64, 1000] {
                let targets = addresses.map(|address| target(address, way.clone()));
                compare(&format!("{name}, {connections} connections"), &targets, &pids, method, connections, time);
            }
        }
    }
    daemon.stop();
}

/// Lets the servers take turns, ours first and the bare one second; they run as the processes of these numbers.
fn compare(what: &str, targets: &[Target], pids: &[u32], method: &str, connections: usize, time: Duration) {
    let mut rounds: Vec<Vec<Figures>> = vec![Vec::new(); targets.len()];
    let mut costs = vec![Duration::ZERO; pids.len()];
    for _ in 0..ROUNDS {
        for (number, (target, figures)) in targets.iter().zip(&mut rounds).enumerate() {
            let used = || pids.get(number).map(|pid| processor(*pid));
            let before = used();
            figures.push(load_generator::run(target, method, connections, time));
            if let (Some(cost), Some(before), Some(after)) = (costs.get_mut(number), before, used()) {
                *cost += after - before;
            }
        }
    }
    let third =
        if targets.last().is_some_and(|target| target.address.to_string() == BARE) { "direct" } else { "ElectrumX" };
    let names = ["ours", "bare", third];
    println!("{what}");
    for (number, (name, figures)) in names.iter().zip(&rounds).enumerate() {
        let (rate, p50, p99) = medians(figures);
        print!("  {name:9} {rate:9.0} a second   p50 {p50:8.2} ms   p99 {p99:8.2} ms");
        let answers: f64 = figures.iter().map(|f| f.rate * time.as_secs_f64()).sum();
        match costs.get(number) {
            Some(cost) => println!("   {:6.1} \u{b5}s of processor an answer", cost.as_secs_f64() * 1e6 / answers),
            None => println!(),
        }
    }
    let ratio = |of: fn(&Figures) -> f64| {
        let mut ratios: Vec<f64> =
            rounds[0].iter().zip(&rounds[1]).map(|(waypost, bare)| of(waypost) / of(bare)).collect();
        ratios.sort_by(f64::total_cmp);
        ratios[ratios.len() / 2]
    };
    println!("  ours to bare: {:.2} of its rate, {:.2} of its p99", ratio(|f| f.rate), ratio(|f| f.p99));
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
    let lab = dir.path().join("lab");
    run(Command::new(lab_script("up.sh")).arg(&lab).stdout(Stdio::null()));
    let read = |file: &str| std::fs::read_to_string(lab.join(file)).unwrap().trim().to_owned();
    let (daemon, data) =
        ours(dir.path(), &format!("[tor]\nmode = \"embedded\"\narti_config = {:?}\n", lab.join("tor/arti.toml")));
    wait_until(60, "our onion service is there", || daemon.status()["onion"]["last_reached"].is_u64());
    let own = daemon.status()["onion"]["host"].as_str().unwrap().to_owned();
    let socks: SocketAddr = read("tor/socks").parse().unwrap();
    let reached = |host: &str| {
        let address = format!("{host}:50001");
        wait_until(60, "C tor reaches the onion services", || {
            call_onion(&read("tor/socks"), &address, "server.ping").is_some()
        });
    };
    let method = "server.peers.subscribe";
    let length = load_generator::length(&Target { address: OURS.parse().unwrap(), way: Way::Tcp }, method);
    reached(&own);
    let _bare = Bare::start(length, &data);
    println!(
        "\n{method}, {length} bytes, through C tor: our onion service, and C tor's with the bare server behind it"
    );
    let target = |host: &str| Target { address: socks, way: Way::Onion(host.to_owned()) };
    let targets = [target(&own), target(&read("tor/onion-2"))];
    for connections in [1, 64, 1000] {
        compare(&format!("{connections} connections"), &targets, &[], method, connections, time);
    }
    daemon.stop();
}

fn relay(time: Duration) {
    let method = "blockchain.headers.subscribe";
    for length in [200, 100_000] {
        let dir = tempfile::tempdir().unwrap();
        let (daemon, data) =
            ours(dir.path(), &format!("[tor]\nmode = \"off\"\n[backend]\nelectrum = \"tcp://{BARE}\"\n"));
        let (_server, bare) = (Bare::start(length, &data), Bare::relay());
        println!("\nanswers of {length} bytes: through us, through a bare relay, and at the server itself");
        let targets =
            [OURS, BARE_RELAY, BARE].map(|address| Target { address: address.parse().unwrap(), way: Way::Tcp });
        for connections in [1, 64] {
            let pids = [daemon.id(), bare.0.id()];
            compare(&format!("{connections} connections"), &targets, &pids, method, connections, time);
        }
        daemon.stop();
    }
}

fn memory(sessions: usize) {
    let dir = tempfile::tempdir().unwrap();
    let (daemon, data) = ours(dir.path(), "[tor]\nmode = \"off\"\n");
    let _bare = Bare::start(1024, &data);
    for (name, way, address, bare) in [("TCP", Way::Tcp, OURS, BARE), ("TLS", Way::Tls, OURS_TLS, BARE_TLS)] {
        for (whose, address, pid) in [("ours", address, daemon.id()), ("bare", bare, _bare.0.id())] {
            let target = Target { address: address.parse().unwrap(), way: way.clone() };
            let before = resident(pid);
            let held = load_generator::hold(&target, sessions);
            std::thread::sleep(Duration::from_secs(2));
            let with = resident(pid);
            drop(held);
            wait_until(20, "they are gone", || daemon.status()["clients"]["open_sessions"] == 0);
            std::thread::sleep(Duration::from_secs(3));
            let after = resident(pid);
            println!(
                "{name}, {whose}: {sessions} idle sessions that have asked once: {:.2} KiB each ({:.1} MB before, {:.1} MB with \
                 them, {:.1} MB after)",
                (with.saturating_sub(before)) as f64 / 1024.0 / sessions as f64,
                before as f64 / 1e6,
                with as f64 / 1e6,
                after as f64 / 1e6
            );
        }
    }
    daemon.stop();
}
