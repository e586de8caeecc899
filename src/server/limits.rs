//! What callers may use of us, and how it is measured.

use std::num::NonZeroU32;
use std::sync::LazyLock;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::time::{Instant, sleep};

/// What callers may use of us. A source is an IPv4 /24, an IPv6 /48, or a circuit of our onion service.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Sessions at once, of all listeners. Where there are callers of both our names, those of neither get more than three
    /// quarters.
    pub sessions: usize,
    pub sessions_per_source: usize,
    /// Requests of one session in a second. As much as three seconds' worth may come at once; what is beyond that waits, and
    /// what would wait for longer than three seconds is refused.
    pub requests_per_second: u32,
    /// The same of a whole source; each session that begins counts as one more, and is refused at once if that is too many.
    /// Servers and wallets ask some five questions when they come, and then one in a minute; a Tor exit's /24 may be many.
    pub source_requests_per_second: u32,
    /// Bytes of a source's lines, and of the answers to them; what is beyond three seconds' worth is refused.
    pub bytes_in_per_second: u32,
    pub bytes_out_per_second: u32,
    /// Requests of a source that are passed on to the server behind us, in a second; they wait as well.
    pub forwarded_requests_per_second: u32,
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
            requests_per_second: 25,
            source_requests_per_second: 25,
            bytes_in_per_second: 64 * 1024,
            bytes_out_per_second: 1024 * 1024,
            forwarded_requests_per_second: 300,
            batch: 64,
            handshake: Duration::from_secs(10),
            idle: Duration::from_secs(600),
            line: Duration::from_secs(30),
        }
    }
}

/// Seconds' worth of an allowance that may be used at once.
pub const BURST_SECONDS: u32 = 3;

/// One for all meters: to make it asks the processor what it is, which takes a virtual machine long.
static CLOCK: LazyLock<DefaultClock> = LazyLock::new(DefaultClock::default);

/// So much of something in a second.
#[derive(Debug)]
pub struct RateMeter {
    limiter: DefaultDirectRateLimiter,
    burst: NonZeroU32,
}

impl RateMeter {
    pub fn new(per_second: u32) -> RateMeter {
        let rate = NonZeroU32::new(per_second).unwrap_or(NonZeroU32::MIN);
        let burst = rate.saturating_mul(NonZeroU32::new(BURST_SECONDS).unwrap_or(NonZeroU32::MIN));
        let limiter = RateLimiter::direct_with_clock(Quota::per_second(rate).allow_burst(burst), CLOCK.clone());
        RateMeter { limiter, burst }
    }

    /// Uses so many, if there are as many left.
    pub fn try_acquire(&self, count: usize) -> bool {
        self.check(count) == Some(Duration::ZERO)
    }

    /// Uses so many as soon as there are as many, unless that takes as long as a whole burst.
    pub async fn acquire(&self, count: usize) -> bool {
        let deadline = Instant::now() + Duration::from_secs(BURST_SECONDS.into());
        while let Some(wait) = self.check(count) {
            if wait.is_zero() {
                return true;
            }
            if Instant::now() + wait > deadline {
                return false;
            }
            sleep(wait).await;
        }
        false
    }

    /// The same, where more than a whole burst counts as one.
    pub async fn acquire_clamped(&self, count: usize) -> bool {
        self.acquire(count.min(self.burst.get() as usize)).await
    }

    /// How long to wait for so many; nothing if they are used now, None if there are never as many.
    fn check(&self, count: usize) -> Option<Duration> {
        let Some(count) = NonZeroU32::new(u32::try_from(count).ok()?) else { return Some(Duration::ZERO) };
        match self.limiter.check_n(count).ok()? {
            Ok(()) => Some(Duration::ZERO),
            Err(not_until) => Some(not_until.wait_time_from(CLOCK.now()).max(Duration::from_millis(1))),
        }
    }
}

/// What all sessions of one source may use together.
#[derive(Debug)]
pub struct SourceQuota {
    pub requests: RateMeter,
    pub forwarded: RateMeter,
    pub bytes_in: RateMeter,
    pub bytes_out: RateMeter,
}

impl SourceQuota {
    pub fn new(limits: &Limits) -> SourceQuota {
        SourceQuota {
            requests: RateMeter::new(limits.source_requests_per_second),
            forwarded: RateMeter::new(limits.forwarded_requests_per_second),
            bytes_in: RateMeter::new(limits.bytes_in_per_second),
            bytes_out: RateMeter::new(limits.bytes_out_per_second),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn concurrent_waiters_wait_at_most_one_burst() {
        let meter = RateMeter::new(20);
        assert!(meter.try_acquire(60));
        let waited = futures_util::future::join_all((0..90).map(|_| meter.acquire(1))).await;
        let served = waited.iter().filter(|served| **served).count();
        assert!((55..=62).contains(&served), "{served}");
    }

    #[test]
    fn burst_of_three_seconds_is_allowed() {
        let meter = RateMeter::new(10);
        assert!(meter.try_acquire(0) && meter.try_acquire(29) && meter.try_acquire(1));
        assert!(!meter.try_acquire(1));
        assert!(!RateMeter::new(10).try_acquire(31));
        assert!(!RateMeter::new(10).try_acquire(usize::MAX));
    }
}
