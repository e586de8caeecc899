//! Decides whether an embedded client is replaced by a new one on the same state.
//!
//! Arti retries by itself, but after an outage its back-off may last many minutes. A new client
//! retries at once, with the directory and guards on disk. Once relays answer it is ready within a
//! second or two.

use std::time::Duration;

use crate::clock::Time;

/// Time for a client whose relays answer to reach a peer.
///
/// It doubles with each unproductive client, up to [`MAX_CONNECT_GRACE`].
const CONNECT_GRACE: Duration = Duration::from_mins(3);
/// Longest such time: after several clients the cause is hardly the client.
const MAX_CONNECT_GRACE: Duration = Duration::from_hours(1);

/// Time for a client to recover by itself after failures.
const RECOVERY_GRACE: Duration = Duration::from_secs(20);

/// Time after a recovery within which another failure replaces the client.
///
/// A client that doubts its guards one after another may work for only one second in ten.
const RELAPSE_WINDOW: Duration = Duration::from_mins(1);

/// Number of failures in a row of the onion service that count.
const MIN_FAILURES: u32 = 2;

/// Number of failures in a row after which the onion service is launched again while Tor works.
const RELAUNCH_EVERY: u32 = 5;

/// Observations about a client.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ClientHealth {
    /// Time at which the bootstrap finished.
    pub ready_at: Time,
    /// Time of the last success through Tor, including earlier clients. `None`: none yet.
    pub last_reached: Option<Time>,
    /// Time since which the book regards Tor as down. `None`: it does not.
    pub down_since: Option<Time>,
    /// Time of the last recovery. `None`: none.
    pub recovered: Option<Time>,
    /// Number of failures in a row of the onion service.
    pub failures: u32,
    /// Time of the first of these failures. `None`: there are none.
    pub failing_since: Option<Time>,
    /// Number of clients in a row before this one that found relays but reached no peer.
    pub unproductive_clients: u32,
}

/// What is done with the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The client is kept.
    Fine,
    /// No peer is reachable through the client.
    Replace,
    /// Tor works, but the onion service is unreachable.
    Relaunch,
}

impl ClientHealth {
    /// Returns what is done with the client at this time.
    pub(super) fn verdict(&self, now: Time) -> Verdict {
        match self.last_reached.filter(|reached| *reached >= self.ready_at) {
            None => {
                let grace =
                    CONNECT_GRACE.saturating_mul(1u32.checked_shl(self.unproductive_clients).unwrap_or(u32::MAX));
                if now.since(self.ready_at) >= grace.min(MAX_CONNECT_GRACE) { Verdict::Replace } else { Verdict::Fine }
            }
            Some(reached) => {
                let relapsed =
                    self.recovered.zip(self.down_since).is_some_and(|(up, down)| down.since(up) < RELAPSE_WINDOW);
                let failing = self.failing_since.filter(|_| self.failures >= MIN_FAILURES);
                let broken_since = [self.down_since, failing].into_iter().flatten().min();
                if relapsed || broken_since.is_some_and(|since| reached < since && now.since(since) >= RECOVERY_GRACE) {
                    Verdict::Replace
                } else if self.failures > 0 && self.failures.is_multiple_of(RELAUNCH_EVERY) {
                    Verdict::Relaunch
                } else {
                    Verdict::Fine
                }
            }
        }
    }

    /// Whether this client has reached any peer.
    pub(super) fn has_connected(&self) -> bool {
        self.last_reached.is_some_and(|reached| reached >= self.ready_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READY_AT: Time = Time::from_secs(1_000_000);

    fn at(secs: u64) -> Time {
        READY_AT + Duration::from_secs(secs)
    }

    fn working() -> ClientHealth {
        ClientHealth { ready_at: READY_AT, last_reached: Some(at(5)), ..ClientHealth::default() }
    }

    #[test]
    fn unproductive_client_is_replaced_with_back_off() {
        let mut health = ClientHealth { ready_at: READY_AT, ..ClientHealth::default() };
        assert_eq!(health.verdict(at(170)), Verdict::Fine);
        assert_eq!(health.verdict(at(180)), Verdict::Replace);
        health.unproductive_clients = 2;
        assert_eq!(health.verdict(at(700)), Verdict::Fine);
        assert_eq!(health.verdict(at(720)), Verdict::Replace);
        health.unproductive_clients = 200;
        assert_eq!(health.verdict(at(3600)), Verdict::Replace);
    }

    #[test]
    fn success_of_the_previous_client_does_not_count() {
        let health = ClientHealth {
            ready_at: READY_AT,
            last_reached: Some(READY_AT - Duration::from_secs(1)),
            ..ClientHealth::default()
        };
        assert!(!health.has_connected());
        assert_eq!(health.verdict(at(180)), Verdict::Replace);
    }

    #[test]
    fn client_down_past_the_grace_is_replaced() {
        let health = ClientHealth { down_since: Some(at(100)), ..working() };
        assert_eq!(health.verdict(at(119)), Verdict::Fine);
        assert_eq!(health.verdict(at(120)), Verdict::Replace);
        // Reached after the failure.
        let health = ClientHealth { last_reached: Some(at(110)), ..health };
        assert_eq!(health.verdict(at(300)), Verdict::Fine);
    }

    #[test]
    fn client_that_relapses_is_replaced() {
        let health = ClientHealth { recovered: Some(at(100)), last_reached: Some(at(100)), ..working() };
        assert_eq!(health.verdict(at(110)), Verdict::Fine);
        assert_eq!(ClientHealth { down_since: Some(at(110)), ..health }.verdict(at(110)), Verdict::Replace);
        assert_eq!(ClientHealth { down_since: Some(at(170)), ..health }.verdict(at(170)), Verdict::Fine);
    }

    #[test]
    fn single_service_failure_is_ignored() {
        let health = ClientHealth { failures: 1, failing_since: Some(at(100)), ..working() };
        assert_eq!(health.verdict(at(600)), Verdict::Fine);
        let health = ClientHealth { failures: 2, ..health };
        assert_eq!(health.verdict(at(600)), Verdict::Replace);
    }

    #[test]
    fn unreachable_service_is_relaunched_while_tor_works() {
        let health =
            ClientHealth { failures: 5, failing_since: Some(at(100)), last_reached: Some(at(150)), ..working() };
        assert_eq!(health.verdict(at(160)), Verdict::Relaunch);
        let health = ClientHealth { failures: 6, ..health };
        assert_eq!(health.verdict(at(160)), Verdict::Fine);
    }
}
