//! Whether an embedded client is to be replaced: thrown away, and built again on the same state.
//!
//! Arti goes on trying by itself, but after an outage it may do so for many minutes at a pace that grew slow. A client
//! built again begins at once, and has the directory and its guards from the one before: with the relays back it is ready
//! within a second or two.

use std::time::Duration;

use crate::clock::Time;

/// How long a client whose relays answer may reach nothing before another is tried. It doubles with each that reached
/// nothing either, up to the second: then it is hardly the client's fault.
const CONNECT_GRACE: Duration = Duration::from_mins(3);
const MAX_CONNECT_GRACE: Duration = Duration::from_hours(1);

/// What was reached before may fail for so long, and the client is given the chance to recover by itself.
const RECOVERY_GRACE: Duration = Duration::from_secs(20);

/// What goes down again this soon after it came back limps, as a client does whose guards are in doubt one after the other: it
/// may go on like that for minutes, up for a second in ten.
const RELAPSE_WINDOW: Duration = Duration::from_mins(1);

/// Misses of our own service, one after the other, that mean something.
const MIN_FAILURES: u32 = 2;

/// Others reach us, or we reach others, but our own service is missed so often: it is launched again, and then again after
/// so many more.
const RELAUNCH_EVERY: u32 = 5;

/// What is known of a client.
#[derive(Debug, Clone, Copy, Default)]
pub struct ClientHealth {
    /// When it was ready to be used.
    pub ready_at: Time,
    /// When something got through it last; of its predecessors too.
    pub last_reached: Option<Time>,
    /// Since when the book thinks that Tor is down, if it does.
    pub down_since: Option<Time>,
    /// When it had been down last, and came back.
    pub recovered: Option<Time>,
    /// How often in a row our own service could not be reached, and since when.
    pub failures: u32,
    pub failing_since: Option<Time>,
    /// How many clients before it reached nothing, although relays answered them.
    pub unproductive_clients: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Fine,
    /// It reaches nothing, or nothing any more.
    Replace,
    /// Tor works, but our service isn't found.
    Relaunch,
}

impl ClientHealth {
    pub fn verdict(&self, now: Time) -> Verdict {
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

    /// Whether it reached anything at all.
    pub fn has_connected(&self) -> bool {
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
        // Somebody was reached since.
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
