//! Two chains of unequal work: real and scripted servers of both, and servers that lie since two days.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;

use crate::support::{
    ChildGuard, Daemon, TestDir, faketime, in_namespace, lab_python, lab_script, start_electrumx, wait_until,
};
use serde_json::{Value, json};

/// Last common block, and the heights of both chains.
const COMMON: u32 = 20;
const HONEST_HEIGHT: u32 = 300;
const LIARS_HEIGHT: u32 = 290;

/// Seeds of the two chains.
const HONEST: u32 = 1;
const LIARS: u32 = 2;

/// Ports of the replacements for bitcoind.
const HONEST_NODE: u16 = 18_444;
const LIARS_NODE: u16 = 18_445;

fn chain(seed: u32) -> [String; 3] {
    let height = if seed == HONEST { HONEST_HEIGHT } else { LIARS_HEIGHT };
    [seed.to_string(), COMMON.to_string(), height.to_string()]
}

/// Starts a Python script of the lab and waits until it listens.
fn start_script(dir: &TestDir, name: &str, script: &str, args: &[String]) -> ChildGuard {
    let log = dir.path(name);
    let file = std::fs::File::create(&log).unwrap();
    let mut command = Command::new(lab_python());
    command.arg(lab_script(script)).args(args).stdout(file.try_clone().unwrap()).stderr(file);
    let process = ChildGuard::spawn(&mut command);
    wait_until(60, "the script listens", || std::fs::read_to_string(&log).unwrap().contains("listening"));
    process
}

/// Starts scripted servers of a chain on these addresses.
fn start_swarm(dir: &TestDir, name: &str, seed: u32, addresses: &[String]) -> ChildGuard {
    start_script(dir, name, "chain_swarm.py", &[chain(seed).as_slice(), addresses].concat())
}

/// Starts an ElectrumX on a chain.
fn start_server(dir: &TestDir, name: &str, address: &str, node: u16, seed: u32) -> ChildGuard {
    let bitcoind = [&[node.to_string()], chain(seed).as_slice()].concat();
    let bitcoind = start_script(dir, &format!("bitcoind-{node}"), "bitcoind.py", &bitcoind);
    let report = format!("tcp://{name}.example.com:51001,ssl://{name}.example.com:51002");
    let url = format!("DAEMON_URL=http://u:p@127.0.0.1:{node}");
    start_electrumx(&dir.path("ex"), &[name, address, &report, &url, "PEER_DISCOVERY=off", "PEER_ANNOUNCE="]);
    bitcoind
}

fn addresses(net: u8, count: u8) -> Vec<String> {
    (1..=count).map(|n| Ipv4Addr::new(127, net, n, 1).to_string()).collect()
}

/// Writes a configuration whose data directory is `name`.
fn configure(dir: &TestDir, name: &str, seeds: &[String], backend: Option<&str>) -> PathBuf {
    let backend = backend.map(|server| format!("[backend]\nelectrum = \"{server}\"\n")).unwrap_or_default();
    let sections = format!(
        "[listen]\ntcp = [\"{}\"]\n[tor]\nmode = \"off\"\n{backend}\
         [discovery]\nallow_private = true\nseeds = {}\nrecheck_interval = \"10s\"\ninitial_retry = \"1s\"\nmax_probes = 32\n",
        dir.address,
        json!(seeds)
    );
    dir.write_config(&format!("{name}.toml"), &dir.path(name), &sections)
}

fn peers_in(daemon: &Daemon, state: &str) -> Vec<Value> {
    daemon.rows().into_iter().filter(|row| row["state"] == state).collect()
}

#[test]
fn chain_with_more_work_wins_against_servers_known_for_days() {
    if !in_namespace(chain_with_more_work_wins_against_servers_known_for_days, &[]) {
        return;
    }
    let dir = TestDir::new();
    let _nodes = [
        start_server(&dir, "ex1", "5.9.0.1", HONEST_NODE, HONEST),
        start_server(&dir, "ex2", "88.99.0.2", LIARS_NODE, LIARS),
    ];
    let (honest, liars) = (addresses(20, 4), addresses(21, 59));
    let _swarms = [start_swarm(&dir, "honest", HONEST, &honest), start_swarm(&dir, "liars", LIARS, &liars)];
    let seeds = |addresses: &[String], electrumx: &str| -> Vec<String> {
        let scripted = addresses.iter().map(|address| format!("{address} t50001"));
        scripted.chain([format!("{electrumx}.example.com t51001")]).collect()
    };
    let (honest, liars) = (seeds(&honest, "ex1"), seeds(&liars, "ex2"));

    // Two days ago, only the liars were known.
    let config = configure(&dir, "liars-only", &liars, None);
    let mut command = Command::new(env!("CARGO_BIN_EXE_waypost"));
    command.env("LD_PRELOAD", faketime()).env("FAKETIME", "-2d");
    command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("NO_FAKE_STAT", "1");
    let daemon = Daemon::start_with(command, &config);
    wait_until(60, "the liars are verified", || peers_in(&daemon, "verified").len() == 60);
    assert_eq!(daemon.status()["chain"]["height"], LIARS_HEIGHT);
    daemon.stop();

    let all = [liars, honest].concat();
    let tls = |name: &str| format!("tls://{name}.example.com:51002");
    for (name, backend, works) in
        [("peers", None, true), ("lesser", Some(tls("ex2")), false), ("best", Some(tls("ex1")), true)]
    {
        let config = configure(&dir, name, &all, backend.as_deref());
        std::fs::create_dir(dir.path(name)).unwrap();
        std::fs::copy(dir.path("liars-only/peers.redb"), dir.path(name).join("peers.redb")).unwrap();
        let daemon = Daemon::start(&config);
        assert!(daemon.status()["chain"]["height"].as_u64() >= Some(LIARS_HEIGHT.into()), "the chain was stored");
        wait_until(60, "the servers of the honest chain are the only ones that are verified", || {
            let has_less_work = |row: &Value| row["error"] == "chain with less work";
            let bad = peers_in(&daemon, "bad");
            peers_in(&daemon, "verified").len() == 5 && bad.len() == 60 && bad.iter().all(has_less_work)
        });
        let status = daemon.status();
        assert_eq!(status["chain"]["height"], HONEST_HEIGHT, "{status}");
        assert_eq!((&status["chain"]["level"], &status["chain"]["less_work"]), (&json!(5), &json!(60)));
        if backend.is_some() {
            wait_until(30, "the backend was compared", || {
                let error = daemon.status()["backend"]["error"].clone();
                if works { error.is_null() } else { error.as_str().is_some_and(|error| error.contains("less work")) }
            });
        }
        daemon.stop();
    }
}
