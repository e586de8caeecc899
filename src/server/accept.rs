//! Connections of clients, from a listener to admission.

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use super::connection::{ClientSource, ConnectionKind, IncomingConnection};
use super::proxy_header::{MAX_HEADER_BYTES, ProxyHeader, parse_proxy_header};
use crate::accept_loop::AcceptLoop;
use crate::book::Ingress;
use crate::netgroup::Netgroup;

/// Time limit for the PROXY header. Tor sends it at the start of the stream, or never.
const PROXY_HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Number of waiting connections from which on others wait for [`CROWDED_TIMEOUT`] only.
const MAX_PATIENT_HANDSHAKES: usize = 256;

/// Time limit for the PROXY header while many connections wait for theirs.
///
/// Silent connections must not delay others, so the accept loop never waits.
const CROWDED_TIMEOUT: Duration = Duration::from_millis(200);

/// Sends connections of a listener to admission, until admission ends.
///
/// Connections to onion listeners come from an external Tor, so their IP addresses are not the
/// clients'.
pub async fn accept(
    listener: TcpListener,
    ingress: Ingress,
    kind: ConnectionKind,
    admission: mpsc::Sender<IncomingConnection>,
) {
    let mut listener = AcceptLoop::new(listener, "clients");
    let mut handshakes = JoinSet::new();
    while !admission.is_closed() {
        while handshakes.try_join_next().is_some() {}
        let (stream, address) = listener.next().await;
        let _ = stream.set_nodelay(true);
        let ip = address.ip().to_canonical();
        let connection = |stream, from, source| IncomingConnection { stream, from, source, ingress, kind };
        match ingress {
            Ingress::Clearnet => {
                let _ = admission
                    .send(connection(Box::new(stream), Some(ip), ClientSource::Subnet(Netgroup::rate_limit_subnet(ip))))
                    .await;
            }
            Ingress::Onion => {
                let is_crowded = handshakes.len() >= MAX_PATIENT_HANDSHAKES;
                let time_limit = if is_crowded { CROWDED_TIMEOUT } else { PROXY_HEADER_TIMEOUT };
                let admission = admission.clone();
                handshakes.spawn(async move {
                    let mut stream = stream;
                    let source = read_proxy_header(&mut stream, time_limit)
                        .await
                        .map_or(ClientSource::SharedTor, ClientSource::Circuit);
                    let _ = admission
                        .send(IncomingConnection { stream: Box::new(stream), from: None, source, ingress, kind })
                        .await;
                });
            }
        }
    }
}

/// Reads the PROXY header of a stream, and returns its circuit id.
///
/// Without a header, nothing is consumed.
async fn read_proxy_header(stream: &mut TcpStream, time_limit: Duration) -> Option<u64> {
    let deadline = Instant::now() + time_limit;
    let mut bytes = [0; MAX_HEADER_BYTES];
    let mut seen = 0;
    loop {
        let peeked = timeout_at(deadline, stream.peek(&mut bytes)).await.ok()?.ok()?;
        match parse_proxy_header(bytes.get(..peeked)?) {
            ProxyHeader::None => return None,
            ProxyHeader::Line { length, circuit } => {
                stream.read_exact(bytes.get_mut(..length)?).await.ok()?;
                return circuit;
            }
            // End of the stream.
            ProxyHeader::Incomplete if peeked == 0 => return None,
            ProxyHeader::Incomplete => {
                // A peek returns at once as long as unread bytes exist, so new ones are polled for.
                if peeked == seen {
                    sleep(Duration::from_millis(10)).await;
                }
                seen = peeked;
            }
        }
        if Instant::now() >= deadline {
            return None;
        }
    }
}
