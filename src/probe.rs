//! One verification: a conversation over a dialled stream, within its deadlines.

use std::io;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::time::{Instant, timeout_at};
use tokio_util::bytes::Bytes;
use tokio_util::codec::{BytesCodec, FramedRead, FramedWrite, LinesCodec, LinesCodecError};

use crate::connect::{FailureOrigin, ProbeError, ProbeTarget, Verified};
use crate::dial::{Connection, Dialer, Stream};
use crate::electrum::prober::{ProbeExpectations, ProbeStep, Prober, ProberAction};
use crate::jsonrpc::MAX_RESPONSE_BYTES;
use crate::peer::{Fault, Port, ProbeReport, Transport};
use crate::route::Route;

/// How long a peer may take.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// For each answer.
    pub answer: Duration,
    /// For all of it, from the first packet, other doors included.
    pub total: Duration,
}

impl Deadlines {
    /// ElectrumX waits 30 seconds for an answer, and 120 for one through Tor. We ask for less in each, as who answers so
    /// slowly serves nobody.
    pub fn for_route(via: Route) -> Deadlines {
        let secs = Duration::from_secs;
        match via {
            Route::Direct => Deadlines { answer: secs(15), total: secs(60) },
            Route::Tor => Deadlines { answer: secs(30), total: secs(150) },
        }
    }
}

/// Progress of a probe, for observers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    Dialling(Transport, Port),
    Connected,
    Answered(ProbeStep),
    Failed(ProbeError),
}

/// Tries the doors of a peer one after the other, until one leads to a whole conversation.
pub async fn probe(
    dialer: &Dialer,
    attempt: &ProbeTarget,
    expected: &ProbeExpectations,
    deadlines: Deadlines,
    mut watch: impl FnMut(Progress),
) -> Result<Verified, ProbeError> {
    let end = Instant::now() + deadlines.total;
    let mut worst: Option<ProbeError> = None;
    for (place, door) in attempt.endpoints.iter().enumerate() {
        watch(Progress::Dialling(door.0, door.1));
        let failure = match probe_endpoint(dialer, attempt, *door, expected, deadlines, end, &mut watch).await {
            Ok(verified) => return Ok(verified),
            Err(failure) => failure,
        };
        watch(Progress::Failed(failure));
        if place < attempt.trusted_endpoint_count {
            worst = Some(worst.map_or(failure, |worst| more_conclusive(worst, failure)));
            // It spoke, and it is bad; or we can't dial at all. No other door changes that.
            if matches!(failure, ProbeError::ProtocolViolation(_)) || failure.blame() == FailureOrigin::Local {
                break;
            }
        }
        if Instant::now() >= end {
            break;
        }
    }
    Err(worst.unwrap_or(ProbeError::Unreachable))
}

async fn probe_endpoint(
    dialer: &Dialer,
    attempt: &ProbeTarget,
    door: (Transport, Port),
    expected: &ProbeExpectations,
    deadlines: Deadlines,
    end: Instant,
    watch: &mut impl FnMut(Progress),
) -> Result<Verified, ProbeError> {
    let began = Instant::now();
    let Connection { stream, ip, key } =
        timeout_at(end, dialer.dial(attempt, door)).await.unwrap_or(Err(ProbeError::Unreachable))?;
    watch(Progress::Connected);
    let report = run_prober(stream, expected, deadlines, end, watch).await?;
    let (transport, port) = door;
    Ok(Verified { ip, transport, port, tls_key_hash: key, duration: began.elapsed(), report })
}

/// One conversation over a stream that stands.
pub async fn run_prober(
    stream: impl Stream,
    expected: &ProbeExpectations,
    deadlines: Deadlines,
    end: Instant,
    watch: &mut impl FnMut(Progress),
) -> Result<ProbeReport, ProbeError> {
    let (reader, writer) = tokio::io::split(stream);
    let mut lines = FramedRead::new(reader, LinesCodec::new_with_max_length(MAX_RESPONSE_BYTES));
    let mut out = FramedWrite::new(writer, BytesCodec::new());
    let (mut client, mut question) = Prober::new(expected.clone());
    loop {
        let deadline = end.min(Instant::now() + deadlines.answer);
        let sent = timeout_at(deadline, out.send(Bytes::from(question))).await;
        sent.map_err(|_| ProbeError::Timeout)?.map_err(|_: io::Error| ProbeError::Closed)?;
        question = loop {
            let line = timeout_at(deadline, lines.next()).await.map_err(|_| ProbeError::Timeout)?;
            let line = line.ok_or(ProbeError::Closed)?.map_err(|error| unreadable(&error))?;
            let step = client.step();
            match client.handle_line(&line).map_err(ProbeError::ProtocolViolation)? {
                ProberAction::Wait => continue,
                ProberAction::Send(next) => {
                    watch(Progress::Answered(step));
                    break next;
                }
                ProberAction::Done(report) => {
                    watch(Progress::Answered(step));
                    return Ok(*report);
                }
            }
        };
    }
}

/// Of the failures at two doors, the one that says more plainly whose fault it was.
fn more_conclusive(one: ProbeError, other: ProbeError) -> ProbeError {
    let plainness = |failure: ProbeError| match failure.blame() {
        FailureOrigin::Local => 3,
        FailureOrigin::Peer => 2,
        FailureOrigin::PeerUnconfirmed => 1,
        FailureOrigin::Ambiguous => 0,
    };
    if plainness(other) > plainness(one) { other } else { one }
}

fn unreadable(error: &LinesCodecError) -> ProbeError {
    match error {
        LinesCodecError::MaxLineLengthExceeded => ProbeError::ProtocolViolation(Fault::ResponseTooLong),
        LinesCodecError::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
            ProbeError::ProtocolViolation(Fault::Malformed)
        }
        LinesCodecError::Io(_) => ProbeError::Closed,
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::watch;

    use super::*;
    use crate::dial::{Direct, Isolation, Tls};
    use crate::network::Network;

    const QUICK: Deadlines = Deadlines { answer: Duration::from_millis(300), total: Duration::from_millis(1500) };

    /// Listens, and plays this to everyone who connects.
    async fn server<F>(play: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
    where
        F: Future<Output = std::io::Result<()>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(play(stream));
            }
        });
        address
    }

    /// Verifies what listens there.
    async fn verify(doors: &[(Transport, SocketAddr)]) -> Result<Verified, ProbeError> {
        verify_believing(doors.len(), doors).await
    }

    async fn verify_believing(believed: usize, doors: &[(Transport, SocketAddr)]) -> Result<Verified, ProbeError> {
        let (_found, tor) = watch::channel(None);
        let dialer = Dialer { tls: Tls::new().unwrap(), direct: Some(Direct), tor, circle: Isolation::Peers };
        let host: crate::peer::Host = "a.example".parse().unwrap();
        let doors: Vec<_> =
            doors.iter().map(|(transport, address)| (*transport, Port::new(address.port()).unwrap())).collect();
        let addresses = vec!["127.0.0.1".parse().unwrap()];
        let attempt = ProbeTarget {
            host: host.clone(),
            via: Route::Direct,
            addresses,
            endpoints: doors,
            trusted_endpoint_count: believed,
            announce: false,
            checkpoint_height: None,
        };
        let network = Network::Regtest;
        let expected = ProbeExpectations {
            host: Some(host),
            genesis_hash: network.genesis_hash(),
            default_ports: network.default_ports(),
            announce: None,
            compare: None,
        };
        probe(&dialer, &attempt, &expected, QUICK, |_| {}).await
    }

    async fn verify_tcp<F>(play: impl Fn(TcpStream) -> F + Send + 'static) -> Result<Verified, ProbeError>
    where
        F: Future<Output = std::io::Result<()>> + Send + 'static,
    {
        verify(&[(Transport::Tcp, server(play).await)]).await
    }

    /// Answers what a server of today does.
    async fn decent(mut stream: TcpStream) -> std::io::Result<()> {
        let mut buffer = [0; 1024];
        for (id, result) in ["[\"x\",\"1.4\"]", "{}", "[]", "{\"height\":1}"].iter().enumerate() {
            let _ = stream.read(&mut buffer).await?;
            stream.write_all(format!("{{\"id\":{id},\"result\":{result}}}\n").as_bytes()).await?;
        }
        Ok(())
    }

    #[tokio::test]
    async fn a_decent_server_is_verified() {
        assert_eq!(verify_tcp(decent).await.unwrap().report.tip_height, Some(1));
    }

    #[tokio::test]
    async fn where_one_door_fails_the_other_is_tried() {
        let tls_that_is_none =
            server(async |mut stream: TcpStream| stream.write_all(b"hello, who is there?\n").await).await;
        let tcp = server(decent).await;
        let doors = [(Transport::Tls, tls_that_is_none), (Transport::Tcp, tcp)];
        assert_eq!(verify(&doors).await.unwrap().transport, Transport::Tcp);
    }

    #[tokio::test]
    async fn what_others_claim_can_make_nobody_bad() {
        let silent = server(async |mut stream: TcpStream| stream.read_to_end(&mut Vec::new()).await.map(|_| ())).await;
        let web =
            server(async |mut stream: TcpStream| stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await).await;
        let doors = [(Transport::Tcp, silent), (Transport::Tcp, web)];
        assert_eq!(verify_believing(1, &doors).await.unwrap_err(), ProbeError::Timeout);
        assert_eq!(verify_believing(2, &doors).await.unwrap_err(), ProbeError::ProtocolViolation(Fault::Malformed));
        let moved = [(Transport::Tcp, silent), (Transport::Tcp, server(decent).await)];
        assert!(verify_believing(1, &moved).await.is_ok());
    }

    #[tokio::test]
    async fn hostile_servers_cost_no_more_than_their_time() {
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

        let chatter = verify_tcp(async |mut stream| {
            loop {
                stream.write_all(b"{\"method\":\"x\",\"params\":[]}\n").await?;
            }
        });
        assert_eq!(chatter.await.unwrap_err(), ProbeError::ProtocolViolation(Fault::ExcessNotifications));

        let drip = verify_tcp(async |mut stream| {
            loop {
                stream.write_all(b" ").await?;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        assert_eq!(drip.await.unwrap_err(), ProbeError::Timeout);

        let nonsense = verify_tcp(async |mut stream| stream.write_all(b"\xff\xfe\n").await);
        assert_eq!(nonsense.await.unwrap_err(), ProbeError::ProtocolViolation(Fault::Malformed));
    }

    /// Answers each question with the next of these.
    async fn answering(mut stream: TcpStream, results: &[String]) -> std::io::Result<()> {
        let mut buffer = [0; 1024];
        for (id, result) in results.iter().enumerate() {
            let _ = stream.read(&mut buffer).await?;
            stream.write_all(format!("{{\"id\":{id},\"result\":{result}}}\n").as_bytes()).await?;
        }
        stream.read(&mut buffer).await.map(|_| ())
    }

    #[tokio::test]
    async fn hostile_answers_come_to_little() {
        const VERSION: &str = r#"["x","1.4"]"#;
        let play = async |results: &[&str]| {
            let results: Vec<String> = results.iter().map(|result| (*result).to_owned()).collect();
            verify_tcp(move |stream| {
                let results = results.clone();
                async move { answering(stream, &results).await }
            })
            .await
        };
        let fault = async |results: &[&str]| match play(results).await.unwrap_err() {
            ProbeError::ProtocolViolation(fault) => fault,
            other => panic!("{other}"),
        };
        // Lists without end, within a line and beyond one.
        let many = |count: usize| {
            let entry = |n: usize| format!(r#"["5.9.0.1","h{n}.example",["v1.4","s50002"]]"#);
            format!("[{}]", (0..count).map(entry).collect::<Vec<_>>().join(","))
        };
        let verified = play(&[VERSION, "{}", &many(8000), "{}"]).await.unwrap();
        assert_eq!(verified.report.peer_list.0.len(), crate::peer::MAX_PEER_LIST_ENTRIES);
        assert_eq!(fault(&[VERSION, "{}", &many(12_000)]).await, Fault::ResponseTooLong);
        // Little to send, much to unfold.
        let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
        assert_eq!(fault(&[&deep]).await, Fault::Malformed);
        assert_eq!(fault(&[VERSION, &deep]).await, Fault::Malformed);
        assert!(play(&[VERSION, "{}", &format!("[{deep}]"), "{}"]).await.unwrap().report.peer_list.0.is_empty());
        let wide = format!("{{\"hosts\":{{{}}}}}", vec![r#""a":{}"#; 60_000].join(","));
        assert_eq!(fault(&[VERSION, &wide]).await, Fault::HostMismatch);
        // Of the wrong kind.
        for wrong in ["7", "\"x\"", "[[]]", "true"] {
            assert_eq!(fault(&[VERSION, wrong]).await, Fault::Malformed, "{wrong}");
        }
        assert_eq!(fault(&[VERSION, "{}", "{}"]).await, Fault::Malformed);
        // Who says that it is somebody else vouches for nobody.
        assert_eq!(fault(&[VERSION, r#"{"hosts":{"victim.example":{"tcp_port":50001}}}"#]).await, Fault::HostMismatch);
    }

    #[tokio::test]
    async fn a_tls_handshake_that_never_ends_is_given_up() {
        let never = server(async |mut stream: TcpStream| stream.read_to_end(&mut Vec::new()).await.map(|_| ())).await;
        assert_eq!(verify(&[(Transport::Tls, never)]).await.unwrap_err(), ProbeError::Unreachable);
    }

    #[tokio::test]
    async fn a_closed_port_refuses() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        assert_eq!(verify(&[(Transport::Tcp, address)]).await.unwrap_err(), ProbeError::Refused);
    }
}
