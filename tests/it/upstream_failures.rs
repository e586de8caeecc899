//! Wallets whose upstream fails: hostile peers, and one of several servers that disappears.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use waypost::peer::OnionAddress;

use crate::support::{OFFLINE, TestClient, TestDir, now, start_fake_tor, wait_until};

const GENESIS: &str = "0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206";
const GENESIS_HEADER: &str = "0100000000000000000000000000000000000000000000000000000000000000000000003ba3edfd7a7b12b27ac72c3e\
                              67768f617fc81bc3888a51323a9fb8aa4b1e5e4adae5494dffff7f2002000000";

/// What a server does at requests of wallets. All answer verifications.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Behaviour {
    Honest,
    /// It sends notifications instead of responses.
    Noisy,
    /// It closes the connection.
    HangsUp,
    /// It answers nothing.
    Silent,
}

/// Scripted server of regtest with only the genesis block.
struct Server {
    name: String,
    address: SocketAddr,
    state: Arc<Mutex<ServerState>>,
}

#[derive(Default)]
struct ServerState {
    connections: Vec<TcpStream>,
    /// Connections by script hash that they subscribed to.
    subscribed: BTreeMap<String, Vec<TcpStream>>,
    /// Status of each script hash; null without an entry.
    statuses: BTreeMap<String, String>,
    is_down: bool,
}

impl Server {
    fn start(name: &str, behaviour: Behaviour) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, state) = (listener.local_addr().unwrap(), Arc::<Mutex<ServerState>>::default());
        let server = Server { name: name.to_owned(), address, state: Arc::clone(&state) };
        let name = server.name.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if state.lock().unwrap().is_down {
                    continue;
                }
                state.lock().unwrap().connections.push(stream.try_clone().unwrap());
                let (name, state) = (name.clone(), Arc::clone(&state));
                std::thread::spawn(move || serve(&stream, &name, behaviour, &state));
            }
        });
        server
    }

    /// Closes all connections, and accepts no further ones.
    fn kill(&self) {
        let mut state = self.state.lock().unwrap();
        state.is_down = true;
        for stream in state.connections.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Changes the status of a script hash, and notifies its subscribers.
    fn set_status(&self, script_hash: &str, status: &str) {
        let mut state = self.state.lock().unwrap();
        state.statuses.insert(script_hash.to_owned(), status.to_owned());
        let line =
            json!({ "jsonrpc": "2.0", "method": "blockchain.scripthash.subscribe", "params": [script_hash, status] });
        for mut stream in state.subscribed.get(script_hash).into_iter().flatten() {
            let _ = writeln!(stream, "{line}");
        }
    }
}

fn serve(stream: &TcpStream, name: &str, behaviour: Behaviour, state: &Mutex<ServerState>) -> Option<()> {
    let mut out = stream;
    for line in BufReader::new(stream).lines() {
        let request: Value = serde_json::from_str(&line.ok()?).ok()?;
        let (method, params) = (request["method"].as_str()?, &request["params"]);
        if method.starts_with("blockchain.scripthash.") {
            match behaviour {
                Behaviour::Honest => {}
                Behaviour::HangsUp => return None,
                Behaviour::Silent => continue,
                Behaviour::Noisy => loop {
                    writeln!(out, "{}", json!({ "method": "blockchain.headers.subscribe", "params": [{}] })).ok()?;
                    std::thread::sleep(Duration::from_secs(8));
                },
            }
        }
        let result = match method {
            "server.version" => json!([name, "1.4"]),
            "server.features" => json!({
                "hosts": { (name): { "tcp_port": 50001 } }, "genesis_hash": GENESIS, "server_version": "Scripted 1.0",
                "protocol_min": "1.4", "protocol_max": "1.4", "hash_function": "sha256", "pruning": null,
            }),
            "server.peers.subscribe" | "blockchain.scripthash.get_history" => json!([]),
            "blockchain.headers.subscribe" => json!({ "height": 0, "hex": GENESIS_HEADER }),
            "blockchain.block.header" => json!(GENESIS_HEADER),
            "blockchain.scripthash.get_balance" => json!({ "confirmed": 0, "unconfirmed": 0 }),
            "blockchain.scripthash.listunspent" => json!([name]),
            "blockchain.scripthash.subscribe" => {
                let mut state = state.lock().unwrap();
                let script_hash = params[0].as_str()?.to_owned();
                let status = state.statuses.get(&script_hash).cloned();
                state.subscribed.entry(script_hash).or_default().push(stream.try_clone().ok()?);
                json!(status)
            }
            _ => json!(false),
        };
        writeln!(out, "{}", json!({ "jsonrpc": "2.0", "id": request["id"], "result": result })).ok()?;
    }
    None
}

/// Asks as a wallet, and returns the name of the server that answers; `None` without an answer.
fn ask(client: &mut TestClient) -> Option<String> {
    let script_hash = "ab".repeat(32);
    let method = "blockchain.scripthash.listunspent";
    client.send(&format!("{}\n", json!({ "id": 7, "method": method, "params": [script_hash] })));
    loop {
        let line = client.receive();
        if line["id"] == 7 {
            return line["result"][0].as_str().map(str::to_owned);
        }
        if line.is_null() {
            return None;
        }
    }
}

#[test]
fn hostile_peers_leave_no_wallet_without_an_answer() {
    const WALLETS: usize = 18;
    let hostile = [Behaviour::Noisy, Behaviour::HangsUp, Behaviour::Silent].into_iter().cycle().take(9);
    let behaviours = std::iter::repeat_n(Behaviour::Honest, 12).chain(hostile);
    let servers: Vec<(Server, Behaviour)> = behaviours
        .enumerate()
        .map(|(number, behaviour)| {
            let key = [u8::try_from(number).unwrap() + 1; 32];
            (Server::start(&OnionAddress::from_public_key(key).to_string(), behaviour), behaviour)
        })
        .collect();
    let tor: HashMap<String, SocketAddr> =
        servers.iter().map(|(server, _)| (server.name.clone(), server.address)).collect();
    let seeds: Vec<String> = servers.iter().map(|(server, _)| format!("\"{} t50001\"", server.name)).collect();
    let dir = TestDir::new();
    dir.configure_tcp(&format!(
        "[tor]\nmode = \"socks\"\nsocks = \"{}\"\n[discovery]\nseeds = [{}]\nmax_tor_probes = 20\n[backend]\nelectrum = \"peers\"\n\
         [limits]\nsessions_per_source = 1000\n",
        start_fake_tor(tor),
        seeds.join(", ")
    ));
    let daemon = dir.start();
    wait_until(90, "all peers are verified", || daemon.status()["peers"]["verified_onion"] == servers.len());
    // Peers serve sessions once the lists of this second are published.
    wait_until(10, "a peer serves", || ask(&mut TestClient::connect(dir.address)).is_some());
    let is_honest =
        |name: &str| servers.iter().any(|(server, kind)| server.name == *name && *kind == Behaviour::Honest);

    // Returns the time of the slowest answer.
    let ask_all = || {
        let slowest = Mutex::new(Duration::ZERO);
        std::thread::scope(|scope| {
            for _ in 0..WALLETS {
                scope.spawn(|| {
                    let start = now();
                    let mut client = TestClient::connect_patiently(dir.address, Duration::from_secs(40));
                    assert!(is_honest(&ask(&mut client).expect("an answer")));
                    let mut slowest = slowest.lock().unwrap();
                    *slowest = slowest.max(start.elapsed());
                });
            }
        });
        slowest.into_inner().unwrap()
    };
    let slowest = ask_all();
    println!("{WALLETS} wallets at once: the slowest answer took {:.1} s", slowest.as_secs_f64());
    assert!(slowest < Duration::from_secs(30), "{slowest:?}");
    let start = now();
    wait_until(240, "no wallet meets a hostile peer", || ask_all() < Duration::from_secs(3));
    println!("{} s until no wallet meets a hostile peer", start.elapsed().as_secs());
    daemon.stop();
}

#[test]
fn thousand_subscriptions_outlast_a_killed_server() {
    const SUBSCRIPTIONS: usize = 1000;
    let servers: Vec<Server> =
        (1..=3).map(|number| Server::start(&format!("server {number}"), Behaviour::Honest)).collect();
    let dir = TestDir::new();
    let addresses: Vec<String> = servers.iter().map(|server| format!("\"tcp://{}\"", server.address)).collect();
    dir.configure_tcp(&format!(
        "{OFFLINE}[backend]\nelectrum = [{}]\n[limits]\nsource_requests_per_second = 100000\n",
        addresses.join(", ")
    ));
    let daemon = dir.start();
    wait_until(30, "all servers work", || {
        let status = daemon.status();
        status["backend"]["servers"].as_array().unwrap().iter().all(|server| server["error"].is_null())
    });
    let mut client = TestClient::connect(dir.address);
    let script_hash = |number: usize| format!("{number:064x}");
    for number in 0..SUBSCRIPTIONS {
        let call =
            json!({ "id": number, "method": "blockchain.scripthash.subscribe", "params": [script_hash(number)] });
        assert_eq!(client.request(&call.to_string())["id"], number);
    }
    let serving = ask(&mut client).unwrap();
    let (killed, rest): (Vec<&Server>, Vec<&Server>) = servers.iter().partition(|server| server.name == serving);
    // One status changes during the gap, and one after it.
    rest.iter().for_each(|server| server.set_status(&script_hash(5), "changed"));
    let start = now();
    killed[0].kill();
    assert_eq!(client.receive()["params"], json!([script_hash(5), "changed"]));
    println!("{} ms until the change during the gap is notified", start.elapsed().as_millis());
    let is_renewed = || rest.iter().any(|server| server.state.lock().unwrap().subscribed.len() == SUBSCRIPTIONS);
    wait_until(10, "all subscriptions are renewed", is_renewed);
    println!("{} ms until all {SUBSCRIPTIONS} subscriptions are renewed", start.elapsed().as_millis());
    rest.iter().for_each(|server| server.set_status(&script_hash(999), "later"));
    assert_eq!(client.receive()["params"], json!([script_hash(999), "later"]));
    assert!(rest.iter().any(|server| server.name == ask(&mut client).unwrap()));

    // A removed server serves its sessions to their end, and no new ones.
    let serving = ask(&mut client).unwrap();
    let kept: Vec<String> = rest
        .iter()
        .filter(|server| server.name != serving)
        .map(|server| format!("\"tcp://{}\"", server.address))
        .collect();
    dir.configure_tcp(&format!("{OFFLINE}[backend]\nelectrum = [{}]\n", kept.join(", ")));
    daemon.send_hangup();
    wait_until(20, "the list is reloaded", || daemon.status()["backend"]["servers"].as_array().unwrap().len() == 1);
    assert_eq!(ask(&mut client).unwrap(), serving);
    assert_ne!(ask(&mut TestClient::connect(dir.address)).unwrap(), serving);
    daemon.stop();
}

#[test]
fn peers_serve_while_no_server_works() {
    let own = Server::start("own server", Behaviour::Honest);
    let peer = Server::start("127.0.0.1", Behaviour::Honest);
    let dir = TestDir::new();
    dir.configure_tcp(&format!(
        "[tor]\nmode = \"off\"\n[discovery]\nallow_private = true\nseeds = [\"127.0.0.1 t{}\"]\n\
         [backend]\nelectrum = [\"tcp://{}\", \"peers\"]\n",
        peer.address.port(),
        own.address
    ));
    let daemon = dir.start();
    let is_working = || daemon.status()["backend"]["servers"][0]["error"].is_null();
    wait_until(30, "the peer is verified, and the server works", || {
        daemon.status()["peers"]["verified"] == 1 && is_working()
    });
    let mut client = TestClient::connect_patiently(dir.address, Duration::from_secs(40));
    assert_eq!(ask(&mut client).as_deref(), Some("own server"));
    own.kill();
    let is_served_by_peer = |client: &mut TestClient| ask(client).as_deref() == Some("127.0.0.1");
    // Clients see a verified peer some seconds later.
    wait_until(30, "a peer serves new sessions", || is_served_by_peer(&mut TestClient::connect(dir.address)));
    assert!(is_served_by_peer(&mut client), "a peer takes over the session");
    wait_until(30, "the failure is noticed", || !is_working());
    assert!(is_served_by_peer(&mut TestClient::connect(dir.address)));
    daemon.stop();
}
