//! Sessions whose backend fails: error responses, and whether the session continues.

use std::path::Path;

use serde_json::{Value, json};

use super::tests::{PING, TestClient, connect_to_script, fake_electrs};
use super::*;

const SUBSCRIBE: &[u8] = b"{\"id\":\"s\",\"method\":\"blockchain.headers.subscribe\"}\n";

async fn connect_to_electrs() -> (tempfile::TempDir, TestClient) {
    let dir = tempfile::tempdir().unwrap();
    let client = connect_to_script(dir.path(), Limits::default(), fake_electrs).await;
    (dir, client)
}

/// Removes the socket, so that another backend can listen on the same path.
fn stop_listening(dir: &Path) {
    std::fs::remove_file(dir.join("electrs")).unwrap();
}

fn message(answer: &Value) -> &str {
    assert_eq!(answer["error"]["code"], -32603, "{answer}");
    answer["error"]["message"].as_str().unwrap()
}

async fn assert_session_works(client: &mut TestClient) {
    client.send(b"{\"id\":\"next\",\"method\":\"after\"}\n").await;
    assert_eq!(client.receive().await.unwrap(), json!({ "id": "next", "jsonrpc": "2.0", "result": "after" }));
}

#[tokio::test]
async fn pending_calls_fail_under_their_ids_and_next_call_reconnects() {
    let (_dir, mut client) = connect_to_electrs().await;
    let calls = [
        r#"{"id":1,"method":"one"}"#,
        r#"{"id":2.50,"method":"silent"}"#,
        r#"{"id":"b","method":"silent","jsonrpc":"2.0"}"#,
    ];
    client.send(format!("{}\n{{\"id\":4,\"method\":\"close\"}}\n", calls.join("\n")).as_bytes()).await;
    assert_eq!(client.receive().await.unwrap()["result"], "one");
    for id in [json!(2.5), json!("b"), json!(4)] {
        let answer = client.receive().await.unwrap();
        assert_eq!(answer["id"], id);
        assert!(message(&answer).contains("closed the connection"), "{answer}");
    }
    assert_eq!(client.counters.backend_failures.value(), 1);
    assert_session_works(&mut client).await;
}

#[tokio::test]
async fn pending_batch_calls_fail_under_their_ids() {
    let (_dir, mut client) = connect_to_electrs().await;
    let batch = r#"[{"id":1,"method":"one"},{"id":2,"method":"silent"},{"id":3,"method":"server.peers.subscribe"},
        {"jsonrpc":"2.0","method":"silent"},{"id":4,"method":"close"}]"#;
    client.send(format!("{{\"id\":0,\"method\":\"silent\"}}\n{}\n", batch.replace('\n', "")).as_bytes()).await;
    assert_eq!(client.receive().await.unwrap()["id"], 0, "the call before the batch");
    let answers = client.receive().await.unwrap();
    let ids: Vec<&Value> = answers.as_array().unwrap().iter().map(|answer| &answer["id"]).collect();
    assert_eq!(ids, [1, 2, 3, 4]);
    assert_eq!((&answers[0]["result"], &answers[2]["result"]), (&json!("one"), &json!([])));
    assert!(
        message(&answers[1]).contains("closed the connection")
            && message(&answers[3]).contains("closed the connection")
    );
    assert_session_works(&mut client).await;
}

#[tokio::test]
async fn lost_notification_is_not_a_failure() {
    let (_dir, mut client) = connect_to_electrs().await;
    client.send(b"{\"jsonrpc\":\"2.0\",\"method\":\"close\"}\n").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_session_works(&mut client).await;
    assert_eq!(client.counters.backend_failures.value(), 0);
}

#[tokio::test]
async fn subscribed_client_gets_errors_and_is_disconnected() {
    let (_dir, mut client) = connect_to_electrs().await;
    client.send(SUBSCRIBE).await;
    assert_eq!(client.receive().await.unwrap()["id"], "s");
    client.send(b"{\"id\":2,\"method\":\"silent\"}\n{\"id\":3,\"method\":\"close\"}\n").await;
    assert_eq!(client.receive().await.unwrap()["id"], 2);
    assert_eq!(client.receive().await.unwrap()["id"], 3);
    assert_eq!(client.receive().await, None);
    client.session.await.unwrap();
}

#[tokio::test]
async fn subscription_in_batch_closes_session_on_loss() {
    let (_dir, mut client) = connect_to_electrs().await;
    client.send(b"[{\"id\":1,\"method\":\"blockchain.scripthash.subscribe\"}]\n").await;
    assert_eq!(client.receive().await.unwrap()[0]["id"], 1);
    // The next event is the loss of the connection.
    client.send(b"{\"jsonrpc\":\"2.0\",\"method\":\"close\"}\n").await;
    let closing_error = client.receive().await.unwrap();
    assert!(
        closing_error["id"].is_null() && message(&closing_error).contains("closed the connection"),
        "{closing_error}"
    );
    client.session.await.unwrap();
}

#[tokio::test]
async fn pending_subscription_fails_like_any_call() {
    let (_dir, mut client) = connect_to_electrs().await;
    client.send(b"[{\"id\":1,\"method\":\"close\"},{\"id\":2,\"method\":\"a.subscribe\"}]\n").await;
    let answers = client.receive().await.unwrap();
    assert!(
        message(&answers[0]).contains("closed the connection")
            && message(&answers[1]).contains("closed the connection")
    );
    assert_session_works(&mut client).await;
}

#[tokio::test]
async fn truncated_line_closes_session_silently() {
    let (_dir, mut client) = connect_to_electrs().await;
    client.send(b"{\"id\":1,\"method\":\"half\"}\n").await;
    assert_eq!(client.receive().await, None, "the line has no end");
    client.session.await.unwrap();
}

#[tokio::test]
async fn completed_long_response_is_not_pending() {
    let (_dir, mut client) = connect_to_electrs().await;
    client.send(b"{\"id\":1,\"method\":\"long\"}\n").await;
    assert_eq!(client.receive().await.unwrap()["result"].as_str().unwrap().len(), 300_000);
    client.send(b"{\"id\":2,\"method\":\"close\"}\n").await;
    assert_eq!(client.receive().await.unwrap()["id"], 2);
    assert_session_works(&mut client).await;
}

#[tokio::test]
async fn refusing_backend_fails_calls_until_it_recovers() {
    let dir = tempfile::tempdir().unwrap();
    let mut client = connect_to_script(dir.path(), Limits::default(), |stream| async move { drop(stream) }).await;
    client.send(PING).await;
    assert!(client.receive().await.unwrap()["error"].is_null(), "discovery works without a backend");
    client.send(b"{\"id\":1,\"method\":\"a\"}\n[{\"id\":2,\"method\":\"b\"},{\"id\":3,\"method\":\"server.peers.subscribe\"}]\n").await;
    let answer = client.receive().await.unwrap();
    assert!(answer["id"] == 1 && message(&answer).contains("can't be reached"), "{answer}");
    let answers = client.receive().await.unwrap();
    assert!(answers[0]["id"] == 2 && message(&answers[0]).contains("can't be reached"), "{answers}");
    assert_eq!(answers[1]["result"], json!([]));
    assert_eq!(client.counters.backend_failures.value(), 1, "the second failed at once");
    stop_listening(dir.path());
    let _other = connect_to_script(dir.path(), Limits::default(), fake_electrs).await;
    tokio::time::sleep(BACKEND_RETRY_DELAY + Duration::from_millis(100)).await;
    assert_session_works(&mut client).await;
}

#[tokio::test]
async fn silent_backend_fails_call_after_two_minutes() {
    let (_dir, mut client) = connect_to_electrs().await;
    client.send(b"{\"id\":1,\"method\":\"one\"}\n").await;
    assert_eq!(client.receive().await.unwrap()["id"], 1);
    tokio::time::pause();
    let began = Instant::now();
    client.send(b"{\"id\":2,\"method\":\"silent\"}\n").await;
    let answer = client.receive().await.unwrap();
    assert!(answer["id"] == 2 && message(&answer).contains("doesn't respond"), "{answer}");
    assert!((119..130).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    tokio::time::resume();
    assert_session_works(&mut client).await;
}
