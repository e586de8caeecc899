//! A caller's bytes as lines, whether they come as such or as WebSocket messages.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};

use super::Limits;
use crate::dial::Stream;
use crate::protocol::{MAX_BATCH_ANSWER, MAX_CALL, Pieces, RpcError};

/// What is kept for a caller's next line between two lines. A longer line has more, for as long as it takes.
const BUFFER: usize = 512;

/// Lines in, answers out.
pub enum Link {
    Lines(FramedRead<Box<dyn Stream>, LinesCodec>),
    WebSocket(Box<WebSocketStream<Box<dyn Stream>>>),
}

pub enum Heard {
    Line(String),
    Unreadable(RpcError),
    /// It took too long over a line.
    Slow,
    /// It said nothing for too long.
    Silent,
    End,
}

impl Link {
    pub fn lines(stream: Box<dyn Stream>) -> Link {
        Link::Lines(FramedRead::with_capacity(stream, LinesCodec::new_with_max_length(MAX_CALL), BUFFER))
    }

    /// Greets a caller who wants to talk in WebSocket messages.
    pub async fn websocket(stream: Box<dyn Stream>) -> Result<Link, tungstenite::Error> {
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER)
            .write_buffer_size(0)
            .max_write_buffer_size(2 * MAX_BATCH_ANSWER)
            .max_message_size(Some(MAX_CALL))
            .max_frame_size(Some(MAX_CALL));
        let stream = tokio_tungstenite::accept_async_with_config(stream, Some(config)).await?;
        Ok(Link::WebSocket(Box::new(stream)))
    }

    pub async fn hear(&mut self, limits: &Limits) -> Heard {
        match self {
            Link::Lines(lines) => hear_line(lines, limits).await,
            Link::WebSocket(messages) => hear_message(messages, limits.idle).await,
        }
    }

    pub async fn send(&mut self, mut line: Pieces) -> io::Result<()> {
        match self {
            Link::Lines(lines) => {
                let stream = lines.get_mut();
                stream.write_all_buf(&mut line).await?;
                stream.flush().await
            }
            Link::WebSocket(messages) => {
                let mut text = line.to_vec();
                text.truncate(text.trim_ascii_end().len());
                let text = String::from_utf8(text).map_err(io::Error::other)?;
                messages.send(Message::text(text)).await.map_err(io::Error::other)
            }
        }
    }

    /// Says that we are done, and lets what is still on its way run out: a connection closed on unread bytes is reset, and
    /// the last answer lost with it.
    pub async fn part(&mut self) -> io::Result<()> {
        let stream = match self {
            Link::Lines(lines) => lines.get_mut(),
            Link::WebSocket(messages) => {
                let _ = WebSocketStream::close(messages, None).await;
                messages.get_mut()
            }
        };
        stream.shutdown().await?;
        let mut unread = [0; 1024];
        while stream.read(&mut unread).await? > 0 {}
        Ok(())
    }
}

/// A caller may be silent for a long time between lines, but not within one.
async fn hear_line(lines: &mut FramedRead<Box<dyn Stream>, LinesCodec>, limits: &Limits) -> Heard {
    let mut deadline = Instant::now() + limits.idle;
    let mut began = !lines.read_buffer().is_empty();
    if began {
        deadline = Instant::now() + limits.line;
    } else if lines.read_buffer().capacity() > 2 * BUFFER {
        *lines.read_buffer_mut() = BytesMut::with_capacity(BUFFER);
    }
    loop {
        let look = if began { deadline } else { deadline.min(Instant::now() + limits.line) };
        match timeout_at(look, lines.next()).await {
            Ok(Some(Ok(line))) => return Heard::Line(line),
            Ok(Some(Err(error))) => return unreadable(&error),
            Ok(None) => return Heard::End,
            Err(_) if Instant::now() >= deadline => return if began { Heard::Slow } else { Heard::Silent },
            // Nothing complete yet; from here on the line's own time runs.
            Err(_) if !began && !lines.read_buffer().is_empty() => {
                began = true;
                deadline = deadline.min(Instant::now() + limits.line);
            }
            Err(_) => {}
        }
    }
}

async fn hear_message(messages: &mut WebSocketStream<Box<dyn Stream>>, idle: Duration) -> Heard {
    let deadline = Instant::now() + idle;
    loop {
        return match timeout_at(deadline, messages.next()).await {
            Ok(Some(Ok(Message::Text(text)))) => Heard::Line(text.as_str().to_owned()),
            Ok(Some(Ok(Message::Binary(_)))) => Heard::Unreadable(RpcError::Parse),
            Ok(Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)))) => continue,
            Ok(Some(Err(tungstenite::Error::Capacity(_)))) => Heard::Unreadable(RpcError::TooLong(MAX_CALL)),
            Ok(Some(Ok(Message::Close(_)) | Err(_)) | None) => Heard::End,
            Err(_) => Heard::Silent,
        };
    }
}

fn unreadable(error: &LinesCodecError) -> Heard {
    match error {
        LinesCodecError::MaxLineLengthExceeded => Heard::Unreadable(RpcError::TooLong(MAX_CALL)),
        LinesCodecError::Io(error) if error.kind() == io::ErrorKind::InvalidData => Heard::Unreadable(RpcError::Parse),
        LinesCodecError::Io(_) => Heard::End,
    }
}
