//! Waypost in front of an unmodified ElectrumX, verified and listed by other ElectrumX servers.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{
    self, Daemon, Lab, OFFLINE, TestClient, TestDir, call, call_onion, hosts, lab_script, now, own_entry, run,
    wait_until,
};
use serde_json::{Value, json};

const OWN_NAME: &str = "wp.example.com";
const EX1: &str = "5.9.0.1:51001";
const EX2: &str = "88.99.0.2:51001";

#[test]
fn real_servers_verify_and_list_waypost() {
    if !support::in_namespace(real_servers_verify_and_list_waypost, &[]) {
        return;
    }
    let dir = TestDir::new();
    let lab = Lab::start(dir.root());
    let (own, servers) = (lab.read("tor/onion-2"), lab.read("tor/services-socks"));
    let sections = format!(
        "{}[listen]\ntcp = [\"5.9.0.9:50001\"]\ntls = [\"5.9.0.9:50002\"]\nonion_tcp = [\"127.0.0.1:50011\"]\nonion_port = 50001\n\
         [identity]\nhost = \"{OWN_NAME}\"\ntcp_port = 50001\nssl_port = 50002\nonion_host = \"{own}\"\n\
         [backend]\nelectrum = \"tcp://{EX1}\"\n\
         [discovery]\nrecheck_interval = \"20s\"\ninitial_retry = \"10s\"\nseeds = [\"ex2.example.com s51002 t51001\"]\n",
        lab.external_tor(),
    );
    let config = dir.configure(&sections);
    let start = now();
    let daemon = Daemon::start(&config);
    wait_until(90, "ex2 lists Waypost", || own_entry(EX2, OWN_NAME).is_some());
    println!("{:.1} s from the start until ex2 lists Waypost", start.elapsed().as_secs_f64());
    assert_eq!(own_entry(EX2, OWN_NAME).unwrap()[2], json!(["v1.7.0", "s50002", "t50001"]));
    let log = std::fs::read_to_string(lab.path("ex/ex2.log")).unwrap();
    assert!(log.lines().any(|line| line.contains(OWN_NAME) && line.contains("verified")), "ex2 has verified Waypost");
    check_forwarding(&daemon);
    check_batches();
    check_own_entries(&own, &servers);
    wait_until(120, "ex3 lists the onion name", || hosts("95.216.0.3:51001").contains(&own));
    println!("{:.1} s until ex3, which has an onion name only, lists the onion name", start.elapsed().as_secs_f64());
    let log = std::fs::read_to_string(lab.path("ex/ex3.log")).unwrap();
    let is_linked = log.lines().filter(|line| line.contains("add_peer request")).any(|line| line.contains(OWN_NAME));
    check_wallets(dir.root(), &own, &servers);
    assert!(!is_linked, "Waypost announced its clearnet name to an onion peer");
    assert!(daemon.log().lines().all(|line| !line.contains("ERROR") && !line.contains("panicked")), "{}", daemon.log());
    daemon.stop();
    check_tls_backend(&dir, &sections);
    check_backend_of_another_network(&config);
    check_announcing_another_server(&dir, &lab);
    check_sessions_served_by_peers(&dir, &lab);
}

/// Tests that an Electrum wallet uses Waypost as its server and takes its list, on each transport.
fn check_wallets(dir: &Path, own: &str, socks: &str) {
    let proxy = format!("socks5:{socks}::");
    for (transport, server, proxy) in [
        ("tcp", format!("{OWN_NAME}:50001:t"), None),
        ("tls", format!("{OWN_NAME}:50002:s"), None),
        ("onion", format!("{own}:50001:t"), Some(proxy)),
    ] {
        let wallet = Wallet::start(dir.join(transport), &server, proxy);
        let state = wallet.query();
        let host = server.split(':').next().unwrap();
        assert_eq!(
            (&state["info"]["connected"], &state["info"]["server"]),
            (&json!(true), &json!(host)),
            "{transport}"
        );
        let servers = state["servers"].as_object().unwrap();
        for known in [host, "ex1.example.com", "ex2.example.com"] {
            assert!(servers.contains_key(known), "{transport}: {known} is missing in {servers:?}");
        }
    }
}

/// Tests a backend over TLS, whose key must stay the same.
fn check_tls_backend(dir: &TestDir, sections: &str) {
    let config = dir.configure(&sections.replace(&format!("tcp://{EX1}"), "tls://5.9.0.1:51002"));
    let (daemon, key) = (Daemon::start(&config), dir.data().join("backend-key"));
    assert_eq!(call("5.9.0.9:50001", "blockchain.headers.subscribe", json!([]))["height"], 0);
    assert_eq!(std::fs::read_to_string(&key).unwrap().trim().len(), 64);
    std::fs::write(&key, "00\n").unwrap();
    let refused = support::try_call("5.9.0.9:50001", "blockchain.headers.subscribe", json!([]));
    assert_eq!(refused.unwrap_err()["code"], -32603, "the key differs from the remembered one");
    daemon.stop();
}

fn check_backend_of_another_network(config: &Path) {
    let text = std::fs::read_to_string(config).unwrap().replace("\"regtest\"", "\"testnet4\"");
    let data = config.with_file_name("data").display().to_string();
    std::fs::write(config, text.replace(&data, &format!("{data}-testnet4"))).unwrap();
    let (output, ok) = support::waypost(config, &["run"]);
    assert!(!ok && output.contains("another network"), "{output}");
}

/// Tests that requests are forwarded to ElectrumX, and that Waypost reports the properties of ElectrumX.
fn check_forwarding(daemon: &Daemon) {
    let (waypost, backend) = ("5.9.0.9:50001", EX1);
    for (method, params) in [
        ("blockchain.headers.subscribe", json!([])),
        ("blockchain.block.header", json!([0])),
        ("blockchain.block.header", json!([0, 0])),
        ("blockchain.estimatefee", json!([6])),
        ("server.banner", json!([])),
    ] {
        assert_eq!(call(waypost, method, params.clone()), call(backend, method, params), "{method}");
    }
    let [features, expected] = [waypost, backend].map(|address| call(address, "server.features", json!([])));
    for key in ["genesis_hash", "hash_function", "pruning", "protocol_min"] {
        assert_eq!(features[key], expected[key], "{key}");
    }
    let software = features["server_version"].as_str().unwrap();
    assert!(software.contains("Waypost") && software.contains("ElectrumX"), "{software}");
    assert_eq!(features["hosts"], json!({ OWN_NAME: { "tcp_port": 50001, "ssl_port": 50002 } }));
    assert!(daemon.status()["clients"]["forwarded_requests"].as_u64().unwrap() >= 5);
}

/// Tests the batches of wallets that use the library of BlueWallet and mempool.
fn check_batches() {
    let modules = support::repository("target/lab-node/node_modules");
    assert!(
        modules.exists(),
        "no @mempool/electrum-client in {}: run contrib/test.sh, which installs it",
        modules.display()
    );
    let mut client = Command::new("node");
    client.env("NODE_PATH", modules).arg(lab_script("batches.js")).args(["5.9.0.9", "50001", "100", "200", "400"]);
    run(&mut client);
}

/// Tests that each own name is listed for its clients, whose features name no other.
fn check_own_entries(own: &str, socks: &str) {
    wait_until(10, "the own name is listed", || hosts("5.9.0.9:50001").contains(OWN_NAME));
    let names = |list: &Value| -> BTreeSet<String> {
        list.as_array().unwrap().iter().map(|entry| entry[1].as_str().unwrap().to_owned()).collect()
    };
    let mut listed = BTreeSet::new();
    wait_until(60, "the onion name is listed for its clients", || {
        listed = call_onion(socks, &format!("{own}:50001"), "server.peers.subscribe")
            .map(|list| names(&list))
            .unwrap_or_default();
        listed.contains(own)
    });
    // Each side may learn the other name from its peers, as any other name: leaving it out would link the two.
    for (address, socks, own) in [("5.9.0.9:50001", None, OWN_NAME), (&format!("{own}:50001"), Some(socks), own)] {
        let features = match socks {
            Some(socks) => call_onion(socks, address, "server.features").unwrap(),
            None => call(address, "server.features", json!([])),
        };
        let named: Vec<&String> = features["hosts"].as_object().unwrap().keys().collect();
        assert_eq!(named, [own]);
    }
}

/// Tests the announcement of a server that does not announce itself, without forwarding to it.
fn check_announcing_another_server(dir: &TestDir, lab: &Lab) {
    let name = "wp.example.org";
    let reports = format!("tcp://{name}:51001,ssl://{name}:51002");
    lab.electrumx(&["ex5", "5.9.0.9", &reports, "PEER_ANNOUNCE=", "PEER_DISCOVERY=self"]);
    let config = dir.configure_named(
        "other-server",
        &format!(
            "[tor]\nmode = \"off\"\n[listen]\ntcp = [\"127.0.0.1:50031\"]\n\
             [identity]\nhost = \"{name}\"\ntcp_port = 51001\nssl_port = 51002\nannounce = true\n\
             [discovery]\nseeds = [\"ex2.example.com s51002 t51001\"]\n"
        ),
    );
    let accepted = || {
        let log = std::fs::read_to_string(lab.path("ex/ex2.log")).unwrap();
        log.contains(&format!("accepted new peer {name} from 5.9.0.9"))
    };
    assert!(!accepted());
    let daemon = Daemon::start(&config);
    // ElectrumX accepts the server, but lists only one peer per address.
    wait_until(60, "ex2 accepts the announced server", accepted);
    let result = support::try_call("127.0.0.1:50031", "blockchain.headers.subscribe", json!([]));
    assert_eq!(result.unwrap_err()["code"], -32601);
    daemon.stop();
}

/// Tests that onion peers serve a wallet on a `tor.only` node, with fail-over between them.
fn check_sessions_served_by_peers(dir: &TestDir, lab: &Lab) {
    let onions = [(lab.read("tor/onion-1"), "ex3"), (lab.read("tor/onion-2"), "ex4")];
    // ex4 takes the onion service that Waypost had.
    let port = format!("TOR_PROXY_PORT={}", lab.read("tor/services-socks").split(':').nth(1).unwrap());
    let own = format!("tcp://{}:50001", onions[1].0);
    let settings = ["SERVICES=tcp://127.0.0.1:50011,ssl://127.0.0.1:50012", &port, "BLACKLIST_URL=http://127.0.0.1:1/"];
    lab.electrumx(&[&["ex4", "127.0.0.1", &own], &settings[..]].concat());
    let config = dir.configure_named(
        "peers",
        &format!(
            "{}only = true\n[listen]\ntcp = [\"127.0.0.1:50021\", \"5.9.0.9:50021\"]\n[backend]\nelectrum = \"peers\"\n\
             [discovery]\nseeds = [\"{} t50001\", \"{} t50001\", \"ex2.example.com s51002\"]\n",
            lab.external_tor(),
            onions[0].0,
            onions[1].0,
        ),
    );
    let daemon = Daemon::start(&config);
    wait_until(120, "both onion peers are verified", || daemon.status()["peers"]["verified_onion"] == 2);
    let wallet = Wallet::start(dir.path("by-peers"), "127.0.0.1:50021:t", None);
    let state = wallet.query();
    assert_eq!((&state["info"]["connected"], &state["info"]["server_height"]), (&json!(true), &json!(0)), "{state}");
    let upstream = |daemon: &Daemon| -> Option<String> {
        let sessions = daemon.status()["backend"]["sessions"].as_object().unwrap().clone();
        sessions.keys().next().cloned()
    };
    let first = upstream(&daemon).unwrap();
    let (_, server) = onions.iter().find(|(onion, _)| *onion == first).expect("an onion peer");
    println!("the wallet is served by {server}");
    run(Command::new("kill").arg(lab.read(&format!("ex/{server}.pid"))));
    let start = now();
    wait_until(30, "another peer serves the wallet", || upstream(&daemon).is_some_and(|next| next != first));
    assert_eq!(wallet.query()["info"]["connected"], true);
    println!("{:.1} s until another peer serves it", start.elapsed().as_secs_f64());
    assert!(daemon.waypost(&["status"]).contains(" 1 at "), "status lists the upstream of the session");
    let public = support::try_call("5.9.0.9:50021", "blockchain.headers.subscribe", json!([]));
    assert_eq!(public.unwrap_err()["code"], -32601, "clients from outside are not forwarded to peers");
    drop(wallet);
    daemon.stop();
}

/// Running Electrum wallet.
struct Wallet(PathBuf);

impl Wallet {
    fn start(dir: PathBuf, server: &str, proxy: Option<String>) -> Wallet {
        let wallet = Wallet(dir);
        wallet.run("up", &[&[server.to_owned()], proxy.as_slice()].concat());
        wallet
    }

    /// Returns the state of the wallet once it is connected.
    fn query(&self) -> Value {
        serde_json::from_slice(&self.run("query", &[])).unwrap()
    }

    fn run(&self, command: &str, args: &[String]) -> Vec<u8> {
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

/// Starts a backend that responds with the method's name, and disconnects at the method `disconnect`.
fn scripted_backend(listener: TcpListener) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || serve_script(&stream.unwrap()));
        }
    });
}

fn serve_script(stream: &TcpStream) -> Option<()> {
    let mut stream_out = stream;
    for line in BufReader::new(stream).lines() {
        let request: Value = serde_json::from_str(&line.ok()?).ok()?;
        let result = match request["method"].as_str()? {
            "server.version" => json!(["scripted", "1.4"]),
            "slow" => continue,
            "disconnect" => return None,
            method => json!(method),
        };
        let response = json!({ "jsonrpc": "2.0", "id": request["id"], "result": result });
        writeln!(stream_out, "{response}").ok()?;
    }
    None
}

#[test]
fn backend_that_disconnects_fails_pending_requests_and_serves_next() {
    let dir = TestDir::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    dir.configure_tcp(&format!("{OFFLINE}[backend]\nelectrum = \"tcp://{}\"\n", listener.local_addr().unwrap()));
    scripted_backend(listener);
    let daemon = dir.start();
    let mut client = TestClient::connect(dir.address);
    client.send("{\"id\":1,\"method\":\"slow\"}\n{\"id\":\"two\",\"method\":\"disconnect\"}\n");
    for id in [json!(1), json!("two")] {
        let answer = client.receive();
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&id, &json!(-32603)), "{answer}");
    }
    client.send("[{\"id\":3,\"method\":\"a\"},{\"id\":4,\"method\":\"disconnect\"}]\n");
    let answers = client.receive();
    assert_eq!((&answers[0]["result"], &answers[1]["id"]), (&json!("a"), &json!(4)), "{answers}");
    assert_eq!(answers[1]["error"]["code"], -32603, "{answers}");
    client.send("{\"id\":5,\"method\":\"b\"}\n");
    assert_eq!(client.receive()["result"], "b", "the session continues");
    // A subscribed wallet must reconnect, as it would miss notifications.
    client.send("{\"id\":6,\"method\":\"blockchain.headers.subscribe\"}\n");
    assert_eq!(client.receive()["id"], 6);
    client.send("{\"id\":7,\"method\":\"disconnect\"}\n");
    assert_eq!(client.receive()["id"], 7);
    assert!(client.is_closed(), "the session has ended");
    daemon.stop();
}
