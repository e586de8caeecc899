//! Stream of a client whose bytes are metered and charged, before TLS and WebSocket decode them.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::input_memory::InputMemory;
use super::limits::SourceQuota;
use super::proxy_header::starts_with_header;
use crate::dial::Stream;

/// Interval between attempts to charge input while the memory is exhausted.
const MEMORY_RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Number of these attempts: for three seconds.
const MAX_MEMORY_RETRIES: u32 = 30;

/// Kind of the error of a read without memory for more input.
pub(super) const OUT_OF_MEMORY: io::ErrorKind = io::ErrorKind::OutOfMemory;

/// Error of a stream that begins with a PROXY header which its listener does not expect.
#[derive(Debug, thiserror::Error)]
#[error("unexpected PROXY header")]
pub(super) struct UnexpectedHeader;

/// Returns whether the first read failed because of a PROXY header.
pub(super) fn is_unexpected_header(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<UnexpectedHeader>())
}

/// Stream that reads no faster than the quota of its source allows, and no more than its memory allows.
///
/// Every byte counts: handshakes, blank lines, and frames without content as well.
pub(super) struct MeteredStream {
    stream: Box<dyn Stream>,
    quota: Arc<SourceQuota>,
    input: Arc<InputMemory>,
    /// Bytes of the last read that are not charged to the quota yet. They are charged before the next read.
    uncharged: usize,
    /// Time until the quota or the memory is tried again; `None` if neither is exhausted.
    delay: Option<Pin<Box<Sleep>>>,
    /// Failed attempts to charge the memory, in sequence.
    memory_retries: u32,
    /// Whether no byte has been read.
    is_new: bool,
}

impl MeteredStream {
    /// Charges the bytes of a stream to the quota of a source, and to the memory of a session.
    pub(super) fn new(stream: Box<dyn Stream>, quota: Arc<SourceQuota>, input: Arc<InputMemory>) -> MeteredStream {
        MeteredStream { stream, quota, input, uncharged: 0, delay: None, memory_retries: 0, is_new: true }
    }

    /// Waits until the last read is charged.
    fn poll_charge(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if let Some(delay) = &mut self.delay {
                ready!(delay.as_mut().poll(cx));
                self.delay = None;
            }
            let wait = if self.uncharged > 0 {
                match self.quota.bytes_in.acquire_part(self.uncharged) {
                    Ok(charged) => {
                        self.uncharged -= charged;
                        continue;
                    }
                    Err(wait) => wait,
                }
            } else if self.input.charge().is_ok() {
                self.memory_retries = 0;
                return Poll::Ready(Ok(()));
            } else if self.memory_retries < MAX_MEMORY_RETRIES {
                self.memory_retries += 1;
                MEMORY_RETRY_INTERVAL
            } else {
                return Poll::Ready(Err(OUT_OF_MEMORY.into()));
            };
            self.delay = Some(Box::pin(sleep(wait)));
        }
    }
}

impl AsyncRead for MeteredStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_charge(cx))?;
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        self.uncharged = buffer.filled().len() - before;
        self.input.receive(self.uncharged);
        // A proxy that is not trusted, or a second header. Neither TLS, WebSocket nor JSON begins like this.
        if std::mem::take(&mut self.is_new) && starts_with_header(buffer.filled().get(before..).unwrap_or_default()) {
            return Poll::Ready(Err(io::Error::other(UnexpectedHeader)));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for MeteredStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::Instant;

    use super::super::memory::SessionMemory;
    use super::*;
    use crate::server::Limits;

    #[tokio::test]
    async fn bytes_beyond_the_burst_are_read_at_the_rate() {
        let limits = Limits { bytes_in_per_second: 1000, ..Limits::default() };
        let quota = Arc::new(SourceQuota::new(&limits));
        let (mut client, server) = tokio::io::duplex(64 * 1024);
        client.write_all(&[b'\n'; 4000]).await.unwrap();
        let input = Arc::new(InputMemory::new(SessionMemory::for_tests().charge()));
        let mut metered = MeteredStream::new(Box::new(server), quota, input);
        let (start, mut buffer, mut read) = (Instant::now(), [0; 512], 0);
        while read < 3500 {
            read += metered.read(&mut buffer).await.unwrap();
        }
        assert!(start.elapsed().as_millis() < 400, "a burst of three seconds");
        while read < 4000 {
            read += metered.read(&mut buffer).await.unwrap();
        }
        assert!(start.elapsed().as_millis() > 400, "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn header_at_the_start_only_is_an_error() {
        let read = async |sent: &[&[u8]]| {
            let (mut client, server) = tokio::io::duplex(1024);
            let input = Arc::new(InputMemory::new(SessionMemory::for_tests().charge()));
            let quota = Arc::new(SourceQuota::unlimited());
            let mut metered = MeteredStream::new(Box::new(server), quota, input);
            let mut result = Ok(0);
            for bytes in sent {
                client.write_all(bytes).await.unwrap();
                result = metered.read(&mut [0; 64]).await;
            }
            result
        };
        for header in [&b"PROXY TCP4 5.9.0.1 5.9.0.2 1 2\r\n"[..], b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"] {
            assert!(is_unexpected_header(&read(&[header]).await.unwrap_err()));
            assert!(read(&[b"{}\n", header]).await.is_ok());
        }
        assert!(read(&[b"\r\n\r\n{}\n"]).await.is_ok());
    }
}
