//! The own clearnet name is advertised with a public address, while it is reachable from outside.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{
    self, ChildGuard, Daemon, TestDir, call, fetch, hosts, lab_python, lab_script, own_entry, run, wait_until,
};
use serde_json::{Value, json};

const NAME: &str = "wp.example.com";
const PUBLIC: &str = "5.9.0.9";
const PAGE: &str = "127.0.0.1:4280";
const LISTEN: &str = "127.0.0.1:50001";
/// Source address of Tor's exits.
const EXIT: &str = "185.220.101.5";

/// Writes a configuration with the name, with keys of `[listen]`, and with further keys of `[identity]` and sections.
fn configure(dir: &TestDir, listen: &str, rest: &str) -> PathBuf {
    dir.configure(&format!(
        "[status]\nlisten = \"{PAGE}\"\n[discovery]\nseeds = []\n\
         [listen]\n{listen}\n[identity]\nhost = \"{NAME}\"\ntcp_port = 50001\n{rest}"
    ))
}

/// Starts the daemon with an address for its name in the hosts file.
fn start_with_hosts_entry(address: &str, config: &Path) -> Daemon {
    let mut command = Command::new(lab_script("split-horizon.sh"));
    command.arg(format!("{address} {NAME}")).arg(env!("CARGO_BIN_EXE_waypost"));
    Daemon::start_with(command, config)
}

fn name(daemon: &Daemon) -> Value {
    daemon.status()["clearnet"].clone()
}

/// Returns the node's own entry in its list.
fn listed() -> Option<Value> {
    own_entry(LISTEN, NAME)
}

#[test]
fn own_name_with_private_address_is_not_advertised() {
    if !support::in_namespace(own_name_with_private_address_is_not_advertised, &[]) {
        return;
    }
    let dir = TestDir::new();
    let everywhere = "tcp = [\"0.0.0.0:50001\"]";
    let config = configure(&dir, everywhere, "[tor]\nmode = \"off\"\n");
    // Debian's installer writes this address. A listener on all addresses accepts connections to it.
    let daemon = start_with_hosts_entry("127.0.1.1", &config);
    wait_until(20, "the test of the name fails", || name(&daemon)["failures"].as_u64() > Some(0));
    let status = name(&daemon);
    let reason = status["error"].as_str().unwrap();
    assert!(reason.contains("127.0.1.1") && reason.contains("identity.address"), "{reason}");
    assert_eq!((&status["last_reached"], &status["address"], listed()), (&Value::Null, &Value::Null, None));
    assert_eq!(
        call("127.0.1.1:50001", "server.ping", json!([])),
        Value::Null,
        "a listener accepts connections to that address"
    );
    let line = daemon.waypost(&["status"]);
    assert!(line.contains("not advertised") && line.replace('\n', " ").contains("127.0.1.1"), "{line}");
    for path in ["/healthz", "/"] {
        wait_until(10, "the page has the error", || fetch(PAGE, path).1.contains("127.0.1.1"));
    }
    assert_eq!(fetch(PAGE, "/healthz").0, 200, "clients are still served");
    let metrics = fetch(PAGE, "/metrics").1;
    for line in ["waypost_clearnet_failing 1", "waypost_clearnet_reached_timestamp_seconds 0.0"] {
        assert!(metrics.lines().any(|found| found == line), "{metrics}");
    }
    daemon.stop();

    // The configured public address is dialled instead of the resolved one.
    let config = configure(&dir, everywhere, &format!("address = \"{PUBLIC}\"\n[tor]\nmode = \"off\"\n"));
    let daemon = start_with_hosts_entry("192.168.1.5", &config);
    wait_until(20, "the name is reached", || name(&daemon)["last_reached"].is_u64());
    let status = name(&daemon);
    assert_eq!((&status["address"], &status["via"]), (&json!(PUBLIC), &json!("direct")));
    wait_until(10, "the name is listed", || listed().is_some_and(|entry| entry[0] == PUBLIC));
    assert!(fetch(PAGE, "/metrics").1.lines().any(|line| line == "waypost_clearnet_failing 0"));
    daemon.stop();

    // Behind a router without hairpin NAT, a test without Tor cannot succeed.
    let config =
        configure(&dir, &format!("tcp = [\"{LISTEN}\"]"), &format!("address = \"{PUBLIC}\"\n[tor]\nmode = \"off\"\n"));
    let daemon = start_with_hosts_entry("192.168.1.5", &config);
    wait_until(20, "the name is advertised without a test", || listed().is_some_and(|entry| entry[0] == PUBLIC));
    let status = name(&daemon);
    assert_eq!((&status["last_reached"], &status["error"]), (&Value::Null, &Value::Null));
    assert!(status["warnings"][0].as_str().unwrap().contains("advertised untested"), "{status}");
    daemon.stop();
    let config = configure(&dir, &format!("tcp = [\"{LISTEN}\"]"), "[tor]\nmode = \"off\"\n");
    let daemon = start_with_hosts_entry(PUBLIC, &config);
    wait_until(20, "the name is not advertised without an address", || name(&daemon)["failures"].as_u64() > Some(0));
    assert!(name(&daemon)["error"].as_str().unwrap().contains("hairpin NAT") && listed().is_none());
    daemon.stop();
}

#[test]
fn own_name_is_tested_through_tor_once_ready() {
    if !support::in_namespace(own_name_is_tested_through_tor_once_ready, &[]) {
        return;
    }
    let dir = TestDir::new();
    let mut dns = Command::new(lab_python());
    dns.arg(lab_script("dns.py")).args(["127.0.0.1", "53"]).stderr(Stdio::null());
    let (_dns, tor) = (ChildGuard::spawn(&mut dns), dir.path("tor"));
    let mut network = Command::new(lab_script("tor-network.sh"));
    run(network.arg("up").arg(&tor).arg("127.0.0.1:50011").env("EXIT_ADDRESS", EXIT));
    let read = |file: &str| std::fs::read_to_string(tor.join(file)).unwrap().trim().to_owned();
    let tables =
        format!("onion_host = \"{}\"\n[tor]\nmode = \"socks\"\nsocks = \"{}\"\n", read("onion-1"), read("socks"));
    let listen = "tcp = [\"0.0.0.0:50001\"]\nonion_tcp = [\"127.0.0.1:50011\"]\nonion_port = 50001";
    let config = configure(&dir, listen, &tables);

    // Exits resolve the name, so the hosts file of this machine has no effect.
    let daemon = start_with_hosts_entry("127.0.1.1", &config);
    wait_until(90, "the name is reached through Tor", || name(&daemon)["via"] == "tor");
    assert_eq!(name(&daemon)["address"], PUBLIC);
    wait_until(10, "the name is listed", || listed().is_some_and(|entry| entry[0] == PUBLIC));
    daemon.stop();

    // Reachable from this machine only.
    let block = |command: &str| {
        let rule = ["pref", "5", "from", EXIT, "to", PUBLIC, "unreachable"];
        run(Command::new("ip").args(["rule", command]).args(rule));
    };
    run(Command::new("ip").args(["rule", "add", "pref", "10", "lookup", "local"]));
    run(Command::new("ip").args(["rule", "del", "pref", "0"]));
    block("add");
    let daemon = Daemon::start(&config);
    wait_until(120, "the failure through Tor is found", || {
        name(&daemon)["error"].as_str().is_some_and(|reason| reason.contains("through Tor, at 5.9.0.9"))
    });
    assert_eq!(daemon.tor(), "ready");
    let status = name(&daemon);
    assert!(status["error"].as_str().unwrap().contains("firewall") && status["last_reached"].is_null(), "{status}");
    wait_until(10, "the name is no longer advertised", || !hosts(LISTEN).contains(NAME));
    block("del");
    wait_until(120, "the name is reached after the block is removed", || name(&daemon)["via"] == "tor");
    wait_until(10, "the name is listed again", || listed().is_some());
    daemon.assert_no_panic();
    daemon.stop();
}
