//! Stream of a client: lines over TCP or TLS, or WebSocket messages.

use std::io;
use std::pin::Pin;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_util::codec::{FramedRead, LinesCodecError};

use super::Limits;
use super::line_codec::{LineCodec, LongLinePool};
use crate::dial::Stream;
use crate::jsonrpc::{MAX_BATCH_RESPONSE_BYTES, MAX_REQUEST_BYTES, RpcError, SharedBuf};

/// Read buffer of an idle client, in bytes. A longer line enlarges it temporarily.
const BUFFER_BYTES: usize = 512;

/// Stream of lines from a client, and of responses to it.
pub(super) enum ClientStream {
    /// Lines on a byte stream.
    Lines(FramedRead<Box<dyn Stream>, LineCodec>),
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
    /// A line took longer than the line timeout.
    Slow,
    /// No line began within the idle timeout.
    Idle,
    /// The connection ended.
    End,
}

impl ClientStream {
    /// Reads lines, of which long ones need a permit of the pool.
    pub(super) fn lines(stream: Box<dyn Stream>, long: &LongLinePool) -> ClientStream {
        ClientStream::Lines(FramedRead::with_capacity(stream, LineCodec::new(long), BUFFER_BYTES))
    }

    /// Performs the WebSocket handshake.
    pub(super) async fn websocket(stream: Box<dyn Stream>) -> Result<ClientStream, tungstenite::Error> {
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER_BYTES)
            .write_buffer_size(0)
            .max_write_buffer_size(2 * MAX_BATCH_RESPONSE_BYTES)
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

    /// Sends one line.
    pub(super) async fn send(&mut self, mut line: SharedBuf) -> io::Result<()> {
        match self {
            ClientStream::Lines(lines) => {
                let stream = lines.get_mut();
                stream.write_all_buf(&mut line).await?;
                stream.flush().await
            }
            ClientStream::WebSocket(messages) => {
                let mut text = line.to_vec();
                text.truncate(text.trim_ascii_end().len());
                let text = String::from_utf8(text).map_err(io::Error::other)?;
                messages.stream.send(Message::text(text)).await.map_err(io::Error::other)
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
            ClientStream::WebSocket(messages) => messages.write_raw(bytes).await.map_err(io::Error::other),
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
    async fn write_raw(&mut self, bytes: Bytes) -> Result<(), tungstenite::Error> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let end = rest.iter().position(|byte| *byte == b'\n');
            let piece = rest.split_to(end.unwrap_or(rest.len()));
            rest.advance(usize::from(end.is_some()));
            if piece.is_empty() && !self.in_message {
                continue;
            }
            let kind = if self.in_message { Data::Continue } else { Data::Text };
            self.in_message = end.is_none();
            self.stream.feed(Message::Frame(Frame::message(piece, OpCode::Data(kind), end.is_some()))).await?;
        }
        self.stream.flush().await
    }
}

/// Reads a line. The idle timeout applies between lines, the line timeout within one.
async fn read_line(
    lines: &mut FramedRead<Box<dyn Stream>, LineCodec>,
    timer: &mut ReadTimer,
    limits: &Limits,
) -> ClientInput {
    if lines.read_buffer().is_empty() && lines.read_buffer().capacity() > 2 * BUFFER_BYTES {
        *lines.read_buffer_mut() = BytesMut::with_capacity(BUFFER_BYTES);
        lines.decoder_mut().release_permit();
    }
    loop {
        tokio::select! {
            biased;
            line = lines.next() => return match line {
                Some(Ok(line)) => ClientInput::Line(line),
                Some(Err(error)) => unreadable(&error, lines.decoder().max_line_bytes()),
                None => ClientInput::End,
            },
            () = timer.alarm.as_mut() => {
                let position = match lines.read_buffer().is_empty() {
                    true => Position::BetweenLines,
                    false => Position::WithinLine,
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
                    Err(_) => ClientInput::Unreadable(RpcError::Parse),
                },
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => ClientInput::Control,
                Some(Err(tungstenite::Error::Capacity(_))) => ClientInput::Unreadable(RpcError::TooLong(MAX_REQUEST_BYTES)),
                Some(Ok(Message::Close(_)) | Err(_)) | None => ClientInput::End,
            },
            () = timer.alarm.as_mut() => {
                if let Some(input) = timer.on_alarm(Position::BetweenLines, limits) {
                    return input;
                }
            }
        }
    }
}

/// Position in the input of a client, which selects the timeout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    BetweenLines,
    WithinLine,
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
        if position == Position::WithinLine {
            if self.line_started_at.is_some_and(|started| now >= started + limits.line) {
                return Some(ClientInput::Slow);
            }
            self.line_started_at.get_or_insert(now);
        } else if now >= since + limits.idle {
            return Some(ClientInput::Idle);
        }
        let idle_ends = match position {
            Position::WithinLine => now + limits.line,
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
            ClientInput::Unreadable(RpcError::Parse)
        }
        LinesCodecError::Io(_) => ClientInput::End,
    }
}
