//! Output of `--json`, compared with contrib/JSON.md.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::{self, OFFLINE, TestDir, binary, free_address, wait_until};
use serde_json::{Value, json};
use waypost::api::{PeerInfo, Status};
use waypost::clock::Time;
use waypost::trends::{NameListing, TrendSample, Trends};

/// Objects whose keys are hosts or periods.
const MAPS: &[&str] = &["backend.sessions", "uptime"];

/// Returns the documented fields of a command.
pub(crate) fn documented(command: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(support::repository("contrib/JSON.md")).unwrap();
    let section = text.split("\n## ").find(|section| section.lines().next() == Some(command)).expect(command);
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    let fields: Vec<(String, Vec<String>)> = rows
        .map(|row| {
            let cells: Vec<String> = row.split('|').map(|cell| cell.trim().to_owned()).collect();
            (cells[0].trim_end_matches('`').to_owned(), cells[1..].to_vec())
        })
        .collect();
    for (field, cells) in &fields {
        assert!(cells.len() == 3 && cells[..2].iter().all(|cell| !cell.is_empty()), "{command}: {field}: {cells:?}");
    }
    let names: BTreeSet<String> = fields.iter().map(|(field, _)| field.clone()).collect();
    assert_eq!(names.len(), fields.len(), "{command} has a field twice");
    names
}

/// Adds the paths of all fields below a value.
fn fields(value: &Value, prefix: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) if !MAPS.contains(&prefix) => {
            for (name, value) in object {
                let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                fields(value, &path, found);
                found.insert(path);
            }
        }
        Value::Array(list) => {
            let path = if prefix.is_empty() { String::new() } else { format!("{prefix}[]") };
            list.iter().for_each(|value| fields(value, &path, found));
        }
        _ => {}
    }
}

pub(crate) fn all_fields(values: &[Value]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    values.iter().for_each(|value| fields(value, "", &mut found));
    found
}

fn assert_documented(command: &str, value: &Value) {
    let unknown: Vec<String> =
        all_fields(std::slice::from_ref(value)).difference(&documented(command)).cloned().collect();
    assert!(unknown.is_empty(), "contrib/JSON.md doesn't have {unknown:?} of {command}");
}

/// Returns statuses with a value in every field. There are two, since the fields of Tor depend on its state.
fn complete_statuses() -> Vec<Value> {
    let tor = [
        json!({ "state": "starting", "percent": 5, "waiting_for": "a relay" }),
        json!({ "state": "down", "since": 1, "reason": "unreachable" }),
    ];
    let clients: BTreeMap<String, Value> = documented("status")
        .iter()
        .filter_map(|field| field.strip_prefix("clients."))
        .filter(|field| !field.starts_with("calls"))
        .map(|field| (field.to_owned(), json!(1)))
        .chain([(
            "calls".to_owned(),
            json!([{ "ingress": "clearnet", "method": "server.ping", "result": "ok", "count": 1 }]),
        )])
        .collect();
    tor.into_iter()
        .map(|tor| {
            let status: Status = serde_json::from_value(json!({
                "version": "0.1.0", "network": "regtest", "uptime_secs": 1, "tor": tor, "tor_since": 1, "network_down": false,
                "tor_source": { "kind": "socks", "addresses": ["127.0.0.1:9050"], "until": 1, "clearnet": "allowed", "shares_circuits": false },
                "clearnet_blocked": "x", "onion_error": { "stage": "launch", "reason": "x" },
                "onion": { "host": "x.onion", "port": 1, "restricted": false, "tls_port": 2, "tls_error": "x", "last_reached": 1, "failures": 1, "error": "x", "listed_by": 1, "peers_of_its_kind": 1 },
                "clearnet": {
                    "host": "a.example", "tcp_port": 1, "ssl_port": 2, "ws_port": 3, "wss_port": 4, "address": "5.9.0.9", "via": "tor", "last_reached": 1,
                    "failures": 1, "error": "x", "warnings": ["x"], "listed_by": 1, "peers_of_its_kind": 1,
                },
                "other_names": [{
                    "host": "b.example", "tcp_port": 1, "ssl_port": 2, "ws_port": 3, "wss_port": 4, "address": "5.9.0.9", "via": "tor", "last_reached": 1,
                    "failures": 1, "error": "x", "warnings": ["x"], "listed_by": 1, "peers_of_its_kind": 1,
                }],
                "listeners": ["tcp://127.0.0.1:1"], "page": "http://127.0.0.1:1",
                "backend": {
                    "electrum": "peers", "error": "x", "software": "x", "tip": 1, "blocks_behind": 1,
                    "servers": [{ "address": "tcp://a.example:1", "error": "x", "tip": 1, "sessions": 1 }],
                    "sessions": { "a.example": 1 }, "checks_agreed": 1, "checks_differed": 1,
                },
                "chain": {
                    "height": 1, "hash": "00", "log2_work": 1.5, "tip_time": 1, "level": 1, "ahead": 1, "behind": 1,
                    "less_work": 1,
                },
                "irc": {
                    "server": "irc.example:6697", "last": 1, "error": "x", "next": 1,
                    "found": 1, "cut_off": 1, "control_codes": 1, "unreadable": 1,
                },
                "ban_lists": [{
                    "path": "/bans", "own": true, "format": "text", "patterns": 1, "skipped": 1, "last_read": 1, "signed": 1,
                    "error": "x",
                }],
                "peers": {
                    "verified": 1, "stale": 1, "candidate": 1, "bad": 1, "verified_onion": 1, "stale_onion": 1,
                    "candidate_onion": 1, "bad_onion": 1, "probing": 1,
                },
                "onion_side": {
                    "verified": 1, "stale": 1, "candidate": 1, "bad": 1, "verified_onion": 1, "stale_onion": 1,
                    "candidate_onion": 1, "bad_onion": 1, "probing": 1,
                },
                "next_probe": 1,
                "store": { "failing": false, "pending": 1, "batches": 1, "bytes": 1 },
                "clients": clients,
            }))
            .unwrap();
            json!(status)
        })
        .collect()
}

#[test]
fn complete_status_has_exactly_documented_fields() {
    assert_eq!(all_fields(&complete_statuses()), documented("status"));
}

#[test]
fn complete_peer_has_exactly_documented_fields() {
    let row: PeerInfo = serde_json::from_value(json!({
        "host": "a.example", "side": "both", "state": "verified", "ip": "192.0.2.1", "tcp_port": 1, "ssl_port": 2, "ws_port": 3,
        "wss_port": 4, "protocol": "1.4",
        "pruning": 1, "software": "x", "genesis_hash": "00", "key": "00", "key_since": 1, "key_changes": 1, "tip": 1,
        "lists": [{ "host": "x", "tcp_port": 1, "ssl_port": 2, "ws_port": 3, "wss_port": 4, "since": 1 }],
        "announcement_accepted": true, "source": "seed", "self_reported": true, "first_seen": 1, "last_try": 1, "last_success": 1, "next_try": 1,
        "waiting_for": "x",
        "failures": 1, "error": "x", "latency_ms": 1, "uptime": { "1w": 0.5 }, "history": [true],
    }))
    .unwrap();
    assert_eq!(all_fields(&[json!([row])]), documented("peers"));
}

#[test]
fn complete_trends_have_exactly_documented_fields() {
    let name = Some(NameListing { listed_by: 1, peers_of_its_kind: 2 });
    let at = Time::from_secs(1);
    let mut trends = Trends::default();
    trends.record(TrendSample { at, verified_clearnet: 2, verified_onion: 2, clearnet_name: name, onion_name: name });
    assert_eq!(all_fields(&[json!({ "samples": trends })]), documented("/trends.json"));
}

#[test]
fn json_of_every_command_is_documented() {
    let (dir, tls) = (TestDir::new(), free_address());
    let tcp = dir.address;
    dir.configure_tcp(&format!(
        "tls = [\"{tls}\"]\n[identity]\nhost = \"127.0.0.1\"\ntcp_port = {}\nssl_port = {}\n{OFFLINE}allow_private = true\n",
        tcp.port(),
        tls.port(),
    ));
    let daemon = dir.start();
    let run_json = |command: &str, args: &[&str]| -> Value {
        let output = daemon.waypost(&[&[command, "--json"], args].concat());
        let value: Value = serde_json::from_str(&output).unwrap_or_else(|error| panic!("{command}: {error}: {output}"));
        assert_documented(command, &value);
        value
    };
    wait_until(20, "the own name was reached", || run_json("status", &[])["clearnet"]["last_reached"].is_u64());

    let probed = run_json("probe", &["127.0.0.1", "--tls", &tls.port().to_string()]);
    assert_eq!((&probed["outcome"], &probed["reason"]), (&json!("verified"), &Value::Null));
    assert_eq!((&probed["facts"]["port"], &probed["facts"]["tcp_port"]), (&json!(tls.port()), &json!(tcp.port())));
    assert_eq!(probed["facts"]["key"].as_str().unwrap().len(), 64);
    assert_eq!(all_fields(&[probed]), documented("probe"), "every documented field is printed");

    let examined = run_json("doctor", &[]);
    assert_eq!(all_fields(&[examined]), documented("doctor"), "every documented field is printed");

    let peer = format!("127.0.0.2 t{}", tcp.port());
    assert_eq!(run_json("add", &[&peer]), json!({ "added": peer }));
    wait_until(20, "the peer is tried", || {
        let peers = run_json("peers", &[]);
        let mut expected = documented("peers");
        expected.retain(|field| !field.starts_with("lists[]"));
        assert_eq!(all_fields(std::slice::from_ref(&peers)), expected, "this peer lists no own name");
        peers[0]["error"].is_string()
    });
    assert_eq!(run_json("forget", &["127.0.0.2"]), json!({ "forgotten": "127.0.0.2" }));
    assert_eq!(run_json("ban", &["*.example.org"]), json!({ "banned": "*.example.org", "new": true }));
    assert_eq!(run_json("ban", &["*.Example.org"]), json!({ "banned": "*.example.org", "new": false }));
    assert_eq!(run_json("unban", &["*.example.org"]), json!({ "unbanned": "*.example.org", "still_banned_by": [] }));
    let bans = run_json("bans", &["a.example"]);
    assert_eq!((&bans["banned"], bans["lists"].as_array().unwrap().len()), (&json!(false), 1));
    assert_eq!(all_fields(&[bans]), documented("bans"), "every documented field is printed");
    assert_eq!(run_json("bans", &[])["banned"], Value::Null);
    daemon.stop();
}

#[test]
fn failed_probe_reports_reason_on_stdout_and_stderr() {
    let dir = TestDir::new();
    let args = ["probe", "127.0.0.1", "--tcp", &dir.address.port().to_string(), "--json", "--config"];
    let output = binary(&args).arg(dir.configure(OFFLINE)).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_documented("probe", &result);
    let reason = result["reason"].as_str().unwrap();
    assert!(result["outcome"] == "failed" && reason.contains("refused") && reason.contains("--tcp"), "{result}");
    assert_eq!(String::from_utf8(output.stderr).unwrap(), format!("waypost: {reason}\n"));
}

#[test]
fn check_config_json_equals_toml() {
    let dir = TestDir::new();
    let config = dir.configure("[discovery]\nseeds = []\n");
    let (text, ok) = support::waypost(&config, &["check-config", "--json"]);
    let (written, _) = support::waypost(&config, &["check-config"]);
    let json: Value = serde_json::from_str(&text).unwrap();
    assert!(ok && json["discovery"]["recheck_interval"] == "1day", "{text}");
    assert_eq!(json, serde_json::to_value(toml::from_str::<toml::Table>(&written).unwrap()).unwrap());
}

#[test]
#[cfg(feature = "embedded-tor")]
fn onion_address_json_is_documented() {
    let dir = TestDir::new();
    let config = dir.configure("");
    let key = [b"== ed25519v1-secret: type0 ==\0\0\0".as_slice(), &[64; 64]].concat();
    let file = dir.path("hs_ed25519_secret_key");
    std::fs::write(&file, key).unwrap();
    let exported = dir.path("exported");
    for (args, done) in [
        (["--import", file.to_str().unwrap()].as_slice(), "imported"),
        (&[], ""),
        (&["--export", exported.to_str().unwrap()], "exported"),
        (&["--new", "--replace"], "created"),
    ] {
        let (text, ok) = support::waypost(&config, &[&["onion-address", "--json"], args].concat());
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_documented("onion-address", &value);
        assert!(ok && value["onion_address"].as_str().unwrap().ends_with(".onion"), "{text}");
        for action in ["imported", "exported", "created"] {
            assert_eq!(value[action], action == done, "{args:?}");
        }
    }
}
