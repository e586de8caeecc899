//! Protocol versions of a backend: what clients are told, and what the backend then speaks.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};

use serde_json::{Value, json};

use crate::support::{self, Daemon, OFFLINE, TestClient, TestDir, start_electrumx, wait_until};

const EX1: &str = "5.9.0.1:51001";

/// Opens a session and negotiates. Returns it with the result of `server.version`.
fn negotiate(server: &str, version: &Value) -> (TestClient, Value) {
    let mut client = TestClient::connect(server);
    let result = request(&mut client, "server.version", &json!(["test", version]))["result"].take();
    (client, result)
}

fn request(client: &mut TestClient, method: &str, params: &Value) -> Value {
    client.request(&json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string())
}

/// Waits until the backend was polled, so that its versions are known.
fn wait_for_backend(daemon: &Daemon) {
    wait_until(60, "the backend is known", || daemon.status()["backend"]["software"].is_string());
}

#[test]
fn electrumx_speaks_protocol_1_7_through_waypost() {
    if !support::in_namespace(electrumx_speaks_protocol_1_7_through_waypost, &[]) {
        return;
    }
    let dir = TestDir::new();
    start_electrumx(
        &dir.path("ex"),
        &["ex1", "5.9.0.1", "tcp://ex1.example.com:51001", "PEER_DISCOVERY=off", "PEER_ANNOUNCE="],
    );
    dir.configure_tcp(&format!("{OFFLINE}[backend]\nelectrum = \"tcp://{EX1}\"\n"));
    let daemon = dir.start();
    wait_for_backend(&daemon);
    let waypost = dir.address.to_string();

    for (range, negotiated) in [
        (json!(["1.4", "1.7"]), "1.7"),
        (json!(["1.4", "1.7.0"]), "1.7.0"),
        (json!(["1.4", "1.9"]), "1.7.0"),
        (json!(["1.4", "1.6"]), "1.6"),
        (json!("1.4"), "1.4"),
    ] {
        let (mut client, version) = negotiate(&waypost, &range);
        let (mut direct, expected) = negotiate(EX1, &range);
        assert_eq!((&version[1], &expected[1]), (&json!(negotiated), &json!(negotiated)), "{range}");
        let [features, expected_features] =
            [&mut client, &mut direct].map(|client| request(client, "server.features", &json!([]))["result"].take());
        assert_eq!(features["protocol_max"], expected_features["protocol_max"]);
        assert_eq!(features["protocol_min"], expected_features["protocol_min"]);
        assert_eq!(features["server_version"], version[0]);
        let software = version[0].as_str().unwrap();
        assert!(software.starts_with(expected[0].as_str().unwrap()) && software.contains("Waypost"), "{software}");
        // The pings before the first forwarded request are Waypost's, later ones the backend's.
        for _ in 0..2 {
            for params in [json!([]), json!([5]), json!([300, "abcd"]), json!([100_000])] {
                let [pong, expected] =
                    [&mut client, &mut direct].map(|client| request(client, "server.ping", &params)["result"].take());
                assert_eq!(pong, expected, "{range}: {params}");
                assert_eq!(pong.is_null(), negotiated.starts_with("1.4") || negotiated.starts_with("1.6"));
            }
            // A notification has no response, so the next line answers the next request.
            client.send("{\"jsonrpc\":\"2.0\",\"method\":\"server.ping\",\"params\":[\"abcd\"]}\n");
            let [tip, expected] = [&mut client, &mut direct]
                .map(|client| request(client, "blockchain.headers.subscribe", &json!([]))["result"].take());
            assert_eq!(tip, expected);
        }
    }
    // Methods of protocol 1.7 reach the backend only from clients that negotiated it.
    let script = json!(["51"]);
    let (mut new, _) = negotiate(&waypost, &json!("1.7"));
    assert!(request(&mut new, "blockchain.scriptpubkey.get_balance", &script)["result"].is_object());
    let (mut old, _) = negotiate(&waypost, &json!("1.6"));
    assert_eq!(request(&mut old, "blockchain.scriptpubkey.get_balance", &script)["error"]["code"], -32601);
    daemon.stop();
}

/// Starts a server of protocol 1.4 that closes the connection at `server.features`, or never answers it.
fn start_server_without_features(closes: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || serve_without_features(&stream.unwrap(), closes));
        }
    });
    address
}

fn serve_without_features(stream: &TcpStream, closes: bool) -> Option<()> {
    let mut stream_out = stream;
    for line in BufReader::new(stream).lines() {
        let request: Value = serde_json::from_str(&line.ok()?).ok()?;
        let result = match request["method"].as_str()? {
            "server.version" => json!(["electrs-esplora 0.4.1", "1.4"]),
            "server.features" if closes => return None,
            "server.features" => continue,
            "server.peers.subscribe" => json!([]),
            "blockchain.headers.subscribe" => json!({ "height": 7, "hex": "00" }),
            method => json!(method),
        };
        writeln!(stream_out, "{}", json!({ "jsonrpc": "2.0", "id": request["id"], "result": result })).ok()?;
    }
    None
}

#[test]
fn server_without_features_is_a_backend_of_the_negotiated_version() {
    let started = [true, false].map(|closes| {
        let (dir, backend) = (TestDir::new(), start_server_without_features(closes));
        dir.configure_tcp(&format!("{OFFLINE}[backend]\nelectrum = \"tcp://{backend}\"\n"));
        let daemon = dir.start();
        // Before the first poll has ended, clients get no more than any server speaks.
        let (_, version) = negotiate(&dir.address.to_string(), &json!(["1.4", "1.7"]));
        assert_eq!(version[1], "1.4");
        (dir, daemon)
    });
    for (dir, daemon) in started {
        wait_for_backend(&daemon);
        assert_eq!(daemon.status()["backend"]["error"], Value::Null);
        let (mut client, version) = negotiate(&dir.address.to_string(), &json!(["1.2", "1.7"]));
        assert!(version[0].as_str().unwrap().starts_with("electrs-esplora 0.4.1-Waypost-"), "{version}");
        assert_eq!(version[1], "1.4");
        let features = request(&mut client, "server.features", &json!([]));
        assert_eq!(features["result"]["protocol_max"], "1.4");
        assert_eq!(request(&mut client, "blockchain.estimatefee", &json!([6]))["result"], "blockchain.estimatefee");
        daemon.stop();
    }
}
