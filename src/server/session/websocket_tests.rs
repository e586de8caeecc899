//! Sessions over WebSocket: messages, pings, and unfinished messages.

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;

use super::tests::{PING, connect_within};
use super::*;

#[tokio::test]
async fn websocket_messages_are_answered() {
    let kind = ConnectionKind { websocket: true, ..ConnectionKind::default() };
    let client = connect_within(4096, kind, Limits::default());
    let (mut messages, _) =
        tokio_tungstenite::client_async("ws://localhost/", client.stream.into_inner()).await.unwrap();
    messages.send(Message::text(r#"{"id":1,"method":"server.ping"}"#)).await.unwrap();
    let answer = messages.next().await.unwrap().unwrap().into_text().unwrap();
    assert_eq!(answer.len(), 1023);
    assert_eq!(serde_json::from_str::<Value>(&answer).unwrap()["id"], 1);
    messages.send(Message::text("x".repeat(20_000))).await.unwrap();
    let answer = messages.next().await.unwrap().unwrap().into_text().unwrap();
    assert_eq!(serde_json::from_str::<Value>(&answer).unwrap()["error"]["code"], -32600);
}

#[tokio::test]
async fn websocket_pings_count_as_requests_and_binary_messages_are_text() {
    let limits = Limits { requests_per_second: 10, ..Limits::default() };
    let websocket = ConnectionKind { websocket: true, ..ConnectionKind::default() };
    let client = connect_within(64 * 1024, websocket, limits);
    let counters = Arc::clone(&client.counters);
    let (mut messages, _) =
        tokio_tungstenite::client_async("ws://wp.example.com/", client.stream.into_inner()).await.unwrap();
    for _ in 0..35 {
        messages.send(Message::Ping("x".into())).await.unwrap();
    }
    messages.send(Message::binary(PING.trim_ascii().to_vec())).await.unwrap();
    let reply = loop {
        let message = messages.next().await.unwrap().unwrap();
        if message.is_text() {
            break message.into_text().unwrap();
        }
    };
    assert_eq!(serde_json::from_str::<Value>(&reply).unwrap()["result"], Value::Null);
    assert_eq!(counters.requests.value(), 36);
    assert!(counters.delayed_requests.value() > 0);
}

#[tokio::test]
async fn ping_within_unfinished_message_releases_no_memory() {
    use tokio_tungstenite::tungstenite::protocol::frame::Frame;
    use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
    let websocket = ConnectionKind { websocket: true, ..ConnectionKind::default() };
    let client = connect_within(64 * 1024, websocket, Limits::default());
    let counters = Arc::clone(&client.counters);
    let (mut messages, _) =
        tokio_tungstenite::client_async("ws://wp.example.com/", client.stream.into_inner()).await.unwrap();
    let start = vec![b' '; 10_000];
    messages.send(Message::Frame(Frame::message(start.clone(), OpCode::Data(Data::Text), false))).await.unwrap();
    for _ in 0..3 {
        messages.send(Message::Ping("x".into())).await.unwrap();
        assert!(messages.next().await.unwrap().unwrap().is_pong());
        assert!(counters.memory_bytes.value() > start.len() as u64, "{}", counters.memory_bytes.value());
    }
    let end = Frame::message(PING.trim_ascii().to_vec(), OpCode::Data(Data::Continue), true);
    messages.send(Message::Frame(end)).await.unwrap();
    assert!(messages.next().await.unwrap().unwrap().is_text());
    messages.send(Message::Ping("x".into())).await.unwrap();
    assert!(messages.next().await.unwrap().unwrap().is_pong());
    assert_eq!(counters.memory_bytes.value(), 0);
}
