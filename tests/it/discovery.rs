//! Seeds, private networks, and steps of the wall clock.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::{self, Daemon, TestDir, binary, hosts, wait_until};
use serde_json::json;
use waypost::clock;

const ONION: &str = "explorerzydxu5ecjrkwceayqybizmpjjznk5izmitf2modhcusuqlid.onion";
const HOUR_MS: u64 = 3_600_000;
const MONTH_MS: u64 = 30 * 24 * HOUR_MS;

/// Writes a configuration without Tor, with a data directory of its own.
fn configure(dir: &TestDir, name: &str, listen: SocketAddr, discovery: &str) -> PathBuf {
    let sections = format!("[listen]\ntcp = [\"{listen}\"]\n[tor]\nmode = \"off\"\n[discovery]\n{discovery}");
    dir.configure_named(name, &sections)
}

/// Starts the daemon of a peer. Returns it, with a configuration that has the peer as its seed.
fn configure_with_peer(dir: &TestDir) -> (Daemon, PathBuf) {
    let other = support::free_address();
    let peer = start_peer(dir, "peer", other);
    let discovery = format!("seeds = [\"127.0.0.1 t{}\"]\nallow_private = true\n", other.port());
    (peer, configure(dir, "a", dir.address, &discovery))
}

/// Returns the command for a daemon with another wall clock, and with the real monotonic clock and file times.
fn faketime_command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_waypost"));
    command.env("LD_PRELOAD", support::faketime()).env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("NO_FAKE_STAT", "1");
    command
}

/// Starts a daemon that has its listening address as its own name.
fn start_peer(dir: &TestDir, name: &str, listen: SocketAddr) -> Daemon {
    let identity = format!("[identity]\nhost = \"{}\"\ntcp_port = {}\n", listen.ip(), listen.port());
    Daemon::start(&configure(dir, name, listen, &format!("seeds = []\nallow_private = true\n{identity}")))
}

/// Runs `check-config`, which must succeed. Returns standard output and standard error.
fn check_config(config: &Path, args: &[&str]) -> (String, String) {
    let output = binary(&["check-config"]).args(args).arg("--config").arg(config).output().unwrap();
    let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(output.status.success(), "{stderr}");
    (stdout, stderr)
}

#[test]
fn new_seeds_at_start_are_added_and_rejected_ones_reported() {
    let dir = TestDir::new();
    let with = |seeds: &[&str]| configure(&dir, "a", dir.address, &format!("seeds = {}\n", json!(seeds)));
    let daemon = Daemon::start(&with(&["a.example.invalid t50001"]));
    assert!(daemon.row("a.example.invalid").is_object());
    daemon.stop();

    let onion = format!("{ONION} t143");
    let seeds =
        ["b.example.invalid s22", "b.example.invalid t50001", "10.0.0.1 t50001", "c.example.invalid s1", &onion];
    let config = with(&seeds);
    std::fs::write(dir.path("a/bans"), "c.example.invalid\n").unwrap();
    let daemon = Daemon::start(&config);
    assert_eq!(daemon.row("b.example.invalid")["source"], "seed");
    assert!(daemon.row("a.example.invalid").is_object(), "a former seed is kept");
    assert_eq!((&daemon.row(ONION)["tcp_port"], &daemon.row(ONION)["waiting_for"]), (&json!(143), &json!("Tor")));
    let reasons = [
        ("b.example.invalid t50001", "an earlier seed names the same host"),
        ("10.0.0.1 t50001", "discovery.allow_private"),
        ("c.example.invalid s1", "waypost unban"),
    ];
    let has_all = |text: &str| {
        let lines: Vec<&str> = text.lines().filter(|line| line.contains("is not accepted")).collect();
        lines.len() == reasons.len()
            && lines.iter().zip(reasons).all(|(line, (seed, reason))| line.contains(seed) && line.contains(reason))
    };
    assert!(has_all(&daemon.log()), "{}", daemon.log());
    daemon.stop();

    let (stdout, stderr) = check_config(&config, &[]);
    assert!(has_all(&stderr), "{stderr}");
    assert_eq!(toml::from_str::<toml::Table>(&stdout).unwrap()["discovery"]["seeds"].as_array().unwrap().len(), 5);
    let (stdout, stderr) = check_config(&config, &["--json"]);
    assert!(has_all(&stderr) && serde_json::from_str::<serde_json::Value>(&stdout).is_ok(), "{stdout}");
    let (_, stderr) = check_config(&with(&["b.example.invalid s22"]), &[]);
    assert_eq!(stderr, "");
}

#[test]
fn private_network_in_one_subnet_is_fully_advertised() {
    let dir = TestDir::new();
    let listen = |n: u8| SocketAddr::from(([127, 0, 0, 10 + n], support::free_address().port()));
    let (mut others, mut seeds) = (Vec::new(), Vec::new());
    for n in 1..=6 {
        let address = listen(n);
        others.push(start_peer(&dir, &n.to_string(), address));
        seeds.push(format!("{} t{}", address.ip(), address.port()));
    }
    let tcp = listen(9);
    let discovery = format!("seeds = {}\nallow_private = true\n", json!(seeds));
    let daemon = Daemon::start(&configure(&dir, "hub", tcp, &discovery));
    wait_until(30, "all six peers are advertised", || hosts(&tcp.to_string()).len() == 6);
    daemon.stop();
    others.into_iter().for_each(Daemon::stop);
}

#[test]
fn host_with_several_addresses_is_announced_from_the_address_of_its_name() {
    let dir = TestDir::new();
    let listen = |n: u8| SocketAddr::from(([127, 0, 0, n], support::free_address().port()));
    let [peer_at, own] = [31, 32].map(listen);
    let peer = start_peer(&dir, "peer", peer_at);
    let start = |name: &str, bind: &str| {
        let identity = format!("host = \"{}\"\ntcp_port = {}\nannounce = true\n{bind}", own.ip(), own.port());
        let seeds = format!("seeds = [\"{} t{}\"]", peer_at.ip(), peer_at.port());
        let discovery = format!("{seeds}\nallow_private = true\n[identity]\n{identity}");
        Daemon::start(&configure(&dir, name, own, &discovery))
    };
    let results = || {
        let calls = peer.status()["clients"]["calls"].clone();
        let of_add_peer = calls.as_array().unwrap().iter().filter(|call| call["method"] == "server.add_peer");
        of_add_peer.map(|call| call["result"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    // Peers reject an announcement from another address, such as the one that the system would choose here.
    let daemon = start("other", "bind = [\"127.0.0.33\"]\n");
    wait_until(30, "the announcement is rejected", || results() == ["refused"]);
    daemon.stop();
    let daemon = start("own", "");
    wait_until(30, "the announcement is accepted", || results().contains(&"ok".to_owned()));
    assert!(peer.row("127.0.0.32").is_object());
    daemon.stop();
    peer.stop();
}

#[test]
fn further_name_is_verified_and_announced_separately() {
    let dir = TestDir::new();
    let peer_at = SocketAddr::from(([127, 0, 0, 41], support::free_address().port()));
    let peer = start_peer(&dir, "peer", peer_at);
    let port = support::free_address().port();
    let seeds = format!("seeds = [\"{} t{}\"]", peer_at.ip(), peer_at.port());
    // At the third name, a server closes each connection.
    let closing = TcpListener::bind("127.0.0.44:0").unwrap();
    let closing_port = closing.local_addr().unwrap().port();
    std::thread::spawn(move || closing.incoming().for_each(drop));
    let others = format!("other_names = [\"127.0.0.43 t{port}\", \"127.0.0.44 t{closing_port}\"]");
    let identity = format!("[identity]\nhost = \"127.0.0.42\"\ntcp_port = {port}\nannounce = true\n{others}\n");
    let discovery = format!("{seeds}\nallow_private = true\n{identity}");
    let daemon = Daemon::start(&configure(&dir, "a", SocketAddr::from(([0, 0, 0, 0], port)), &discovery));
    for own in ["127.0.0.42", "127.0.0.43"] {
        wait_until(60, "the peer lists the name", || hosts(&peer_at.to_string()).contains(own));
        assert!(hosts(&format!("127.0.0.1:{port}")).contains(own), "the node lists {own}");
    }
    wait_until(20, "the test of the third name fails", || daemon.status()["other_names"][1]["error"].is_string());
    assert!(!hosts(&format!("127.0.0.1:{port}")).contains("127.0.0.44"));
    assert!(!hosts(&peer_at.to_string()).contains("127.0.0.44"));
    daemon.stop();
    peer.stop();
}

#[test]
fn wall_clock_step_changes_neither_peers_nor_probes() {
    let dir = TestDir::new();
    let (peer, config) = configure_with_peer(&dir);
    let offset = dir.path("offset");
    let set = |to: &str| std::fs::write(&offset, to).unwrap();
    set("+0");
    // Without a cache, a new offset applies to the next reading of the clock.
    let mut command = faketime_command();
    command.env("FAKETIME_TIMESTAMP_FILE", &offset).env("FAKETIME_NO_CACHE", "1");
    let daemon = Daemon::start_with(command, &config);
    let row = || daemon.row("127.0.0.1");
    wait_until(20, "the peer is verified", || row()["state"] == "verified");
    let time = |row: &serde_json::Value, field: &str| row[field].as_u64().unwrap();
    let verified = time(&row(), "last_success");

    let tcp = dir.address.to_string();
    wait_until(5, "the peer is advertised", || hosts(&tcp).len() == 1);
    for (to, ahead) in [("+30d", MONTH_MS), ("+0", 0), ("+30d", MONTH_MS), ("+0", 0)] {
        set(to);
        let row = row();
        assert_eq!(row["state"], "verified", "{to}: {row}");
        assert_eq!(hosts(&tcp).len(), 1, "{to}: the peer is advertised");
        // Times are displayed by the wall clock.
        assert!(time(&row, "last_success").abs_diff(verified + ahead) < 3000, "{to}: {row}");
        assert!(time(&row, "next_try") < verified + ahead + 24 * HOUR_MS, "{to}: {row}");
        assert!(time(&row, "next_try") > verified + ahead + HOUR_MS, "{to}: {row}");
        wait_until(10, "the step is logged", || daemon.log().contains("the wall clock was set ahead by"));
    }
    // The next process reads correct times from the store.
    daemon.stop();
    let daemon = Daemon::start(&config);
    let row = daemon.row("127.0.0.1");
    assert_eq!(row["state"], "verified");
    assert!(time(&row, "last_success").abs_diff(verified) < 3000, "{row}");
    assert!(time(&row, "next_try") < clock::now().as_millis() + 24 * HOUR_MS, "{row}");
    daemon.stop();
    peer.stop();
}

#[test]
fn store_written_with_clock_ahead_is_corrected() {
    let dir = TestDir::new();
    let (peer, config) = configure_with_peer(&dir);
    let mut command = faketime_command();
    command.env("FAKETIME", "+30d");
    let daemon = Daemon::start_with(command, &config);
    wait_until(20, "the peer is verified", || daemon.row("127.0.0.1")["state"] == "verified");
    daemon.stop();
    let daemon = Daemon::start(&config);
    let now = clock::now().as_millis();
    wait_until(20, "the peer is verified again, with correct times", || {
        let row = daemon.row("127.0.0.1");
        let times = ["first_seen", "last_try", "last_success"].map(|field| row[field].as_u64().unwrap());
        assert!(times.iter().all(|time| *time <= clock::now().as_millis() + 1000), "{row}");
        let history = row["history"].as_array().unwrap().len();
        history > 1 && row["next_try"].as_u64().unwrap() < now + Duration::from_hours(24).as_secs() * 1000
    });
    daemon.stop();
    peer.stop();
}
