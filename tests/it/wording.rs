//! Both names of a node use the same words: responses to clients, and requests to peers.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::{Daemon, TestDir, free_address, own_entry, start_fake_tor, wait_until};
use serde_json::{Value, json};

/// Clearnet name of the node.
const CLEARNET: &str = "127.0.0.1";
/// Clearnet peer.
const CLEARNET_PEER: &str = "127.0.0.2";
/// Onion name of the node, and that of a peer.
const ONION: &str = "explorerzydxu5ecjrkwceayqybizmpjjznk5izmitf2modhcusuqlid.onion";
const ONION_PEER: &str = "kittycp2gatrqhlwpmbczk5rblw62enrpo2rzwtkfrrr27hq435d4vid.onion";

/// Request after which a session has no more responses.
const END: &str = r#"{"id":"end","method":"server.ping"}"#;

/// Node with a listener for each name.
struct Node {
    dir: TestDir,
    onion: SocketAddr,
}

impl Node {
    fn new() -> Node {
        Node { dir: TestDir::new(), onion: free_address() }
    }

    /// Returns the listener of each name, with that name.
    fn names(&self) -> [(SocketAddr, &'static str); 2] {
        [(self.dir.address, CLEARNET), (self.onion, ONION)]
    }

    /// Writes the configuration with further keys of `[discovery]`, and a Tor that knows these hosts.
    fn configure(&self, discovery: &str, hosts: &[(&str, SocketAddr)]) -> PathBuf {
        let mut hosts: HashMap<String, SocketAddr> = hosts.iter().map(|(host, at)| ((*host).to_owned(), *at)).collect();
        hosts.insert(ONION.to_owned(), self.onion);
        let (onion, port) = (self.onion, self.dir.address.port());
        self.dir.configure_tcp(&format!(
            "onion_tcp = [\"{onion}\"]\nonion_port = {port}\n\
             [identity]\nhost = \"{CLEARNET}\"\ntcp_port = {port}\nonion_host = \"{ONION}\"\nannounce = true\n\
             [tor]\nmode = \"socks\"\nsocks = \"{}\"\n\
             [discovery]\nallow_private = true\n{discovery}\n\
             [limits]\nsource_requests_per_second = 100000\nrequests_per_second = 100000\n\
             bytes_in_per_second = 100000000\nsessions_per_source = 4\nmax_batch = 20\n",
            start_fake_tor(hosts)
        ))
    }

    /// Starts the node and waits until it lists both names.
    fn start(&self, config: &Path) -> Daemon {
        let daemon = Daemon::start(config);
        for (listener, name) in self.names() {
            wait_until(60, "the own name is listed", || own_entry(&listener.to_string(), name).is_some());
        }
        daemon
    }
}

#[test]
fn both_ingresses_answer_with_the_same_bytes() {
    let node = Node::new();
    let daemon = node.start(&node.configure("seeds = []", &[]));
    let requests = requests();
    for request in &requests {
        let [clearnet, onion] = node.names().map(|(listener, name)| responses(listener, request, name));
        let shown = String::from_utf8_lossy(request.get(..request.len().min(300)).unwrap()).into_owned();
        assert_eq!(clearnet, onion, "{shown}");
    }
    println!("{} requests have the same responses under both names", requests.len());

    // The last session of a source is refused in the same words.
    let circuit = "PROXY TCP6 fc00:dead:beef:4dad::1:2 ::1 65535 42\r\n";
    let refusals = [(node.dir.address, ""), (node.onion, circuit)].map(|(listener, header)| {
        let open: Vec<TcpStream> = (0..5)
            .map(|_| {
                let mut stream = connect(listener);
                stream.write_all(header.as_bytes()).unwrap();
                std::thread::sleep(Duration::from_millis(100));
                stream
            })
            .collect();
        let mut text = String::new();
        open.last().unwrap().read_to_string(&mut text).unwrap();
        text
    });
    assert!(refusals[0].contains("limit of clients"), "{refusals:?}");
    assert_eq!(refusals[0], refusals[1]);
    daemon.stop();
}

#[test]
fn peers_of_both_sides_receive_the_same_requests() {
    let (clearnet, onion) = (ScriptedServer::start(CLEARNET_PEER), ScriptedServer::start(CLEARNET));
    let node = Node::new();
    let port = clearnet.address.port();
    let seeds = format!(
        "seeds = [\"{CLEARNET_PEER} t{port}\", \"{ONION_PEER} t{port}\"]\nrecheck_interval = \"10s\"\ninitial_retry = \"10s\""
    );
    let daemon = Daemon::start(&node.configure(&seeds, &[(ONION_PEER, onion.address)]));
    let announced = |server: &ScriptedServer, own: &str| {
        let visits = server.visits.lock().unwrap().clone();
        let visit = visits.into_iter().find(|visit| visit.contains("server.add_peer"))?;
        Some(visit.replace(own, "OWN"))
    };
    wait_until(90, "both names are announced", || {
        announced(&clearnet, CLEARNET).is_some() && announced(&onion, ONION).is_some()
    });
    let visit = announced(&clearnet, CLEARNET).unwrap();
    assert_eq!(Some(&visit), announced(&onion, ONION).as_ref());
    assert!(visit.contains("OWN"), "{visit}");
    daemon.stop();
}

/// Server that answers as an Electrum server does, and records what each visitor sends.
struct ScriptedServer {
    address: SocketAddr,
    /// Lines of each visit that has ended.
    visits: Arc<Mutex<Vec<String>>>,
}

impl ScriptedServer {
    fn start(ip: &str) -> ScriptedServer {
        let listener = TcpListener::bind((ip, 0)).unwrap();
        let server = ScriptedServer { address: listener.local_addr().unwrap(), visits: Arc::default() };
        let visits = Arc::clone(&server.visits);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let visits = Arc::clone(&visits);
                std::thread::spawn(move || {
                    let visit = serve(&mut stream);
                    visits.lock().unwrap().push(visit);
                });
            }
        });
        server
    }
}

/// Answers a visitor, and returns what it sent.
fn serve(stream: &mut TcpStream) -> String {
    let mut visit = String::new();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or_default() == 0 {
            return visit;
        }
        visit.push_str(&line);
        let request: Value = serde_json::from_str(&line).unwrap();
        let result = match request["method"].as_str().unwrap() {
            "server.version" => json!(["Scripted 1.0", "1.6"]),
            "server.features" => json!({}),
            "server.peers.subscribe" => json!([]),
            "blockchain.headers.subscribe" => json!({ "height": 1000, "hex": "" }),
            "blockchain.block.header" => json!("00"),
            _ => json!(true),
        };
        let response = json!({ "jsonrpc": "2.0", "id": request["id"], "result": result });
        if writeln!(stream, "{response}").is_err() {
            return visit;
        }
    }
}

fn connect(listener: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(listener).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// Sends lines on a connection, and returns the length and text of each response, with the own name replaced.
fn responses(listener: SocketAddr, request: &[u8], name: &str) -> Vec<(usize, String)> {
    let mut stream = connect(listener);
    // A node that ends the session early may not read all.
    let _ = stream.write_all(request);
    let _ = stream.write_all(format!("\n{END}\n").as_bytes());
    let mut lines = Vec::new();
    for line in BufReader::new(stream).split(b'\n') {
        // A session that ends with unread input resets the connection.
        let Ok(line) = line else { break };
        let text = String::from_utf8(line).unwrap();
        let is_end = text.contains("\"end\"");
        // Padding stands before the last bracket, and depends on the length of the name.
        let words = text.trim_end_matches(['}', ']']).trim_end();
        lines.push((
            text.len(),
            format!("{words}{}", text.trim_start_matches(words).trim_start()).replace(name, "NAME"),
        ));
        if is_end {
            break;
        }
    }
    lines
}

/// Requests of all kinds, valid and invalid.
fn requests() -> Vec<Vec<u8>> {
    let methods = [
        "server.version",
        "server.features",
        "server.peers.subscribe",
        "server.add_peer",
        "server.ping",
        "server.banner",
        "server.donation_address",
        "blockchain.headers.subscribe",
        "server.unknown",
    ];
    let params = [
        "",
        r#","params":[]"#,
        r#","params":[1,2,3,4]"#,
        r#","params":{"x":1}"#,
        r#","params":"x""#,
        r#","params":null"#,
    ];
    let mut requests: Vec<String> = Vec::new();
    for method in methods {
        requests.extend(params.map(|params| format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}"{params}}}"#)));
        // Notifications, and version 1 of JSON-RPC.
        requests.push(format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":[]}}"#));
        requests.push(format!(r#"{{"id":"a\u0000b","method":"{method}","params":[]}}"#));
    }
    for versions in
        [r#""1.4""#, r#"["1.4","1.6"]"#, r#""0.9""#, r#""9.9""#, r#"["1.4.2","1.4.2"]"#, r#"["2","1"]"#, "7", r#"[]"#]
    {
        requests.push(format!(r#"{{"id":7,"method":"server.version","params":["client",{versions}]}}"#));
    }
    for hosts in [
        "{}",
        "7",
        r#"{"a b":{"ssl_port":50002}}"#,
        r#"{"new.example":{}}"#,
        r#"{"new.example":{"tcp_port":0}}"#,
        r#"{"new.example":{"tcp_port":22}}"#,
        r#"{"":{"tcp_port":1}}"#,
    ] {
        requests.push(format!(r#"{{"id":7,"method":"server.add_peer","params":[{{"hosts":{hosts}}}]}}"#));
    }
    let features = r#"{"id":1,"method":"server.features"}"#;
    let batch = |count: usize| format!("[{}]", vec![features; count].join(","));
    requests.extend([batch(0), batch(1), batch(2), batch(20), batch(21), batch(300)]);
    requests.extend(
        [
            "x",
            "{",
            "[",
            "null",
            "7",
            "\"x\"",
            "{}",
            "[[]]",
            "[1,{},null]",
            r#"[{"id":1,"method":"server.ping"},1,{"method":"server.ping","jsonrpc":"2.0"}]"#,
            r#"{"id":[1],"method":"server.ping"}"#,
            r#"{"id":{},"method":"server.ping"}"#,
            r#"{"id":1.5e300,"method":"server.ping"}"#,
            r#"{"id":1,"method":7}"#,
            r#"{"id":1}"#,
            r#"{"jsonrpc":"3.0","id":1,"method":"server.ping"}"#,
            r#"{"id":1,"id":2,"method":"server.ping"}"#,
            "",
            "   ",
            "\r",
            "GET / HTTP/1.1\r\nHost: x\r\n\r",
        ]
        .map(str::to_owned),
    );
    requests.push(format!(r#"{{"id":1,"method":"{}"}}"#, "x".repeat(10_000)));
    requests.push(format!(r#"{{"id":1,"method":"server.ping","params":["{}"]}}"#, "x".repeat(20_000)));
    requests.push(format!(r#"{{"id":"{}","method":"server.ping"}}"#, "i".repeat(5_000)));
    requests.push("[".repeat(5_000));
    // Two handshakes on one connection, and a second `server.add_peer`.
    requests.push(
        [
            r#"{"id":1,"method":"server.version","params":["a","1.4"]}"#,
            r#"{"id":2,"method":"server.version","params":["a","1.6"]}"#,
        ]
        .join("\n"),
    );
    requests.push([r#"{"id":1,"method":"server.add_peer","params":[{"hosts":{}}]}"#; 2].join("\n"));
    let mut requests: Vec<Vec<u8>> = requests.into_iter().map(String::into_bytes).collect();
    requests.push(b"\xff\xfe{}".to_vec());
    requests.push(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc".to_vec());
    requests
}
