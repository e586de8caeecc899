//! Packets that leave a `tor.only` node, captured on the only route out of a namespace.
//!
//! The Tor network is inside the namespace, so every captured packet is a leak. Only Tor's exits can resolve the peers.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::{self, Daemon, Lab, LeakCapture, TestDir, call, hosts, lab_script, now, run, wait_until};
use serde_json::json;

const EX1: &str = "ex1.example.com";
const EX2: &str = "ex2.example.com";
const LISTEN: &str = "127.0.0.1:50001";

#[test]
fn tor_only_node_sends_no_packet_outside_tor() {
    if !support::in_namespace(tor_only_node_sends_no_packet_outside_tor, &["--watched"]) {
        return;
    }
    let dir = TestDir::new();
    let capture = LeakCapture::start(&dir);
    let lab = Lab::start(dir.root());
    run(Command::new(lab_script("irc.sh")).arg("up").arg(lab.path("irc")).arg("88.99.0.2"));
    let onion = lab.read("tor/onion-1");
    assert_eq!(capture.packets(), [""; 0], "the lab itself leaks nothing");

    for (name, tor) in [("embedded", lab.embedded_tor()), ("external", lab.external_tor())] {
        let config = configure(&dir, name, &format!("{tor}only = true\n"));
        let start = now();
        let daemon = Daemon::start_by("third_party.sh", &config);
        check_all_traffic(&daemon, &config, &onion);
        println!("{name}: {:.1} s, {} packets left", start.elapsed().as_secs_f64(), capture.packets().len());
        daemon.stop();
        assert_eq!(capture.packets(), [""; 0], "{name}");
    }

    // Without the key, the capture must see a packet.
    let config = configure(&dir, "leaking", &lab.embedded_tor());
    let daemon = Daemon::start_by("third_party.sh", &config);
    wait_until(30, "a DNS query is captured", || capture.packets().iter().any(|line| line.contains("udp")));
    println!("without tor.only: {}", capture.packets()[0]);
    daemon.stop();
}

/// Causes traffic of every kind: seeds, advertised peers, `server.add_peer`, operator's peers, probes and IRC.
fn check_all_traffic(daemon: &Daemon, config: &Path, onion: &str) {
    let all = BTreeSet::from([EX1.to_owned(), EX2.to_owned(), onion.to_owned()]);
    wait_until(120, "all three are advertised", || hosts(LISTEN) == all);
    let ex1 = daemon.row(EX1);
    assert_eq!((&ex1["ip"], &ex1["key_changes"]), (&json!("5.9.0.1"), &json!(0)), "resolved by an exit, over TLS");
    assert!(ex1["key"].is_string());

    let features = |host: &str| json!([{ "hosts": { host: { "ssl_port": 50002 } } }]);
    for host in ["a.other.example.com", "wp.example.org", "51.15.0.4"] {
        call(LISTEN, "server.add_peer", features(host));
    }
    daemon.waypost(&["add", "missing.example.com", "s50002"]);
    daemon.waypost(&["add", "88.99.0.2", "s51002"]);
    let (refused, ok) = support::waypost(config, &["add", "first.example.com", "t50001"]);
    assert!(!ok && refused.contains("TLS only"), "{refused}");
    wait_until(60, "an address is dialled through an exit", || !daemon.row("88.99.0.2")["last_try"].is_null());
    wait_until(60, "a missing name is looked up", || !daemon.row("missing.example.com")["last_try"].is_null());
    let (output, ok) = probe_from_third_party(config, &[EX2, "--tls", "51002"]);
    assert!(ok && output.contains("through Tor") && output.contains("88.99.0.2"), "{output}");
    let (output, ok) = probe_from_third_party(config, &[EX2, "--tcp", "51001"]);
    assert!(!ok && output.contains("TLS only"), "{output}");
    wait_until(60, "IRC is visited through an exit", || !daemon.status()["irc"]["last"].is_null());
    assert_eq!(daemon.status()["irc"]["error"], serde_json::Value::Null);
    // Time for traffic of background tasks.
    std::thread::sleep(Duration::from_secs(10));
}

fn configure(dir: &TestDir, name: &str, tor: &str) -> PathBuf {
    dir.configure_named(
        name,
        &format!(
            "{tor}[discovery]\nrecheck_interval = \"20s\"\ninitial_retry = \"10s\"\n\
             seeds = [\"{EX1} s51002 t51001\", \"first.example.com t50001\"]\n\
             [irc]\nenabled = true\nserver = \"{EX2}:6697\"\n"
        ),
    )
}

fn probe_from_third_party(config: &Path, args: &[&str]) -> (String, bool) {
    let mut command = Command::new(lab_script("third_party.sh"));
    command.args([env!("CARGO_BIN_EXE_waypost"), "probe"]).args(args).arg("--config").arg(config);
    let output = command.stdin(Stdio::null()).output().unwrap();
    (String::from_utf8([output.stdout, output.stderr].concat()).unwrap(), output.status.success())
}
