//! Eight kinds of hostile callers at once, from many sources, and honest ones among them.
//!
//! ```text
//! cargo test --test it attack::                400 hostile sessions for some seconds
//! ATTACK_FULL=1 cargo test --test it attack:: -- --nocapture     2,000, for half a minute; prints how honest callers fared
//! ```
//!
//! That the honest are all answered, and what it costs in memory, is held to; how fast, is printed. The hostile callers yield
//! the processor to everybody else, as they would have machines of their own.

#![allow(clippy::disallowed_methods, reason = "the hostile clients and the measurement run in real time")]

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use crate::support::{self, Daemon, now, wait_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::time::sleep;

const PEERS: &[u8] = b"{\"id\":1,\"method\":\"server.peers.subscribe\",\"params\":[]}\n";
const KINDS: u32 = 8;
const RECONNECTS: u32 = 6;
/// Hostile sessions of one source, which are of different kinds.
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
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    crate::fixture::fill(&data, 200, u32::MAX);
    let (tcp, tls) = (support::free_address(), support::free_address());
    let config = dir.path().join("waypost.toml");
    let text = format!(
        "data_dir = {data:?}\n[listen]\ntcp = [\"{tcp}\"]\ntls = [\"{tls}\"]\n[tor]\nmode = \"off\"\n[discovery]\nseeds = []\n\
         [limits]\nline_timeout = \"3s\"\nhandshake_timeout = \"3s\"\n"
    );
    std::fs::write(&config, text).unwrap();
    let daemon = Daemon::start(&config);

    let quiet = honest(tcp, secs);
    let before = megabytes(&daemon);
    let hostile = Hostile::start(tcp, tls, hostile);
    wait_until(20, "the attack has begun", || daemon.status()["clients"]["open_sessions"].as_u64().unwrap() > 100);
    let attacked = honest(tcp, secs);
    let during = megabytes(&daemon);
    let callers = daemon.status()["clients"].clone();
    drop(hostile);
    wait_until(30, "the hostile are gone", || daemon.status()["clients"]["open_sessions"] == 0);
    let after = honest(tcp, secs);

    for (when, seen) in [("quiet", &quiet), ("attacked", &attacked), ("afterwards", &after)] {
        println!(
            "{when:10} {:5} answers, {} failed; p50 {:.2} ms, p99 {:.2} ms, the longest {:.2} ms",
            seen.took.len(),
            seen.failed,
            seen.at(0.5),
            seen.at(0.99),
            seen.at(1.0)
        );
    }
    println!(
        "p99 under attack is {:.1} times the quiet one, afterwards {:.1} times",
        attacked.at(0.99) / quiet.at(0.99),
        after.at(0.99) / quiet.at(0.99)
    );
    println!("resident: {:.1} MB before, {:.1} MB in the attack, {:.1} MB after", before, during, megabytes(&daemon));
    println!("what the daemon counted: {callers}");
    assert_eq!(quiet.failed + attacked.failed + after.failed, 0, "the honest are answered");
    assert!(during < 150.0, "{during} MB");
    assert_eq!(callers["panicked_sessions"], 0);
    for limit in ["rate_limited_requests", "failed_handshakes", "malformed_lines", "slow"] {
        assert!(callers[limit].as_u64().unwrap() > 0, "{limit} is counted: {callers}");
    }
    daemon.stop();
}

/// How honest callers fared.
struct Seen {
    took: Vec<Duration>,
    failed: usize,
}

impl Seen {
    fn at(&self, share: f64) -> f64 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
        let index = ((self.took.len() - 1) as f64 * share) as usize;
        self.took[index].as_secs_f64() * 1000.0
    }
}

/// Four honest clients. Each sends a few requests a second and reconnects at times.
fn honest(server: SocketAddr, secs: u64) -> Seen {
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..4u8)
        .map(|caller| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                let (mut took, mut failed) = (Vec::new(), 0);
                while !stop.load(Ordering::Relaxed) {
                    let mut stream = connect(Ipv4Addr::new(127, 200, caller, 1), server);
                    for _ in 0..20 {
                        let began = now();
                        match ask(&mut stream) {
                            Some(()) => took.push(began.elapsed()),
                            None => failed += 1,
                        }
                        std::thread::sleep(Duration::from_millis(70));
                    }
                }
                (took, failed)
            })
        })
        .collect();
    std::thread::sleep(Duration::from_secs(secs));
    stop.store(true, Ordering::Relaxed);
    let mut seen = Seen { took: Vec::new(), failed: 0 };
    for caller in callers {
        let (took, failed) = caller.join().unwrap();
        seen.took.extend(took);
        seen.failed += failed;
    }
    seen.took.sort_unstable();
    seen
}

fn connect(from: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream
}

fn ask(stream: &mut TcpStream) -> Option<()> {
    stream.write_all(PEERS).ok()?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).ok()?;
    (line.ends_with('\n') && line.contains("\"error\":null")).then_some(())
}

fn megabytes(daemon: &Daemon) -> f64 {
    support::resident(daemon.id()) as f64 / 1e6
}

/// The process of the hostile callers.
struct Hostile(Child);

impl Hostile {
    fn start(tcp: SocketAddr, tls: SocketAddr, sessions: u32) -> Hostile {
        let child = Command::new("chrt")
            .args(["--idle", "0"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", support::test_path(&honest_clients_are_served_during_attack), "--nocapture"])
            .env(TARGETS, format!("{tcp} {tls} {sessions}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Hostile(child)
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Names that were made up so far.
static NAMES: AtomicU32 = AtomicU32::new(0);

/// Plays all hostile callers, until it is killed or some minutes have passed.
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
                    // Whatever becomes of one session, there is another right after.
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
        // A line that comes byte by byte.
        2 => loop {
            stream.write_all(b"[").await?;
            sleep(Duration::from_secs(1)).await;
        },
        // A line without end.
        3 => loop {
            stream.write_all(&[b'['; 16 * 1024]).await?;
            pause().await;
        },
        // Questions whose answers nobody reads.
        4 => loop {
            stream.write_all(&PEERS.repeat(10)).await?;
            pause().await;
        },
        // As much as can be had for one line.
        5 => loop {
            let call = String::from_utf8_lossy(PEERS).trim().to_owned();
            stream.write_all(format!("[{}]\n", vec![call; 64].join(",")).as_bytes()).await?;
            if stream.read(&mut unread).await? == 0 {
                return Ok(());
            }
            pause().await;
        },
        // A call, and another connection for the next.
        RECONNECTS => {
            stream.write_all(PEERS).await?;
            stream.read(&mut unread).await.map(|_| ())?;
        }
        // Introductions of somebody else, and nesting.
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
