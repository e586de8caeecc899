//! The Tor in this program, in a network of C tor processes: it verifies onion servers, serves ours to a C tor client,
//! and gets over whatever becomes of the relays.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::{self, Daemon, call, call_onion, hosts, lab_script, now, run, wait_until};
use serde_json::json;

const EX1: &str = "ex1.example.com";
const OURS: &str = "wp.example.com";
const LISTEN: &str = "127.0.0.1:50001";

/// The lab, and a daemon's place in it.
struct Place {
    dir: tempfile::TempDir,
    /// ex3, which is nowhere but here.
    onion: String,
    /// A C tor client.
    socks: String,
}

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let lab = dir.path().join("lab");
        run(Command::new(lab_script("up.sh")).arg(&lab));
        let read = |file: &str| std::fs::read_to_string(lab.join(file)).unwrap().trim().to_owned();
        Place { onion: read("tor/onion-1"), socks: read("tor/socks"), dir }
    }

    /// A configuration of its own, and with it a book and a Tor of its own.
    fn config(&self, name: &str, more: &str) -> PathBuf {
        let config = self.dir.path().join(format!("{name}.toml"));
        let (data, lab) = (self.dir.path().join(name), self.dir.path().join("lab/tor/arti.toml"));
        let text = format!(
            "network = \"regtest\"\ndata_dir = {data:?}\n[tor]\nmode = \"embedded\"\narti_config = {lab:?}\n\
             [discovery]\nseeds = [\"{EX1} t51001\", \"{} t50001\"]\nrecheck_interval = \"20s\"\ninitial_retry = \"10s\"\n{more}",
            self.onion
        );
        std::fs::write(&config, text).unwrap();
        config
    }

    fn tor(&self, command: &str) {
        run(Command::new(lab_script("tor-network.sh")).arg(command).arg(self.dir.path().join("lab/tor")));
    }

    /// Waits until this daemon has verified the onion server, and C tor reaches our own service; when that was, in
    /// seconds from now.
    fn wait_until_verified_and_reached(&self, daemon: &Daemon, own: &str, secs: u64) -> (f64, f64) {
        let began = now();
        let since = began_at();
        wait_until(secs, "the onion server is verified", || {
            daemon.row(&self.onion)["last_success"].as_u64().is_some_and(|at| at > since)
        });
        let verified = began.elapsed().as_secs_f64();
        wait_until(secs, "C tor reaches our onion service", || call_onion(&self.socks, own, "server.ping").is_some());
        (verified, began.elapsed().as_secs_f64())
    }
}

#[test]
fn embedded_tor_verifies_serves_and_recovers() {
    if !support::in_namespace(embedded_tor_verifies_serves_and_recovers, &[]) {
        return;
    }
    let place = Place::new();
    let identity =
        format!("[identity]\nhost = \"{OURS}\"\ntcp_port = 50001\nbanner = \"ours\"\ndonation_address = \"bc1\"\n");
    let config = place.config("first", &identity);
    let (output, ok) = support::waypost(&config, &["onion-address"]);
    assert!(!ok && output.contains("waypost run"), "{output}");

    check_key_import(&place);
    let daemon = Daemon::start(&config);
    let own = format!("{}:51001", wait_for_onion_name(&daemon));
    let (verified, served) = place.wait_until_verified_and_reached(&daemon, &own, 60);
    println!("from the start, {verified:.1} s to the first verified onion server, {served:.1} s to a call of C tor");
    check_identity_per_ingress(&place, &daemon, &own);
    check_probe_command(&config, &place.onion);

    let before = own;
    daemon.stop();
    let daemon = Daemon::start(&config);
    let own = format!("{}:51001", wait_for_onion_name(&daemon));
    assert_eq!(own, before, "the address is the same after a restart");
    let (output, ok) = support::waypost(&config, &["onion-address"]);
    assert!(ok && own.starts_with(output.trim()), "{output}");
    place.wait_until_verified_and_reached(&daemon, &own, 60);

    for manner in ["relays-kill", "relays-freeze"] {
        check_relay_outage(manner, &place, &daemon, &own);
    }
    check_start_without_network(&place);
    assert!(daemon.log().lines().all(|line| !line.contains("panicked")), "{}", daemon.log());
    daemon.stop();
}

/// The key of a service that C tor made, and the name that it goes by there.
fn check_key_import(place: &Place) {
    let service = place.dir.path().join("lab/tor/services/onion-2");
    let name = std::fs::read_to_string(service.join("hostname")).unwrap();
    let config = place.config("brought", "");
    let (output, ok) = support::waypost(&config, &["onion-address", "--import", service.to_str().unwrap()]);
    assert!(ok && output.starts_with(name.trim()), "{output}");
    let (output, ok) = support::waypost(&config, &["onion-address"]);
    assert!(ok && output == name, "{output}");
    let other = place.dir.path().join("lab/tor/services/onion-1");
    let (output, ok) = support::waypost(&config, &["onion-address", "--import", other.to_str().unwrap()]);
    assert!(!ok && output.contains("--replace"), "{output}");
}

/// Who comes by one of our names learns nothing of the other.
fn check_identity_per_ingress(place: &Place, daemon: &Daemon, own: &str) {
    let ask = |method: &str| call_onion(&place.socks, own, method).unwrap();
    let host = own.split(':').next().unwrap();
    wait_until(30, "our onion name is told to its callers", || {
        ask("server.features")["hosts"] == json!({ host: { "tcp_port": 51001, "ssl_port": null } })
    });
    assert_eq!(ask("server.donation_address"), "");
    let said = ["server.features", "server.banner", "server.peers.subscribe"].map(|method| ask(method).to_string());
    assert!(
        said.iter().all(|said| !said.contains(OURS) && !said.contains("ours") && !said.contains("127.0.0.1")),
        "{said:?}"
    );
    assert!(said[2].contains(&place.onion));
    let said = ["server.features", "server.banner", "server.peers.subscribe"]
        .map(|method| call(LISTEN, method, json!([])).to_string());
    assert!(said.iter().all(|said| !said.contains(host)), "{said:?}");
    assert!(said[0].contains(OURS) && said[1].contains("ours"));
    assert!(daemon.waypost(&["status"]).contains(host), "the operator is advertised both");
}

/// With another daemon on the same directory.
fn check_probe_command(config: &Path, onion: &str) {
    let (output, ok) = support::waypost(config, &["probe", onion, "--tcp", "50001"]);
    assert!(ok && output.contains("our own Tor") && output.contains("ElectrumX"), "{output}");
}

fn check_relay_outage(manner: &str, place: &Place, daemon: &Daemon, own: &str) {
    place.tor(manner);
    wait_until(240, "Tor is found to be down", || daemon.tor() == "down");
    let onions = hosts(LISTEN).into_iter().filter(|host| host.ends_with(".onion")).count();
    assert!(onions <= 3);
    // Longer than an immediate retry takes.
    std::thread::sleep(Duration::from_secs(20));
    place.tor("relays-start");
    let (verified, served) = place.wait_until_verified_and_reached(daemon, own, 90);
    println!("{manner}: back after {verified:.1} s, and our own service after {served:.1} s");
    assert_eq!(daemon.row(&place.onion)["failures"], 0, "it was not the peer's fault");
    wait_until(20, "Tor is ready", || daemon.tor() == "ready");
}

fn check_start_without_network(place: &Place) {
    place.tor("relays-stop");
    let config = place.config("second", "[listen]\ntcp = [\"127.0.0.1:50002\"]\n");
    let daemon = Daemon::start(&config);
    assert_eq!(daemon.tor(), "starting");
    let list = call("127.0.0.1:50002", "server.peers.subscribe", json!([]));
    assert!(list.to_string().contains(&place.onion), "{list}");
    std::thread::sleep(Duration::from_secs(40));
    assert_eq!(daemon.tor(), "starting", "{}", daemon.log());
    place.tor("relays-start");
    let began = now();
    wait_until(90, "Tor is ready", || daemon.tor() == "ready");
    println!("{:.1} s from the network's coming to Tor's being ready, at a first start", began.elapsed().as_secs_f64());
    daemon.stop();
}

/// The name of our onion service, once it is known.
fn wait_for_onion_name(daemon: &Daemon) -> String {
    let name = || daemon.status()["onion"]["host"].as_str().map(str::to_owned);
    wait_until(60, "our onion name is known", || name().is_some());
    name().unwrap()
}

/// The time of day in milliseconds, as peers' rows have it.
fn began_at() -> u64 {
    waypost::clock::now().as_millis()
}
