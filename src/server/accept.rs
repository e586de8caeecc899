//! Connections of clients, from a listener to admission.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use super::connection::{ClientSource, ConnectionKind, IncomingConnection};
use super::proxy_header::{HeaderVersions, ProxiedSource, ProxyHeader, parse_proxy_header};
use super::trusted_proxies::TrustedProxies;
use crate::accept_loop::AcceptLoop;
use crate::backend::BackendAccess;
use crate::book::Ingress;
use crate::client_counters::Counters;
use crate::netgroup::Netgroup;

/// Time limit for the PROXY header. Proxies and Tor send it at the start of the stream, or never.
const PROXY_HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Number of waiting connections from which on others wait for [`CROWDED_TIMEOUT`] only.
const MAX_PATIENT_HANDSHAKES: usize = 256;

/// Time limit for the PROXY header while many connections wait for theirs.
///
/// Silent connections must not delay others, so the accept loop never waits.
const CROWDED_TIMEOUT: Duration = Duration::from_millis(200);

/// Maximum number of connections of trusted proxies that wait for their header. Further ones are closed.
///
/// A proxy sends the header at once, so only another program at its address can reach this number.
const MAX_PROXY_HANDSHAKES: usize = 1024;

/// Listener, and what applies to all of its connections.
#[derive(Debug)]
pub struct ClientListener {
    /// Open socket.
    pub socket: TcpListener,
    /// Name of the node under which clients come.
    pub ingress: Ingress,
    /// How connections are read.
    pub kind: ConnectionKind,
    /// Whether requests of clients behind a proxy may be forwarded to the backend, unless they come from loopback.
    ///
    /// A listener on loopback has local clients only, but not behind a proxy.
    pub proxied_backend_access: BackendAccess,
    /// Proxies that send a PROXY header. Not used by onion listeners.
    pub trusted_proxies: watch::Receiver<Arc<TrustedProxies>>,
    /// Counters of client activity.
    pub counters: Arc<Counters>,
}

/// Result of reading the header of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HeaderResult {
    /// The stream has a valid header.
    Source(ProxiedSource),
    /// The stream ended before its first byte.
    Empty,
    /// There is no valid header, or not in time.
    Missing,
}

/// Sends connections of a listener to admission, until admission ends.
///
/// Connections to onion listeners come from an external Tor, so their IP addresses are not the
/// clients'.
pub async fn accept(listener: ClientListener, admission: mpsc::Sender<IncomingConnection>) {
    let ClientListener { socket, ingress, kind, proxied_backend_access, trusted_proxies, counters } = listener;
    let mut socket = AcceptLoop::new(socket, "clients");
    let mut handshakes = JoinSet::new();
    while !admission.is_closed() {
        while handshakes.try_join_next().is_some() {}
        let (mut stream, address) = socket.next().await;
        let _ = stream.set_nodelay(true);
        let ip = address.ip().to_canonical();
        let is_crowded = handshakes.len() >= MAX_PATIENT_HANDSHAKES;
        let time_limit = if is_crowded { CROWDED_TIMEOUT } else { PROXY_HEADER_TIMEOUT };
        match ingress {
            Ingress::Clearnet if trusted_proxies.borrow().trusts(ip, kind.protocol()) => {
                if handshakes.len() >= MAX_PROXY_HANDSHAKES {
                    counters.missing_proxy_headers.add(1);
                    continue;
                }
                let (admission, counters) = (admission.clone(), Arc::clone(&counters));
                handshakes.spawn(async move {
                    let header = read_proxy_header(&mut stream, time_limit, HeaderVersions::OneAndTwo).await;
                    let Some(client) = client_behind_proxy(header, ip, kind, &counters) else { return };
                    let backend_access =
                        if client.is_loopback() { kind.backend_access } else { proxied_backend_access };
                    let kind = ConnectionKind { backend_access, ..kind };
                    let _ = admission.send(from_clearnet(stream, client, kind)).await;
                });
            }
            Ingress::Clearnet => drop(admission.send(from_clearnet(stream, ip, kind)).await),
            Ingress::Onion => {
                let admission = admission.clone();
                handshakes.spawn(async move {
                    let header = read_proxy_header(&mut stream, time_limit, HeaderVersions::One).await;
                    let source = match header {
                        HeaderResult::Source(ProxiedSource::Circuit(circuit)) => ClientSource::Circuit(circuit),
                        _ => ClientSource::SharedTor,
                    };
                    let _ = admission
                        .send(IncomingConnection { stream: Box::new(stream), from: None, source, ingress, kind })
                        .await;
                });
            }
        }
    }
}

fn from_clearnet(stream: TcpStream, ip: IpAddr, kind: ConnectionKind) -> IncomingConnection {
    let source = ClientSource::Subnet(Netgroup::rate_limit_subnet(ip));
    IncomingConnection { stream: Box::new(stream), from: Some(ip), source, ingress: Ingress::Clearnet, kind }
}

/// Returns the address of the client behind a trusted proxy, which is the proxy's for a health check.
///
/// Counts and logs a connection without a valid header. Addresses never appear in the log.
fn client_behind_proxy(
    header: HeaderResult,
    proxy: IpAddr,
    kind: ConnectionKind,
    counters: &Counters,
) -> Option<IpAddr> {
    let listener = kind.protocol();
    match header {
        HeaderResult::Source(ProxiedSource::Client(ip)) => return Some(ip),
        HeaderResult::Source(ProxiedSource::Proxy) => return Some(proxy),
        // A health check that only connects.
        HeaderResult::Empty => return None,
        // Clients of the onion name would be served as clearnet clients.
        HeaderResult::Source(ProxiedSource::Circuit(_)) => tracing::warn!(
            "listen.{listener}: connection of an onion service closed; let Tor connect to an address of listen.onion_tcp"
        ),
        HeaderResult::Missing => tracing::warn!(
            "listen.{listener}: connection of a trusted proxy without a valid PROXY header closed; enable the header in \
             the proxy (HAProxy: send-proxy-v2, nginx: proxy_protocol on), or remove its address from \
             listen.trusted_proxies"
        ),
    }
    counters.missing_proxy_headers.add(1);
    None
}

/// Reads the PROXY header of a stream. Without a valid one, nothing is consumed.
async fn read_proxy_header(stream: &mut TcpStream, time_limit: Duration, versions: HeaderVersions) -> HeaderResult {
    let deadline = Instant::now() + time_limit;
    // Any number of onion connections may wait, so each takes little memory.
    let mut bytes = vec![0; versions.max_header_bytes()];
    let mut seen = 0;
    loop {
        let Ok(Ok(peeked)) = timeout_at(deadline, stream.peek(&mut bytes)).await else { return HeaderResult::Missing };
        match parse_proxy_header(bytes.get(..peeked).unwrap_or_default(), versions) {
            ProxyHeader::None => return HeaderResult::Missing,
            ProxyHeader::Complete { length, source } => {
                let header = bytes.get_mut(..length).unwrap_or_default();
                let read = stream.read_exact(header).await;
                return read.map_or(HeaderResult::Missing, |_| HeaderResult::Source(source));
            }
            ProxyHeader::Incomplete if peeked == 0 => return HeaderResult::Empty,
            ProxyHeader::Incomplete => {
                // A peek returns at once as long as unread bytes exist, so new ones are polled for.
                if peeked == seen {
                    sleep(Duration::from_millis(10)).await;
                }
                seen = peeked;
            }
        }
        if Instant::now() >= deadline {
            return HeaderResult::Missing;
        }
    }
}
