//! A caller's bytes as lines, whether they come as such or as WebSocket messages.

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

/// What is kept for a caller's next line between two lines. A longer line has more, for as long as it takes.
const BUFFER_BYTES: usize = 512;

/// Lines in, answers out.
pub enum ClientStream {
    Lines(FramedRead<Box<dyn Stream>, LineCodec>),
    WebSocket(Box<WsStream>),
}

/// A caller who talks in WebSocket messages.
pub struct WsStream {
    stream: WebSocketStream<Box<dyn Stream>>,
    /// The beginning of a message was sent, and its end wasn't.
    in_message: bool,
}

pub enum ClientInput {
    Line(String),
    Unreadable(RpcError),
    /// It took too long over a line.
    Slow,
    /// It said nothing for too long.
    Idle,
    End,
}

impl ClientStream {
    pub fn lines(stream: Box<dyn Stream>, long: &LongLinePool) -> ClientStream {
        ClientStream::Lines(FramedRead::with_capacity(stream, LineCodec::new(long), BUFFER_BYTES))
    }

    /// Greets a caller who wants to talk in WebSocket messages.
    pub async fn websocket(stream: Box<dyn Stream>) -> Result<ClientStream, tungstenite::Error> {
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER_BYTES)
            .write_buffer_size(0)
            .max_write_buffer_size(2 * MAX_BATCH_RESPONSE_BYTES)
            .max_message_size(Some(MAX_REQUEST_BYTES))
            .max_frame_size(Some(MAX_REQUEST_BYTES));
        let stream = tokio_tungstenite::accept_async_with_config(stream, Some(config)).await?;
        Ok(ClientStream::WebSocket(Box::new(WsStream { stream, in_message: false })))
    }

    pub async fn read(&mut self, timer: &mut ReadTimer, limits: &Limits) -> ClientInput {
        match self {
            ClientStream::Lines(lines) => read_line(lines, timer, limits).await,
            ClientStream::WebSocket(messages) => read_message(messages, timer, limits).await,
        }
    }

    pub async fn send(&mut self, mut line: SharedBuf) -> io::Result<()> {
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

    /// Hands on bytes of lines, of which the last may have its end in what follows.
    pub async fn write_raw(&mut self, bytes: Bytes) -> io::Result<()> {
        match self {
            ClientStream::Lines(lines) => {
                let stream = lines.get_mut();
                stream.write_all(&bytes).await?;
                stream.flush().await
            }
            ClientStream::WebSocket(messages) => messages.write_raw(bytes).await.map_err(io::Error::other),
        }
    }

    /// Says that we are done, and lets what is still on its way run out: a connection closed on unread bytes is reset, and
    /// the last answer lost with it.
    pub async fn shutdown(&mut self) -> io::Result<()> {
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
    /// Each line is a message, which may be sent in several frames.
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

/// A caller may be silent for a long time between lines, but not within one.
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
                if let Some(input) = timer.on_alarm(!lines.read_buffer().is_empty(), limits) {
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
                // Between the words of JSON a line may end; what is passed on is one line.
                Some(Ok(Message::Text(text))) => ClientInput::Line(text.as_str().replace(['\n', '\r'], " ")),
                Some(Ok(Message::Binary(_))) => ClientInput::Unreadable(RpcError::Parse),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
                Some(Err(tungstenite::Error::Capacity(_))) => ClientInput::Unreadable(RpcError::TooLong(MAX_REQUEST_BYTES)),
                Some(Ok(Message::Close(_)) | Err(_)) | None => ClientInput::End,
            },
            () = timer.alarm.as_mut() => {
                if let Some(input) = timer.on_alarm(false, limits) {
                    return input;
                }
            }
        }
    }
}

/// How long a caller is waited for. One alarm serves a whole session, and is set again when it goes off: a timer for each line
/// would cost more than the line.
pub struct ReadTimer {
    alarm: Pin<Box<Sleep>>,
    /// When the alarm first went off while we waited for this line: to look at the clock for each line would cost too.
    first_alarm_at: Option<Instant>,
    /// When it first went off in the midst of this line.
    line_started_at: Option<Instant>,
}

impl ReadTimer {
    pub fn new(limits: &Limits) -> ReadTimer {
        let alarm = Box::pin(sleep_until(Instant::now() + limits.line.min(limits.idle)));
        ReadTimer { alarm, first_alarm_at: None, line_started_at: None }
    }

    /// From now on the next line is waited for.
    pub fn restart(&mut self) {
        (self.first_alarm_at, self.line_started_at) = (None, None);
    }

    /// What it means that the alarm went off, if it means anything.
    fn on_alarm(&mut self, is_mid_line: bool, limits: &Limits) -> Option<ClientInput> {
        let now = Instant::now();
        let since = *self.first_alarm_at.get_or_insert(now);
        if is_mid_line {
            if self.line_started_at.is_some_and(|started| now >= started + limits.line) {
                return Some(ClientInput::Slow);
            }
            self.line_started_at.get_or_insert(now);
        } else if now >= since + limits.idle {
            return Some(ClientInput::Idle);
        }
        let idle_ends = if is_mid_line { now + limits.line } else { since + limits.idle };
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
