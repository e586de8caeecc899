//! Eight kinds of hostile clients at once, from many sources, with honest ones among them.
//!
//! ```text
//! cargo test --test it attack::                                  400 hostile sessions for 6 seconds
//! ATTACK_FULL=1 cargo test --test it attack:: -- --nocapture     2,000 for 30 seconds, with latencies
//! ```
//!
//! The test asserts that honest clients get every response, and the memory; it prints latencies. Hostile clients run at
//! idle priority, as they would run on other machines.

#![allow(clippy::disallowed_methods, reason = "the hostile clients and the measurement run in real time")]

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use crate::support::{self, ChildGuard, Daemon, OFFLINE, TestDir, connect_from, now, wait_until};
use crate::table::{FigureTable, count, figure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::time::sleep;

const PEERS: &[u8] = b"{\"id\":1,\"method\":\"server.peers.subscribe\",\"params\":[]}\n";
const KINDS: u32 = 8;
const RECONNECTS: u32 = 6;
/// Hostile sessions per source address, of different kinds.
const PER_SOURCE: u32 = 8;
/// Environment variable with the addresses for the process of hostile clients.
const TARGETS: &str = "ATTACK_TARGETS";

#[test]
fn honest_clients_are_served_during_attack() {
    if let Ok(targets) = std::env::var(TARGETS) {
        return attack(&targets);
    }
    let full = std::env::var_os("ATTACK_FULL").is_some();
    let (hostile, secs) = if full { (2000, 30) } else { (400, 6) };
    let (dir, tls) = (TestDir::new(), support::free_address());
    crate::fixture::fill(&dir.data(), 200, u32::MAX);
    let tcp = dir.address;
    // The peers of the fixture belong to bitcoin.
    let text = format!(
        "data_dir = {:?}\n[listen]\ntcp = [\"{tcp}\"]\ntls = [\"{tls}\"]\n{OFFLINE}\
         [limits]\nline_timeout = \"3s\"\nhandshake_timeout = \"3s\"\n",
        dir.data()
    );
    std::fs::write(dir.config(), text).unwrap();
    let daemon = dir.start();

    let quiet = measure(tcp, secs);
    let before = megabytes(&daemon);
    let attack = spawn_attack(tcp, tls, hostile);
    wait_until(20, "the attack has begun", || daemon.status()["clients"]["open_sessions"].as_u64().unwrap() > 100);
    let attacked = measure(tcp, secs);
    let during = megabytes(&daemon);
    let counters = daemon.status()["clients"].clone();
    drop(attack);
    wait_until(30, "the hostile sessions have ended", || daemon.status()["clients"]["open_sessions"] == 0);
    let after = measure(tcp, secs);

    let mut table = FigureTable::new(
        &format!(
            "Requests of honest clients, and memory of the daemon, with {} hostile sessions",
            count(hostile.into())
        ),
        ["when", "responses", "failed", "p50, ms", "p99, ms", "maximum, ms", "p99 / p99 before", "resident, MB"],
    );
    let states =
        [("before", &quiet, before), ("under attack", &attacked, during), ("after", &after, megabytes(&daemon))];
    for (when, seen, memory) in states {
        let counts = [seen.latencies.len(), seen.failed].map(|number| count(number as u64));
        let ratio = seen.at(0.99) / quiet.at(0.99);
        let figures = [seen.at(0.5), seen.at(0.99), seen.at(1.0), ratio, memory].map(figure);
        table.add_row([when.to_owned()].into_iter().chain(counts).chain(figures));
    }
    table.print();
    println!("counters of the daemon: {counters}");
    assert_eq!(quiet.failed + attacked.failed + after.failed, 0, "every honest request is answered");
    assert!(during < 150.0, "{during} MB");
    assert_eq!(counters["panicked_sessions"], 0);
    for limit in ["rate_limited_requests", "failed_handshakes", "malformed_lines", "slow"] {
        assert!(counters[limit].as_u64().unwrap() > 0, "{limit} is counted: {counters}");
    }
    daemon.stop();
}

/// Latencies of the requests of honest clients.
struct Measurement {
    latencies: Vec<Duration>,
    failed: usize,
}

impl Measurement {
    /// Returns a quantile in milliseconds.
    fn at(&self, share: f64) -> f64 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
        let index = ((self.latencies.len() - 1) as f64 * share) as usize;
        self.latencies[index].as_secs_f64() * 1000.0
    }
}

/// Four honest clients. Each sends a few requests a second and reconnects at times.
fn measure(server: SocketAddr, secs: u64) -> Measurement {
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4u8)
        .map(|client| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                let (mut latencies, mut failed) = (Vec::new(), 0);
                while !stop.load(Ordering::Relaxed) {
                    let mut stream = connect_from(Ipv4Addr::new(127, 200, client, 1).into(), server);
                    for _ in 0..20 {
                        let start = now();
                        match request_peers(&mut stream) {
                            Some(()) => latencies.push(start.elapsed()),
                            None => failed += 1,
                        }
                        std::thread::sleep(Duration::from_millis(70));
                    }
                }
                (latencies, failed)
            })
        })
        .collect();
    std::thread::sleep(Duration::from_secs(secs));
    stop.store(true, Ordering::Relaxed);
    let mut seen = Measurement { latencies: Vec::new(), failed: 0 };
    for client in clients {
        let (latencies, failed) = client.join().unwrap();
        seen.latencies.extend(latencies);
        seen.failed += failed;
    }
    seen.latencies.sort_unstable();
    seen
}

/// Requests the peer list. Returns `None` without a complete response.
fn request_peers(stream: &mut TcpStream) -> Option<()> {
    stream.write_all(PEERS).ok()?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).ok()?;
    (line.ends_with('\n') && line.contains("\"error\":null")).then_some(())
}

fn megabytes(daemon: &Daemon) -> f64 {
    support::resident_bytes(daemon.id()) as f64 / 1e6
}

/// Starts the process of the hostile clients.
pub(crate) fn spawn_attack(tcp: SocketAddr, tls: SocketAddr, sessions: u32) -> ChildGuard {
    ChildGuard::spawn(
        Command::new("chrt")
            .args(["--idle", "0"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", support::test_path(&honest_clients_are_served_during_attack), "--nocapture"])
            .env(TARGETS, format!("{tcp} {tls} {sessions}"))
            .stdout(Stdio::null()),
    )
}

/// Number of invented names.
static NAMES: AtomicU32 = AtomicU32::new(0);

/// Runs all hostile clients for at most five minutes.
fn attack(targets: &str) {
    let mut words = targets.split(' ');
    let mut address = || words.next().unwrap().parse::<SocketAddr>().unwrap();
    let (tcp, tls) = (address(), address());
    let sessions: u32 = words.next().unwrap().parse().unwrap();
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        for number in 0..sessions {
            let source = number / PER_SOURCE;
            let from = Ipv4Addr::from(0x7f0a_0001 + source * 256);
            let kind = number % KINDS;
            let to = if kind == 0 { tls } else { tcp };
            tokio::spawn(async move {
                loop {
                    // A session that ends is followed by another.
                    let _ = hostile_session(kind, from, to).await;
                    sleep(Duration::from_millis(if kind == RECONNECTS { 2 } else { 100 })).await;
                }
            });
        }
        sleep(Duration::from_secs(300)).await;
    });
}

async fn hostile_session(kind: u32, from: Ipv4Addr, to: SocketAddr) -> std::io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((from, 0)))?;
    let mut stream = socket.connect(to).await?;
    let pause = || sleep(Duration::from_millis(20));
    let mut unread = [0; 64 * 1024];
    match kind {
        // A TLS handshake that never ends.
        0 => {
            stream.write_all(&[0x16, 3, 1, 0x40, 0]).await?;
            while stream.read(&mut unread).await? > 0 {}
        }
        // Nothing at all.
        1 => while stream.read(&mut unread).await? > 0 {},
        // A line sent byte by byte.
        2 => loop {
            stream.write_all(b"[").await?;
            sleep(Duration::from_secs(1)).await;
        },
        // An endless line.
        3 => loop {
            stream.write_all(&[b'['; 16 * 1024]).await?;
            pause().await;
        },
        // Requests whose responses are not read.
        4 => loop {
            stream.write_all(&PEERS.repeat(10)).await?;
            pause().await;
        },
        // Batches with the largest responses.
        5 => loop {
            let request = String::from_utf8_lossy(PEERS).trim().to_owned();
            stream.write_all(format!("[{}]\n", vec![request; 64].join(",")).as_bytes()).await?;
            if stream.read(&mut unread).await? == 0 {
                return Ok(());
            }
            pause().await;
        },
        // A new connection for each request.
        RECONNECTS => {
            stream.write_all(PEERS).await?;
            stream.read(&mut unread).await.map(|_| ())?;
        }
        // `server.add_peer` for other hosts, with deep nesting.
        _ => loop {
            let host = format!("h{}.example.net", NAMES.fetch_add(1, Ordering::Relaxed));
            let deep = format!("{}{}", "[".repeat(3000), "]".repeat(3000));
            let features = format!("{{\"hosts\":{{\"{host}\":{{\"tcp_port\":50001}}}},\"x\":{deep}}}");
            stream
                .write_all(format!("{{\"id\":1,\"method\":\"server.add_peer\",\"params\":[{features}]}}\n").as_bytes())
                .await?;
            if stream.read(&mut unread).await? == 0 {
                return Ok(());
            }
            pause().await;
        },
    }
    Ok(())
}
