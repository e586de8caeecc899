//! Responses of a daemon, for tests of the output.

use serde_json::json;

use crate::api::{PeerInfo, PortNumbers, Status};
use crate::book::{PeerState, Side};
use crate::clock::Time;

/// Onion name of 62 characters.
pub(super) const ONION: &str = "explorerzydxu5ecjrkwceayqybizmpjjznk5izmitf2modhcusuqlid.onion";

/// Returns a peer with typical values.
pub(super) fn row(host: &str, state: PeerState, last_success: Option<Time>) -> PeerInfo {
    PeerInfo {
        host: host.to_owned(),
        side: Side::Both,
        state,
        ip: None,
        ports: PortNumbers { tcp_port: Some(50001), ssl_port: Some(50002), ..PortNumbers::default() },
        protocol: Some("1.4.2".to_owned()),
        pruning: None,
        software: Some("ElectrumX 1.16.0".to_owned()),
        genesis_hash: None,
        key: None,
        key_since: None,
        key_changes: 0,
        tip: None,
        lists: Vec::new(),
        announcement_accepted: None,
        source: "seed".to_owned(),
        self_reported: true,
        first_seen: Time::default(),
        last_try: None,
        last_success,
        next_try: Time::default(),
        waiting_for: None,
        failures: 0,
        error: (state == PeerState::Bad).then(|| "it serves another chain".to_owned()),
        latency_ms: Some(87),
        uptime: [("1w".to_owned(), 0.987)].into(),
        history: vec![true],
    }
}

/// Returns a status with every optional field set.
pub(super) fn status() -> Status {
    let tor_source = json!({ "kind": "socks", "addresses": ["127.0.0.1:9050"], "until": null, "clearnet": "onion_only", "shares_circuits": false });
    let onion_error = json!({ "stage": "launch", "reason": "its key can't be read" });
    let clients = json!({
        "open_sessions": 2, "memory_bytes": 0, "sessions": 40, "sessions_onion": 3, "requests": 99, "forwarded_requests": 0,
        "backend_failures": 0, "refused_full": 0, "refused_source": 7, "refused_banned": 0, "evicted": 0,
        "out_of_memory": 0,
        "failed_handshakes": 0, "missing_proxy_headers": 0, "unexpected_proxy_headers": 0,
        "delayed_requests": 0, "rate_limited_requests": 3, "rate_limited_bytes": 0,
        "malformed_lines": 0, "slow": 0, "idle": 1, "panicked_sessions": 0,
        "calls": [{ "ingress": "onion", "method": "server.ping", "result": "ok", "count": 3 }],
    });
    let all = json!({
        "version": "0.1.0",
        "network": "signet",
        "uptime_secs": 3720,
        "tor": { "state": "starting", "percent": null, "waiting_for": "the first answer of an onion service" },
        "tor_since": null,
        "tor_source": tor_source,
        "clearnet_blocked": "Tor's SOCKS port accepts onion services only",
        "network_down": true,
        "onion": {
            "host": ONION, "port": 50001, "restricted": false, "tls_port": 50002, "tls_error": null, "last_reached": null, "failures": 3, "error": "its onion service wasn't found",
            "listed_by": 0, "peers_of_its_kind": 0,
        },
        "onion_error": onion_error,
        "clearnet": {
            "host": "wp.example.org", "tcp_port": 50001, "ssl_port": null, "ws_port": null, "wss_port": 50004, "address": null, "via": null, "last_reached": null,
            "failures": 2, "error": "the name means 127.0.1.1 on this machine, which isn't public", "warnings": [],
            "listed_by": 31, "peers_of_its_kind": 42,
        },
        "other_names": [{
            "host": "b.example.net", "tcp_port": null, "ssl_port": 50002, "ws_port": null, "wss_port": null, "address": null, "via": null,
            "last_reached": null, "failures": 0, "error": null, "warnings": ["the name is tested once Tor is available"],
            "listed_by": 0, "peers_of_its_kind": 42,
        }],
        "listeners": ["tcp://127.0.0.1:50001"],
        "page": "http://127.0.0.1:4280",
        "backend": {
            "electrum": "peers", "error": null, "software": null, "tip": 975_000, "blocks_behind": 6,
            "servers": [{ "address": "tcp://127.0.0.1:60001", "error": "timeout", "tip": 975_000, "sessions": 1 }],
            "sessions": { "a.example": 2 }, "checks_agreed": 5, "checks_differed": 1,
        },
        "chain": {
            "height": 975_006, "hash": "00", "log2_work": 93.25, "tip_time": 4_102_444_800_000_u64, "level": 40, "ahead": 1, "behind": 2,
            "less_work": 3,
        },
        "irc": {
            "server": "irc.example:6697", "last": null, "error": null, "next": null,
            "found": 2, "cut_off": 1, "control_codes": 0, "unreadable": 0,
        },
        "ban_lists": [
            {
                "path": "/d/bans", "own": true, "format": "text", "patterns": 3, "skipped": 0, "last_read": 4_102_444_800_000_u64,
                "signed": null, "error": null,
            },
            {
                "path": "/d/list.json", "own": false, "format": "json", "patterns": 40, "skipped": 2, "last_read": 4_102_444_800_000_u64,
                "signed": 4_102_444_800_000_u64, "error": "/d/list.json: its signature is missing",
            },
        ],
        "peers": {
            "verified": 12, "stale": 1, "candidate": 3, "bad": 2, "verified_onion": 4, "stale_onion": 0,
            "candidate_onion": 1, "bad_onion": 0, "probing": 5,
        },
        "next_probe": 0,
        "store": { "failing": false, "pending": 0, "batches": 7, "bytes": 90_000 },
        "clients": clients,
    });
    serde_json::from_value(all).unwrap()
}
