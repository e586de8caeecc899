//! What callers may use of us, and how it is measured.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

/// What callers may use of us. A source is an IPv4 /24, an IPv6 /48, or a circuit of our onion service.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Sessions at once, of all listeners. Where there are callers of both our names, those of neither get more than three
    /// quarters.
    pub sessions: usize,
    pub sessions_per_source: usize,
    /// Requests of one session in a second; as much as three seconds' worth may come at once.
    pub requests_per_second: u32,
    /// The same of a whole source; each session that begins counts as one more.
    pub source_requests_per_second: u32,
    /// Bytes of a source's lines, and of the answers to them, in the same way.
    pub bytes_in_per_second: u32,
    pub bytes_out_per_second: u32,
    /// Calls in one batch.
    pub batch: usize,
    /// How long a caller may take over the handshakes of TLS and WebSocket.
    pub handshake: Duration,
    /// How long a caller may say nothing. ElectrumX sends such callers off after as long.
    pub idle: Duration,
    /// How long a line may take from its first byte to its last, and an answer until the caller has taken it.
    pub line: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            sessions: 10_000,
            sessions_per_source: 50,
            requests_per_second: 20,
            source_requests_per_second: 100,
            bytes_in_per_second: 64 * 1024,
            bytes_out_per_second: 1024 * 1024,
            batch: 64,
            handshake: Duration::from_secs(10),
            idle: Duration::from_secs(600),
            line: Duration::from_secs(30),
        }
    }
}

/// Seconds' worth of an allowance that may be used at once.
pub const BURST: u32 = 3;

/// So much of something in a second.
#[derive(Debug)]
pub struct Meter(DefaultDirectRateLimiter);

impl Meter {
    pub fn new(per_second: u32) -> Meter {
        let rate = NonZeroU32::new(per_second).unwrap_or(NonZeroU32::MIN);
        let burst = rate.saturating_mul(NonZeroU32::new(BURST).unwrap_or(NonZeroU32::MIN));
        Meter(RateLimiter::direct(Quota::per_second(rate).allow_burst(burst)))
    }

    /// Uses so many, if there are as many left.
    pub fn take(&self, count: usize) -> bool {
        match u32::try_from(count).map(NonZeroU32::new) {
            Ok(None) => true,
            Ok(Some(count)) => matches!(self.0.check_n(count), Ok(Ok(()))),
            Err(_) => false,
        }
    }
}

/// What all sessions of one source may use together.
#[derive(Debug)]
pub struct Allowance {
    pub requests: Meter,
    pub bytes_in: Meter,
    pub bytes_out: Meter,
}

impl Allowance {
    pub fn new(limits: &Limits) -> Allowance {
        Allowance {
            requests: Meter::new(limits.source_requests_per_second),
            bytes_in: Meter::new(limits.bytes_in_per_second),
            bytes_out: Meter::new(limits.bytes_out_per_second),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_seconds_worth_may_come_at_once() {
        let meter = Meter::new(10);
        assert!(meter.take(0) && meter.take(29) && meter.take(1));
        assert!(!meter.take(1));
        assert!(!Meter::new(10).take(31));
        assert!(!Meter::new(10).take(usize::MAX));
    }
}
