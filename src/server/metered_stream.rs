//! Stream of a client whose bytes are metered, before TLS and WebSocket decode them.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::limits::SourceQuota;
use crate::dial::Stream;

/// Stream that reads no faster than the quota of its source allows.
///
/// Every byte counts: handshakes, blank lines, and frames without content as well.
pub(super) struct MeteredStream {
    stream: Box<dyn Stream>,
    quota: Arc<SourceQuota>,
    /// Bytes of the last read that are not charged yet. They are charged before the next read.
    uncharged: usize,
    /// Time until the quota allows more; `None` if nothing is uncharged.
    delay: Option<Pin<Box<Sleep>>>,
}

impl MeteredStream {
    /// Charges the bytes of a stream to a source.
    pub(super) fn new(stream: Box<dyn Stream>, quota: Arc<SourceQuota>) -> MeteredStream {
        MeteredStream { stream, quota, uncharged: 0, delay: None }
    }

    /// Waits until the last read is charged.
    fn poll_charge(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.uncharged > 0 {
            if let Some(delay) = &mut self.delay {
                ready!(delay.as_mut().poll(cx));
                self.delay = None;
            }
            match self.quota.bytes_in.acquire_part(self.uncharged) {
                Ok(charged) => self.uncharged -= charged,
                Err(wait) => self.delay = Some(Box::pin(sleep(wait))),
            }
        }
        Poll::Ready(())
    }
}

impl AsyncRead for MeteredStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_charge(cx));
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        self.uncharged = buffer.filled().len() - before;
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

    use super::*;
    use crate::server::Limits;

    #[tokio::test]
    async fn bytes_beyond_the_burst_are_read_at_the_rate() {
        let limits = Limits { bytes_in_per_second: 1000, ..Limits::default() };
        let quota = Arc::new(SourceQuota::new(&limits));
        let (mut client, server) = tokio::io::duplex(64 * 1024);
        client.write_all(&[b'\n'; 4000]).await.unwrap();
        let mut metered = MeteredStream::new(Box::new(server), quota);
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
}
