//! Thousands of clients, and a bare server as the upper limit for any server in Rust.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use waypost::dial::{Stream, Tls};

/// Transport to a server.
#[derive(Debug, Clone)]
pub(crate) enum Transport {
    Tcp,
    Tls,
    /// Through the SOCKS port at the address, to this onion name.
    Onion(String),
}

#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub address: SocketAddr,
    pub transport: Transport,
}

/// What clients send.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub method: &'static str,
    pub connections: usize,
    /// Requests that each client sends at once.
    pub depth: usize,
    pub time: Duration,
}

/// Results of one run: responses per second, and latencies in milliseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figures {
    pub rate: f64,
    pub p50: f64,
    pub p99: f64,
}

/// Connections that are established concurrently.
const MAX_CONCURRENT_DIALS: usize = 64;

/// Sends requests on many connections. Each sends the next ones after the responses.
pub(crate) fn run(target: &Target, load: &Load) -> Figures {
    let Load { method, connections, depth, time } = *load;
    let runtime = Runtime::new().unwrap();
    let mut latencies = runtime.block_on(async {
        let streams = connect_all(target, connections).await;
        let lines: Arc<str> = encode_request(method).repeat(depth).into();
        let mut clients = JoinSet::new();
        let end = Instant::now() + time;
        for stream in streams {
            let lines = Arc::clone(&lines);
            clients.spawn(async move {
                let mut stream = BufReader::with_capacity(64 * 1024, stream);
                let mut latencies = Vec::new();
                loop {
                    let start = Instant::now();
                    stream.get_mut().write_all(lines.as_bytes()).await.unwrap();
                    stream.get_mut().flush().await.unwrap();
                    skip_lines(&mut stream, depth).await;
                    let now = Instant::now();
                    if now > end {
                        return latencies;
                    }
                    latencies.push((now - start).as_micros() as u32);
                }
            });
        }
        let mut all = Vec::new();
        while let Some(latencies) = clients.join_next().await {
            all.extend(latencies.unwrap());
        }
        all
    });
    latencies.sort_unstable();
    let at = |share: f64| f64::from(latencies[((latencies.len() - 1) as f64 * share) as usize]) / 1000.0;
    Figures { rate: (latencies.len() * depth) as f64 / time.as_secs_f64(), p50: at(0.5), p99: at(0.99) }
}

/// Reads so many lines. Clients share the processors with the servers, so it copies nothing.
async fn skip_lines<S: Stream>(stream: &mut BufReader<S>, mut lines: usize) {
    while lines > 0 {
        let received = stream.fill_buf().await.unwrap();
        assert!(!received.is_empty(), "the server disconnected");
        lines -= memchr::memchr_iter(b'\n', received).count();
        let read = received.len();
        stream.consume(read);
    }
}

/// Returns the size of one response in bytes.
pub(crate) fn length(target: &Target, method: &str) -> usize {
    Runtime::new().unwrap().block_on(async {
        let stream = connect(target).await;
        request(&mut BufReader::new(stream), method).await
    })
}

/// Opens sessions that send one request each, and are idle until this value is dropped.
pub(crate) fn hold(target: &Target, sessions: usize) -> (Runtime, Vec<Box<dyn Stream>>) {
    let runtime = Runtime::new().unwrap();
    let streams = runtime.block_on(async {
        let mut streams = connect_all(target, sessions).await;
        for stream in &mut streams {
            request(&mut BufReader::new(stream), "server.ping").await;
        }
        streams
    });
    (runtime, streams)
}

/// Runs the bare server: a response to `server.version` of so many bytes for any line.
///
/// It listens on port 50011, and with TLS and the daemon's certificate on port 50012. On port 50014 the response has no
/// padding.
pub(crate) fn bare(length: usize, data: &Path) {
    Runtime::new().unwrap().block_on(async {
        raise_descriptors();
        let certificate = CertificateDer::from_pem_file(data.join("tls-cert.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(data.join("tls-key.pem")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let mut answer = br#"{"id":0,"result":["bare","1.4"]"#.to_vec();
        let short: Arc<[u8]> = [&answer, &b"}\n"[..]].concat().into();
        answer.resize(length - 2, b' ');
        answer.extend_from_slice(b"}\n");
        let answer: Arc<[u8]> = answer.into();
        let plain = TcpListener::bind("127.0.0.1:50011").await.unwrap();
        let tls = TcpListener::bind("127.0.0.1:50012").await.unwrap();
        let unpadded = TcpListener::bind("127.0.0.1:50014").await.unwrap();
        loop {
            let answer = Arc::clone(&answer);
            tokio::select! {
                Ok((stream, _)) = plain.accept() => {
                    stream.set_nodelay(true).unwrap();
                    tokio::spawn(echo(stream, answer));
                }
                Ok((stream, _)) = unpadded.accept() => {
                    stream.set_nodelay(true).unwrap();
                    tokio::spawn(echo(stream, Arc::clone(&short)));
                }
                Ok((stream, _)) = tls.accept() => {
                    stream.set_nodelay(true).unwrap();
                    let acceptor = acceptor.clone();
                    tokio::spawn(async move {
                        if let Ok(stream) = acceptor.accept(stream).await {
                            echo(stream, answer).await;
                        }
                    });
                }
            }
        }
    });
}

/// Runs the bare relay, which copies bytes in both directions.
pub(crate) fn bare_relay(from: &str, to: &'static str) {
    Runtime::new().unwrap().block_on(async {
        raise_descriptors();
        let listener = TcpListener::bind(from).await.unwrap();
        while let Ok((mut client, _)) = listener.accept().await {
            client.set_nodelay(true).unwrap();
            tokio::spawn(async move {
                let mut server = TcpStream::connect(to).await.unwrap();
                server.set_nodelay(true).unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
}

/// Sends one response per line, all responses to a read at once.
async fn echo<S: Stream>(mut stream: S, answer: Arc<[u8]>) {
    let mut buffer = [0; 1024];
    while let Ok(read) = stream.read(&mut buffer).await {
        if read == 0 {
            return;
        }
        let lines = memchr::memchr_iter(b'\n', &buffer[..read]).count();
        let written = match lines {
            1 => stream.write_all(&answer).await,
            _ => stream.write_all(&answer.repeat(lines)).await,
        };
        if written.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}

async fn connect_all(target: &Target, connections: usize) -> Vec<Box<dyn Stream>> {
    raise_descriptors();
    let mut dialling = JoinSet::new();
    let permits = Arc::new(Semaphore::new(MAX_CONCURRENT_DIALS));
    for _ in 0..connections {
        let (target, permits) = (target.clone(), Arc::clone(&permits));
        dialling.spawn(async move {
            let _permit = permits.acquire_owned().await;
            let mut stream = connect(&target).await;
            // ElectrumX requires `server.version` first.
            request(&mut BufReader::new(&mut stream), "server.version").await;
            stream
        });
    }
    dialling.join_all().await
}

async fn connect(target: &Target) -> Box<dyn Stream> {
    let mut stream = TcpStream::connect(target.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    match &target.transport {
        Transport::Tcp => Box::new(stream),
        Transport::Tls => {
            let host = waypost::peer::Host::Ip(target.address.ip());
            Box::new(Tls::new().unwrap().connect(&host, stream).await.unwrap().0)
        }
        Transport::Onion(name) => {
            let mut reply = [0; 10];
            stream.write_all(&[5, 1, 0]).await.unwrap();
            stream.read_exact(&mut reply[..2]).await.unwrap();
            let length = name.len() as u8;
            let connect = [&[5, 1, 0, 3, length], name.as_bytes(), &50001u16.to_be_bytes()].concat();
            stream.write_all(&connect).await.unwrap();
            stream.read_exact(&mut reply).await.unwrap();
            assert_eq!(reply[1], 0, "{name} is unreachable");
            Box::new(stream)
        }
    }
}

async fn request<S: Stream>(stream: &mut BufReader<S>, method: &str) -> usize {
    stream.get_mut().write_all(encode_request(method).as_bytes()).await.unwrap();
    stream.get_mut().flush().await.unwrap();
    let mut answer = Vec::new();
    stream.read_until(b'\n', &mut answer).await.unwrap()
}

fn encode_request(method: &str) -> String {
    let params = if method == "server.version" { r#"["bench","1.4"]"# } else { "[]" };
    format!("{{\"id\":1,\"method\":\"{method}\",\"params\":{params}}}\n")
}

fn raise_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}
