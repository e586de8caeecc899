//! Counters of client activity, without any data that identifies clients.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::api::CallCount;
use crate::book::Ingress;
use crate::electrum::responder::CallOutcome;
use crate::jsonrpc::Method;

/// Counters of client activity since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Admitted sessions.
    pub sessions: Counter,
    /// Admitted sessions on the onion ingress.
    pub sessions_onion: Counter,
    /// Sessions that are open now.
    pub open: Counter,
    /// Requests, except those forwarded to the backend.
    pub requests: Counter,
    /// Requests by ingress, method and outcome.
    pub calls: CallCounters,
    /// Requests forwarded to the backend.
    pub forwarded_requests: Counter,
    /// Failed connections to the backend, and connections lost while a client needed them.
    pub backend_failures: Counter,
    /// Connections refused because all sessions were in use.
    pub refused_full: Counter,
    /// Connections refused for a limit of their source.
    pub refused_source: Counter,
    /// Connections refused because their address is banned.
    pub refused_banned: Counter,
    /// Sessions evicted in favour of a source with fewer sessions.
    pub evicted: Counter,
    /// Connections that failed the TLS or WebSocket handshake.
    pub failed_handshakes: Counter,
    /// Requests delayed by a rate limit.
    pub delayed_requests: Counter,
    /// Sessions closed for too many requests.
    pub rate_limited_requests: Counter,
    /// Sessions closed for too many bytes.
    pub rate_limited_bytes: Counter,
    /// Lines that are not JSON-RPC.
    pub malformed_lines: Counter,
    /// Sessions closed for an incomplete line, or a response that the client did not read in time.
    pub slow: Counter,
    /// Sessions closed after the idle timeout.
    pub idle: Counter,
    /// Sessions that ended in a panic.
    pub panicked_sessions: Counter,
}

/// Atomic counter.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to the counter.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Subtracts one.
    pub fn decrement(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// Returns the current value.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counters of requests by ingress, method and outcome.
#[derive(Debug, Default)]
pub struct CallCounters {
    clearnet: [[Counter; CallOutcome::ALL.len()]; Method::ALL.len()],
    onion: [[Counter; CallOutcome::ALL.len()]; Method::ALL.len()],
}

impl CallCounters {
    /// Counts one request.
    pub fn count(&self, ingress: Ingress, method: Method, result: CallOutcome) {
        let counts = self.for_ingress(ingress).get(method as usize).and_then(|counts| counts.get(result as usize));
        if let Some(count) = counts {
            count.add(1);
        }
    }

    /// Returns all counts above zero.
    pub fn counts(&self) -> Vec<CallCount> {
        let mut all = Vec::new();
        for ingress in [Ingress::Clearnet, Ingress::Onion] {
            for (method, counts) in Method::ALL.into_iter().zip(self.for_ingress(ingress)) {
                for (result, count) in CallOutcome::ALL.into_iter().zip(counts) {
                    all.push(CallCount { ingress, method, result, count: count.value() });
                }
            }
        }
        all.retain(|count| count.count > 0);
        all
    }

    fn for_ingress(&self, ingress: Ingress) -> &[[Counter; CallOutcome::ALL.len()]; Method::ALL.len()] {
        match ingress {
            Ingress::Clearnet => &self.clearnet,
            Ingress::Onion => &self.onion,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_method_and_outcome_is_counted_separately() {
        let calls = CallCounters::default();
        for (method, times) in Method::ALL.into_iter().zip(1..) {
            for _ in 0..times {
                calls.count(Ingress::Onion, method, CallOutcome::Refused);
            }
        }
        calls.count(Ingress::Clearnet, Method::Peers, CallOutcome::Ok);
        let counts = calls.counts();
        assert_eq!(counts.len(), Method::ALL.len() + 1);
        for (count, times) in counts.iter().filter(|count| count.ingress == Ingress::Onion).zip(1..) {
            assert_eq!(
                (count.method, count.result, count.count),
                (Method::ALL[times - 1], CallOutcome::Refused, times as u64)
            );
        }
    }
}
