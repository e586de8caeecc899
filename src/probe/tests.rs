use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
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
        skips_features: false,
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

/// Answers like a current server.
async fn honest_server(mut stream: TcpStream) -> std::io::Result<()> {
    let mut buffer = [0; 1024];
    for (id, result) in ["[\"x\",\"1.4\"]", FEATURES, "[]", "{\"height\":1}"].iter().enumerate() {
        let _ = stream.read(&mut buffer).await?;
        stream.write_all(format!("{{\"id\":{id},\"result\":{result}}}\n").as_bytes()).await?;
    }
    Ok(())
}

#[tokio::test]
async fn honest_server_is_verified() {
    assert_eq!(verify_tcp(honest_server).await.unwrap().report.tip_height, Some(1));
}

#[tokio::test]
async fn server_that_fails_at_features_is_asked_again_without_them() {
    // It closes the connection at `server.features`, or does not respond.
    for closes in [true, false] {
        let script = move |mut stream: TcpStream| async move {
            let mut buffer = [0; 1024];
            for (id, result) in [r#"["x","1.4"]"#, "[]", r#"{"height":1}"#].iter().enumerate() {
                let length = stream.read(&mut buffer).await?;
                if String::from_utf8_lossy(&buffer[..length]).contains("server.features") {
                    return if closes { Ok(()) } else { stream.read(&mut buffer).await.map(|_| ()) };
                }
                stream.write_all(format!("{{\"id\":{id},\"result\":{result}}}\n").as_bytes()).await?;
            }
            Ok(())
        };
        let verified = verify_tcp(script).await.unwrap();
        assert!(verified.skipped_features && verified.report.features.is_none(), "{closes}");
        assert_eq!(verified.report.tip_height, Some(1));
    }
    assert!(!verify_tcp(honest_server).await.unwrap().skipped_features);
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

/// Answers each request with the next result.
async fn answering(mut stream: TcpStream, results: &[String]) -> std::io::Result<()> {
    let mut buffer = [0; 1024];
    for (id, result) in results.iter().enumerate() {
        let _ = stream.read(&mut buffer).await?;
        stream.write_all(format!("{{\"id\":{id},\"result\":{result}}}\n").as_bytes()).await?;
    }
    stream.read(&mut buffer).await.map(|_| ())
}

#[tokio::test]
async fn hostile_response_is_rejected_or_truncated() {
    const VERSION: &str = r#"["x","1.4"]"#;
    let script = async |results: &[&str]| {
        let results: Vec<String> = results.iter().map(|result| (*result).to_owned()).collect();
        verify_tcp(move |stream| {
            let results = results.clone();
            async move { answering(stream, &results).await }
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
