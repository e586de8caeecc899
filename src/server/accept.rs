//! Taking callers in at a listener.

use std::io::{Error, ErrorKind};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use super::connection::{ClientSource, ConnectionKind, IncomingConnection};
use super::proxy_header::{MAX_HEADER_BYTES, ProxyHeader, parse_proxy_header};
use crate::book::Ingress;
use crate::netgroup::Netgroup;

/// After an accept that failed for want of descriptors or memory, which sessions that end will give back.
const RETRY_DELAY: Duration = Duration::from_millis(200);

/// How long we wait for Tor to say which circuit a caller has come by. It says so at once, if it does.
const PROXY_HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Callers who are waited for so at once.
const MAX_HANDSHAKES: usize = 256;

/// Passes connections of this listener to admission, until it is dropped or admission ends.
///
/// Callers on onion listeners come through an external Tor, so where they call from says nothing of them.
pub async fn accept(
    listener: TcpListener,
    ingress: Ingress,
    kind: ConnectionKind,
    admission: mpsc::Sender<IncomingConnection>,
) {
    let mut failing = false;
    let mut handshakes = JoinSet::new();
    while !admission.is_closed() {
        while handshakes.try_join_next().is_some() {}
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) if is_connection_error(&error) => continue,
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "can't take callers in for the moment");
                }
                sleep(RETRY_DELAY).await;
                continue;
            }
        };
        if std::mem::take(&mut failing) {
            tracing::info!("taking callers in again");
        }
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
                if handshakes.len() >= MAX_HANDSHAKES {
                    handshakes.join_next().await;
                }
                let admission = admission.clone();
                handshakes.spawn(async move {
                    let mut stream = stream;
                    let source =
                        read_proxy_header(&mut stream).await.map_or(ClientSource::SharedTor, ClientSource::Circuit);
                    let _ = admission
                        .send(IncomingConnection { stream: Box::new(stream), from: None, source, ingress, kind })
                        .await;
                });
            }
        }
    }
}

/// Takes the line off a stream by which Tor says which circuit it is for, if it does.
async fn read_proxy_header(stream: &mut TcpStream) -> Option<u64> {
    let deadline = Instant::now() + PROXY_HEADER_TIMEOUT;
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
            // At the end of the stream nothing more comes; else the rest is looked for in a moment, as what was seen already
            // would be seen again at once.
            ProxyHeader::Incomplete if peeked == 0 => return None,
            ProxyHeader::Incomplete => {
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

/// Errors of one caller who went away again, not of the listener.
fn is_connection_error(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted)
}
