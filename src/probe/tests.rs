use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::*;
use crate::chain::Chain;
use crate::dial::{Direct, Isolation, LocalAddresses, Tls};
use crate::electrum::prober::ChainProof;

const SHORT: Deadlines = Deadlines { response: Duration::from_millis(300), total: Duration::from_millis(1500) };

/// Starts a server that runs this script for every connection.
async fn server<F>(script: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = std::io::Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(script(stream));
        }
    });
    address
}

/// Probes these endpoints.
async fn verify(endpoints: &[(Transport, SocketAddr)]) -> Result<Verified, ProbeError> {
    verify_with_trusted(endpoints.len(), endpoints).await
}

async fn verify_with_trusted(trusted: usize, endpoints: &[(Transport, SocketAddr)]) -> Result<Verified, ProbeError> {
    let (_found, tor) = watch::channel(None);
    let announce_from = LocalAddresses::default();
    let dialer =
        Dialer { tls: Tls::new().unwrap(), direct: Some(Direct), tor, isolation: Isolation::Peers, announce_from };
    let host: crate::peer::Host = "a.example".parse().unwrap();
    let endpoints: Vec<_> =
        endpoints.iter().map(|(transport, address)| (*transport, Port::new(address.port()).unwrap())).collect();
    let addresses = vec!["127.0.0.1".parse().unwrap()];
    let target = ProbeTarget {
        host: host.clone(),
        via: Route::Direct,
        addresses,
        endpoints,
        web_sockets: Vec::new(),
        limits: PeerLimits::default(),
        trusted_endpoint_count: trusted,
        announce: None,
        must_list_host: true,
        checkpoint_height: None,
        reference: None,
    };
    let chain = Chain::REGTEST;
    let expected = ProbeExpectations {
        host: Some(host),
        chain,
        proof: ChainProof::NotRequired,
        features: FeaturesStep::Included,
        order: RequestOrder::Together,
        announce: None,
        checkpoint_height: None,
        reference: None,
    };
    probe(&dialer, &target, &expected, SHORT, |_| {}).await
}

async fn verify_tcp<F>(script: impl Fn(TcpStream) -> F + Send + 'static) -> Result<Verified, ProbeError>
where
    F: Future<Output = std::io::Result<()>> + Send + 'static,
{
    verify(&[(Transport::Tcp, server(script).await)]).await
}

const FEATURES: &str = r#"{"hosts":{"a.example":{}}}"#;

const VERSION: &str = r#"["x","1.4"]"#;

/// Answers the requests with results in this order: version, features, peers, tip. Others get no response.
async fn answering(stream: TcpStream, results: &[&str]) -> std::io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::new(reader).lines();
    while let Some(line) = lines.next_line().await? {
        let request: serde_json::Value = serde_json::from_str(&line).unwrap();
        let methods = ["server.version", "server.features", "server.peers.subscribe", "blockchain.headers.subscribe"];
        let index = methods.iter().position(|method| request["method"] == *method);
        if let Some(result) = index.and_then(|index| results.get(index)) {
            let response = format!("{{\"id\":{},\"result\":{result}}}\n", request["id"]);
            writer.write_all(response.as_bytes()).await?;
        }
    }
    Ok(())
}

/// Answers like a current server.
async fn honest_server(stream: TcpStream) -> std::io::Result<()> {
    answering(stream, &[VERSION, FEATURES, "[]", "{\"height\":1}"]).await
}

#[tokio::test]
async fn honest_server_is_verified() {
    assert_eq!(verify_tcp(honest_server).await.unwrap().report.tip_height, Some(1));
}

#[tokio::test]
async fn server_that_fails_at_features_is_asked_again_without_them() {
    // It closes the connection at `server.features`, or does not respond.
    for closes in [true, false] {
        let script = move |stream: TcpStream| async move {
            let (reader, mut writer) = stream.into_split();
            let mut lines = BufReader::new(reader).lines();
            while let Some(line) = lines.next_line().await? {
                let request: serde_json::Value = serde_json::from_str(&line).unwrap();
                let result = match request["method"].as_str().unwrap() {
                    "server.version" => VERSION,
                    "server.features" if closes => return Ok(()),
                    "server.features" => continue,
                    "server.peers.subscribe" => "[]",
                    _ => "{\"height\":1}",
                };
                let response = format!("{{\"id\":{},\"result\":{result}}}\n", request["id"]);
                writer.write_all(response.as_bytes()).await?;
            }
            Ok(())
        };
        let verified = verify_tcp(script).await.unwrap();
        assert!(verified.limits.skips_features && verified.report.features.is_none(), "{closes}");
        assert_eq!(verified.report.tip_height, Some(1));
    }
    assert_eq!(verify_tcp(honest_server).await.unwrap().limits, PeerLimits::default());
}

/// Handles one request for each read, as a server does that takes what it reads for one line.
async fn one_at_a_time(mut stream: TcpStream, closes: bool, skips_features: bool) -> std::io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let length = stream.read(&mut buffer).await?;
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let mut lines = text.lines();
        let Some(line) = lines.next() else { return Ok(()) };
        if closes && lines.next().is_some() {
            return Ok(());
        }
        let request: serde_json::Value = serde_json::from_str(line).unwrap();
        let result = match request["method"].as_str().unwrap() {
            "server.version" => VERSION,
            "server.features" if skips_features => return Ok(()),
            "server.features" => FEATURES,
            "server.peers.subscribe" => "[]",
            _ => "{\"height\":1}",
        };
        let response = format!("{{\"id\":{},\"result\":{result}}}\n", request["id"]);
        stream.write_all(response.as_bytes()).await?;
    }
}

#[tokio::test]
async fn server_that_handles_one_request_at_a_time_is_asked_again() {
    for (closes, skips_features) in [(true, false), (false, false), (true, true), (false, true)] {
        let verified = verify_tcp(move |stream| one_at_a_time(stream, closes, skips_features)).await.unwrap();
        assert_eq!(verified.limits, PeerLimits { skips_features, one_by_one: true }, "{closes}");
        assert_eq!(verified.report.tip_height, Some(1));
    }
}

#[tokio::test]
async fn failed_endpoint_is_followed_by_the_next() {
    let not_tls = server(async |mut stream: TcpStream| stream.write_all(b"hello\n").await).await;
    let tcp = server(honest_server).await;
    let endpoints = [(Transport::Tls, not_tls), (Transport::Tcp, tcp)];
    let verified = verify(&endpoints).await.unwrap();
    assert_eq!((verified.transport, verified.tls_failed), (Transport::Tcp, true));
    assert!(!verify(&endpoints[1..]).await.unwrap().tls_failed);
}

#[tokio::test]
async fn untrusted_endpoint_does_not_decide_the_error() {
    let silent = server(async |mut stream: TcpStream| stream.read_to_end(&mut Vec::new()).await.map(|_| ())).await;
    let web = server(async |mut stream: TcpStream| stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await).await;
    let endpoints = [(Transport::Tcp, silent), (Transport::Tcp, web)];
    assert_eq!(verify_with_trusted(1, &endpoints).await.unwrap_err(), ProbeError::Timeout);
    assert_eq!(verify_with_trusted(2, &endpoints).await.unwrap_err(), ProbeError::ProtocolViolation(Fault::Malformed));
    let moved = [(Transport::Tcp, silent), (Transport::Tcp, server(honest_server).await)];
    assert!(verify_with_trusted(1, &moved).await.is_ok());
}

#[tokio::test]
async fn hostile_server_is_bounded_by_deadlines() {
    let silent = verify_tcp(async |mut stream| stream.read_to_end(&mut Vec::new()).await.map(|_| ()));
    assert_eq!(silent.await.unwrap_err(), ProbeError::Timeout);

    let closing = verify_tcp(async |mut stream| stream.shutdown().await);
    assert_eq!(closing.await.unwrap_err(), ProbeError::Closed);

    let endless_line = verify_tcp(async |mut stream| {
        loop {
            stream.write_all(&[b'['; 64 * 1024]).await?;
        }
    });
    assert_eq!(endless_line.await.unwrap_err(), ProbeError::ProtocolViolation(Fault::ResponseTooLong));

    let notifications = verify_tcp(async |mut stream| {
        loop {
            stream.write_all(b"{\"method\":\"x\",\"params\":[]}\n").await?;
        }
    });
    assert_eq!(notifications.await.unwrap_err(), ProbeError::ProtocolViolation(Fault::ExcessNotifications));

    let long_notifications = verify_tcp(async |mut stream| {
        let note = format!("{{\"method\":\"x\",\"params\":[\"{}\"]}}\n", "x".repeat(400_000));
        loop {
            stream.write_all(note.as_bytes()).await?;
        }
    });
    assert_eq!(long_notifications.await.unwrap_err(), ProbeError::ProtocolViolation(Fault::ResponseTooLong));

    let drip = verify_tcp(async |mut stream| {
        loop {
            stream.write_all(b" ").await?;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    assert_eq!(drip.await.unwrap_err(), ProbeError::Timeout);

    let invalid_utf8 = verify_tcp(async |mut stream| stream.write_all(b"\xff\xfe\n").await);
    assert_eq!(invalid_utf8.await.unwrap_err(), ProbeError::ProtocolViolation(Fault::Malformed));
}

#[tokio::test]
async fn hostile_response_is_rejected_or_truncated() {
    let script = async |results: &[&str]| {
        let results: Vec<String> = results.iter().map(|result| (*result).to_owned()).collect();
        verify_tcp(move |stream| {
            let results = results.clone();
            async move { answering(stream, &results.iter().map(String::as_str).collect::<Vec<_>>()).await }
        })
        .await
    };
    let fault = async |results: &[&str]| match script(results).await.unwrap_err() {
        ProbeError::ProtocolViolation(fault) => fault,
        other => panic!("{other}"),
    };
    // Long lists, within the line limit and beyond.
    let many = |count: usize| {
        let entry = |n: usize| format!(r#"["5.9.0.1","h{n}.example",["v1.4","s50002"]]"#);
        format!("[{}]", (0..count).map(entry).collect::<Vec<_>>().join(","))
    };
    let verified = script(&[VERSION, FEATURES, &many(8000), "{}"]).await.unwrap();
    assert_eq!(verified.report.peer_list.0.len(), crate::peer::MAX_PEER_LIST_ENTRIES);
    assert_eq!(fault(&[VERSION, FEATURES, &many(12_000)]).await, Fault::ResponseTooLong);
    // Short to send, deep or wide to parse.
    let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    assert_eq!(fault(&[&deep]).await, Fault::Malformed);
    assert_eq!(fault(&[VERSION, &deep]).await, Fault::Malformed);
    assert!(script(&[VERSION, FEATURES, &format!("[{deep}]"), "{}"]).await.unwrap().report.peer_list.0.is_empty());
    let wide = format!("{{\"hosts\":{{{}}}}}", vec![r#""a":{}"#; 60_000].join(","));
    assert_eq!(fault(&[VERSION, &wide]).await, Fault::HostMismatch);
    // Wrong types.
    for wrong in ["7", "\"x\"", "[[]]", "true"] {
        assert_eq!(fault(&[VERSION, wrong]).await, Fault::Malformed, "{wrong}");
    }
    assert_eq!(fault(&[VERSION, FEATURES, "{}"]).await, Fault::Malformed);
    // A peer can't vouch for another host, and must list its own.
    assert_eq!(fault(&[VERSION, "{}"]).await, Fault::NoHosts);
    assert_eq!(fault(&[VERSION, r#"{"hosts":{"victim.example":{"tcp_port":50001}}}"#]).await, Fault::HostMismatch);
}

#[tokio::test]
async fn endless_tls_handshake_times_out() {
    let never = server(async |mut stream: TcpStream| stream.read_to_end(&mut Vec::new()).await.map(|_| ())).await;
    assert_eq!(verify(&[(Transport::Tls, never)]).await.unwrap_err(), ProbeError::Unreachable);
}

#[tokio::test]
async fn closed_port_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    assert_eq!(verify(&[(Transport::Tcp, address)]).await.unwrap_err(), ProbeError::Refused);
}
