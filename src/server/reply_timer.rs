//! Time limits of an upstream: a response to each request, whatever else it sends.

use std::time::Duration;

use tokio::time::Instant;

/// Time limit for an upstream to take forwarded bytes, and for the next bytes of a line that nothing waits for.
const IO_TIMEOUT: Duration = Duration::from_secs(120);

/// Slowest transfer of a response, in bytes per second. Tor's onion services are some ten times faster.
const MIN_BYTES_PER_SECOND: u32 = 16 * 1024;

/// Longest extension for a response of which the client has received nothing.
///
/// Bytes without a line feed may be no response at all.
const MAX_UNSEEN_TRANSFER: Duration = Duration::from_secs(10);

/// Time after the first failure during which other upstreams are tried. Wallets give up after half a minute.
const FAILOVER_LIMIT: Duration = Duration::from_secs(40);

/// Time that each response adds to the limit of the other requests. A batch may have hundreds.
const TIME_PER_REPLY: Duration = Duration::from_secs(1);

/// Kind of the upstream, which decides how long it may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// A peer that another one can replace.
    Peer,
    /// A peer that none can replace.
    LastPeer,
    /// A server of the operator that another one can replace.
    Server,
    /// The only server.
    LastServer,
}

/// What an upstream owes at a moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owed {
    /// Time at which the oldest request without a response was sent; `None` without any.
    pub oldest_request: Option<Instant>,
    /// Received bytes of the line that is not complete.
    pub line_bytes: usize,
    /// Whether the client has received a part of that line.
    pub is_line_started: bool,
    /// Whether bytes wait to be sent, or the rest of a started line to be received.
    pub has_unfinished_io: bool,
}

/// Times at which an upstream last did something.
#[derive(Debug)]
pub(super) struct ReplyTimer {
    last_reply: Instant,
    last_io: Instant,
    /// Time during which the upstream was not read because the client was slow, and a time for each response.
    extension: Duration,
    /// Time of the first failure since the last response; `None` if there was none.
    failing_since: Option<Instant>,
}

impl Patience {
    /// Returns the longest time from one response to the next, and from a request to its response.
    fn limits(self) -> (Duration, Duration) {
        let (reply, total) = match self {
            // Two round trips through Tor take some two seconds.
            Patience::Peer => (6, 30),
            Patience::LastPeer => (60, 120),
            Patience::Server => (30, 120),
            // Servers need minutes for the longest histories.
            Patience::LastServer => (120, 600),
        };
        (Duration::from_secs(reply), Duration::from_secs(total))
    }
}

impl ReplyTimer {
    /// Starts with a new connection.
    pub(super) fn new(now: Instant) -> ReplyTimer {
        ReplyTimer { last_reply: now, last_io: now, extension: Duration::ZERO, failing_since: None }
    }

    /// Records bytes that were received or sent.
    pub(super) fn on_io(&mut self, now: Instant) {
        self.last_io = now;
    }

    /// Records a response to a request.
    pub(super) fn on_reply(&mut self, now: Instant) {
        (self.last_reply, self.failing_since) = (now, None);
        self.extension += TIME_PER_REPLY;
    }

    /// Records that no response is awaited.
    pub(super) fn on_idle(&mut self) {
        self.extension = Duration::ZERO;
    }

    /// Records that another upstream takes over.
    pub(super) fn on_failover(&mut self, now: Instant) {
        let failing_since = self.failing_since.or(Some(now));
        *self = ReplyTimer { failing_since, ..ReplyTimer::new(now) };
    }

    /// Extends all limits by a time during which the upstream was not read.
    pub(super) fn extend(&mut self, pause: Duration) {
        self.last_reply += pause;
        self.last_io += pause;
        self.extension += pause;
    }

    /// Returns whether another upstream may still be tried.
    pub(super) fn may_fail_over(&self, now: Instant) -> bool {
        self.failing_since.is_none_or(|since| now < since + FAILOVER_LIMIT)
    }

    /// Returns the time at which the upstream counts as failed; `None` if it owes nothing.
    pub(super) fn deadline(&self, owed: &Owed, patience: Patience) -> Option<Instant> {
        let (reply, total) = patience.limits();
        let transfer =
            Duration::from_secs(1) * u32::try_from(owed.line_bytes).unwrap_or(u32::MAX) / MIN_BYTES_PER_SECOND;
        let transfer = if owed.is_line_started { transfer } else { transfer.min(MAX_UNSEEN_TRANSFER) };
        let response = owed.oldest_request.map(|sent| {
            let next = sent.max(self.last_reply) + reply;
            next.min(sent + total + self.extension) + transfer
        });
        let io = owed.has_unfinished_io.then(|| self.last_io + IO_TIMEOUT);
        response.into_iter().chain(io).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn owed(oldest_request: Option<Instant>) -> Owed {
        Owed { oldest_request, line_bytes: 0, is_line_started: false, has_unfinished_io: false }
    }

    #[test]
    fn only_responses_extend_the_time_of_a_request() {
        let start = Instant::now();
        let mut timer = ReplyTimer::new(start);
        let deadline = |timer: &ReplyTimer| timer.deadline(&owed(Some(start)), Patience::Peer).unwrap() - start;
        assert_eq!(timer.deadline(&owed(None), Patience::Peer), None);
        assert_eq!(deadline(&timer), 6 * SECOND);
        timer.on_io(start + 5 * SECOND);
        assert_eq!(deadline(&timer), 6 * SECOND, "a notification is no response");
        timer.on_reply(start + 5 * SECOND);
        assert_eq!(deadline(&timer), 11 * SECOND);
        timer.on_reply(start + 29 * SECOND);
        assert_eq!(deadline(&timer), 32 * SECOND, "each request has a limit of its own");
        timer.extend(100 * SECOND);
        assert_eq!(deadline(&timer), 132 * SECOND, "the client was slow");
    }

    #[test]
    fn bytes_without_an_end_extend_it_by_little() {
        let start = Instant::now();
        let timer = ReplyTimer::new(start);
        let received = |bytes, is_line_started| Owed { line_bytes: bytes, is_line_started, ..owed(Some(start)) };
        let deadline = |owed: &Owed| timer.deadline(owed, Patience::Peer).unwrap() - start;
        assert_eq!(deadline(&received(32 * 1024, false)), 8 * SECOND);
        assert_eq!(deadline(&received(usize::MAX, false)), 16 * SECOND);
        assert_eq!(deadline(&received(16 * 1024 * 100, true)), 106 * SECOND);
        let stuck = Owed { has_unfinished_io: true, ..owed(None) };
        assert_eq!(timer.deadline(&stuck, Patience::Peer), Some(start + IO_TIMEOUT));
    }

    #[test]
    fn failover_ends_after_a_time_and_restarts_with_a_response() {
        let start = Instant::now();
        let mut timer = ReplyTimer::new(start);
        assert!(timer.may_fail_over(start + 600 * SECOND));
        timer.on_failover(start);
        timer.on_failover(start + 30 * SECOND);
        assert!(timer.may_fail_over(start + 39 * SECOND) && !timer.may_fail_over(start + FAILOVER_LIMIT));
        timer.on_reply(start + 41 * SECOND);
        assert!(timer.may_fail_over(start + 100 * SECOND));
    }
}
