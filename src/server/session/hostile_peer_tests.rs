//! Sessions with hostile peers as backend: silence, noise, wrong answers, and clients who provoke failures.

use serde_json::json;

use super::failover_tests::{ERRORS, LIAR, NO_RENEWAL, NOISY, Peer, SILENT, connect, connect_again, connect_to};
use super::tests::TestClient;
use super::*;

const SCRIPT_HASH: &str = "abababababababababababababababababababababababababababababababab";

/// Sends a request of this method, and returns the name of the peer that answers.
async fn ask(client: &mut TestClient, method: &str) -> String {
    client.send(format!("{{\"id\":1,\"method\":\"{method}\"}}\n").as_bytes()).await;
    loop {
        let answer = client.receive().await.unwrap();
        if answer["id"] == 1 {
            return answer["result"][0].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
        }
    }
}

/// Subscribes to a script hash, and returns the status.
async fn subscribe(client: &mut TestClient) -> serde_json::Value {
    let call = json!({ "id": 7, "method": "blockchain.scripthash.subscribe", "params": [SCRIPT_HASH] });
    client.send(format!("{call}\n").as_bytes()).await;
    client.receive().await.unwrap()["result"].take()
}

/// Waits until a condition holds. Checks of peers run in the background.
async fn until(condition: impl Fn() -> bool) {
    for _ in 0..600 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("it did not happen");
}

#[tokio::test]
async fn notifications_are_no_sign_of_life() {
    let (noisy, second) = (Peer::start("noisy", NOISY).await, Peer::start("second", "").await);
    let (mut client, ..) = connect(&[&noisy, &second]);
    let began = Instant::now();
    assert_eq!(ask(&mut client, "a").await, "second");
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
}

#[tokio::test]
async fn peer_that_hangs_up_at_the_first_request_serves_no_further_session() {
    let (first, second) = (Peer::start("first", "blockchain.relayfee").await, Peer::start("second", "").await);
    let (mut client, backend, _messages) = connect(&[&first, &second]);
    assert_eq!(ask(&mut client, "blockchain.relayfee").await, "second");
    let attempts = first.received().len();
    for _ in 0..10 {
        assert_eq!(ask(&mut connect_again(&backend), "blockchain.relayfee").await, "second");
    }
    assert_eq!(first.received().len(), attempts, "it is not tried again");
}

#[tokio::test]
async fn silent_peer_is_found_by_a_request_of_its_own() {
    let (silent, second) = (Peer::start("silent", SILENT).await, Peer::start("second", "").await);
    let (mut client, backend, _messages) = connect(&[&silent, &second]);
    assert_eq!(ask(&mut client, "a").await, "second");
    until(|| silent.received().contains(&"blockchain.scripthash.get_history".to_owned())).await;
    tokio::time::sleep(Duration::from_secs(16)).await;
    let attempts = silent.received().len();
    assert_eq!(ask(&mut connect_again(&backend), "a").await, "second");
    assert_eq!(silent.received().len(), attempts);
}

#[tokio::test]
async fn peer_that_returns_errors_is_found() {
    let (errors, second) = (Peer::start("errors", ERRORS).await, Peer::start("second", "").await);
    let (mut client, backend, _messages) = connect(&[&errors, &second]);
    let balance = json!({ "id": 7, "method": "blockchain.scripthash.get_balance", "params": [SCRIPT_HASH] });
    for _ in 0..300 {
        client.send(format!("{balance}\n").as_bytes()).await;
        if client.receive().await.unwrap()["result"]["confirmed"] == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        client = connect_again(&backend);
    }
    assert_eq!(ask(&mut connect_again(&backend), "a").await, "second");
}

#[tokio::test]
async fn peer_that_lets_a_client_leave_without_an_answer_is_found() {
    let (silent, second) = (Peer::start("silent", SILENT).await, Peer::start("second", "").await);
    let (mut client, backend, _messages) = connect(&[&silent, &second]);
    client.send(b"{\"id\":1,\"method\":\"a\"}\n").await;
    tokio::time::sleep(Duration::from_millis(5_500)).await;
    drop(client);
    until(|| silent.received().contains(&"blockchain.scripthash.get_history".to_owned())).await;
    tokio::time::sleep(Duration::from_secs(16)).await;
    let attempts = silent.received().len();
    assert_eq!(ask(&mut connect_again(&backend), "a").await, "second");
    assert_eq!(silent.received().len(), attempts);
}

#[tokio::test]
async fn requests_of_a_client_demote_no_peer() {
    let (first, second) = (Peer::start("first", "poison").await, Peer::start("second", "").await);
    let (mut client, backend, _messages) = connect(&[&first, &second]);
    assert_eq!(ask(&mut client, "poison").await, "second");
    for _ in 0..5 {
        assert_eq!(ask(&mut connect_again(&backend), "poison").await, "second");
    }
    until(|| first.received().contains(&"blockchain.scripthash.get_history".to_owned())).await;
    assert_eq!(ask(&mut connect_again(&backend), "a").await, "first");
}

#[tokio::test]
async fn subscription_moves_to_another_peer() {
    let (first, second) = (Peer::start("first", "poison").await, Peer::start("second", "").await);
    let (mut client, ..) = connect(&[&first, &second]);
    assert_eq!(subscribe(&mut client).await, "first");
    client.send(b"{\"id\":8,\"method\":\"poison\"}\n").await;
    let (mut lines, expected) = (Vec::new(), json!([SCRIPT_HASH, "second"]));
    for _ in 0..2 {
        lines.push(client.receive().await.unwrap());
    }
    assert!(lines.iter().any(|line| line["id"] == 8 && line["result"][0] == "second"), "{lines:?}");
    let is_notification = |line: &serde_json::Value| {
        line["method"] == "blockchain.scripthash.subscribe" && line["params"] == expected && line["id"].is_null()
    };
    assert!(lines.iter().any(is_notification), "{lines:?}");
}

#[tokio::test]
async fn peer_that_renews_no_subscription_is_replaced() {
    let (first, second) = (Peer::start("first", "poison").await, Peer::start("second", NO_RENEWAL).await);
    let (mut client, ..) = connect(&[&first, &second]);
    assert_eq!(subscribe(&mut client).await, "first");
    client.send(b"{\"id\":8,\"method\":\"poison\"}\n").await;
    assert_eq!(client.receive().await.unwrap()["id"], 8);
    // The second one leaves the renewal without an answer.
    until(|| first.received().iter().filter(|method| *method == "blockchain.scripthash.subscribe").count() == 2).await;
}

#[tokio::test]
async fn wrong_balance_is_found_by_two_other_peers() {
    let liar = Peer::start("liar", LIAR).await;
    let (second, third) = (Peer::start("second", "").await, Peer::start("third", "").await);
    let (mut client, backend, _messages) = connect_to(&[&liar, &second, &third], |_| true);
    let peers = backend.peers.as_ref().unwrap();
    let balance = json!({ "id": 7, "method": "blockchain.scripthash.get_balance", "params": [SCRIPT_HASH] });
    for _ in 0..300 {
        client.send(format!("{balance}\n").as_bytes()).await;
        let answer = client.receive().await.unwrap();
        tokio::time::sleep(Duration::from_millis(30)).await;
        if peers.check_counts().1 > 0 {
            break;
        }
        // Sessions of honest peers are replaced, until one is the liar's.
        if answer["result"]["confirmed"] == 0 {
            client = connect_again(&backend);
        }
    }
    assert_eq!(peers.check_counts().1, 1, "{:?}", peers.check_counts());
    for _ in 0..5 {
        assert_ne!(ask(&mut connect_again(&backend), "a").await, "liar");
    }
}

#[tokio::test]
async fn newcomers_do_not_convict_a_senior_peer() {
    let honest = Peer::start("honest", "").await;
    let (second, third) = (Peer::start("second", LIAR).await, Peer::start("third", LIAR).await);
    let (mut client, backend, _messages) = connect(&[&honest, &second, &third]);
    let balance = json!({ "id": 7, "method": "blockchain.scripthash.get_balance", "params": [SCRIPT_HASH] });
    for _ in 0..100 {
        client.send(format!("{balance}\n").as_bytes()).await;
        client.receive().await.unwrap();
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    assert_eq!(backend.peers.as_ref().unwrap().check_counts(), (0, 0));
    assert_eq!(ask(&mut connect_again(&backend), "a").await, "honest");
}
