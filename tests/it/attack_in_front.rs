//! Hostile clients in front of a server, which make Waypost hold memory or work without counted requests.
//!
//! Half of the sessions are of ten kinds, the others of the eight kinds of `attack.rs`.
//!
//! ```text
//! cargo test --test it attack_in_front::                                  400 hostile sessions
//! ATTACK_FULL=1 cargo test --test it attack_in_front:: -- --nocapture     2,000
//! ```

#![allow(clippy::disallowed_methods, reason = "the hostile clients and the measurement run in real time")]

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::time::sleep;

use crate::support::{self, ChildGuard, Daemon, OFFLINE, TestDir, connect_from, now, wait_until};
use crate::table::{FigureTable, count, figure};

/// Length of a long response of the backend, in bytes.
const LONG: usize = 322_000;
const KINDS: u32 = 10;
/// Hostile sessions per source address, of different kinds.
const PER_SOURCE: u32 = 10;
const WEBSOCKET: u32 = 2;
/// Environment variable with the addresses for the process of hostile clients.
const TARGETS: &str = "ATTACK_IN_FRONT_TARGETS";
const UPGRADE: &str = "GET / HTTP/1.1\r\nHost: wp\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[test]
fn mixed_hostile_sessions_exhaust_nothing() {
    if let Ok(targets) = std::env::var(TARGETS) {
        return attack(&targets);
    }
    let hostile = if std::env::var_os("ATTACK_FULL").is_some() { 2000 } else { 400 };
    let (dir, websocket, tls) = (TestDir::new(), support::free_address(), support::free_address());
    let tcp = dir.address;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let backend = listener.local_addr().unwrap();
    let text = format!(
        "data_dir = {:?}\nnetwork = \"regtest\"\n[listen]\ntcp = [\"{tcp}\"]\nws = [\"{websocket}\"]\ntls = [\"{tls}\"]\n\
         {OFFLINE}[backend]\nelectrum = \"tcp://{backend}\"\n[limits]\nhandshake_timeout = \"3s\"\n",
        dir.data()
    );
    std::fs::write(dir.config(), text).unwrap();
    spawn_backend(listener);
    let daemon = dir.start();

    let quiet = measure(tcp, 20);
    let before = megabytes(&daemon);
    let attack = spawn_attack(&format!("{tcp} {websocket} {tls} {}", hostile / 2));
    let other_kinds = crate::attack::spawn_attack(tcp, tls, hostile / 2);
    wait_until(20, "the attack has begun", || daemon.status()["clients"]["open_sessions"].as_u64().unwrap() > 100);
    let mut most = before;
    let mut attacked = Vec::new();
    for _ in 0..6 {
        attacked.extend(measure(tcp, 10));
        most = most.max(megabytes(&daemon));
    }
    let counters = daemon.status()["clients"].clone();
    drop((attack, other_kinds));
    let (quiet, attacked) = (percentile(quiet), percentile(attacked));
    let mut table = FigureTable::new(
        &format!(
            "Requests of honest clients, and memory of the daemon, with {} hostile sessions",
            count(hostile.into())
        ),
        ["when", "p99, ms", "p99 / p99 before", "most resident, MB", "charged to clients, MB"],
    );
    let charged = counters["memory_bytes"].as_f64().unwrap() / 1e6;
    for (when, p99, memory, charged) in
        [("before", quiet, before, String::new()), ("under attack", attacked, most, figure(charged))]
    {
        let ratio = p99.as_secs_f64() / quiet.as_secs_f64();
        let [p99, ratio, memory] = [p99.as_secs_f64() * 1000.0, ratio, memory].map(figure);
        table.add_row([when.to_owned(), p99, ratio, memory, charged]);
    }
    table.print();
    println!("counters of the daemon: {counters}");
    assert!(most < 150.0, "{most} MB");
    assert_eq!(counters["panicked_sessions"], 0);
    assert!(counters["memory_bytes"].as_u64().unwrap() <= 40 * 1024 * 1024, "the limit of one ingress");
    daemon.stop();
}

#[test]
fn partial_lines_of_many_sources_leave_memory_for_others() {
    let dir = TestDir::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    dir.configure_tcp(&format!(
        "{OFFLINE}[backend]\nelectrum = \"tcp://{}\"\n[limits]\nbytes_in_per_second = 10000000\n",
        listener.local_addr().unwrap()
    ));
    spawn_backend(listener);
    let daemon = dir.start();
    // Each quiet session holds an unfinished line. Together they would need five times the memory.
    let partial = format!("{{\"id\":1,\"method\":\"broadcast\",\"params\":[\"{}", "0".repeat(2_000_000));
    let quiet: Vec<TcpStream> = (0..35)
        .map(|source| {
            let mut stream = connect_from(Ipv4Addr::new(127, 60, source, 1).into(), dir.address);
            stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
            // The daemon stops reading, or ends the session, when there is no memory for the line.
            let _ = stream.write_all(partial.as_bytes());
            stream
        })
        .collect();
    // A busy machine reads what the kernel holds some time later.
    wait_until(30, "the quiet sessions hold memory", || {
        let held = daemon.status()["clients"]["memory_bytes"].as_u64().unwrap();
        assert!(held <= 41_943_040, "{held}");
        held >= 10_000_000
    });
    let mut honest = connect_from(Ipv4Addr::new(127, 61, 1, 1).into(), dir.address);
    let line = format!("{{\"id\":1,\"method\":\"broadcast\",\"params\":[\"{}\"]}}\n", "0".repeat(800_000));
    honest.write_all(line.as_bytes()).unwrap();
    assert_eq!(read_line(&mut BufReader::new(honest))["result"], "broadcast", "a transaction of the largest size");
    drop(quiet);
    daemon.stop();
}

fn spawn_backend(listener: TcpListener) {
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(&stream));
        }
    });
}

/// Answers with the method's name, or with a long result.
fn serve(stream: &TcpStream) -> Option<()> {
    let mut out = stream;
    let long = "x".repeat(LONG);
    for line in BufReader::new(stream).lines() {
        let request: Value = serde_json::from_str(&line.ok()?).ok()?;
        let result = match request["method"].as_str()? {
            "server.version" => json!(["scripted", "1.4"]),
            "long" => json!(long),
            method => json!(method),
        };
        // The id comes last, as in responses of ElectrumX.
        writeln!(out, "{{\"jsonrpc\":\"2.0\",\"result\":{result},\"id\":{}}}", request["id"]).ok()?;
    }
    None
}

/// Sends requests as a wallet does: a list, a forwarded request, a batch. Returns their latencies.
fn measure(server: SocketAddr, rounds: usize) -> Vec<Duration> {
    let clients: Vec<_> = (0..4u8)
        .map(|client| {
            std::thread::spawn(move || {
                let stream = connect_from(Ipv4Addr::new(127, 200, client, 1).into(), server);
                stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                let (mut out, mut stream) = (stream.try_clone().unwrap(), BufReader::new(stream));
                let calls: Vec<Value> = (0..30).map(|id| json!({"id": id, "method": "history"})).collect();
                let mut latencies = Vec::new();
                for _ in 0..rounds {
                    let list = json!({"id": 1, "method": "server.peers.subscribe", "params": []});
                    for request in [list, json!({"id": 2, "method": "balance"}), json!(calls)] {
                        let start = now();
                        out.write_all(format!("{request}\n").as_bytes()).unwrap();
                        let response = read_line(&mut stream);
                        assert!(response["error"].is_null(), "{response}");
                        latencies.push(start.elapsed());
                        if let Some(all) = response.as_array() {
                            assert!(all.len() == 30 && all.iter().all(|one| one["result"] == "history"), "{response}");
                        }
                    }
                    std::thread::sleep(Duration::from_millis(150));
                }
                latencies
            })
        })
        .collect();
    clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
}

fn read_line(stream: &mut BufReader<TcpStream>) -> Value {
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap_or_else(|_| panic!("no response: {line:?}"))
}

fn percentile(mut latencies: Vec<Duration>) -> Duration {
    latencies.sort_unstable();
    latencies[latencies.len() * 99 / 100]
}

fn megabytes(daemon: &Daemon) -> f64 {
    support::resident_bytes(daemon.id()) as f64 / 1e6
}

/// Starts the process of the hostile clients.
fn spawn_attack(targets: &str) -> ChildGuard {
    ChildGuard::spawn(
        Command::new("chrt")
            .args(["--idle", "0"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", support::test_path(&mixed_hostile_sessions_exhaust_nothing), "--nocapture"])
            .env(TARGETS, targets)
            .stdout(Stdio::null()),
    )
}

/// Runs all hostile clients for at most two minutes.
fn attack(targets: &str) {
    let words: Vec<&str> = targets.split(' ').collect();
    let address = |index: usize| words[index].parse::<SocketAddr>().unwrap();
    let (tcp, websocket, tls) = (address(0), address(1), address(2));
    let sessions: u32 = words[3].parse().unwrap();
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        for number in 0..sessions {
            let from = Ipv4Addr::from(0x7f0a_0001 + number / PER_SOURCE * 256);
            let kind = number % KINDS;
            let to = match kind {
                0..=WEBSOCKET => websocket,
                3 => tls,
                _ => tcp,
            };
            tokio::spawn(async move {
                loop {
                    let _ = hostile_session(kind, from, to).await;
                    sleep(Duration::from_millis(200)).await;
                }
            });
        }
        sleep(Duration::from_secs(120)).await;
    });
}

/// Runs one hostile session. The names in the comments say what it makes Waypost hold or do.
async fn hostile_session(kind: u32, from: Ipv4Addr, to: SocketAddr) -> std::io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((from, 0)))?;
    let mut stream = socket.connect(to).await?;
    let mut unread = [0; 64 * 1024];
    if kind <= WEBSOCKET {
        stream.write_all(UPGRADE.as_bytes()).await?;
        if stream.read(&mut unread).await? == 0 {
            return Ok(());
        }
    }
    let batch = json!(vec![json!({"id": 1, "method": "long"}); 25]).to_string();
    match kind {
        // Responses over WebSocket that are not read.
        0 => {
            let length = u16::try_from(batch.len()).unwrap().to_be_bytes();
            stream.write_all(&[&[0x81, 0x80 | 126], &length[..], &[0; 4], batch.as_bytes()].concat()).await?;
            sleep(Duration::from_secs(60)).await;
        }
        // Pings over WebSocket.
        1 => loop {
            stream.write_all(&[0x89, 0x80, 0, 0, 0, 0].repeat(1000)).await?;
            sleep(Duration::from_millis(10)).await;
        },
        // A message in fragments without content, and an unfinished frame.
        WEBSOCKET => {
            stream.write_all(&[0x01, 0x80, 0, 0, 0, 0]).await?;
            stream.write_all(&[0x00, 0x80, 0, 0, 0, 0].repeat(1000)).await?;
            stream.write_all(&[0x80, 0xfe, 0x3f, 0xff, 0, 0, 0, 0]).await?;
            stream.write_all(&[b' '; 16_000]).await?;
            sleep(Duration::from_secs(60)).await;
        }
        // A TLS record that never ends.
        3 => {
            stream.write_all(&[0x16, 3, 1, 0x40, 0]).await?;
            stream.write_all(&[1; 16_000]).await?;
            while stream.read(&mut unread).await? > 0 {}
        }
        // Batches of long responses that are not read.
        4 | 5 => {
            stream.write_all(format!("{batch}\n").as_bytes()).await?;
            sleep(Duration::from_secs(60)).await;
        }
        // Single long responses that are not read.
        6 => loop {
            stream.write_all(b"{\"id\":1,\"method\":\"long\"}\n").await?;
            sleep(Duration::from_millis(20)).await;
        },
        // A long line that never ends.
        7 => {
            stream.write_all(format!("{{\"params\":\"{}", "x".repeat(1_000_000)).as_bytes()).await?;
            while stream.read(&mut unread).await? > 0 {}
        }
        // Empty lines.
        8 => loop {
            stream.write_all(&[b'\n'; 4096]).await?;
            sleep(Duration::from_millis(10)).await;
        },
        // Nothing at all.
        _ => while stream.read(&mut unread).await? > 0 {},
    }
    Ok(())
}
