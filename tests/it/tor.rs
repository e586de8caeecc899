//! The embedded Tor in a network of C tor: verification, onion service, and outages of the relays.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::{self, Daemon, Lab, TestDir, call, call_onion, hosts, now, wait_until};
use serde_json::json;

const EX1: &str = "ex1.example.com";
const OWN_NAME: &str = "wp.example.com";
const LISTEN: &str = "127.0.0.1:50001";

/// Lab, and directories for daemons in it.
struct TorHarness {
    dir: TestDir,
    lab: Lab,
    /// Onion name of ex3, which has no other name.
    onion: String,
    /// SOCKS address of a C tor client.
    socks: String,
}

impl TorHarness {
    fn new() -> TorHarness {
        let dir = TestDir::new();
        let lab = Lab::start(dir.root());
        TorHarness { onion: lab.read("tor/onion-1"), socks: lab.read("tor/socks"), dir, lab }
    }

    /// Writes a configuration with its own data directory.
    fn configure(&self, name: &str, rest: &str) -> PathBuf {
        let discovery = format!(
            "[discovery]\nseeds = [\"{EX1} t51001\", \"{} t50001\"]\nrecheck_interval = \"20s\"\ninitial_retry = \"10s\"\n",
            self.onion
        );
        self.dir.configure_named(name, &format!("{}{discovery}{rest}", self.lab.embedded_tor()))
    }

    /// Waits until the daemon has verified the onion server, and until C tor reaches its onion service.
    ///
    /// Returns the seconds that each took.
    fn wait_until_verified_and_reached(&self, daemon: &Daemon, own: &str, secs: u64) -> (f64, f64) {
        let start = now();
        let since = wall_clock_ms();
        wait_until(secs, "the onion server is verified", || {
            daemon.row(&self.onion)["last_success"].as_u64().is_some_and(|at| at > since)
        });
        let verified = start.elapsed().as_secs_f64();
        wait_until(secs, "C tor reaches the onion service", || call_onion(&self.socks, own, "server.ping").is_some());
        (verified, start.elapsed().as_secs_f64())
    }
}

#[test]
fn embedded_tor_verifies_serves_and_recovers() {
    if !support::in_namespace(embedded_tor_verifies_serves_and_recovers, &[]) {
        return;
    }
    let harness = TorHarness::new();
    let identity = format!(
        "[identity]\nhost = \"{OWN_NAME}\"\ntcp_port = 50001\nbanner = \"welcome\"\ndonation_address = \"bc1\"\n"
    );
    let config = harness.configure("first", &identity);
    let (output, ok) = support::waypost(&config, &["onion-address"]);
    assert!(!ok && output.contains("waypost run"), "{output}");

    check_key_import(&harness);
    let daemon = Daemon::start(&config);
    let own = format!("{}:51001", wait_for_onion_name(&daemon));
    let (verified, served) = harness.wait_until_verified_and_reached(&daemon, &own, 60);
    println!(
        "from the start, {verified:.1} s to the first verified onion server, {served:.1} s to a request through C tor"
    );
    check_identity_per_ingress(&harness, &daemon, &own);
    check_probe_command(&config, &harness.onion);

    let before = own;
    daemon.stop();
    let daemon = Daemon::start(&config);
    let own = format!("{}:51001", wait_for_onion_name(&daemon));
    assert_eq!(own, before, "the address is the same after a restart");
    let (output, ok) = support::waypost(&config, &["onion-address"]);
    assert!(ok && own.starts_with(output.trim()), "{output}");
    harness.wait_until_verified_and_reached(&daemon, &own, 60);

    for manner in ["relays-kill", "relays-freeze"] {
        check_relay_outage(manner, &harness, &daemon, &own);
    }
    check_start_without_network(&harness);
    daemon.assert_no_panic();
    daemon.stop();
}

/// Tests the import of a key of C tor, and the resulting name.
fn check_key_import(harness: &TorHarness) {
    let service = harness.lab.path("tor/services/onion-2");
    let name = std::fs::read_to_string(service.join("hostname")).unwrap();
    let config = harness.configure("imported", "");
    let (output, ok) = support::waypost(&config, &["onion-address", "--import", service.to_str().unwrap()]);
    assert!(ok && output.starts_with(name.trim()), "{output}");
    let (output, ok) = support::waypost(&config, &["onion-address"]);
    assert!(ok && output == name, "{output}");
    let other = harness.lab.path("tor/services/onion-1");
    let (output, ok) = support::waypost(&config, &["onion-address", "--import", other.to_str().unwrap()]);
    assert!(!ok && output.contains("--replace"), "{output}");
}

/// Tests that clients of one name do not learn the other name.
fn check_identity_per_ingress(harness: &TorHarness, daemon: &Daemon, own: &str) {
    let request = |method: &str| call_onion(&harness.socks, own, method).unwrap();
    let host = own.split(':').next().unwrap();
    wait_until(30, "clients of the onion service get the onion name", || {
        request("server.features")["hosts"] == json!({ host: { "tcp_port": 51001, "ssl_port": null } })
    });
    assert_eq!(request("server.donation_address"), "");
    let replies =
        ["server.features", "server.banner", "server.peers.subscribe"].map(|method| request(method).to_string());
    let is_linked = |reply: &String| [OWN_NAME, "welcome", "127.0.0.1"].iter().any(|word| reply.contains(word));
    assert!(!replies.iter().any(is_linked), "{replies:?}");
    assert!(replies[2].contains(&harness.onion));
    let replies = ["server.features", "server.banner", "server.peers.subscribe"]
        .map(|method| call(LISTEN, method, json!([])).to_string());
    assert!(replies.iter().all(|reply| !reply.contains(host)), "{replies:?}");
    assert!(replies[0].contains(OWN_NAME) && replies[1].contains("welcome"));
    assert!(daemon.waypost(&["status"]).contains(host), "the operator sees the onion name");
}

/// Tests `waypost probe` next to a daemon that uses the same directory.
fn check_probe_command(config: &Path, onion: &str) {
    let (output, ok) = support::waypost(config, &["probe", onion, "--tcp", "50001"]);
    assert!(ok && output.contains("embedded Tor") && output.contains("ElectrumX"), "{output}");
}

fn check_relay_outage(manner: &str, harness: &TorHarness, daemon: &Daemon, own: &str) {
    harness.lab.tor(manner);
    wait_until(240, "Tor is found to be down", || daemon.tor() == "down");
    let onions = hosts(LISTEN).into_iter().filter(|host| host.ends_with(".onion")).count();
    assert!(onions <= 3);
    // Longer than an immediate retry.
    std::thread::sleep(Duration::from_secs(20));
    harness.lab.tor("relays-start");
    let (verified, served) = harness.wait_until_verified_and_reached(daemon, own, 90);
    println!("{manner}: recovered after {verified:.1} s, and the onion service after {served:.1} s");
    assert_eq!(daemon.row(&harness.onion)["failures"], 0, "the outage is not counted as a failure of the peer");
    wait_until(20, "Tor is ready", || daemon.tor() == "ready");
}

fn check_start_without_network(harness: &TorHarness) {
    harness.lab.tor("relays-stop");
    let config = harness.configure("second", "[listen]\ntcp = [\"127.0.0.1:50002\"]\n");
    let daemon = Daemon::start(&config);
    assert_eq!(daemon.tor(), "starting");
    let list = call("127.0.0.1:50002", "server.peers.subscribe", json!([]));
    assert!(list.to_string().contains(&harness.onion), "{list}");
    std::thread::sleep(Duration::from_secs(40));
    assert_eq!(daemon.tor(), "starting", "{}", daemon.log());
    harness.lab.tor("relays-start");
    let start = now();
    wait_until(90, "Tor is ready", || daemon.tor() == "ready");
    println!("{:.1} s from the start of the network to a ready Tor, on a first start", start.elapsed().as_secs_f64());
    daemon.stop();
}

/// Waits for the onion name of a daemon and returns it.
fn wait_for_onion_name(daemon: &Daemon) -> String {
    let name = || daemon.status()["onion"]["host"].as_str().map(str::to_owned);
    wait_until(60, "the onion name is known", || name().is_some());
    name().unwrap()
}

/// Wall clock in milliseconds, as in the rows of peers.
fn wall_clock_ms() -> u64 {
    waypost::clock::now().as_millis()
}
