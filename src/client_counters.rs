//! Counters of client activity, without any data that identifies clients.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::book::Ingress;
use crate::electrum::responder::CallOutcome;
use crate::jsonrpc::Method;

/// Declares each counter once, for [`Counters`], [`ClientStats`] and [`ClientStats::limits`].
///
/// `name: Effect "label"` declares a counter of clients at a limit, with its label in metrics.
macro_rules! counters {
    (
        { $($(#[doc = $first_doc:literal])+ $first:ident,)+ }
        calls
        { $($(#[doc = $doc:literal])+ $name:ident $(: $effect:ident $limit:literal)?,)+ }
    ) => {
        /// Counters of client activity since the start.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[doc = $first_doc])+ pub $first: Counter,)+
            /// Requests by ingress, method and outcome.
            pub calls: CallCounters,
            $($(#[doc = $doc])+ pub $name: Counter,)+
        }

        /// Values of [`Counters`], as `waypost status --json` prints them.
        #[derive(Debug, Clone, Serialize, Deserialize)]
        pub struct ClientStats {
            $($(#[doc = $first_doc])+ pub $first: u64,)+
            /// Requests by ingress, method and outcome, without those that did not occur.
            pub calls: Vec<CallCount>,
            $($(#[doc = $doc])+ pub $name: u64,)+
        }

        impl Counters {
            /// Returns the current values.
            pub fn stats(&self) -> ClientStats {
                ClientStats {
                    $($first: self.$first.value(),)+
                    calls: self.calls.counts(),
                    $($name: self.$name.value(),)+
                }
            }
        }

        impl ClientStats {
            /// Returns the counters of clients at a limit.
            pub fn limits(&self) -> Vec<LimitCount> {
                vec![$($(LimitCount { limit: $limit, effect: LimitEffect::$effect, count: self.$name },)?)+]
            }
        }
    };
}

counters! {
    {
        /// Sessions that are open now.
        open_sessions,
        /// Bytes held for clients now: partial requests and unread responses, without a small amount per session.
        memory_bytes,
        /// Admitted sessions.
        sessions,
        /// Admitted sessions on the onion ingress.
        sessions_onion,
        /// Requests, except those forwarded to the backend.
        requests,
    }
    calls
    {
        /// Requests forwarded to the backend.
        forwarded_requests,
        /// Failed connections to the backend, and connections lost while a client needed them.
        backend_failures,
        /// Connections refused because all sessions were in use.
        refused_full: Rejected "full",
        /// Connections refused for a limit of their source.
        refused_source: Rejected "source",
        /// Connections refused because their address is banned.
        refused_banned: Rejected "banned",
        /// Sessions evicted in favour of a source with fewer sessions.
        evicted: Disconnected "evicted",
        /// Sessions closed because the memory for clients was exhausted.
        out_of_memory: Disconnected "memory",
        /// Connections that failed the TLS or WebSocket handshake, or started TLS on a plain port.
        failed_handshakes: Disconnected "handshake",
        /// Connections of trusted proxies without a valid PROXY header.
        missing_proxy_headers: Disconnected "proxy_header_missing",
        /// Connections with a PROXY header that did not come from a trusted proxy.
        unexpected_proxy_headers: Disconnected "proxy_header_unexpected",
        /// Requests delayed by a rate limit.
        delayed_requests: Delayed "delayed",
        /// Sessions closed for too many requests.
        rate_limited_requests: Disconnected "requests",
        /// Sessions closed for too many bytes.
        rate_limited_bytes: Disconnected "bytes",
        /// Lines that are not JSON-RPC.
        malformed_lines: Disconnected "unreadable",
        /// Sessions closed for an incomplete line, or a response that the client did not read in time.
        slow: Disconnected "slow",
        /// Sessions closed after the idle timeout.
        idle: Idle "idle",
        /// Sessions that ended in a panic.
        panicked_sessions,
    }
}

/// Effect of a limit on a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitEffect {
    /// The connection got no session.
    Rejected,
    /// The session was closed.
    Disconnected,
    /// A request was delayed.
    Delayed,
    /// The session was closed for inactivity.
    Idle,
}

/// Number of clients at one limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitCount {
    /// Label of the limit in metrics.
    pub limit: &'static str,
    /// What happened to the clients.
    pub effect: LimitEffect,
    /// Number of times since the start.
    pub count: u64,
}

impl ClientStats {
    /// Returns the number of rejected connections.
    pub fn rejected(&self) -> u64 {
        self.total(LimitEffect::Rejected)
    }

    /// Returns the number of sessions closed at a limit, except the idle ones.
    pub fn disconnected(&self) -> u64 {
        self.total(LimitEffect::Disconnected)
    }

    fn total(&self, effect: LimitEffect) -> u64 {
        self.limits().iter().filter(|limit| limit.effect == effect).map(|limit| limit.count).sum()
    }
}

/// Number of requests with one ingress, method and outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallCount {
    /// Ingress of the clients.
    pub ingress: Ingress,
    /// Method of the requests.
    pub method: Method,
    /// Outcome of the requests.
    pub result: CallOutcome,
    /// Number of requests since the start.
    pub count: u64,
}

/// Atomic counter.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to the counter.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Subtracts from the counter.
    pub fn subtract(&self, count: u64) {
        self.0.fetch_sub(count, Ordering::Relaxed);
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
    fn limits_are_summed_by_effect() {
        let counters = Counters::default();
        counters.refused_full.add(1);
        counters.refused_banned.add(2);
        counters.slow.add(4);
        counters.idle.add(8);
        let stats = counters.stats();
        assert_eq!((stats.rejected(), stats.disconnected(), stats.limits().len()), (3, 4, 14));
    }

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
