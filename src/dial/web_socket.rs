//! WebSockets of servers, as byte streams of lines.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;
use tokio_tungstenite::client_async_with_config;
use tokio_tungstenite::tungstenite::error::{Error, ProtocolError};
use tokio_tungstenite::tungstenite::{Message, protocol::WebSocketConfig};
use tokio_util::io::{CopyToBytes, SinkWriter, StreamReader};

use super::Stream;
use crate::connect::ProbeError;
use crate::jsonrpc::MAX_RESPONSE_BYTES;
use crate::peer::{Endpoint, Host, Port, Transport};

/// Timeout of the HTTP upgrade, which takes one round trip through Tor.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(20);

/// Maximum number of bytes of unsent frames. Requests are shorter, and the library queues a pong for each ping.
const WRITE_BUFFER_BYTES: usize = 64 * 1024;

/// Upgrades a connection to a WebSocket. Each line is a message, in both directions.
///
/// A message may have as many bytes as a line of a peer. The connection ends after `max_bytes` of the peer in total: pings
/// and empty frames are no lines, so nothing else counts them.
pub(super) async fn upgrade<S: Stream + 'static>(
    stream: S,
    max_bytes: usize,
    host: &Host,
    (transport, port): (Transport, Port),
) -> Result<Box<dyn Stream>, ProbeError> {
    let scheme = match transport {
        Transport::Tcp => "ws",
        Transport::Tls => "wss",
    };
    let url = format!("{scheme}://{}/", Endpoint { host: host.clone(), port });
    let (reader, writer) = tokio::io::split(stream);
    let stream = tokio::io::join(reader.take(u64::try_from(max_bytes).unwrap_or(u64::MAX)), writer);
    let config = WebSocketConfig::default()
        .write_buffer_size(0)
        .max_write_buffer_size(WRITE_BUFFER_BYTES)
        .max_message_size(Some(MAX_RESPONSE_BYTES))
        .max_frame_size(Some(MAX_RESPONSE_BYTES));
    let upgraded = timeout(UPGRADE_TIMEOUT, client_async_with_config(url, stream, Some(config)));
    let (socket, _) = match upgraded.await {
        Ok(Ok(upgraded)) => upgraded,
        Ok(Err(Error::Io(_) | Error::ConnectionClosed | Error::Protocol(ProtocolError::HandshakeIncomplete))) => {
            return Err(ProbeError::Closed);
        }
        // A server that answers without an upgrade serves something else there.
        Ok(Err(_)) => return Err(ProbeError::WebSocket),
        Err(_) => return Err(ProbeError::Timeout),
    };
    let (messages_out, messages_in) = socket.split();
    let lines_in = messages_in.filter_map(async |message| match message {
        Ok(Message::Text(text)) => Some(Ok(line(text.into()))),
        Ok(Message::Binary(bytes)) => Some(Ok(line(bytes))),
        // The library answers pings.
        Ok(Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_)) => None,
        Err(error) => Some(Err(io::Error::other(error))),
    });
    let lines_out = messages_out.sink_map_err(io::Error::other).with(async |line: Bytes| {
        let text = std::str::from_utf8(&line).map_err(io::Error::other)?;
        Ok::<_, io::Error>(Message::text(text.trim_end()))
    });
    let reader = StreamReader::new(Box::pin(lines_in));
    let writer = SinkWriter::new(CopyToBytes::new(Box::pin(lines_out)));
    Ok(Box::new(tokio::io::join(reader, writer)))
}

/// Returns the content of a message as a line. Line breaks within it separate tokens of JSON.
fn line(content: Bytes) -> Bytes {
    let mut line: Vec<u8> = content.into_iter().map(|byte| if byte == b'\n' { b' ' } else { byte }).collect();
    line.push(b'\n');
    line.into()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, duplex};
    use tokio_tungstenite::accept_async;

    use super::*;

    const ENDPOINT: (Transport, Port) = (Transport::Tcp, Port::MIN);

    #[tokio::test]
    async fn each_line_is_a_message() {
        let (client, server) = duplex(1024);
        let server = tokio::spawn(async move {
            let mut socket = accept_async(server).await.unwrap();
            let request = socket.next().await.unwrap().unwrap();
            assert_eq!(request, Message::text("request"));
            socket.send(Message::Ping(Bytes::new())).await.unwrap();
            socket.send(Message::text("two\nlines")).await.unwrap();
            socket.send(Message::binary(&b"binary"[..])).await.unwrap();
            socket.send(Message::text("x".repeat(MAX_RESPONSE_BYTES + 1))).await
        });
        let stream = upgrade(client, usize::MAX, &"a.example".parse().unwrap(), ENDPOINT).await.unwrap();
        let (reader, mut writer) = tokio::io::split(stream);
        writer.write_all(b"request\n").await.unwrap();
        writer.flush().await.unwrap();
        let mut lines = BufReader::new(reader).lines();
        assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("two lines"));
        assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("binary"));
        assert!(lines.next_line().await.is_err(), "a message that is too long");
        drop((lines, writer));
        let _ = server.await.unwrap();
    }

    #[tokio::test]
    async fn pings_end_the_connection_after_the_limit() {
        let (client, server) = duplex(1024);
        let server = tokio::spawn(async move {
            let mut socket = accept_async(server).await.unwrap();
            let mut sent = 0;
            // The pongs are never read, so they would pile up.
            while sent < 10_000 && socket.send(Message::Ping(Bytes::from_static(&[0; 125]))).await.is_ok() {
                sent += 1;
            }
            sent
        });
        let stream = upgrade(client, 20_000, &"a.example".parse().unwrap(), ENDPOINT).await.unwrap();
        let mut lines = BufReader::new(stream).lines();
        assert!(!matches!(lines.next_line().await, Ok(Some(_))));
        drop(lines);
        assert!(server.await.unwrap() < 1_000);
    }

    #[tokio::test]
    async fn other_services_are_an_error() {
        for (response, expected) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", ProbeError::WebSocket),
            ("SSH-2.0-x\r\n\r\n", ProbeError::WebSocket),
            ("", ProbeError::Closed),
        ] {
            let (client, mut server) = duplex(1024);
            server.write_all(response.as_bytes()).await.unwrap();
            server.shutdown().await.unwrap();
            let outcome = upgrade(client, usize::MAX, &"a.example".parse().unwrap(), ENDPOINT).await;
            assert_eq!(outcome.err(), Some(expected), "{response}");
        }
    }
}
