//! Batches whose responses are long, out of order, or mixed with other lines.

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::tests::{TestClient, connect_to_script};
use crate::server::Limits;

const LONG: usize = 400_000;

/// Reads `count` requests and answers them in reverse order, then all others as they come.
///
/// The method `long` has a long result. The id comes last in each response.
async fn reversed(stream: UnixStream, count: usize) {
    let mut stream = BufReader::new(stream);
    let mut calls: Vec<Value> = Vec::new();
    let (mut line, mut first) = (String::new(), true);
    while stream.read_line(&mut line).await.is_ok_and(|read| read > 0) {
        let call: Value = serde_json::from_str(&line).unwrap();
        line.clear();
        if call["method"] == "server.version" {
            let answer = format!("{{\"result\":[\"x\",\"1.4\"],\"id\":{}}}\n", call["id"]);
            stream.get_mut().write_all(answer.as_bytes()).await.unwrap();
            continue;
        }
        calls.push(call);
        if first && calls.len() < count {
            continue;
        }
        first = false;
        for call in calls.drain(..).rev() {
            let result = if call["method"] == "long" { "x".repeat(LONG) } else { call["method"].to_string() };
            let answer = format!("{{\"result\":{},\"error\":null,\"id\":{}}}\n", json!(result), call["id"]);
            let note = "{\"method\":\"note\",\"params\":[]}\n";
            if stream.get_mut().write_all(format!("{note}{answer}").as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

fn batch_of(methods: &[&str]) -> String {
    let calls: Vec<Value> =
        methods.iter().enumerate().map(|(id, method)| json!({"id": id, "method": method})).collect();
    format!("{}\n", json!(calls))
}

async fn receive_batch(client: &mut TestClient) -> Value {
    loop {
        let line = client.receive().await.unwrap();
        if line.is_array() {
            return line;
        }
    }
}

async fn connect_to_reversed(dir: &std::path::Path, count: usize) -> TestClient {
    let limits = Limits { bytes_out_per_second: 100_000_000, ..Limits::default() };
    connect_to_script(dir, limits, move |stream| reversed(stream, count)).await
}

#[tokio::test]
async fn responses_in_any_order_are_sent_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut client = connect_to_reversed(dir.path(), 5).await;
    client.send(batch_of(&["a", "b", "c", "d", "e"]).as_bytes()).await;
    let answers = receive_batch(&mut client).await;
    let results: Vec<_> = answers.as_array().unwrap().iter().map(|answer| (&answer["id"], &answer["result"])).collect();
    assert_eq!(results.len(), 5);
    assert_eq!(results[4], (&json!(4), &json!("\"e\"")));
}

#[tokio::test]
async fn long_responses_in_reverse_order_exceed_the_memory_and_arrive_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let mut client = connect_to_reversed(dir.path(), 12).await;
    client.send(batch_of(&["long"; 12]).as_bytes()).await;
    let answers = receive_batch(&mut client).await;
    let answers = answers.as_array().unwrap();
    assert_eq!(answers.len(), 12);
    for (id, answer) in answers.iter().enumerate() {
        assert_eq!((answer["id"].as_u64(), &answer["error"]), (Some(id as u64), &Value::Null));
        assert_eq!(answer["result"].as_str().unwrap().len(), LONG);
    }
    assert!(client.counters.memory_bytes.value() <= LONG as u64, "{}", client.counters.memory_bytes.value());
    client.send(b"{\"id\":1,\"method\":\"after\"}\n").await;
    loop {
        match client.receive().await.unwrap() {
            note if note["method"] == "note" => {}
            answer => break assert_eq!(answer["result"], "\"after\""),
        }
    }
    assert_eq!(client.counters.memory_bytes.value(), 0);
}

/// Answers each request after a long line of another call.
async fn with_foreign_lines(stream: UnixStream) {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).await.is_ok_and(|read| read > 0) {
        let call: Value = serde_json::from_str(&line).unwrap();
        line.clear();
        let (foreign, result) = match call["method"].as_str() {
            Some("server.version") => (String::new(), json!(["x", "1.4"])),
            _ => (format!("{}\n", json!({"a": "x".repeat(LONG), "id": "foreign"})), json!("own")),
        };
        let own = json!({"result": result, "id": call["id"]});
        stream.get_mut().write_all(format!("{foreign}{own}\n").as_bytes()).await.unwrap();
    }
}

#[tokio::test]
async fn long_line_of_another_call_is_no_response_to_a_batch() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { bytes_out_per_second: 100_000_000, ..Limits::default() };
    let mut client = connect_to_script(dir.path(), limits, with_foreign_lines).await;
    client.send(batch_of(&["a"]).as_bytes()).await;
    let answers = receive_batch(&mut client).await;
    assert_eq!(answers[0]["result"], "own", "{answers}");
}

#[tokio::test]
async fn unread_batch_holds_little_memory() {
    let dir = tempfile::tempdir().unwrap();
    let mut client = connect_to_reversed(dir.path(), 12).await;
    client.send(batch_of(&["long"; 12]).as_bytes()).await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let held = client.counters.memory_bytes.value();
    assert!(held <= 2 * 512 * 1024, "{held}");
    assert!(client.receive().await.is_some());
}

#[tokio::test]
async fn batches_of_wallets_are_forwarded_and_longer_ones_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut client = connect_to_reversed(dir.path(), 345).await;
    client.send(batch_of(&["history"; 345]).as_bytes()).await;
    assert_eq!(receive_batch(&mut client).await.as_array().unwrap().len(), 345);
    client.send(batch_of(&["history"; 401]).as_bytes()).await;
    let refused = loop {
        match client.receive().await.unwrap() {
            note if note["method"] == "note" => {}
            refused => break refused,
        }
    };
    assert_eq!(refused["error"]["code"], -32600, "the length is the reason: {refused}");
    assert_eq!(client.counters.rate_limited_requests.value(), 0);
}
