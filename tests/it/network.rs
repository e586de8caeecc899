//! The whole program among unmodified ElectrumX servers and a network of C tor.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support::{self, Daemon, Lab, TestDir, call, call_onion, hosts, lab_script, now, own_entry, wait_until};
use serde_json::{Value, json};

const EX1: &str = "ex1.example.com";
const EX2: &str = "ex2.example.com";
const OWN_NAME: &str = "wp.example.com";
/// Server of the legacy protocol 1.0.
const FIRST: &str = "first.example.com";
const LISTEN: &str = "127.0.0.1:50001";

/// Valid onion names without a service.
const UNUSED_ONIONS: [&str; 5] = [
    "kittycp2gatrqhlwpmbczk5rblw62enrpo2rzwtkfrrr27hq435d4vid.onion",
    "qly7g5n5t3f3h23xvbp44vs6vpmayurno4basuu5rcvrupli7y2jmgid.onion",
    "rzspa374ob3hlyjptkdgz6a62wim2mpanuw6m3shlwn2cxg2smy3p7yd.onion",
    "udfpzbte2hommnvag5f3qlouqkhvp3xybhlus2yvfeqdwlhjroe4bbyd.onion",
    "explorerzydxu5ecjrkwceayqybizmpjjznk5izmitf2modhcusuqlid.onion",
];

#[test]
fn real_network_is_discovered_verified_and_advertised() {
    if !support::in_namespace(real_network_is_discovered_verified_and_advertised, &[]) {
        return;
    }
    let dir = TestDir::new();
    let lab = Lab::start(dir.root());
    let (onion, own) = (lab.read("tor/onion-1"), lab.read("tor/onion-2"));
    let config = dir.configure(&format!(
        "{}[listen]\nonion_tcp = [\"127.0.0.1:50011\"]\nonion_port = 50001\n\
         [identity]\nhost = \"{OWN_NAME}\"\ntcp_port = 50001\nonion_host = \"{own}\"\n\
         [discovery]\nseeds = [\"{EX1} t51001\"]\n",
        lab.external_tor(),
    ));

    let daemon = Daemon::start(&config);
    check_discovery_from_one_seed(&onion);
    check_own_onion_service(&daemon, &own, &lab.read("tor/services-socks"));
    check_legacy_server(&daemon);
    check_export_in_wallet(&daemon, dir.root());
    check_restart(daemon, &config, &lab);

    let daemon = Daemon::start(&config);
    check_tor_outage(&daemon, &lab, &onion);
    check_probe_command(&config, &onion);
    assert!(daemon.log().lines().all(|line| !line.contains("ERROR") && !line.contains("panicked")), "{}", daemon.log());
    daemon.stop();
}

fn check_discovery_from_one_seed(onion: &str) {
    let start = now();
    let all = BTreeSet::from([EX1.to_owned(), EX2.to_owned(), onion.to_owned()]);
    wait_until(60, "all three are advertised", || hosts(LISTEN) == all);
    println!("{:.1} s from the start to three peers advertised", start.elapsed().as_secs_f64());
    // Version and ports are those that each server reports.
    for (host, address) in [(EX1, "5.9.0.1:51001"), (EX2, "88.99.0.2:51001"), (onion, "95.216.0.3:51001")] {
        let features = call(address, "server.features", json!([]));
        let ports = &features["hosts"][host];
        let mut expected = vec![format!("v{}", features["protocol_max"].as_str().unwrap())];
        expected.extend(ports["ssl_port"].as_u64().map(|port| format!("s{port}")));
        expected.extend(ports["tcp_port"].as_u64().map(|port| format!("t{port}")));
        // An extra visit soon after the first one verifies the other endpoint.
        wait_until(90, "all endpoints are advertised", || own_entry(LISTEN, host).unwrap()[2] == json!(expected));
        let entry = own_entry(LISTEN, host).unwrap();
        let ip = if host == onion { host } else { address.split_once(':').unwrap().0 };
        assert_eq!(entry[0], ip);
    }
}

/// Tests an onion service of an external Tor: its clients get the onion name only.
fn check_own_onion_service(daemon: &Daemon, own: &str, socks: &str) {
    wait_until(60, "the own onion service was reached", || daemon.status()["onion"]["last_reached"].is_u64());
    let request = |method: &str| call_onion(socks, &format!("{own}:50001"), method).unwrap();
    assert_eq!(request("server.features")["hosts"], json!({ own: { "tcp_port": 50001, "ssl_port": null } }));
    assert!(!request("server.peers.subscribe").to_string().contains(OWN_NAME));
    let features = call(LISTEN, "server.features", json!([])).to_string();
    assert!(features.contains(OWN_NAME) && !features.contains(own), "{features}");
}

fn check_legacy_server(daemon: &Daemon) {
    assert!(!hosts(LISTEN).contains(FIRST));
    daemon.waypost(&["add", FIRST, "t50001"]);
    wait_until(20, "the legacy server is advertised", || hosts(LISTEN).contains(FIRST));
    let row = |host: &str| daemon.row(host);
    assert_eq!(row(EX1)["source"], "seed");
    assert_eq!(row(EX2)["source"], format!("peer {EX1}"));
    assert_eq!(row(FIRST)["software"], "ElectrumServer 1.0");
    assert_eq!((&row(FIRST)["genesis_hash"], &row(FIRST)["self_reported"]), (&Value::Null, &json!(false)));
    assert_eq!((&row(EX2)["tip"], &row(EX2)["self_reported"]), (&json!(0), &json!(true)));
    assert!(row(EX2)["latency_ms"].is_u64());
    let table = daemon.waypost(&["peers", "--clearnet", "--state", "verified"]);
    assert!(table.contains(EX2) && !table.contains(".onion"), "{table}");
}

fn check_export_in_wallet(daemon: &Daemon, dir: &Path) {
    let exported = daemon.waypost(&["export", "--format", "electrum"]);
    let file = dir.join("servers.json");
    std::fs::write(&file, &exported).unwrap();
    let wallet = |args: &[&std::ffi::OsStr]| Command::new(lab_script("wallet.sh")).args(args).output().unwrap();
    let home = dir.join("wallet");
    let output = wallet(&["list".as_ref(), home.as_ref(), file.as_ref()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let reply: Value = serde_json::from_slice(&output.stdout).unwrap();
    let exported: Value = serde_json::from_str(&exported).unwrap();
    let names = |list: &Value| list.as_object().unwrap().keys().cloned().collect::<BTreeSet<String>>();
    println!("{reply}");
    assert_eq!(names(&reply["servers"]), names(&exported));
    for (host, server) in exported.as_object().unwrap() {
        assert_eq!(
            (&reply["servers"][host]["t"], &reply["servers"][host]["s"]),
            (&server["t"], &server["s"]),
            "{host}"
        );
    }
    assert!(names(&exported).contains(reply["info"]["server"].as_str().unwrap()), "{}", reply["info"]);
    assert!(wallet(&["down".as_ref(), home.as_ref()]).status.success());
}

fn check_restart(daemon: Daemon, config: &Path, lab: &Lab) {
    let requests = || std::fs::read_to_string(lab.path("first_protocol.log")).unwrap();
    let (before, listed) = (requests(), hosts(LISTEN));
    daemon.stop();
    let daemon = Daemon::start(config);
    assert!([EX1, EX2, FIRST].iter().all(|host| hosts(LISTEN).contains(*host)), "advertised at once");
    // Long enough for an unwanted probe.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(requests(), before, "no peer was probed");
    assert_eq!(hosts(LISTEN), listed);
    daemon.kill();
    let daemon = Daemon::start(config);
    assert!([EX1, EX2, FIRST].iter().all(|host| hosts(LISTEN).contains(*host)), "advertised after a kill");
    daemon.stop();
}

fn check_tor_outage(daemon: &Daemon, lab: &Lab, onion: &str) {
    let onions = || hosts(LISTEN).into_iter().filter(|host| host.ends_with(".onion")).collect::<BTreeSet<String>>();
    wait_until(60, "Tor is ready", || daemon.tor() == "ready");
    for name in UNUSED_ONIONS {
        daemon.waypost(&["add", name, "t50001"]);
    }
    let verified = BTreeSet::from([onion.to_owned()]);
    wait_until(10, "only the verified onion peer is advertised", || onions() == verified);
    lab.tor("client-stop");
    wait_until(15, "Tor is down", || daemon.tor() == "down");
    let mut seen = BTreeSet::new();
    wait_until(10, "three onion peers are advertised", || onions().len() == 3);
    for _ in 0..60 {
        let onions = onions();
        assert_eq!(onions.len(), 3);
        seen.extend(onions);
    }
    assert_eq!(seen.len(), 1 + UNUSED_ONIONS.len(), "each client gets a sample of all known onion peers");
    assert!([EX1, EX2, FIRST].iter().all(|host| hosts(LISTEN).contains(*host)), "clearnet peers are still advertised");
    let before = daemon.row(onion);
    lab.tor("client-start");
    let start = now();
    wait_until(120, "Tor is ready again", || daemon.tor() == "ready");
    println!("{:.1} s from Tor's start to the state ready", start.elapsed().as_secs_f64());
    wait_until(10, "only the verified onion peer is advertised again", || onions() == verified);
    let after = daemon.row(onion);
    assert_eq!(
        (&before["failures"], &after["failures"]),
        (&json!(0), &json!(0)),
        "the outage is not counted as a failure of the peer"
    );
}

fn check_probe_command(config: &Path, onion: &str) {
    let probe = |args: &[&str]| support::waypost(config, &[&["probe"], args].concat());
    let (output, ok) = probe(&[EX1, "--tls", "51002"]);
    assert!(ok && output.contains("server.features answered") && output.contains("TLS key"), "{output}");
    let (output, ok) = probe(&[onion, "--tcp", "50001"]);
    assert!(ok && output.contains("through Tor") && output.contains("ElectrumX"), "{output}");
    let (output, ok) = probe(&[EX1, "--tcp", "4"]);
    assert!(!ok && output.contains("refused"), "{output}");
    let (output, ok) = probe(&["missing.example.com"]);
    assert!(!ok && output.contains("not found"), "{output}");
}
