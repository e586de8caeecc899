//! Requests of a session, charged to the meters of the session and of its source.

use super::{ClientSession, SessionEnd};
use crate::jsonrpc::RpcError;

impl ClientSession<'_> {
    /// Charges all requests that were read together, in one step. Returns whether none of them has to wait.
    pub(super) fn prepay_requests(&mut self) -> bool {
        for (meter, prepaid) in [&self.requests, &self.source.requests].into_iter().zip(&mut self.prepaid) {
            if *prepaid == 0 {
                let lines = 1 + self.stream.buffered_lines();
                if !meter.try_acquire(lines) {
                    return false;
                }
                *prepaid = lines;
            }
        }
        true
    }

    /// Counts requests, and waits until the rate limits allow them.
    pub(super) async fn charge_requests(&mut self, calls: usize) -> Result<(), RpcError> {
        self.shared.counters.requests.add(calls as u64);
        if self.prepaid.iter().all(|prepaid| calls <= *prepaid) {
            self.prepaid.iter_mut().for_each(|prepaid| *prepaid -= calls);
            return Ok(());
        }
        Box::pin(self.await_requests(calls)).await
    }

    /// Waits until the rate limits allow these requests.
    async fn await_requests(&mut self, calls: usize) -> Result<(), RpcError> {
        let counters = &self.shared.counters;
        for (meter, prepaid) in [&self.requests, &self.source.requests].into_iter().zip(&mut self.prepaid) {
            let due = calls.saturating_sub(*prepaid);
            *prepaid = prepaid.saturating_sub(calls);
            if !meter.try_acquire(due) {
                counters.delayed_requests.add(due as u64);
                if !meter.acquire(due).await {
                    counters.rate_limited_requests.add(1);
                    return Err(RpcError::RateLimited("requests"));
                }
            }
        }
        Ok(())
    }

    /// Charges input without a request, such as a blank line or a ping, as one request.
    pub(super) async fn charge_control(&mut self) -> Result<(), SessionEnd> {
        // It may be delayed, and the replies to earlier requests are not.
        self.send_replies().await?;
        match self.charge_requests(1).await {
            Ok(()) => Ok(()),
            Err(error) => Box::pin(self.close_with(&error)).await,
        }
    }
}
