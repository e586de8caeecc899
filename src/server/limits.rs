//! Limits of clients, and the meters that enforce them.

use std::num::NonZeroU32;
use std::sync::LazyLock;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::time::{Instant, sleep};

use crate::networks::Networks;

/// Limits of clients.
///
/// A source is an IPv4 /24, an IPv6 /48, or a circuit of the onion service.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Open sessions on all listeners. Default: 10,000.
    ///
    /// If clients come on both ingresses, each gets a fixed half, or at most three quarters if the names are linked.
    pub sessions: usize,
    /// Open sessions of one source. Default: 50.
    pub sessions_per_source: usize,
    /// Requests of one session per second. Default: 25.
    ///
    /// A burst of three seconds' worth is allowed. Further requests are delayed, and refused if the
    /// delay would exceed three seconds.
    pub requests_per_second: u32,
    /// Requests of one source per second, with the same burst. Default: 25.
    ///
    /// Each new session counts as one request, and is refused without a delay. Servers and wallets
    /// send some five requests at first, and then one per minute. Many may share the /24 of a Tor
    /// exit.
    pub source_requests_per_second: u32,
    /// Bytes per second that one source may send. Default: 64 KiB.
    ///
    /// All bytes count, also those of handshakes and blank lines. Beyond three seconds' worth at once, Waypost reads
    /// no faster than this.
    pub bytes_in_per_second: u32,
    /// Bytes per second that one source may receive. Default: 1 MiB.
    ///
    /// The burst is the same. Clients of a backend are delayed instead of refused.
    pub bytes_out_per_second: u32,
    /// Requests of one source that are forwarded to the backend per second. Default: 300.
    ///
    /// Bursts and delays are those of `requests_per_second`.
    pub forwarded_requests_per_second: u32,
    /// Requests in one batch. Default: 400.
    ///
    /// BlueWallet sends up to 200, and Fulcrum accepts 345.
    pub batch: usize,
    /// Time limit for the TLS and WebSocket handshakes. Default: 10 seconds.
    pub handshake: Duration,
    /// Time without a line after which a client is disconnected. Default: 10 minutes, as in
    /// ElectrumX.
    pub idle: Duration,
    /// Time limit for receiving a started line, and for sending a response. Default: 30 seconds.
    pub line: Duration,
    /// Clients without limits on sessions, requests and bytes per source. Default: none.
    ///
    /// Timeouts, the length of batches and the memory of clients stay limited, as they protect the process.
    pub exempt: Networks,
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
            batch: 400,
            handshake: Duration::from_secs(10),
            idle: Duration::from_secs(600),
            line: Duration::from_secs(30),
            exempt: Networks::default(),
        }
    }
}

/// Burst of a rate, in seconds' worth. Also the longest delay of a request.
pub(super) const BURST_SECONDS: u32 = 3;

/// Clock of all meters. Creating one executes CPUID, which is slow in a virtual machine.
static CLOCK: LazyLock<DefaultClock> = LazyLock::new(DefaultClock::default);

/// Meter of a rate with a burst of [`BURST_SECONDS`].
#[derive(Debug)]
pub(super) struct RateMeter {
    /// `None` if the rate is not limited.
    limiter: Option<DefaultDirectRateLimiter>,
    burst: NonZeroU32,
}

impl RateMeter {
    /// Creates a meter. A rate of zero counts as one.
    pub(super) fn new(per_second: u32) -> RateMeter {
        let rate = NonZeroU32::new(per_second).unwrap_or(NonZeroU32::MIN);
        let burst = rate.saturating_mul(NonZeroU32::new(BURST_SECONDS).unwrap_or(NonZeroU32::MIN));
        let limiter = RateLimiter::direct_with_clock(Quota::per_second(rate).allow_burst(burst), CLOCK.clone());
        RateMeter { limiter: Some(limiter), burst }
    }

    /// Creates a meter that allows any rate.
    pub(super) fn unlimited() -> RateMeter {
        RateMeter { limiter: None, burst: NonZeroU32::MAX }
    }

    /// Takes `count` units if they are available now.
    pub(super) fn try_acquire(&self, count: usize) -> bool {
        self.check(count) == Some(Duration::ZERO)
    }

    /// Takes `count` units as soon as they are available.
    ///
    /// Returns false, without taking any, if that would take longer than [`BURST_SECONDS`].
    pub(super) async fn acquire(&self, count: usize) -> bool {
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

    /// Like `acquire`, with `count` limited to one burst.
    pub(super) async fn acquire_clamped(&self, count: usize) -> bool {
        self.acquire(count.min(self.burst.get() as usize)).await
    }

    /// Takes up to `count` units and returns their number, or returns the time until some are available.
    pub(super) fn acquire_part(&self, count: usize) -> Result<usize, Duration> {
        let part = count.min(self.burst.get() as usize);
        match self.check(part) {
            Some(Duration::ZERO) => Ok(part),
            Some(wait) => Err(wait),
            // A part never exceeds the burst.
            None => Ok(count),
        }
    }

    /// Takes `count` units and returns zero, or returns the time until they are available.
    ///
    /// `None` means that `count` exceeds the burst.
    fn check(&self, count: usize) -> Option<Duration> {
        let Some(limiter) = &self.limiter else { return Some(Duration::ZERO) };
        let Some(count) = NonZeroU32::new(u32::try_from(count).ok()?) else { return Some(Duration::ZERO) };
        match limiter.check_n(count).ok()? {
            Ok(()) => Some(Duration::ZERO),
            Err(not_until) => Some(not_until.wait_time_from(CLOCK.now()).max(Duration::from_millis(1))),
        }
    }
}

/// Meters shared by all sessions of one source.
#[derive(Debug)]
pub(super) struct SourceQuota {
    pub requests: RateMeter,
    pub forwarded: RateMeter,
    pub bytes_in: RateMeter,
    pub bytes_out: RateMeter,
}

impl SourceQuota {
    /// Creates full meters.
    pub(super) fn new(limits: &Limits) -> SourceQuota {
        SourceQuota {
            requests: RateMeter::new(limits.source_requests_per_second),
            forwarded: RateMeter::new(limits.forwarded_requests_per_second),
            bytes_in: RateMeter::new(limits.bytes_in_per_second),
            bytes_out: RateMeter::new(limits.bytes_out_per_second),
        }
    }

    /// Creates meters that allow any rate, for exempt clients.
    pub(super) fn unlimited() -> SourceQuota {
        SourceQuota {
            requests: RateMeter::unlimited(),
            forwarded: RateMeter::unlimited(),
            bytes_in: RateMeter::unlimited(),
            bytes_out: RateMeter::unlimited(),
        }
    }

    /// Creates the meter of one session's requests.
    pub(super) fn session_requests(&self, limits: &Limits) -> RateMeter {
        if self.requests.limiter.is_some() {
            RateMeter::new(limits.requests_per_second)
        } else {
            RateMeter::unlimited()
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

    #[tokio::test]
    async fn unlimited_meter_allows_any_count() {
        let quota = SourceQuota::unlimited();
        assert!(quota.requests.try_acquire(usize::MAX) && quota.bytes_out.acquire_clamped(usize::MAX).await);
        assert_eq!(quota.bytes_in.acquire_part(1_000_000), Ok(1_000_000));
        let limits = Limits::default();
        assert!(quota.session_requests(&limits).try_acquire(1_000_000));
        assert!(!SourceQuota::new(&limits).session_requests(&limits).try_acquire(1_000_000));
    }
}
