//! A node with a clearnet name and an onion service: what clients of one cause is never seen on the other.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use crate::support::{self, Daemon, Lab, LeakCapture, TestDir, call, hosts, wait_until};
use serde_json::{Value, json};
use waypost::chain::Chain;
use waypost::clock;
use waypost::store::Store;

const EX1: &str = "ex1.example.com";
const EX2: &str = "ex2.example.com";
const CLEARNET: &str = "127.0.0.1:50001";
/// Listener behind the onion service. Its clients are onion clients.
const ONION: &str = "127.0.0.1:50011";

/// Number of names that the attacker introduces.
const INTRODUCTIONS: usize = 1000;

#[test]
fn names_of_onion_clients_and_peers_are_used_through_tor_only() {
    if !support::in_namespace(names_of_onion_clients_and_peers_are_used_through_tor_only, &["--watched"]) {
        return;
    }
    let dir = TestDir::new();
    let capture = LeakCapture::start(&dir);
    let lab = Lab::start(dir.root());
    let onion = lab.read("tor/onion-1");

    // The only seed is an onion server, whose list names the two clearnet servers.
    let daemon = Daemon::start_by("third_party.sh", &configure(&dir, &lab, "separate", ""));
    wait_until(120, "the onion server is advertised on both sides", || {
        hosts(CLEARNET).contains(&onion) && hosts(ONION).contains(&onion)
    });
    wait_until(120, "the working name is accepted", || add_peer(ONION, EX2) == json!(true));
    for number in 0..INTRODUCTIONS {
        let host = match number % 3 {
            0 => format!("a{number}.spy{number}.example"),
            1 => format!("{number}.spy.example"),
            _ => format!("198.41.{}.{}", number / 256, number % 256),
        };
        add_peer(ONION, &host);
    }
    wait_until(150, "the working names are verified through Tor and advertised on the onion side", || {
        hosts(ONION).is_superset(&BTreeSet::from([EX1.to_owned(), EX2.to_owned()]))
    });
    // Time for probes that are still due.
    std::thread::sleep(Duration::from_secs(15));
    assert_eq!(hosts(CLEARNET), BTreeSet::from([onion.clone()]), "the clearnet side learnt nothing");
    assert_eq!(capture.packets(), [""; 0], "no name was resolved or dialled outside Tor");
    let sides = sides(&daemon, EX2);
    assert_eq!(sides, ["onion"], "`waypost peers` shows the side");
    println!("{INTRODUCTIONS} introductions: {} packets left", capture.packets().len());

    // The provenance is stored.
    daemon.stop();
    let daemon = Daemon::start_by("third_party.sh", &configure(&dir, &lab, "separate", ""));
    wait_until(60, "the onion side advertises its peers again", || hosts(ONION).contains(EX2));
    assert_eq!(hosts(CLEARNET), BTreeSet::from([onion]));
    assert_eq!(capture.packets(), [""; 0], "a restart dials nothing outside Tor either");
    daemon.stop();

    // Linked identities share their peers, and the capture must see that.
    let daemon = Daemon::start_by("third_party.sh", &configure(&dir, &lab, "linked", "link_identities = true\n"));
    wait_until(60, "the name is accepted", || add_peer(ONION, "fresh.example") == json!(true));
    wait_until(60, "a DNS query is captured", || capture.packets().iter().any(|line| line.contains("udp")));
    daemon.stop();
    let store = Store::open(&dir.path("linked").join("peers.redb"), &Chain::REGTEST, clock::now());
    let (_store, loaded) = store.unwrap();
    assert!(loaded.entries.iter().any(|entry| entry.host.to_string() == "fresh.example"), "{:?}", loaded.entries);
    assert!(loaded.onion_entries.is_empty(), "a shared book has one table: {:?}", loaded.onion_entries);
}

fn configure(dir: &TestDir, lab: &Lab, name: &str, identity: &str) -> PathBuf {
    dir.configure_named(
        name,
        &format!(
            "[listen]\nonion_tcp = [\"{ONION}\"]\nonion_port = 50001\n\
             [identity]\nonion_host = \"{}\"\n{identity}\
             {}[discovery]\nrecheck_interval = \"20s\"\ninitial_retry = \"10s\"\nseeds = [\"{} t50001\"]\n",
            lab.read("tor/onion-2"),
            lab.external_tor(),
            lab.read("tor/onion-1"),
        ),
    )
}

fn add_peer(address: &str, host: &str) -> Value {
    call(address, "server.add_peer", json!([{ "hosts": { host: { "ssl_port": 51002 } } }]))
}

fn sides(daemon: &Daemon, host: &str) -> Vec<String> {
    let rows: Vec<Value> = serde_json::from_str(&daemon.waypost(&["peers", "--json"])).unwrap();
    rows.iter().filter(|row| row["host"] == host).map(|row| row["side"].as_str().unwrap().to_owned()).collect()
}
