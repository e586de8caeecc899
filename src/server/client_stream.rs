//! Stream of a client: lines over TCP or TLS, or WebSocket messages.

use std::io;
use std::pin::Pin;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_util::codec::{Decoder, FramedRead, LinesCodec, LinesCodecError};

use super::Limits;
use super::metered_stream::{OUT_OF_MEMORY, is_unexpected_header};
use crate::dial::Stream;
use crate::jsonrpc::{MAX_REQUEST_BYTES, RpcError, SharedBuf};

/// Read buffer of an idle client, in bytes. A longer line enlarges it temporarily.
const BUFFER_BYTES: usize = 512;

/// Kind of the error for a TLS record instead of a line.
const TLS_RECORD: io::ErrorKind = io::ErrorKind::Unsupported;

/// Stream of lines from a client, and of responses to it.
pub(super) enum ClientStream {
    /// Lines on a byte stream.
    Lines(FramedRead<Box<dyn Stream>, PlainLines>),
    /// One line per WebSocket message.
    WebSocket(Box<WsStream>),
}

/// WebSocket stream of a client.
pub(super) struct WsStream {
    stream: WebSocketStream<Box<dyn Stream>>,
    /// Whether the last sent frame did not end its message.
    in_message: bool,
}

/// Result of waiting for a client's next line.
pub(super) enum ClientInput {
    /// A line, without its end.
    Line(String),
    /// Input without a line: a ping or pong of WebSocket.
    Control,
    /// A line that is too long or no text.
    Unreadable(RpcError),
    /// A line for which no memory is left.
    OutOfMemory,
    /// The start of a TLS handshake.
    Tls,
    /// A PROXY header, but not of a trusted proxy.
    ProxyHeader,
    /// A line took longer than the line timeout.
    Slow,
    /// No line began within the idle timeout.
    Idle,
    /// The client sends no more lines. It may still read.
    End,
    /// The connection was lost, or the client closed a WebSocket.
    Lost,
}

impl ClientStream {
    /// Reads lines of up to this length.
    pub(super) fn lines(stream: Box<dyn Stream>, max_line_bytes: usize) -> ClientStream {
        let codec = PlainLines(LinesCodec::new_with_max_length(max_line_bytes));
        ClientStream::Lines(FramedRead::with_capacity(stream, codec, BUFFER_BYTES))
    }

    /// Performs the WebSocket handshake.
    pub(super) async fn websocket(stream: Box<dyn Stream>) -> Result<ClientStream, tungstenite::Error> {
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER_BYTES)
            .write_buffer_size(0)
            .max_message_size(Some(MAX_REQUEST_BYTES))
            .max_frame_size(Some(MAX_REQUEST_BYTES));
        let stream = tokio_tungstenite::accept_async_with_config(stream, Some(config)).await?;
        Ok(ClientStream::WebSocket(Box::new(WsStream { stream, in_message: false })))
    }

    /// Waits for the next line within the timeouts. Cancel safe.
    pub(super) async fn read(&mut self, timer: &mut ReadTimer, limits: &Limits) -> ClientInput {
        match self {
            ClientStream::Lines(lines) => read_line(lines, timer, limits).await,
            ClientStream::WebSocket(messages) => read_message(messages, timer, limits).await,
        }
    }

    /// Returns whether another line was received already.
    pub(super) fn has_line(&self) -> bool {
        memchr::memchr(b'\n', self.received()).is_some()
    }

    /// Returns whether bytes were received that have not been read as lines.
    pub(super) fn has_partial_line(&self) -> bool {
        !self.received().is_empty()
    }

    /// Returns the number of further lines that were received already.
    pub(super) fn buffered_lines(&self) -> usize {
        memchr::memchr_iter(b'\n', self.received()).count()
    }

    /// Returns the bytes that were received and not read as lines. WebSocket messages are read one by one.
    fn received(&self) -> &[u8] {
        match self {
            ClientStream::Lines(lines) => lines.read_buffer(),
            ClientStream::WebSocket(_) => &[],
        }
    }

    /// Frees the buffer of a long line. Returns the number of bytes that follow the line in the buffer.
    pub(super) fn shrink_buffer(&mut self) -> usize {
        match self {
            ClientStream::Lines(lines) => {
                let mut rest = BytesMut::with_capacity(lines.read_buffer().len().max(BUFFER_BYTES));
                rest.extend_from_slice(lines.read_buffer());
                *lines.read_buffer_mut() = rest;
                lines.read_buffer().len()
            }
            // Messages are short, and so are the reads.
            ClientStream::WebSocket(_) => 0,
        }
    }

    /// Sends a line, or a part of one. The last part ends with the line feed.
    ///
    /// The bytes are not copied, as sessions share them.
    pub(super) async fn write_part(&mut self, mut part: SharedBuf) -> io::Result<()> {
        match self {
            ClientStream::Lines(lines) => {
                let stream = lines.get_mut();
                match part.as_one_piece() {
                    // The system writes one piece faster than a list of pieces.
                    Some(bytes) => stream.write_all(bytes).await?,
                    None => stream.write_all_buf(&mut part).await?,
                }
                stream.flush().await
            }
            ClientStream::WebSocket(messages) => {
                let ends_line = part.trim_line_feed();
                messages.write_frame(part, ends_line).await
            }
        }
    }

    /// Forwards bytes of lines. The last line may be incomplete and continue in the next call.
    pub(super) async fn write_raw(&mut self, bytes: Bytes) -> io::Result<()> {
        match self {
            ClientStream::Lines(lines) => {
                let stream = lines.get_mut();
                stream.write_all(&bytes).await?;
                stream.flush().await
            }
            ClientStream::WebSocket(messages) => messages.write_lines(bytes).await,
        }
    }

    /// Closes the stream for writing, and discards input until the client closes it too.
    ///
    /// Closing a socket with unread bytes resets the connection, which can discard the last
    /// response.
    pub(super) async fn shutdown(&mut self) -> io::Result<()> {
        let stream = match self {
            ClientStream::Lines(lines) => lines.get_mut(),
            ClientStream::WebSocket(messages) => {
                let _ = messages.stream.close(None).await;
                messages.stream.get_mut()
            }
        };
        stream.shutdown().await?;
        let mut unread = [0; 1024];
        while stream.read(&mut unread).await? > 0 {}
        Ok(())
    }
}

impl WsStream {
    /// Sends each line as one message, in several frames if its parts come separately.
    async fn write_lines(&mut self, mut rest: Bytes) -> io::Result<()> {
        while !rest.is_empty() {
            let end = rest.iter().position(|byte| *byte == b'\n');
            let piece = rest.split_to(end.unwrap_or(rest.len()));
            rest.advance(usize::from(end.is_some()));
            if piece.is_empty() && !self.in_message {
                continue;
            }
            self.write_frame(piece.into(), end.is_some()).await?;
        }
        Ok(())
    }

    /// Sends a frame of a text message.
    ///
    /// It is written to the stream below, as the library would copy it into a buffer for each session.
    async fn write_frame(&mut self, mut frame: SharedBuf, is_final: bool) -> io::Result<()> {
        // A reply to a ping may be in the library's buffer.
        self.stream.flush().await.map_err(io::Error::other)?;
        let opcode = OpCode::Data(if self.in_message { Data::Continue } else { Data::Text });
        self.in_message = !is_final;
        let mut header = Vec::new();
        let format = FrameHeader { is_final, opcode, ..FrameHeader::default() };
        format.format(frame.len() as u64, &mut header).map_err(io::Error::other)?;
        frame.prepend(header);
        let stream = self.stream.get_mut();
        stream.write_all_buf(&mut frame).await?;
        stream.flush().await
    }
}

/// Reads a line. The idle timeout applies between lines, the line timeout within one.
async fn read_line(
    lines: &mut FramedRead<Box<dyn Stream>, PlainLines>,
    timer: &mut ReadTimer,
    limits: &Limits,
) -> ClientInput {
    loop {
        tokio::select! {
            biased;
            line = lines.next() => return match line {
                Some(Ok(line)) => ClientInput::Line(line),
                Some(Err(error)) => unreadable(&error, lines.decoder().0.max_length()),
                None => ClientInput::End,
            },
            () = timer.alarm.as_mut() => {
                let position = match lines.read_buffer().len() {
                    0 => Position::BetweenLines,
                    received => Position::WithinLine { received },
                };
                if let Some(input) = timer.on_alarm(position, limits) {
                    return input;
                }
            }
        }
    }
}

async fn read_message(messages: &mut WsStream, timer: &mut ReadTimer, limits: &Limits) -> ClientInput {
    loop {
        tokio::select! {
            biased;
            message = messages.stream.next() => return match message {
                // JSON may contain line breaks between tokens. A forwarded request must be one
                // line.
                Some(Ok(Message::Text(text))) => ClientInput::Line(text.as_str().replace(['\n', '\r'], " ")),
                // Fulcrum reads binary messages as text too.
                Some(Ok(Message::Binary(bytes))) => match String::from_utf8(bytes.into()) {
                    Ok(text) => ClientInput::Line(text.replace(['\n', '\r'], " ")),
                    Err(_) => ClientInput::Unreadable(RpcError::NOT_UTF8),
                },
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => ClientInput::Control,
                Some(Err(tungstenite::Error::Capacity(_))) => ClientInput::Unreadable(RpcError::TooLong(MAX_REQUEST_BYTES)),
                Some(Err(tungstenite::Error::Io(error))) if error.kind() == OUT_OF_MEMORY => ClientInput::OutOfMemory,
                Some(Ok(Message::Close(_)) | Err(_)) | None => ClientInput::Lost,
            },
            () = timer.alarm.as_mut() => {
                if let Some(input) = timer.on_alarm(Position::BetweenLines, limits) {
                    return input;
                }
            }
        }
    }
}

/// Codec of lines that recognizes the start of a TLS handshake.
///
/// It contains no line feed, so the client would wait for the line timeout.
pub(super) struct PlainLines(LinesCodec);

impl Decoder for PlainLines {
    type Item = String;
    type Error = LinesCodecError;

    fn decode(&mut self, bytes: &mut BytesMut) -> Result<Option<String>, LinesCodecError> {
        // The type of a handshake record, and the first byte of all versions. No line of JSON starts with them.
        if bytes.starts_with(&[0x16, 0x03]) {
            return Err(LinesCodecError::Io(TLS_RECORD.into()));
        }
        self.0.decode(bytes)
    }

    fn decode_eof(&mut self, bytes: &mut BytesMut) -> Result<Option<String>, LinesCodecError> {
        self.0.decode_eof(bytes)
    }
}

/// Position in the input of a client, which selects the timeout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    BetweenLines,
    WithinLine {
        /// Received bytes of the line.
        received: usize,
    },
}

/// Read timeouts of a session.
///
/// One timer serves the whole session and is reset when it fires. A timer per line would cost more
/// than the line.
pub(super) struct ReadTimer {
    alarm: Pin<Box<Sleep>>,
    /// First alarm during the wait for this line. `None` before, because reading the clock per line
    /// costs too.
    first_alarm_at: Option<Instant>,
    /// First alarm within this line.
    line_started_at: Option<Instant>,
}

impl ReadTimer {
    /// Starts the timer.
    pub(super) fn new(limits: &Limits) -> ReadTimer {
        let alarm = Box::pin(sleep_until(Instant::now() + limits.line.min(limits.idle)));
        ReadTimer { alarm, first_alarm_at: None, line_started_at: None }
    }

    /// Restarts the timeouts for the next line.
    pub(super) fn restart(&mut self) {
        (self.first_alarm_at, self.line_started_at) = (None, None);
    }

    /// Returns the timeout that has passed, if any, and resets the alarm.
    fn on_alarm(&mut self, position: Position, limits: &Limits) -> Option<ClientInput> {
        let now = Instant::now();
        let since = *self.first_alarm_at.get_or_insert(now);
        if let Position::WithinLine { received } = position {
            // The quota of the source delays a long line by this.
            let delay = Duration::from_secs(received as u64 / u64::from(limits.bytes_in_per_second.max(1)));
            if self.line_started_at.is_some_and(|started| now >= started + limits.line + delay) {
                return Some(ClientInput::Slow);
            }
            self.line_started_at.get_or_insert(now);
        } else if now >= since + limits.idle {
            return Some(ClientInput::Idle);
        }
        let idle_ends = match position {
            Position::WithinLine { .. } => now + limits.line,
            Position::BetweenLines => since + limits.idle,
        };
        self.alarm.as_mut().reset((now + limits.line).min(idle_ends));
        None
    }
}

fn unreadable(error: &LinesCodecError, max_line_bytes: usize) -> ClientInput {
    match error {
        LinesCodecError::MaxLineLengthExceeded => ClientInput::Unreadable(RpcError::TooLong(max_line_bytes)),
        LinesCodecError::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
            ClientInput::Unreadable(RpcError::NOT_UTF8)
        }
        LinesCodecError::Io(error) if error.kind() == OUT_OF_MEMORY => ClientInput::OutOfMemory,
        LinesCodecError::Io(error) if error.kind() == TLS_RECORD => ClientInput::Tls,
        LinesCodecError::Io(error) if is_unexpected_header(error) => ClientInput::ProxyHeader,
        LinesCodecError::Io(_) => ClientInput::Lost,
    }
}

#[cfg(test)]
mod tests {
    use tokio_tungstenite::tungstenite::Message;

    use super::*;
    use crate::jsonrpc::MAX_BATCH_RESPONSE_BYTES;

    #[tokio::test]
    async fn long_websocket_message_is_sent_without_a_copy() {
        let (client_end, server_end) = tokio::io::duplex(4096);
        let server = tokio::spawn(async move {
            let mut stream = ClientStream::websocket(Box::new(server_end)).await.unwrap();
            // A batch of the maximum size, padded to the next power of two.
            let shared = Bytes::from(vec![b'x'; 2 * MAX_BATCH_RESPONSE_BYTES - 1]);
            let mut line = SharedBuf::from(shared.clone());
            line.push(&b"\n"[..]);
            let mut sending = Box::pin(stream.write_part(line));
            assert!(futures_util::poll!(sending.as_mut()).is_pending());
            assert!(!shared.is_unique(), "the stream holds a reference");
            sending.await.unwrap();
            for part in ["[1,", "2]\n"] {
                stream.write_part(SharedBuf::from(part.as_bytes())).await.unwrap();
            }
        });
        let (mut client, _) = tokio_tungstenite::client_async("ws://localhost/", client_end).await.unwrap();
        assert_eq!(client.next().await.unwrap().unwrap().len(), 2 * MAX_BATCH_RESPONSE_BYTES - 1);
        assert_eq!(client.next().await.unwrap().unwrap(), Message::text("[1,2]"));
        server.await.unwrap();
    }
}
