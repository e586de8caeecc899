//! What callers did, in numbers; nothing of who they were.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::book::Caller;
use crate::conversation::server::Answered;
use crate::protocol::Method;

#[derive(Debug, Default)]
pub struct Counters {
    pub sessions: Count,
    /// Those of them that came by our onion name.
    pub sessions_onion: Count,
    pub open: Count,
    pub requests: Count,
    pub calls: Calls,
    /// Passed on to the server behind us.
    pub passed_requests: Count,
    /// It couldn't be reached, or went away.
    pub backend_failures: Count,
    /// Turned away at the door, as we were full.
    pub refused_full: Count,
    /// Turned away at the door, for too many sessions from one source, or too many begun at once.
    pub refused_source: Count,
    pub refused_banned: Count,
    /// Sent off, to make room for somebody from a source with fewer sessions.
    pub evicted: Count,
    pub failed_handshakes: Count,
    /// Answered later than they might have been.
    pub delayed_requests: Count,
    /// Sent off for too many requests, or too many bytes.
    pub excessive_requests: Count,
    pub excessive_bytes: Count,
    pub unreadable_lines: Count,
    /// Sent off for a line that didn't end, or an answer that wasn't taken.
    pub slow: Count,
    pub idle: Count,
    pub broken_sessions: Count,
}

#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub fn take_one(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How often each call was made by callers of each of our names, and what became of it.
#[derive(Debug, Default)]
pub struct Calls {
    clearnet: [[Count; Answered::ALL.len()]; Method::ALL.len()],
    onion: [[Count; Answered::ALL.len()]; Method::ALL.len()],
}

/// One of those numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallCount {
    pub caller: Caller,
    pub method: Method,
    pub result: Answered,
    pub count: u64,
}

impl Calls {
    pub fn count(&self, caller: Caller, method: Method, result: Answered) {
        let counts = self.of(caller).get(method as usize).and_then(|counts| counts.get(result as usize));
        if let Some(count) = counts {
            count.add(1);
        }
    }

    /// All that happened at least once.
    pub fn counts(&self) -> Vec<CallCount> {
        let mut all = Vec::new();
        for caller in [Caller::Clearnet, Caller::Onion] {
            for (method, counts) in Method::ALL.into_iter().zip(self.of(caller)) {
                for (result, count) in Answered::ALL.into_iter().zip(counts) {
                    all.push(CallCount { caller, method, result, count: count.value() });
                }
            }
        }
        all.retain(|count| count.count > 0);
        all
    }

    fn of(&self, caller: Caller) -> &[[Count; Answered::ALL.len()]; Method::ALL.len()] {
        match caller {
            Caller::Clearnet => &self.clearnet,
            Caller::Onion => &self.onion,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_has_a_number_of_its_own() {
        let calls = Calls::default();
        for (method, times) in Method::ALL.into_iter().zip(1..) {
            for _ in 0..times {
                calls.count(Caller::Onion, method, Answered::Refused);
            }
        }
        calls.count(Caller::Clearnet, Method::Peers, Answered::Answered);
        let counts = calls.counts();
        assert_eq!(counts.len(), Method::ALL.len() + 1);
        for (count, times) in counts.iter().filter(|count| count.caller == Caller::Onion).zip(1..) {
            assert_eq!(
                (count.method, count.result, count.count),
                (Method::ALL[times - 1], Answered::Refused, times as u64)
            );
        }
    }
}
