//! The real thing, end to end: the `waypost` binary among unmodified ElectrumX servers and a Tor network of C tor
//! processes, in a namespace of its own.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support::{self, Daemon, call, call_onion, hosts, lab_script, now, run, wait_until};
use serde_json::{Value, json};

const EX1: &str = "ex1.example.com";
const EX2: &str = "ex2.example.com";
const OURS: &str = "wp.example.com";
const FIRST: &str = "first.example.com";
const LISTEN: &str = "127.0.0.1:50001";

/// Onion names that are well formed and that nobody serves.
const NOBODY: [&str; 5] = [
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
    let dir = tempfile::tempdir().unwrap();
    let lab = dir.path().join("lab");
    run(Command::new(lab_script("up.sh")).arg(&lab));
    let read = |file: &str| std::fs::read_to_string(lab.join(file)).unwrap().trim().to_owned();
    let (onion, own) = (read("tor/onion-1"), read("tor/onion-2"));
    let config = dir.path().join("waypost.toml");
    let text = format!(
        "network = \"regtest\"\ndata_dir = \"{}\"\n[tor]\nmode = \"socks\"\nsocks = \"{}\"\n\
         [listen]\nonion_tcp = [\"127.0.0.1:50011\"]\nonion_port = 50001\n\
         [identity]\nhost = \"{OURS}\"\ntcp_port = 50001\nonion_host = \"{own}\"\n\
         [discovery]\nseeds = [\"{EX1} t51001\"]\n",
        dir.path().join("data").display(),
        read("tor/socks"),
    );
    std::fs::write(&config, text).unwrap();

    let daemon = Daemon::start(&config);
    check_discovery_from_one_seed(&onion);
    check_own_onion_service(&daemon, &own, &read("tor/services-socks"));
    check_legacy_server(&daemon);
    check_export_in_wallet(&daemon, dir.path());
    check_restart(daemon, &config, &lab, &onion);

    let daemon = Daemon::start(&config);
    check_tor_outage(&daemon, &lab, &onion);
    check_probe_command(&config, &onion);
    assert!(daemon.log().lines().all(|line| !line.contains("ERROR") && !line.contains("panicked")), "{}", daemon.log());
    daemon.stop();
}

fn check_discovery_from_one_seed(onion: &str) {
    let began = now();
    let everybody = BTreeSet::from([EX1.to_owned(), EX2.to_owned(), onion.to_owned()]);
    wait_until(60, "all three are advertised", || hosts(LISTEN) == everybody);
    println!("{:.1} s from the start to three peers advertised", began.elapsed().as_secs_f64());
    // With version and ports as each of them reports itself.
    for (host, address) in [(EX1, "5.9.0.1:51001"), (EX2, "88.99.0.2:51001"), (onion, "95.216.0.3:51001")] {
        let features = call(address, "server.features", json!([]));
        let ports = &features["hosts"][host];
        let mut expected = vec![format!("v{}", features["protocol_max"].as_str().unwrap())];
        expected.extend(ports["ssl_port"].as_u64().map(|port| format!("s{port}")));
        expected.extend(ports["tcp_port"].as_u64().map(|port| format!("t{port}")));
        let entry = peers().into_iter().find(|entry| entry[1] == host).unwrap();
        assert_eq!(entry[2], json!(expected), "{host}");
        let ip = if host == onion { host } else { address.split_once(':').unwrap().0 };
        assert_eq!(entry[0], ip);
    }
}

/// An onion service that an external Tor runs for us: its clients are sent that name alone.
fn check_own_onion_service(daemon: &Daemon, own: &str, socks: &str) {
    wait_until(60, "we have reached ourselves", || daemon.status()["onion"]["last_reached"].is_u64());
    let ask = |method: &str| call_onion(socks, &format!("{own}:50001"), method).unwrap();
    assert_eq!(ask("server.features")["hosts"], json!({ own: { "tcp_port": 50001, "ssl_port": null } }));
    assert!(!ask("server.peers.subscribe").to_string().contains(OURS));
    let said = call(LISTEN, "server.features", json!([])).to_string();
    assert!(said.contains(OURS) && !said.contains(own), "{said}");
}

fn check_legacy_server(daemon: &Daemon) {
    assert!(!hosts(LISTEN).contains(FIRST));
    daemon.waypost(&["add", FIRST, "t50001"]);
    wait_until(20, "the server of the first protocol is advertised", || hosts(LISTEN).contains(FIRST));
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
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let exported: Value = serde_json::from_str(&exported).unwrap();
    let names = |list: &Value| list.as_object().unwrap().keys().cloned().collect::<BTreeSet<String>>();
    println!("{said}");
    assert_eq!(names(&said["servers"]), names(&exported));
    for (host, server) in exported.as_object().unwrap() {
        assert_eq!((&said["servers"][host]["t"], &said["servers"][host]["s"]), (&server["t"], &server["s"]), "{host}");
    }
    assert!(names(&exported).contains(said["info"]["server"].as_str().unwrap()), "{}", said["info"]);
    assert!(wallet(&["down".as_ref(), home.as_ref()]).status.success());
}

fn check_restart(daemon: Daemon, config: &Path, lab: &Path, onion: &str) {
    let asked = || std::fs::read_to_string(lab.join("first_protocol.log")).unwrap();
    let (before, told) = (asked(), hosts(LISTEN));
    daemon.stop();
    let daemon = Daemon::start(config);
    assert!([EX1, EX2, FIRST].iter().all(|host| hosts(LISTEN).contains(*host)), "advertised at once");
    // Time enough for an unwanted request.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(asked(), before, "and nobody was asked");
    assert_eq!(hosts(LISTEN), told);
    let kept = std::fs::read_to_string(config).unwrap();
    assert!(!kept.contains(onion));
    // As hard an end as there is.
    daemon.kill();
    let daemon = Daemon::start(config);
    assert!([EX1, EX2, FIRST].iter().all(|host| hosts(LISTEN).contains(*host)), "advertised after a kill as well");
    daemon.stop();
}

fn check_tor_outage(daemon: &Daemon, lab: &Path, onion: &str) {
    let tor = |command: &str| run(Command::new(lab_script("tor-network.sh")).arg(command).arg(lab.join("tor")));
    let onions = || hosts(LISTEN).into_iter().filter(|host| host.ends_with(".onion")).collect::<BTreeSet<String>>();
    wait_until(60, "Tor is ready", || daemon.tor() == "ready");
    for name in NOBODY {
        daemon.waypost(&["add", name, "t50001"]);
    }
    let verified = BTreeSet::from([onion.to_owned()]);
    wait_until(10, "only the verified onion is advertised", || onions() == verified);
    tor("client-stop");
    wait_until(15, "Tor is down", || daemon.tor() == "down");
    let mut seen = BTreeSet::new();
    wait_until(10, "three others are advertised", || onions().len() == 3);
    for _ in 0..60 {
        let onions = onions();
        assert_eq!(onions.len(), 3);
        seen.extend(onions);
    }
    assert_eq!(seen.len(), 1 + NOBODY.len(), "drawn for each caller, from all that are known");
    assert!(
        [EX1, EX2, FIRST].iter().all(|host| hosts(LISTEN).contains(*host)),
        "clearnet peers are advertised all the same"
    );
    let before = daemon.row(onion);
    tor("client-start");
    let began = now();
    wait_until(120, "Tor is ready again", || daemon.tor() == "ready");
    println!("{:.1} s from Tor's return to its being found ready", began.elapsed().as_secs_f64());
    wait_until(10, "the verified onion alone is advertised again", || onions() == verified);
    let after = daemon.row(onion);
    assert_eq!((&before["failures"], &after["failures"]), (&json!(0), &json!(0)), "the outage was not its fault");
}

fn check_probe_command(config: &Path, onion: &str) {
    let probe = |args: &[&str]| support::waypost(config, &[&["probe"], args].concat());
    let (output, ok) = probe(&[EX1, "--tls", "51002"]);
    assert!(ok && output.contains("server.features answered") && output.contains("TLS key"), "{output}");
    let (output, ok) = probe(&[onion, "--tcp", "50001"]);
    assert!(ok && output.contains("through Tor") && output.contains("ElectrumX"), "{output}");
    let (output, ok) = probe(&[EX1, "--tcp", "4"]);
    assert!(!ok && output.contains("refused"), "{output}");
    let (output, ok) = probe(&["nobody.example.com"]);
    assert!(!ok && output.contains("wasn't found"), "{output}");
}

fn peers() -> Vec<Value> {
    call(LISTEN, "server.peers.subscribe", json!([])).as_array().unwrap().clone()
}
