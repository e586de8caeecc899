//! Requests of a session that the backend answers, and the loss of the backend.

use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::{Instant, timeout};

use super::super::batch::AfterBatch;
use super::super::pending_calls::Resend;
use super::super::upstream::Upstream;
use super::super::upstream_event::{Outlook, UpstreamEvent};
use super::{BACKEND_RETRY_DELAY, ClientSession, SessionEnd, abort, check_sent};
use crate::backend::{SessionNeeds, UpstreamConnection};
use crate::electrum::responder::{LineResult, ReplyPart, encode_line};
use crate::jsonrpc::RpcError;

/// Number of upstreams that a session remembers to have failed. More than one session ever tries.
const MAX_FAILED_UPSTREAMS: usize = 16;

impl ClientSession<'_> {
    /// Forwards a line, or the requests of a batch that are for the backend.
    ///
    /// Without a connection, each gets an error response.
    pub(super) async fn forward(&mut self, line: &str, result: LineResult) -> Result<(), SessionEnd> {
        let upstream = match self.upstream.take() {
            Some(upstream) => Some(upstream),
            None => {
                let may_move = self.backend.is_some_and(|backend| backend.has_alternatives(self.access));
                let resend = if may_move { Resend::Possible } else { Resend::Impossible };
                let rng = StdRng::seed_from_u64(self.rng.random());
                // Rare futures are in boxes, as their states would otherwise take memory for the whole session.
                let opened = Box::pin(self.open_upstream()).await;
                opened.map(|connection| Box::new(Upstream::new(connection, Arc::clone(&self.memory), resend, rng)))
            }
        };
        let (batch, close) = (result.batch, result.close);
        let mut parts = Vec::with_capacity(result.parts.len());
        for part in result.parts {
            parts.push(match part {
                ReplyPart::Forward(forwarded) => Err(forwarded),
                ReplyPart::Ready(reply) => Ok(Some(reply)),
                ReplyPart::AddPeer(pending) => Ok(Box::pin(self.submit_add_peer(pending)).await),
            });
        }
        let Some(mut upstream) = upstream else {
            let error = RpcError::Backend("can't be reached");
            let replies =
                parts.into_iter().filter_map(|part| part.unwrap_or_else(|forwarded| forwarded.failed(&error)));
            self.add_reply(encode_line(replies, batch)).await?;
            return if close { Err(SessionEnd::Graceful) } else { Ok(()) };
        };
        if batch {
            let then = if close { AfterBatch::Close } else { AfterBatch::Continue };
            upstream.forward_batch(parts, then, self.rng.random());
        } else if let Some(Err(forwarded)) = parts.pop() {
            upstream.forward(line, forwarded);
        }
        self.upstream = Some(upstream);
        Ok(())
    }

    /// Opens a connection to the backend, if possible to an upstream that did not fail within this session.
    async fn open_upstream(&mut self) -> Option<UpstreamConnection> {
        if self.backend_retry_at.is_some_and(|until| Instant::now() < until) {
            return None;
        }
        let version = self.responder.upstream_version();
        let needs =
            SessionNeeds { version: &version, access: self.access, failed: &self.failed_upstreams, client: self.from };
        match self.backend?.open(needs, &mut self.rng).await {
            Ok(connection) => Some(connection),
            Err(error) => {
                self.backend_retry_at = Some(Instant::now() + BACKEND_RETRY_DELAY);
                self.shared.counters.backend_failures.add(1);
                tracing::debug!(%error, "no connection to the backend server");
                None
            }
        }
    }

    pub(super) async fn on_upstream(&mut self, event: UpstreamEvent) -> Result<(), SessionEnd> {
        match event {
            UpstreamEvent::Sent => Ok(()),
            UpstreamEvent::Data(bytes) => {
                self.await_quota(bytes.len()).await;
                let sent = timeout(self.limits.line, self.stream.write_raw(bytes)).await;
                check_sent(sent, &self.shared.counters)
            }
            UpstreamEvent::BatchPart(part) => self.send_part(part).await,
            UpstreamEvent::BatchEnd(part, then) => {
                if !part.is_empty() {
                    self.send_part(part).await?;
                }
                match then {
                    AfterBatch::Continue => Ok(()),
                    AfterBatch::Close => Err(SessionEnd::Graceful),
                }
            }
            UpstreamEvent::OutOfMemory => Err(abort(&self.shared.counters.out_of_memory)),
            UpstreamEvent::End => Box::pin(self.on_upstream_lost("closed the connection", true)).await,
        }
    }

    /// Handles the loss of the upstream, which another one may replace. `closed`: it has closed the connection.
    pub(super) async fn on_upstream_lost(&mut self, failure: &'static str, closed: bool) -> Result<(), SessionEnd> {
        let Some(mut upstream) = self.upstream.take_if(|upstream| upstream.is_needed()) else {
            // The next forwarded request opens a new one.
            self.upstream = None;
            return Ok(());
        };
        self.shared.counters.backend_failures.add(1);
        upstream.report_failure(closed);
        self.failed_upstreams.retain(|failed| *failed != upstream.name());
        self.failed_upstreams.push(upstream.name());
        if self.failed_upstreams.len() > MAX_FAILED_UPSTREAMS {
            self.failed_upstreams.remove(0);
        }
        if upstream.can_fail_over()
            && let Some(connection) = Box::pin(self.open_upstream()).await
        {
            upstream.fail_over(connection);
            self.upstream = Some(upstream);
            return Ok(());
        }
        self.upstream = Some(upstream);
        self.fail(&RpcError::Backend(failure)).await
    }

    /// Drops the connection to the backend, and fails each pending call.
    ///
    /// The session of a subscribed client ends, because no notification would follow.
    async fn fail(&mut self, error: &RpcError) -> Result<(), SessionEnd> {
        let Some(upstream) = self.upstream.take() else { return Ok(()) };
        let failed = upstream.fail(error);
        let has_no_pending_call = failed.lines.is_empty();
        for line in failed.lines {
            self.add_reply(Some(line)).await?;
        }
        match failed.outlook {
            Outlook::Continue => Ok(()),
            Outlook::Close if has_no_pending_call => self.close_with(error).await,
            Outlook::Close | Outlook::CloseMidLine => Err(SessionEnd::Graceful),
        }
    }
}
