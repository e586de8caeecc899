use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::Value;

use super::*;
use crate::chain::Chain;
use crate::electrum::identity::{DEFAULT_BANNER, Identity};
use crate::jsonrpc::{MAX_BATCH_CALLS, USER_AGENT, parse_line};

fn session(ingress: Ingress) -> Responder {
    let name = |host: &str| Some((host.parse().unwrap(), Chain::BITCOIN.default_ports));
    let onion = "explorerzydxu5ecjrkwceayqybizmpjjznk5izmitf2modhcusuqlid.onion";
    let identity = Identity { clearnet: name("wp.example"), onion: name(onion), ..Identity::default() };
    Responder::new(Arc::new(LocalIdentity::new(identity)), ingress, false)
}

/// Returns the response to a line, and whether the connection is closed.
fn handle(session: &mut Responder, line: &str) -> (Value, bool) {
    let mut rng = StdRng::seed_from_u64(1);
    let result =
        session.handle_line(parse_line(line), MAX_BATCH_CALLS, &Snapshot::default(), Time::default(), &mut rng);
    let answers = result.parts.iter().filter_map(|part| match part {
        ReplyPart::Ready(answer) => Some(answer.clone()),
        ReplyPart::AddPeer(pending) => pending.answer(true),
        ReplyPart::Forward(_) => None,
    });
    let value = match encode_line(answers, result.batch) {
        Some(line) => {
            assert!(line.len().is_power_of_two(), "{}", line.len());
            serde_json::from_slice(&line.to_vec()).unwrap()
        }
        None => Value::Null,
    };
    (value, result.close)
}

fn result(line: &str) -> Value {
    handle(&mut session(Ingress::Clearnet), line).0["result"].take()
}

#[test]
fn version_reply_follows_the_negotiated_protocol() {
    let ask = |params: &str| result(&format!(r#"{{"id":1,"method":"server.version","params":{params}}}"#));
    for first_protocol in ["0.9", "0.10", "1.0"] {
        assert_eq!(ask(&format!(r#"["x","{first_protocol}"]"#)), json!(USER_AGENT));
    }
    assert_eq!(ask(r#"["x","1.1"]"#), json!([USER_AGENT, "1.1"]));
    assert_eq!(ask(r#"["x",["1.4","1.6"]]"#), json!([USER_AGENT, "1.6"]));
    assert_eq!(ask(r#"["x",["1.4","1.8"]]"#), json!([USER_AGENT, "1.7"]));
}

#[test]
fn ping_returns_the_requested_length_since_protocol_1_7() {
    let ping = |version: Option<&str>, params: &str| {
        let mut session = session(Ingress::Clearnet);
        if let Some(version) = version {
            let line = format!(r#"{{"id":1,"method":"server.version","params":["x","{version}"]}}"#);
            assert_eq!(handle(&mut session, &line).0["result"][1], version);
        }
        handle(&mut session, &format!(r#"{{"jsonrpc":"2.0","id":1,"method":"server.ping","params":{params}}}"#)).0
    };
    for version in [None, Some("1.4"), Some("1.6")] {
        assert_eq!(ping(version, "[]")["result"], Value::Null);
        assert_eq!(ping(version, "[\"x\"]"), json!({"jsonrpc": "2.0", "id": 1, "result": null}));
    }
    for version in [Some("1.7"), Some("1.7.0")] {
        assert_eq!(ping(version, "[]")["result"], json!({"data": ""}));
        assert_eq!(ping(version, r#"[5,"ab"]"#)["result"], json!({"data": "00000"}));
        let longest = ping(version, r#"{"pong_len":1000000}"#);
        assert_eq!(longest["result"]["data"].as_str().unwrap(), "0".repeat(1_000_000));
        assert_eq!(ping(version, "[1000001]")["error"]["code"], -32602);
        assert_eq!(ping(version, "[\"x\"]")["error"]["code"], -32602);
    }
}

#[test]
fn ping_notification_gets_no_response() {
    let mut session = session(Ingress::Clearnet);
    handle(&mut session, r#"{"id":1,"method":"server.version","params":["x","1.7"]}"#);
    for params in ["[]", r#"["abcd"]"#, r#"{"data":"ab"}"#] {
        let line = format!(r#"{{"jsonrpc":"2.0","method":"server.ping","params":{params}}}"#);
        let mut rng = StdRng::seed_from_u64(1);
        let result =
            session.handle_line(parse_line(&line), MAX_BATCH_CALLS, &Snapshot::default(), Time::default(), &mut rng);
        assert!(result.parts.is_empty() && !result.close);
        assert_eq!(result.calls[..], [(Method::Ping, CallOutcome::Ok)]);
    }
}

#[test]
fn batch_of_long_pings_stays_within_the_budget() {
    let mut session = session(Ingress::Clearnet);
    handle(&mut session, r#"{"id":1,"method":"server.version","params":["x","1.7"]}"#);
    let line = format!("[{}]", [r#"{"id":1,"method":"server.ping","params":[300000]}"#; 20].join(","));
    let (answer, _) = handle(&mut session, &line);
    let answered = answer.as_array().unwrap().iter().filter(|answer| answer["error"].is_null()).count();
    assert_eq!(answered, 2);
}

#[test]
fn missing_common_version_closes_the_connection() {
    let line = r#"{"id":1,"method":"server.version","params":["x","2.0"]}"#;
    let (answer, close) = handle(&mut session(Ingress::Clearnet), line);
    assert_eq!((answer["error"]["code"].as_i64(), close), (Some(1), true));
}

#[test]
fn repeated_version_request_is_an_error_since_protocol_1_4() {
    let ask = |version: &str| format!(r#"{{"id":1,"method":"server.version","params":["x","{version}"]}}"#);
    for first in ["1.4", "1.4.2", "1.7"] {
        let mut session = session(Ingress::Clearnet);
        assert_eq!(handle(&mut session, &ask(first)).0["result"][1], first);
        for second in [first, "1.2"] {
            let (answer, close) = handle(&mut session, &ask(second));
            assert_eq!((answer["error"]["code"].as_i64(), close), (Some(1), false), "{answer}");
        }
        assert!(handle(&mut session, r#"{"id":1,"method":"server.features"}"#).0["result"].is_object());
    }
    let mut old = session(Ingress::Clearnet);
    assert_eq!(handle(&mut old, &ask("1.2")).0["result"][1], "1.2");
    assert_eq!(handle(&mut old, &ask("1.4")).0["result"][1], "1.2", "it keeps the connection open");
    let mut forwarding = session(Ingress::Clearnet);
    assert_eq!(forwarding.upstream_version(), "1.4");
    assert_eq!(handle(&mut forwarding, &ask("1.4")).0["result"][1], "1.4", "the client's first request");
}

#[test]
fn features_contain_only_the_ingress_identity() {
    let line = r#"{"jsonrpc":"2.0","id":"a","method":"server.features"}"#;
    let (clearnet, _) = handle(&mut session(Ingress::Clearnet), line);
    let (onion, _) = handle(&mut session(Ingress::Onion), line);
    assert_eq!(clearnet["result"]["hosts"]["wp.example"], json!({"tcp_port": 50001, "ssl_port": 50002}));
    assert!(!clearnet.to_string().contains(".onion"));
    assert!(!onion.to_string().contains("wp.example"));
    assert_eq!(clearnet["result"]["hash_function"], "sha256");
    assert_eq!(clearnet["result"]["pruning"], Value::Null);
}

#[test]
fn operator_text_is_withheld_from_onion_clients() {
    let named = session(Ingress::Onion).local_identity.identity.clone();
    let identity = Identity { banner: Some("mine".to_owned()), donation_address: Some("bc1q".to_owned()), ..named };
    let ask = |identity: Identity, ingress, method: &str| {
        let mut session = Responder::new(Arc::new(LocalIdentity::new(identity)), ingress, false);
        handle(&mut session, &format!(r#"{{"id":1,"method":"{method}"}}"#)).0["result"].take()
    };
    assert_eq!(ask(identity.clone(), Ingress::Clearnet, "server.banner"), "mine");
    assert_eq!(ask(identity.clone(), Ingress::Onion, "server.banner"), DEFAULT_BANNER);
    assert_eq!(ask(identity.clone(), Ingress::Onion, "server.donation_address"), "");
    let onion_only = Identity { clearnet: None, ..identity.clone() };
    assert_eq!(ask(onion_only, Ingress::Onion, "server.donation_address"), "bc1q");
    let linked = Identity { link_identities: true, ..identity };
    assert_eq!(ask(linked.clone(), Ingress::Onion, "server.banner"), "mine");
    assert_eq!(ask(linked, Ingress::Onion, "server.features")["hosts"].as_object().unwrap().len(), 2);
}

#[test]
fn batch_is_answered_in_order() {
    let line = r#"[{"id":1,"method":"server.ping"},{"jsonrpc":"2.0","method":"server.ping"},7,
        {"jsonrpc":"2.0","id":2,"method":"nope"},{"id":3,"method":"server.add_peer","params":[{}]}]"#;
    let (answer, close) = handle(&mut session(Ingress::Clearnet), &line.replace('\n', ""));
    assert!(!close);
    let list = answer.as_array().unwrap();
    let codes: Vec<Option<i64>> = list.iter().map(|answer| answer["error"]["code"].as_i64()).collect();
    assert_eq!(codes, [None, Some(-32600), Some(-32601), None]);
    assert_eq!(list[3], json!({"error": null, "result": true, "id": 3}));
}

#[test]
fn batch_over_the_length_budget_gets_errors() {
    let mut session = session(Ingress::Clearnet);
    let identity = Identity { banner: Some("x".repeat(MAX_BATCH_RESPONSE_BYTES / 4)), ..Identity::default() };
    session.local_identity = Arc::new(LocalIdentity::new(identity));
    let line = format!("[{}]", [r#"{"id":1,"method":"server.banner"}"#; 9].join(","));
    let (answer, _) = handle(&mut session, &line);
    let codes = answer.as_array().unwrap().iter().map(|answer| answer["error"]["code"].as_i64());
    assert_eq!(codes.flatten().collect::<Vec<_>>(), [-32600; 5]);
}

#[test]
fn second_add_peer_is_refused() {
    let mut session = session(Ingress::Clearnet);
    let line = r#"{"id":1,"method":"server.add_peer","params":[{}]}"#;
    assert_eq!(handle(&mut session, line).0["result"], true);
    assert_eq!(handle(&mut session, line).0["result"], false);
}

#[test]
fn malformed_line_closes_the_connection() {
    for line in ["", "{", "[]", "nonsense"] {
        let (answer, close) = handle(&mut session(Ingress::Clearnet), line);
        assert!(close && answer["error"]["code"].is_i64(), "{line}");
    }
    let notification = r#"{"jsonrpc":"2.0","method":"server.ping"}"#;
    assert_eq!(handle(&mut session(Ingress::Clearnet), notification), (Value::Null, false));
}

proptest! {
    #[test]
    fn arbitrary_line_never_panics(line in "\\PC{0,80}|[\\[\\]{}\",:a-z0-9. ]{0,120}") {
        let _ = handle(&mut session(Ingress::Onion), &line);
    }
}
