//! In front of a real server: an unmodified ElectrumX gets discovery, and others of its kind verify us, take us in and list us.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{self, Daemon, call, call_onion, hosts, lab_script, now, run, wait_until};
use serde_json::{Value, json};

const OURS: &str = "wp.example.com";
const EX1: &str = "5.9.0.1:51001";
const EX2: &str = "88.99.0.2:51001";

#[test]
fn real_servers_verify_and_list_waypost() {
    if !support::in_namespace(real_servers_verify_and_list_waypost, &[]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let lab = dir.path().join("lab");
    run(Command::new(lab_script("up.sh")).arg(&lab));
    let read = |file: &str| std::fs::read_to_string(lab.join(file)).unwrap().trim().to_owned();
    let (own, servers) = (read("tor/onion-2"), read("tor/services-socks"));
    let config = dir.path().join("waypost.toml");
    let text = format!(
        "network = \"regtest\"\ndata_dir = \"{}\"\n[tor]\nmode = \"socks\"\nsocks = \"{}\"\n\
         [listen]\ntcp = [\"5.9.0.9:50001\"]\ntls = [\"5.9.0.9:50002\"]\nonion_tcp = [\"127.0.0.1:50011\"]\nonion_port = 50001\n\
         [identity]\nhost = \"{OURS}\"\ntcp_port = 50001\nssl_port = 50002\nonion_host = \"{own}\"\n\
         [backend]\nelectrum = \"tcp://{EX1}\"\n\
         [discovery]\nseeds = [\"ex2.example.com s51002 t51001\"]\n",
        dir.path().join("data").display(),
        read("tor/socks"),
    );
    std::fs::write(&config, &text).unwrap();
    let began = now();
    let daemon = Daemon::start(&config);
    wait_until(90, "ex2 lists us", || listed(EX2).is_some());
    println!("{:.1} s from the start until ex2 lists us", began.elapsed().as_secs_f64());
    assert_eq!(listed(EX2).unwrap()[2], json!(["v1.6", "s50002", "t50001"]));
    assert!(said(&lab.join("ex/ex2.log"), OURS), "ex2 says that it verified us");
    check_forwarding(&daemon);
    check_own_entries(&own, &servers);
    wait_until(120, "ex3 lists our onion name", || hosts("95.216.0.3:51001").contains(&own));
    println!("{:.1} s until ex3, an onion service alone, lists our onion name", began.elapsed().as_secs_f64());
    let heard = std::fs::read_to_string(lab.join("ex/ex3.log")).unwrap();
    let heard = heard.lines().filter(|line| line.contains("add_peer request")).any(|line| line.contains(OURS));
    check_wallets(dir.path(), &own, &servers);
    assert!(!heard, "an onion peer hears nothing of our other name from us");
    assert!(daemon.log().lines().all(|line| !line.contains("ERROR") && !line.contains("panicked")), "{}", daemon.log());
    daemon.stop();
    check_tls_backend(&config, &text);
    check_backend_of_another_network(&config, &text);
    check_announcing_another_server(dir.path(), &lab);
    check_sessions_served_by_peers(dir.path(), &lab);
}

/// A real wallet, by each of the ways to us, takes us for a server and our list for its own.
fn check_wallets(dir: &Path, own: &str, socks: &str) {
    let proxy = format!("socks5:{socks}::");
    for (way, server, proxy) in [
        ("tcp", format!("{OURS}:50001:t"), None),
        ("tls", format!("{OURS}:50002:s"), None),
        ("onion", format!("{own}:50001:t"), Some(proxy)),
    ] {
        let wallet = Wallet::start(dir.join(way), &server, proxy);
        let said = wallet.ask();
        let ours = server.split(':').next().unwrap();
        assert_eq!((&said["info"]["connected"], &said["info"]["server"]), (&json!(true), &json!(ours)), "{way}");
        let servers = said["servers"].as_object().unwrap();
        for known in [ours, "ex1.example.com", "ex2.example.com"] {
            assert!(servers.contains_key(known), "{way}: {known} is missing in {servers:?}");
        }
        let other = if way == "onion" { OURS } else { own };
        assert!(!servers.contains_key(other), "{way}: the wallet learnt our other name");
    }
}

/// By TLS as well, where another key than the first is not taken.
fn check_tls_backend(config: &Path, text: &str) {
    std::fs::write(config, text.replace(&format!("tcp://{EX1}"), "tls://5.9.0.1:51002")).unwrap();
    let (daemon, key) = (Daemon::start(config), config.with_file_name("data/backend-key"));
    assert_eq!(call("5.9.0.9:50001", "blockchain.headers.subscribe", json!([]))["height"], 0);
    assert_eq!(std::fs::read_to_string(&key).unwrap().trim().len(), 64);
    std::fs::write(&key, "00\n").unwrap();
    let refused = support::try_call("5.9.0.9:50001", "blockchain.headers.subscribe", json!([]));
    assert_eq!(refused.unwrap_err()["code"], -32603, "another key than the one that is remembered");
    daemon.stop();
}

fn check_backend_of_another_network(config: &Path, text: &str) {
    let data = config.with_file_name("data").display().to_string();
    let other = text.replace("\"regtest\"", "\"testnet4\"").replace(&data, &format!("{data}-testnet4"));
    std::fs::write(config, other).unwrap();
    let (said, fine) = support::waypost(config, &["run"]);
    assert!(!fine && said.contains("another network"), "{said}");
}

/// What is ElectrumX's passes both ways, and its properties are ours.
fn check_forwarding(daemon: &Daemon) {
    let (ours, its) = ("5.9.0.9:50001", EX1);
    for (method, params) in [
        ("blockchain.headers.subscribe", json!([])),
        ("blockchain.block.header", json!([0])),
        ("blockchain.block.header", json!([0, 0])),
        ("blockchain.estimatefee", json!([6])),
        ("server.banner", json!([])),
    ] {
        assert_eq!(call(ours, method, params.clone()), call(its, method, params), "{method}");
    }
    let (features, behind) = (call(ours, "server.features", json!([])), call(its, "server.features", json!([])));
    for key in ["genesis_hash", "hash_function", "pruning", "protocol_min"] {
        assert_eq!(features[key], behind[key], "{key}");
    }
    let software = features["server_version"].as_str().unwrap();
    assert!(software.contains("Waypost") && software.contains("ElectrumX"), "{software}");
    assert_eq!(features["hosts"], json!({ OURS: { "tcp_port": 50001, "ssl_port": 50002 } }));
    assert!(daemon.status()["clients"]["forwarded_requests"].as_u64().unwrap() >= 5);
}

/// Each of our names is told to its own callers.
fn check_own_entries(own: &str, socks: &str) {
    wait_until(10, "we list ourselves", || hosts("5.9.0.9:50001").contains(OURS));
    let names = |list: &Value| -> BTreeSet<String> {
        list.as_array().unwrap().iter().map(|entry| entry[1].as_str().unwrap().to_owned()).collect()
    };
    let mut told = BTreeSet::new();
    wait_until(60, "we list our onion name to callers of it", || {
        told = call_onion(socks, &format!("{own}:50001"), "server.peers.subscribe")
            .map(|list| names(&list))
            .unwrap_or_default();
        told.contains(own)
    });
    assert!(!told.contains(OURS), "{told:?}");
    assert!(!hosts("5.9.0.9:50001").contains(own));
}

/// One that doesn't announce itself, and that clients get nowhere near.
fn check_announcing_another_server(dir: &Path, lab: &Path) {
    let (name, config) = ("wp.example.org", dir.join("elsewhere.toml"));
    let reports = format!("tcp://{name}:51001,ssl://{name}:51002");
    electrumx(lab, &["ex5", "5.9.0.9", &reports, "PEER_ANNOUNCE=", "PEER_DISCOVERY=self"]);
    let text = format!(
        "network = \"regtest\"\ndata_dir = \"{}\"\n[tor]\nmode = \"off\"\n[listen]\ntcp = [\"127.0.0.1:50031\"]\n\
         [identity]\nhost = \"{name}\"\ntcp_port = 51001\nssl_port = 51002\nannounce = true\n\
         [discovery]\nseeds = [\"ex2.example.com s51002 t51001\"]\n",
        dir.join("data-elsewhere").display()
    );
    std::fs::write(&config, text).unwrap();
    let accepted = || {
        let log = std::fs::read_to_string(lab.join("ex/ex2.log")).unwrap();
        log.contains(&format!("accepted new peer {name} from 5.9.0.9"))
    };
    assert!(!accepted());
    let daemon = Daemon::start(&config);
    // Listed it would be as well, hadn't we had a peer on that address already: ElectrumX wants no second.
    wait_until(60, "ex2 takes in a server that never told it of itself", accepted);
    let passed = support::try_call("127.0.0.1:50031", "blockchain.headers.subscribe", json!([]));
    assert_eq!(passed.unwrap_err()["code"], -32601);
    daemon.stop();
}

fn electrumx(lab: &Path, args: &[&str]) {
    let mut command = Command::new(lab_script("electrumx.sh"));
    run(command.env("LAB_VENV", support::lab_venv()).arg("up").arg(lab.join("ex")).args(args));
}

/// On a node that uses Tor alone: a wallet is served by an onion peer, and when that one is gone by another.
fn check_sessions_served_by_peers(dir: &Path, lab: &Path) {
    let read = |file: &str| std::fs::read_to_string(lab.join(file)).unwrap().trim().to_owned();
    let onions = [(read("tor/onion-1"), "ex3"), (read("tor/onion-2"), "ex4")];
    // Behind the onion service that was ours.
    let port = format!("TOR_PROXY_PORT={}", read("tor/services-socks").split(':').nth(1).unwrap());
    let own = format!("tcp://{}:50001", onions[1].0);
    let settings = ["SERVICES=tcp://127.0.0.1:50011,ssl://127.0.0.1:50012", &port, "BLACKLIST_URL=http://127.0.0.1:1/"];
    electrumx(lab, &[&["ex4", "127.0.0.1", &own], &settings[..]].concat());
    let (config, local) = (dir.join("peers.toml"), "127.0.0.1:50021");
    let text = format!(
        "network = \"regtest\"\ndata_dir = \"{}\"\n[tor]\nmode = \"socks\"\nsocks = \"{}\"\nonly = true\n\
         [listen]\ntcp = [\"{local}\", \"5.9.0.9:50021\"]\n[backend]\nelectrum = \"peers\"\n\
         [discovery]\nseeds = [\"{} t50001\", \"{} t50001\", \"ex2.example.com s51002\"]\n",
        dir.join("data-peers").display(),
        read("tor/socks"),
        onions[0].0,
        onions[1].0,
    );
    std::fs::write(&config, text).unwrap();
    let daemon = Daemon::start(&config);
    wait_until(120, "both onion peers are verified", || daemon.status()["peers"]["verified_onion"] == 2);
    let wallet = Wallet::start(dir.join("by-peers"), "127.0.0.1:50021:t", None);
    let said = wallet.ask();
    assert_eq!((&said["info"]["connected"], &said["info"]["server_height"]), (&json!(true), &json!(0)), "{said}");
    let carrier = |daemon: &Daemon| -> Option<String> {
        let sessions = daemon.status()["backend"]["sessions"].as_object().unwrap().clone();
        sessions.keys().next().cloned()
    };
    let first = carrier(&daemon).unwrap();
    let (_, server) = onions.iter().find(|(onion, _)| *onion == first).expect("an onion peer");
    println!("a wallet on a node of Tor alone is served by {server}");
    run(Command::new("kill").arg(read(&format!("ex/{server}.pid"))));
    let began = now();
    wait_until(30, "another peer carries the wallet's session", || carrier(&daemon).is_some_and(|next| next != first));
    assert_eq!(wallet.ask()["info"]["connected"], true);
    println!("{:.1} s until another peer serves it", began.elapsed().as_secs_f64());
    assert!(daemon.waypost(&["status"]).contains(" 1 at "), "status says where its sessions go");
    let public = support::try_call("5.9.0.9:50021", "blockchain.headers.subscribe", json!([]));
    assert_eq!(public.unwrap_err()["code"], -32601, "who calls from outside gets to no peer through us");
    drop(wallet);
    daemon.stop();
}

/// A real wallet, until it is dropped.
struct Wallet(PathBuf);

impl Wallet {
    fn start(dir: PathBuf, server: &str, proxy: Option<String>) -> Wallet {
        let wallet = Wallet(dir);
        wallet.say("up", &[&[server.to_owned()], proxy.as_slice()].concat());
        wallet
    }

    /// What it says once it is connected.
    fn ask(&self) -> Value {
        serde_json::from_slice(&self.say("ask", &[])).unwrap()
    }

    fn say(&self, command: &str, args: &[String]) -> Vec<u8> {
        let output = Command::new(lab_script("wallet.sh")).arg(command).arg(&self.0).args(args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }
}

impl Drop for Wallet {
    fn drop(&mut self) {
        let _ = Command::new(lab_script("wallet.sh")).arg("down").arg(&self.0).output();
    }
}

/// A backend that answers with the method's name, and hangs up at the method `gone`.
fn scripted_backend(listener: TcpListener) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || play(&stream.unwrap()));
        }
    });
}

fn play(stream: &TcpStream) -> Option<()> {
    let mut stream_out = stream;
    for line in BufReader::new(stream).lines() {
        let call: Value = serde_json::from_str(&line.ok()?).ok()?;
        let result = match call["method"].as_str()? {
            "server.version" => json!(["scripted", "1.4"]),
            "slow" => continue,
            "gone" => return None,
            method => json!(method),
        };
        let answer = json!({ "jsonrpc": "2.0", "id": call["id"], "result": result });
        writeln!(stream_out, "{answer}").ok()?;
    }
    None
}

#[test]
fn backend_that_disconnects_fails_pending_requests_and_serves_next() {
    let dir = tempfile::tempdir().unwrap();
    let (listen, config) = (support::free_address(), dir.path().join("waypost.toml"));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let text = format!(
        "network = \"regtest\"\ndata_dir = \"{}\"\n[listen]\ntcp = [\"{listen}\"]\n[tor]\nmode = \"off\"\n\
         [discovery]\nseeds = []\n[backend]\nelectrum = \"tcp://{}\"\n",
        dir.path().join("data").display(),
        listener.local_addr().unwrap()
    );
    std::fs::write(&config, text).unwrap();
    scripted_backend(listener);
    let daemon = Daemon::start(&config);
    let stream = TcpStream::connect(listen).unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    let mut lines = BufReader::new(&stream).lines();
    let mut hear = || lines.next().map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    let say = |lines: &str| (&stream).write_all(lines.as_bytes()).unwrap();
    say("{\"id\":1,\"method\":\"slow\"}\n{\"id\":\"two\",\"method\":\"gone\"}\n");
    for id in [json!(1), json!("two")] {
        let answer = hear().unwrap();
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&id, &json!(-32603)), "{answer}");
    }
    say("[{\"id\":3,\"method\":\"a\"},{\"id\":4,\"method\":\"gone\"}]\n");
    let answers = hear().unwrap();
    assert_eq!((&answers[0]["result"], &answers[1]["id"]), (&json!("a"), &json!(4)), "{answers}");
    assert_eq!(answers[1]["error"]["code"], -32603, "{answers}");
    say("{\"id\":5,\"method\":\"b\"}\n");
    assert_eq!(hear().unwrap()["result"], "b", "the session goes on");
    // A wallet that waits for notifications has to connect again.
    say("{\"id\":6,\"method\":\"blockchain.headers.subscribe\"}\n");
    assert_eq!(hear().unwrap()["id"], 6);
    say("{\"id\":7,\"method\":\"gone\"}\n");
    assert_eq!(hear().unwrap()["id"], 7);
    assert!(hear().is_none(), "the session is over");
    daemon.stop();
}

/// Our entry in a server's list.
fn listed(server: &str) -> Option<Value> {
    let list = call(server, "server.peers.subscribe", json!([]));
    list.as_array().unwrap().iter().find(|entry| entry[1] == OURS).cloned()
}

fn said(log: &Path, host: &str) -> bool {
    let log = std::fs::read_to_string(log).unwrap();
    log.lines().any(|line| line.contains(host) && line.contains("verified"))
}
