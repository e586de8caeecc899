//! Sessions whose backend fails: what a client hears under which id, and whether its session goes on.

use std::path::Path;

use serde_json::{Value, json};

use super::tests::{PING, Talk, electrs, fronting};
use super::*;

const SUBSCRIBE: &[u8] = b"{\"id\":\"s\",\"method\":\"blockchain.headers.subscribe\"}\n";

async fn in_front_of_electrs() -> (tempfile::TempDir, Talk) {
    let dir = tempfile::tempdir().unwrap();
    let talk = fronting(dir.path(), electrs).await;
    (dir, talk)
}

/// The backend's next connections have this in common with its former ones: the path.
fn stop_listening(dir: &Path) {
    std::fs::remove_file(dir.join("electrs")).unwrap();
}

fn message(answer: &Value) -> &str {
    assert_eq!(answer["error"]["code"], -32603, "{answer}");
    answer["error"]["message"].as_str().unwrap()
}

async fn goes_on(talk: &mut Talk) {
    talk.say(b"{\"id\":\"next\",\"method\":\"after\"}\n").await;
    assert_eq!(talk.hear().await.unwrap(), json!({ "id": "next", "jsonrpc": "2.0", "result": "after" }));
}

#[tokio::test]
async fn calls_under_way_fail_under_their_ids_and_the_next_opens_a_connection() {
    let (_dir, mut talk) = in_front_of_electrs().await;
    let calls = [
        r#"{"id":1,"method":"one"}"#,
        r#"{"id":2.50,"method":"silent"}"#,
        r#"{"id":"b","method":"silent","jsonrpc":"2.0"}"#,
    ];
    talk.say(format!("{}\n{{\"id\":4,\"method\":\"gone\"}}\n", calls.join("\n")).as_bytes()).await;
    assert_eq!(talk.hear().await.unwrap()["result"], "one");
    for id in [json!(2.5), json!("b"), json!(4)] {
        let answer = talk.hear().await.unwrap();
        assert_eq!(answer["id"], id);
        assert!(message(&answer).contains("went away"), "{answer}");
    }
    assert_eq!(talk.counters.backend_failures.value(), 1);
    goes_on(&mut talk).await;
}

#[tokio::test]
async fn each_call_of_a_batch_without_an_answer_fails_under_its_id() {
    let (_dir, mut talk) = in_front_of_electrs().await;
    let batch = r#"[{"id":1,"method":"one"},{"id":2,"method":"silent"},{"id":3,"method":"server.peers.subscribe"},
        {"jsonrpc":"2.0","method":"silent"},{"id":4,"method":"gone"}]"#;
    talk.say(format!("{{\"id\":0,\"method\":\"silent\"}}\n{}\n", batch.replace('\n', "")).as_bytes()).await;
    assert_eq!(talk.hear().await.unwrap()["id"], 0, "the call before it");
    let answers = talk.hear().await.unwrap();
    let ids: Vec<&Value> = answers.as_array().unwrap().iter().map(|answer| &answer["id"]).collect();
    assert_eq!(ids, [1, 2, 3, 4]);
    assert_eq!((&answers[0]["result"], &answers[2]["result"]), (&json!("one"), &json!([])));
    assert!(message(&answers[1]).contains("went away") && message(&answers[3]).contains("went away"));
    goes_on(&mut talk).await;
}

#[tokio::test]
async fn a_notification_that_is_lost_costs_nothing() {
    let (_dir, mut talk) = in_front_of_electrs().await;
    talk.say(b"{\"jsonrpc\":\"2.0\",\"method\":\"gone\"}\n").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    goes_on(&mut talk).await;
    assert_eq!(talk.counters.backend_failures.value(), 0);
}

#[tokio::test]
async fn a_subscribed_client_hears_of_its_calls_and_is_disconnected() {
    let (_dir, mut talk) = in_front_of_electrs().await;
    talk.say(SUBSCRIBE).await;
    assert_eq!(talk.hear().await.unwrap()["id"], "s");
    talk.say(b"{\"id\":2,\"method\":\"silent\"}\n{\"id\":3,\"method\":\"gone\"}\n").await;
    assert_eq!(talk.hear().await.unwrap()["id"], 2);
    assert_eq!(talk.hear().await.unwrap()["id"], 3);
    assert_eq!(talk.hear().await, None);
    talk.session.await.unwrap();
}

#[tokio::test]
async fn a_subscription_in_a_batch_ties_the_session_as_well() {
    let (_dir, mut talk) = in_front_of_electrs().await;
    talk.say(b"[{\"id\":1,\"method\":\"blockchain.scripthash.subscribe\"}]\n").await;
    assert_eq!(talk.hear().await.unwrap()[0]["id"], 1);
    // Nothing but the loss of the connection follows.
    talk.say(b"{\"jsonrpc\":\"2.0\",\"method\":\"gone\"}\n").await;
    let farewell = talk.hear().await.unwrap();
    assert!(farewell["id"].is_null() && message(&farewell).contains("went away"), "{farewell}");
    talk.session.await.unwrap();
}

#[tokio::test]
async fn a_subscription_without_an_answer_fails_like_any_call() {
    let (_dir, mut talk) = in_front_of_electrs().await;
    talk.say(b"[{\"id\":1,\"method\":\"gone\"},{\"id\":2,\"method\":\"a.subscribe\"}]\n").await;
    let answers = talk.hear().await.unwrap();
    assert!(message(&answers[0]).contains("went away") && message(&answers[1]).contains("went away"));
    goes_on(&mut talk).await;
}

#[tokio::test]
async fn a_line_that_breaks_off_ends_the_session_without_a_word() {
    let (_dir, mut talk) = in_front_of_electrs().await;
    talk.say(b"{\"id\":1,\"method\":\"half\"}\n").await;
    assert_eq!(talk.hear().await, None, "what came is no line");
    talk.session.await.unwrap();
}

#[tokio::test]
async fn a_long_answer_that_ended_is_no_call_under_way() {
    let (_dir, mut talk) = in_front_of_electrs().await;
    talk.say(b"{\"id\":1,\"method\":\"long\"}\n").await;
    assert_eq!(talk.hear().await.unwrap()["result"].as_str().unwrap().len(), 300_000);
    talk.say(b"{\"id\":2,\"method\":\"gone\"}\n").await;
    assert_eq!(talk.hear().await.unwrap()["id"], 2);
    goes_on(&mut talk).await;
}

#[tokio::test]
async fn a_backend_that_refuses_fails_each_call_until_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut talk = fronting(dir.path(), |stream| async move { drop(stream) }).await;
    talk.say(PING).await;
    assert!(talk.hear().await.unwrap()["error"].is_null(), "discovery goes on");
    talk.say(b"{\"id\":1,\"method\":\"a\"}\n[{\"id\":2,\"method\":\"b\"},{\"id\":3,\"method\":\"server.peers.subscribe\"}]\n").await;
    let answer = talk.hear().await.unwrap();
    assert!(answer["id"] == 1 && message(&answer).contains("can't be reached"), "{answer}");
    let answers = talk.hear().await.unwrap();
    assert!(answers[0]["id"] == 2 && message(&answers[0]).contains("can't be reached"), "{answers}");
    assert_eq!(answers[1]["result"], json!([]));
    assert_eq!(talk.counters.backend_failures.value(), 1, "the second failed at once");
    stop_listening(dir.path());
    let _other = fronting(dir.path(), electrs).await;
    tokio::time::sleep(BACKEND_PAUSE + Duration::from_millis(100)).await;
    goes_on(&mut talk).await;
}

#[tokio::test]
async fn a_silent_backend_fails_the_call_after_two_minutes() {
    let (_dir, mut talk) = in_front_of_electrs().await;
    talk.say(b"{\"id\":1,\"method\":\"one\"}\n").await;
    assert_eq!(talk.hear().await.unwrap()["id"], 1);
    tokio::time::pause();
    let began = Instant::now();
    talk.say(b"{\"id\":2,\"method\":\"silent\"}\n").await;
    let answer = talk.hear().await.unwrap();
    assert!(answer["id"] == 2 && message(&answer).contains("doesn't answer"), "{answer}");
    assert!((119..130).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    tokio::time::resume();
    goes_on(&mut talk).await;
}
