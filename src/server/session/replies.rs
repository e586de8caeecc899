//! Replies of a session: collected, charged, and sent.

use std::pin::pin;
use std::task::Poll;

use futures_util::poll;
use tokio::time::timeout;

use super::super::client_stream::ClientInput;
use super::super::memory::Need;
use super::{ClientSession, SessionEnd, abort, check_sent};
use crate::electrum::responder::Responder;
use crate::jsonrpc::{RpcError, SharedBuf};

/// Size of collected replies from which they are sent, in bytes: sixteen of the shortest.
const MAX_COLLECTED_BYTES: usize = 16 * 1024;

/// Bytes of unread replies that are not charged.
const FREE_BYTES: usize = 4 * 1024;

impl ClientSession<'_> {
    /// Adds a reply, within the byte limits of the source, to those that are sent before the session waits.
    ///
    /// In front of a backend, it is sent at once.
    pub(super) async fn add_reply(&mut self, reply: Option<SharedBuf>) -> Result<(), SessionEnd> {
        let Some(reply) = reply else { return Ok(()) };
        if self.backend.is_some() {
            // Forwarded data may have used up the quota, so replies wait instead of failing.
            self.await_quota(reply.len()).await;
            return self.send(reply).await;
        }
        if !self.source.bytes_out.try_acquire(reply.len()) {
            self.shared.counters.rate_limited_bytes.add(1);
            return Box::pin(self.close_with(&RpcError::RateLimited("bytes"))).await;
        }
        self.replies.append(reply);
        Ok(())
    }

    /// Sends the collected replies, unless another line can be handled before.
    ///
    /// Returns the input, if some was read meanwhile.
    pub(super) async fn send_collected(&mut self) -> Result<Option<ClientInput>, SessionEnd> {
        if self.replies.len() < MAX_COLLECTED_BYTES {
            if self.replies.is_empty() || self.stream.has_line() {
                return Ok(None);
            }
            // Requests that were sent together may be longer than the buffer. Then the rest of a line is there already.
            if self.stream.has_partial_line() {
                let input = poll!(pin!(self.stream.read(&mut self.read_timer, &self.limits)));
                if let Poll::Ready(input) = input {
                    if !matches!(input, ClientInput::Line(_)) {
                        self.send_replies().await?;
                    }
                    return Ok(Some(input));
                }
            }
        }
        self.send_replies().await?;
        Ok(None)
    }

    /// Sends the collected replies.
    pub(super) async fn send_replies(&mut self) -> Result<(), SessionEnd> {
        if self.replies.is_empty() {
            return Ok(());
        }
        let replies = std::mem::take(&mut self.replies);
        self.send(replies).await
    }

    /// Sends a part of the response to a batch.
    pub(super) async fn send_part(&mut self, part: SharedBuf) -> Result<(), SessionEnd> {
        self.await_quota(part.len()).await;
        self.send(part).await
    }

    /// Waits until the byte limits of the source allow this many bytes.
    pub(super) async fn await_quota(&mut self, bytes: usize) {
        while !self.source.bytes_out.acquire_clamped(bytes).await {}
    }

    /// Sends the collected replies and an error, and ends the session.
    pub(super) async fn close_with(&mut self, error: &RpcError) -> Result<(), SessionEnd> {
        let mut last = std::mem::take(&mut self.replies);
        // Within a forwarded line, the error would be read as a part of that line.
        if self.upstream.as_ref().is_none_or(|upstream| !upstream.is_mid_line()) {
            last.append(Responder::closing_error(error));
            self.send(last).await?;
        }
        Err(SessionEnd::Graceful)
    }

    /// Sends a reply. Its memory is charged while the client does not read it, except for parts that sessions share.
    pub(super) async fn send(&mut self, reply: SharedBuf) -> Result<(), SessionEnd> {
        let copied = reply.copied_bytes();
        let mut sending = pin!(self.stream.write_part(reply));
        // Most sends finish at once, and need no charge and no timer.
        if let Poll::Ready(sent) = poll!(sending.as_mut()) {
            return check_sent(Ok(sent), &self.shared.counters);
        }
        let mut charge = self.memory.charge();
        if copied > FREE_BYTES && charge.resize(copied, Need::Required).is_err() {
            return Err(abort(&self.shared.counters.out_of_memory));
        }
        check_sent(timeout(self.limits.line, sending).await, &self.shared.counters)
    }
}
