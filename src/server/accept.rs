//! Taking callers in at a listener.

use std::io::{Error, ErrorKind};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use super::connection::{ClientSource, ConnectionKind, IncomingConnection};
use super::proxy_header::{self, Header};
use crate::book::Ingress;
use crate::netgroup::Netgroup;

/// After an accept that failed for want of descriptors or memory, which sessions that end will give back.
const PAUSE: Duration = Duration::from_millis(200);

/// How long we wait for Tor to say which circuit a caller has come by. It says so at once, if it does.
const HEADER: Duration = Duration::from_secs(5);

/// Callers who are waited for so at once.
const HEADERS: usize = 256;

/// Passes connections of this listener to admission, until it is dropped or admission ends.
///
/// Callers on onion listeners come through an external Tor, so where they call from says nothing of them.
pub async fn accept(
    listener: TcpListener,
    ingress: Ingress,
    kind: ConnectionKind,
    door: mpsc::Sender<IncomingConnection>,
) {
    let mut short = false;
    let mut introductions = JoinSet::new();
    while !door.is_closed() {
        while introductions.try_join_next().is_some() {}
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) if is_connection_error(&error) => continue,
            Err(error) => {
                if !std::mem::replace(&mut short, true) {
                    tracing::warn!(%error, "can't take callers in for the moment");
                }
                sleep(PAUSE).await;
                continue;
            }
        };
        if std::mem::take(&mut short) {
            tracing::info!("taking callers in again");
        }
        let _ = stream.set_nodelay(true);
        let ip = address.ip().to_canonical();
        let arrival = |stream, from, source| IncomingConnection { stream, from, source, ingress, kind };
        match ingress {
            Ingress::Clearnet => {
                let _ = door
                    .send(arrival(Box::new(stream), Some(ip), ClientSource::Subnet(Netgroup::rate_limit_subnet(ip))))
                    .await;
            }
            Ingress::Onion => {
                if introductions.len() >= HEADERS {
                    introductions.join_next().await;
                }
                let door = door.clone();
                introductions.spawn(async move {
                    let mut stream = stream;
                    let source = circuit(&mut stream).await.map_or(ClientSource::SharedTor, ClientSource::Circuit);
                    let _ = door
                        .send(IncomingConnection { stream: Box::new(stream), from: None, source, ingress, kind })
                        .await;
                });
            }
        }
    }
}

/// Takes the line off a stream by which Tor says which circuit it is for, if it does.
async fn circuit(stream: &mut TcpStream) -> Option<u64> {
    let deadline = Instant::now() + HEADER;
    let mut bytes = [0; proxy_header::LONGEST];
    let mut seen = 0;
    loop {
        let peeked = timeout_at(deadline, stream.peek(&mut bytes)).await.ok()?.ok()?;
        match proxy_header::circuit(bytes.get(..peeked)?) {
            Header::None => return None,
            Header::Line { length, circuit } => {
                stream.read_exact(bytes.get_mut(..length)?).await.ok()?;
                return circuit;
            }
            // At the end of the stream nothing more comes; else the rest is looked for in a moment, as what was seen already
            // would be seen again at once.
            Header::Unfinished if peeked == 0 => return None,
            Header::Unfinished => {
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
