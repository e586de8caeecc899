//! What callers did, in numbers; nothing of who they were.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::book::Ingress;
use crate::electrum::responder::CallOutcome;
use crate::jsonrpc::Method;

#[derive(Debug, Default)]
pub struct Counters {
    pub sessions: Counter,
    /// Those of them that came by our onion name.
    pub sessions_onion: Counter,
    pub open: Counter,
    pub requests: Counter,
    pub calls: CallCounters,
    /// Passed on to the server behind us.
    pub forwarded_requests: Counter,
    /// It couldn't be reached, or went away.
    pub backend_failures: Counter,
    /// Rejected at the door, as we were full.
    pub refused_full: Counter,
    /// Rejected at the door, for too many sessions from one source, or too many begun at once.
    pub refused_source: Counter,
    pub refused_banned: Counter,
    /// Disconnected, to make room for somebody from a source with fewer sessions.
    pub evicted: Counter,
    pub failed_handshakes: Counter,
    /// Answered later than they might have been.
    pub delayed_requests: Counter,
    /// Disconnected for too many requests, or too many bytes.
    pub rate_limited_requests: Counter,
    pub rate_limited_bytes: Counter,
    pub malformed_lines: Counter,
    /// Disconnected for a line that didn't end, or an answer that wasn't taken.
    pub slow: Counter,
    pub idle: Counter,
    pub panicked_sessions: Counter,
}

#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub fn decrement(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How often each call was made by callers of each of our names, and what became of it.
#[derive(Debug, Default)]
pub struct CallCounters {
    clearnet: [[Counter; CallOutcome::ALL.len()]; Method::ALL.len()],
    onion: [[Counter; CallOutcome::ALL.len()]; Method::ALL.len()],
}

/// One of those numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallCount {
    pub ingress: Ingress,
    pub method: Method,
    pub result: CallOutcome,
    pub count: u64,
}

impl CallCounters {
    pub fn count(&self, ingress: Ingress, method: Method, result: CallOutcome) {
        let counts = self.for_ingress(ingress).get(method as usize).and_then(|counts| counts.get(result as usize));
        if let Some(count) = counts {
            count.add(1);
        }
    }

    /// All that happened at least once.
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
