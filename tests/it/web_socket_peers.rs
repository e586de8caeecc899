//! WebSockets of real servers: ElectrumX and another Waypost.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::{self, Daemon, TestDir, own_entry, start_electrumx, wait_until};

const EX1: &str = "ex1.example.com";
const WAYPOST: &str = "wp.example.com";

#[test]
fn web_sockets_of_electrumx_and_waypost_are_verified_listed_and_exported() {
    if !support::in_namespace(web_sockets_of_electrumx_and_waypost_are_verified_listed_and_exported, &[]) {
        return;
    }
    let dir = TestDir::new();
    let services = |host: &str| {
        let of = |(scheme, port)| format!("{scheme}://{host}:{port}");
        [("tcp", 51001), ("ssl", 51002), ("ws", 51003), ("wss", 51004)].map(of).join(",")
    };
    let served = format!("SERVICES={}", services("5.9.0.1"));
    start_electrumx(
        &dir.path("ex"),
        &["ex1", "5.9.0.1", &services(EX1), &served, "PEER_DISCOVERY=off", "PEER_ANNOUNCE="],
    );
    let peer = Daemon::start(&configure_peer(&dir));
    let listed = |address: &str, host: &str| own_entry(address, host).map_or(Value::Null, |entry| entry[2].clone());
    wait_until(20, "the own name is listed with its WebSockets", || {
        listed("5.9.0.9:50001", WAYPOST) == json!(["v1.7", "s50002", "t50001", "wss50004", "ws50003"])
    });
    let own = &peer.status()["clearnet"];
    assert_eq!((&own["wss_port"], &own["warnings"]), (&json!(50004), &json!([])));

    let seeds = format!("\"{EX1} s51002 t51001\", \"{WAYPOST} s50002 t50001 ws9\"");
    dir.configure_tcp(&format!("[tor]\nmode = \"off\"\n[discovery]\nseeds = [{seeds}]\n"));
    let daemon = dir.start();
    for (host, tokens) in [
        (EX1, json!(["v1.7.0", "s51002", "t51001", "wss51004", "ws51003"])),
        (WAYPOST, json!(["v1.7", "s50002", "t50001", "wss50004", "ws50003"])),
    ] {
        wait_until(90, "the peer is listed with its WebSockets", || {
            listed(&dir.address.to_string(), host)[4].is_string()
                && listed(&dir.address.to_string(), host)[2].is_string()
        });
        assert_eq!(listed(&dir.address.to_string(), host), tokens, "{host}");
    }
    let exported = daemon.waypost(&["export", "--format", "realname"]);
    assert!(exported.contains("ex1.example.com v1.7.0 s51002 t51001 wss51004 ws51003"), "{exported}");
    let probed = daemon.waypost(&["probe", EX1, "--tls", "51002", "--wss", "51004", "--ws", "9"]);
    assert!(probed.contains("WebSocket wss51004\n"), "{probed}");

    peer.stop();
    daemon.stop();
}

/// Writes the configuration of a Waypost with WebSockets under a public name.
fn configure_peer(dir: &TestDir) -> PathBuf {
    let listen = [("tcp", 50001), ("tls", 50002), ("ws", 50003), ("wss", 50004)];
    let listen = listen.map(|(kind, port)| format!("{kind} = [\"5.9.0.9:{port}\"]\n")).concat();
    let identity = "tcp_port = 50001\nssl_port = 50002\nws_port = 50003\nwss_port = 50004\n";
    let sections = format!(
        "[listen]\n{listen}[identity]\nhost = \"{WAYPOST}\"\n{identity}[tor]\nmode = \"off\"\n[discovery]\nseeds = []\n"
    );
    dir.configure_named("peer", &sections)
}
