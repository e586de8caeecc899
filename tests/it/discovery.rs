//! Seeds, networks of the operator's own, and a wall clock that is set while the daemon runs.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::{self, Daemon, hosts, wait_until};
use serde_json::json;
use waypost::clock;

const ONION: &str = "explorerzydxu5ecjrkwceayqybizmpjjznk5izmitf2modhcusuqlid.onion";
const HOUR: u64 = 3_600_000;
const MONTH: u64 = 30 * 24 * HOUR;

/// Writes a configuration without Tor in a directory of its own below `dir`.
fn configure(dir: &Path, name: &str, listen: SocketAddr, discovery: &str) -> PathBuf {
    let dir = dir.join(name);
    std::fs::create_dir_all(&dir).unwrap();
    let text = format!(
        "network = \"regtest\"\ndata_dir = {:?}\n[listen]\ntcp = [\"{listen}\"]\n[tor]\nmode = \"off\"\n[discovery]\n{discovery}",
        dir.join("data")
    );
    std::fs::write(dir.join("waypost.toml"), text).unwrap();
    dir.join("waypost.toml")
}

/// A daemon on this address that is a peer to others: it knows itself by the address.
fn peer(dir: &Path, name: &str, listen: SocketAddr) -> Daemon {
    let identity = format!("[identity]\nhost = \"{}\"\ntcp_port = {}\n", listen.ip(), listen.port());
    Daemon::start(&configure(dir, name, listen, &format!("seeds = []\nallow_private = true\n{identity}")))
}

/// What `check-config` prints on standard output and on standard error; it must succeed.
fn check_config(config: &Path, args: &[&str]) -> (String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_waypost"));
    let output =
        command.arg("check-config").args(args).arg("--config").arg(config).stdin(Stdio::null()).output().unwrap();
    let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(output.status.success(), "{stderr}");
    (stdout, stderr)
}

#[test]
fn new_seeds_at_start_are_added_and_rejected_ones_reported() {
    let (dir, tcp) = (tempfile::tempdir().unwrap(), support::free_address());
    let with = |seeds: &[&str]| configure(dir.path(), "a", tcp, &format!("seeds = {}\n", json!(seeds)));
    let daemon = Daemon::start(&with(&["a.example.invalid t50001"]));
    assert!(daemon.row("a.example.invalid").is_object());
    daemon.stop();

    let onion = format!("{ONION} t143");
    let seeds =
        ["b.example.invalid s22", "b.example.invalid t50001", "10.0.0.1 t50001", "c.example.invalid s1", &onion];
    let config = with(&seeds);
    std::fs::write(dir.path().join("a/data/bans"), "c.example.invalid\n").unwrap();
    let daemon = Daemon::start(&config);
    assert_eq!(daemon.row("b.example.invalid")["source"], "seed");
    assert!(daemon.row("a.example.invalid").is_object(), "a former seed stays");
    assert_eq!((&daemon.row(ONION)["tcp_port"], &daemon.row(ONION)["waiting_for"]), (&json!(143), &json!("Tor")));
    let reasons = [
        ("b.example.invalid t50001", "an earlier seed names the same host"),
        ("10.0.0.1 t50001", "discovery.allow_private"),
        ("c.example.invalid s1", "waypost unban"),
    ];
    let has_all = |text: &str| {
        let lines: Vec<&str> = text.lines().filter(|line| line.contains("is not taken in")).collect();
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
    let dir = tempfile::tempdir().unwrap();
    let listen = |n: u8| SocketAddr::from(([127, 0, 0, 10 + n], support::free_address().port()));
    let (mut others, mut seeds) = (Vec::new(), Vec::new());
    for n in 1..=6 {
        let address = listen(n);
        others.push(peer(dir.path(), &n.to_string(), address));
        seeds.push(format!("{} t{}", address.ip(), address.port()));
    }
    let tcp = listen(9);
    let discovery = format!("seeds = {}\nallow_private = true\n", json!(seeds));
    let daemon = Daemon::start(&configure(dir.path(), "hub", tcp, &discovery));
    wait_until(30, "all six are advertised", || hosts(&tcp.to_string()).len() == 6);
    daemon.stop();
    others.into_iter().for_each(Daemon::stop);
}

/// Where libfaketime is, which `contrib/test.sh` installs.
fn faketime() -> PathBuf {
    let libraries = std::fs::read_dir("/usr/lib").unwrap();
    let paths = libraries.map(|dir| dir.unwrap().path().join("faketime/libfaketime.so.1"));
    paths.into_iter().find(|path| path.exists()).expect("libfaketime is missing: contrib/test.sh installs it")
}

#[test]
fn wall_clock_step_changes_neither_peers_nor_probes() {
    let dir = tempfile::tempdir().unwrap();
    let (tcp, other) = (support::free_address(), support::free_address());
    let peer = peer(dir.path(), "peer", other);
    let discovery = format!("seeds = [\"127.0.0.1 t{}\"]\nallow_private = true\n", other.port());
    let config = configure(dir.path(), "a", tcp, &discovery);
    let offset = dir.path().join("offset");
    let set = |to: &str| std::fs::write(&offset, to).unwrap();
    set("+0");
    let mut command = Command::new(env!("CARGO_BIN_EXE_waypost"));
    command.env("LD_PRELOAD", faketime()).env("FAKETIME_TIMESTAMP_FILE", &offset);
    // Only the wall clock is stepped, at every look, and the times of files are left alone.
    command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("NO_FAKE_STAT", "1");
    let daemon = Daemon::start_with(command, &config);
    let row = || daemon.row("127.0.0.1");
    wait_until(20, "the peer is verified", || row()["state"] == "verified");
    let time = |row: &serde_json::Value, field: &str| row[field].as_u64().unwrap();
    let verified = time(&row(), "last_success");

    let tcp = tcp.to_string();
    wait_until(5, "the peer is advertised", || hosts(&tcp).len() == 1);
    for (to, ahead) in [("+30d", MONTH), ("+0", 0), ("+30d", MONTH), ("+0", 0)] {
        set(to);
        let row = row();
        assert_eq!(row["state"], "verified", "{to}: {row}");
        assert_eq!(hosts(&tcp).len(), 1, "{to}: it is advertised");
        // Shown by the wall clock, as readers have no other.
        assert!(time(&row, "last_success").abs_diff(verified + ahead) < 3000, "{to}: {row}");
        assert!(time(&row, "next_try") < verified + ahead + 24 * HOUR, "{to}: {row}");
        assert!(time(&row, "next_try") > verified + ahead + HOUR, "{to}: {row}");
        wait_until(10, "the log says so once", || daemon.log().contains("the wall clock was set ahead by"));
    }
    // What is on disk is right for the next process.
    daemon.stop();
    let daemon = Daemon::start(&config);
    let row = daemon.row("127.0.0.1");
    assert_eq!(row["state"], "verified");
    assert!(time(&row, "last_success").abs_diff(verified) < 3000, "{row}");
    assert!(time(&row, "next_try") < clock::now().as_millis() + 24 * HOUR, "{row}");
    daemon.stop();
    peer.stop();
}

#[test]
fn store_written_with_clock_ahead_is_corrected() {
    let dir = tempfile::tempdir().unwrap();
    let (tcp, other) = (support::free_address(), support::free_address());
    let peer = peer(dir.path(), "peer", other);
    let discovery = format!("seeds = [\"127.0.0.1 t{}\"]\nallow_private = true\n", other.port());
    let config = configure(dir.path(), "a", tcp, &discovery);
    let mut command = Command::new(env!("CARGO_BIN_EXE_waypost"));
    command.env("LD_PRELOAD", faketime()).env("FAKETIME", "+30d").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    command.env("NO_FAKE_STAT", "1");
    let daemon = Daemon::start_with(command, &config);
    wait_until(20, "the peer is verified", || daemon.row("127.0.0.1")["state"] == "verified");
    daemon.stop();
    let daemon = Daemon::start(&config);
    let now = clock::now().as_millis();
    wait_until(20, "it is verified again, at the right time", || {
        let row = daemon.row("127.0.0.1");
        let times = ["first_seen", "last_try", "last_success"].map(|field| row[field].as_u64().unwrap());
        assert!(times.iter().all(|time| *time <= clock::now().as_millis() + 1000), "{row}");
        let history = row["history"].as_array().unwrap().len();
        history > 1 && row["next_try"].as_u64().unwrap() < now + Duration::from_hours(24).as_secs() * 1000
    });
    daemon.stop();
    peer.stop();
}
