use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::*;

#[test]
fn proxy_header_has_the_address_of_the_client() {
    let parse = |client: Option<&str>| {
        let bytes = encode_proxy_header(client.map(|ip| ip.parse().unwrap())).unwrap();
        let (header, length) = ProxyHeader::parse(&bytes, proxy_header::ParseConfig::default()).unwrap();
        assert_eq!(length, bytes.len());
        header.proxied_address().map(|address| address.source.ip().to_string())
    };
    assert_eq!(parse(Some("5.9.0.1")).as_deref(), Some("5.9.0.1"));
    assert_eq!(parse(Some("::ffff:5.9.0.1")).as_deref(), Some("5.9.0.1"));
    assert_eq!(parse(Some("2a01::7")).as_deref(), Some("2a01::7"));
    assert_eq!(parse(None), None, "an onion client has no address");
}

#[tokio::test]
async fn proxy_header_comes_first() {
    use tokio::io::AsyncReadExt;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("tcp://{}", listener.local_addr().unwrap()).parse().unwrap();
    let (_chain, known) = watch::channel(None);
    let server = Server::new(address, &Chain::REGTEST, Tls::new().unwrap(), PathBuf::new(), known);
    let server = server.with_proxy_headers(true);
    tokio::spawn(async move { server.open("1.4", Some("5.9.0.7".parse().unwrap())).await.map(drop) });
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut received = vec![0; 29];
    stream.read_exact(&mut received).await.unwrap();
    assert!(received.starts_with(b"\r\n\r\n\0\r\nQUIT\n") && received.ends_with(b"{"), "{received:?}");
    assert_eq!(received[16..20], [5, 9, 0, 7]);
}

/// What a scripted server does at `server.features`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AtFeatures {
    Close,
    Ignore,
    Answer(&'static str),
}

const DEADLINES: Deadlines = Deadlines { response: Duration::from_millis(500), total: Duration::from_secs(5) };

/// Starts a server that negotiates `version`. Returns the backend, and the number of `server.features` requests.
async fn backend(version: &'static str, at_features: AtFeatures) -> (Server, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    let requests = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&requests);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, version, at_features, Arc::clone(&count)));
        }
    });
    let server = Server::new(
        address.parse().unwrap(),
        &Chain::REGTEST,
        Tls::new().unwrap(),
        PathBuf::new(),
        watch::channel(None).1,
    );
    (server, requests)
}

async fn serve(
    stream: TcpStream,
    version: &'static str,
    at_features: AtFeatures,
    count: Arc<AtomicUsize>,
) -> Option<()> {
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::new(reader).lines();
    while let Some(line) = lines.next_line().await.ok()? {
        let request: serde_json::Value = serde_json::from_str(&line).unwrap();
        let result = match request["method"].as_str().unwrap() {
            "server.version" => version,
            "server.features" => {
                count.fetch_add(1, Ordering::Relaxed);
                match at_features {
                    AtFeatures::Close => return None,
                    AtFeatures::Ignore => continue,
                    AtFeatures::Answer(features) => features,
                }
            }
            "server.peers.subscribe" => "[]",
            _ => r#"{"height":7}"#,
        };
        let response = format!("{{\"id\":{},\"result\":{result}}}\n", request["id"]);
        writer.write_all(response.as_bytes()).await.ok()?;
    }
    None
}

#[tokio::test]
async fn server_without_features_is_used_with_the_negotiated_version() {
    let expected = (Version::new(1, 4), Version::new(1, 4));
    for at_features in [AtFeatures::Close, AtFeatures::Ignore] {
        let (server, requests) = backend(r#"["electrs-esplora 0.4.1","1.4"]"#, at_features).await;
        for _ in 0..3 {
            let report = server.query_within(None, DEADLINES).await.unwrap();
            assert_eq!((report.info.versions, report.info.tip), (expected, Some(7)), "{at_features:?}");
        }
        assert_eq!(requests.load(Ordering::Relaxed), 1, "{at_features:?}: later polls leave the request out");
        server.set_skip_features_until(Some(Instant::now()));
        server.query_within(None, DEADLINES).await.unwrap();
        assert_eq!(requests.load(Ordering::Relaxed), 2, "{at_features:?}: it is tried again");
    }
}

#[tokio::test]
async fn failed_poll_makes_the_next_request_features() {
    let (mut server, _) = backend(r#"["x","1.4"]"#, AtFeatures::Close).await;
    server.query_within(None, DEADLINES).await.unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    server.address = format!("tcp://{closed}").parse().unwrap();
    assert!(server.query_within(None, DEADLINES).await.is_err());
    assert_eq!(server.skip_features_until(), None);
}

#[tokio::test]
async fn clients_are_told_at_most_the_negotiated_version() {
    let version = |minor| Version::new(1, minor);
    let v1_7_0: Version = "1.7.0".parse().unwrap();
    for (negotiated, features, expected) in [
        (r#"["x","1.7.0"]"#, r#"{"protocol_min":"1.4","protocol_max":"1.7.0"}"#, (version(4), v1_7_0)),
        (r#"["x","1.4"]"#, r#"{"protocol_min":"1.4","protocol_max":"1.4"}"#, (version(4), version(4))),
        (r#"["x","1.4"]"#, r#"{"protocol_min":"1.2","protocol_max":"1.6"}"#, (version(2), version(4))),
        (r#"["x","1.6"]"#, r#"{"protocol_max":"1.8"}"#, (version(4), version(6))),
        (r#"["x","1.7"]"#, r#"{"protocol_max":"1.9"}"#, (version(4), version(7))),
        (r#"["x","1.6"]"#, "{}", (version(4), version(6))),
        (r#"["ElectrumPersonalServer 0.2.4",1.4]"#, "{}", (version(4), version(4))),
        (r#""x""#, r#"{"protocol_min":"1.0","protocol_max":"1.2"}"#, (version(0), version(2))),
        (r#""x""#, "{}", (version(0), version(0))),
    ] {
        let (server, _) = backend(negotiated, AtFeatures::Answer(features)).await;
        let report = server.query_within(None, DEADLINES).await.unwrap();
        assert_eq!(report.info.versions, expected, "{negotiated} {features}");
    }
    let (server, _) = backend(r#"["x","1.7"]"#, AtFeatures::Answer(r#"{"protocol_min":"1.8"}"#)).await;
    assert!(matches!(server.query_within(None, DEADLINES).await, Err(BackendError::Versions)));
}
