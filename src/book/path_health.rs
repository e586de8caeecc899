//! Whether a way out works, and whose fault a failure on it was.
//!
//! A peer that doesn't answer may be gone, or our own network may be. Nothing in the failure itself tells. So such a
//! failure is held until a proof comes, an attempt on the same way that got through: soon after it, the failure was the
//! peer's own; otherwise it counts for nothing. A proof from before is not enough, as our network may have broken down
//! since. While one is held, the book asks a peer that was fine lately, to find out. When even those fail, the way is
//! down, and is only tried now and then until somebody answers.

use std::time::Duration;

use crate::clock::Time;
use crate::connect::ProbeError;
use crate::peer::Host;

/// A proof this long after an attempt failed shows that the way worked during it.
const ATTRIBUTION_WINDOW: Duration = Duration::from_mins(2);

/// Failures further apart than this have nothing to do with each other.
const PENDING_FAILURE_TTL: Duration = Duration::from_mins(15);

/// A pause between two proofs counts as time that the way worked for no more than this, as the next outage may hide in it.
const MAX_CREDITED_GAP: Duration = Duration::from_hours(24);

/// So many peers without an answer, three of them fine lately if there are, and the way is down. That two of those are
/// gone at the same time happens every day where there are thousands.
const DOWN_THRESHOLD: usize = 4;
const DOWN_THRESHOLD_HEALTHY: usize = 3;

/// When a way that is down is tried again: after the first of these, then twice as long, up to the second.
const TRIAL_BACKOFF_MIN: Duration = Duration::from_secs(5);
const LAST_TRIAL: Duration = Duration::from_mins(10);

/// So much of the time that a way worked may be lost in a crash.
const SAVE_EVERY: Duration = Duration::from_mins(10);

/// The health of one way out.
#[derive(Debug)]
pub struct PathHealth {
    down: bool,
    last_proof: Option<Time>,
    /// When it was last found to work again. What began before that may have met the outage.
    recovered_at: Time,
    /// In all, since this book was begun.
    working_time: Duration,
    /// What of it was written down last.
    last_persisted: Duration,
    held: Vec<PendingFailure>,
    trial: TrialBackoff,
}

/// A failure that waits for its verdict.
#[derive(Debug)]
pub struct PendingFailure {
    pub host: Host,
    pub failure: ProbeError,
    /// It was verified recently.
    pub was_healthy: bool,
    pub started_at: Time,
    pub ended: Time,
}

/// How many peers there are on this way.
#[derive(Debug, Clone, Copy)]
pub struct PathPopulation {
    pub known: usize,
    /// Verified recently.
    pub healthy: usize,
}

impl PathPopulation {
    /// More would change no verdict.
    pub const COUNT_CAP: usize = DOWN_THRESHOLD;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathVerdict {
    /// Nothing can be said yet.
    Held,
    /// This was one too many: the way is down, and nobody failed.
    PathDown,
}

#[derive(Debug)]
struct TrialBackoff {
    next_at: Time,
    pause: Duration,
}

impl PathHealth {
    pub fn new(working_time: Duration) -> PathHealth {
        let trial = TrialBackoff { next_at: Time::default(), pause: TRIAL_BACKOFF_MIN };
        PathHealth {
            down: false,
            last_proof: None,
            recovered_at: Time::default(),
            working_time,
            last_persisted: working_time,
            held: Vec::new(),
            trial,
        }
    }

    pub fn is_down(&self) -> bool {
        self.down
    }

    /// For how long this way has worked.
    pub fn working_time(&self) -> Duration {
        self.working_time
    }

    /// It worked for so much longer, as another way has shown.
    pub fn add_working_time(&mut self, gained: Duration) {
        self.working_time += gained;
    }

    /// When something got through last.
    pub fn last_proof(&self) -> Option<Time> {
        self.last_proof
    }

    /// The total, if enough has come together since it was last written down.
    pub fn take_dirty(&mut self) -> Option<Duration> {
        let due = self.working_time.saturating_sub(self.last_persisted) >= SAVE_EVERY;
        due.then(|| {
            self.last_persisted = self.working_time;
            self.working_time
        })
    }

    /// Whether a peer should be asked just to find out.
    pub fn has_pending_failure(&self) -> bool {
        !self.down && !self.held.is_empty()
    }

    /// An attempt got through. Returns those who failed shortly before, and must now bear it.
    pub fn on_proof(&mut self, now: Time) -> Vec<(Host, ProbeError)> {
        if let (Some(before), false) = (self.last_proof, self.down) {
            self.working_time += now.since(before).min(MAX_CREDITED_GAP);
        }
        if self.down {
            self.recovered_at = now;
        }
        self.down = false;
        self.last_proof = Some(now);
        self.trial = TrialBackoff { next_at: now, pause: TRIAL_BACKOFF_MIN };
        self.held
            .drain(..)
            .filter(|held| now.since(held.ended) <= ATTRIBUTION_WINDOW)
            .map(|held| (held.host, held.failure))
            .collect()
    }

    /// Whether one more failure, with so many peers known, may be one too many.
    pub fn would_decide(&self, known: usize) -> bool {
        self.held.len() + 1 >= DOWN_THRESHOLD.min(known)
    }

    /// An attempt came to nothing.
    pub fn on_failure(&mut self, suspect: PendingFailure, company: PathPopulation) -> PathVerdict {
        if self.down || suspect.started_at < self.recovered_at {
            return PathVerdict::Held;
        }
        let now = suspect.ended;
        self.held.retain(|held| held.host != suspect.host && now.since(held.ended) <= PENDING_FAILURE_TTL);
        self.held.push(suspect);
        let good = self.held.iter().filter(|held| held.was_healthy).count();
        if self.held.len() >= DOWN_THRESHOLD.min(company.known) && good >= DOWN_THRESHOLD_HEALTHY.min(company.healthy) {
            self.mark_down(now);
            return PathVerdict::PathDown;
        }
        PathVerdict::Held
    }

    /// The way is known to be down. Nobody who failed on it is to blame.
    pub fn mark_down(&mut self, now: Time) {
        self.down = true;
        self.held.clear();
        self.trial = TrialBackoff { next_at: now + TRIAL_BACKOFF_MIN, pause: TRIAL_BACKOFF_MIN };
    }

    /// What waits for a verdict that no proof will bring any more is let go.
    pub fn prune(&mut self, now: Time) {
        self.held.retain(|held| now.since(held.ended) <= ATTRIBUTION_WINDOW);
    }

    /// When the next trial of a way that is down is due.
    pub fn next_trial(&self) -> Time {
        self.trial.next_at
    }

    /// Whether none was made since there was hope.
    pub fn is_first_trial(&self) -> bool {
        self.trial.pause == TRIAL_BACKOFF_MIN
    }

    /// One is under way.
    pub fn trial_started(&mut self, now: Time) {
        self.trial.next_at = now + self.trial.pause;
        self.trial.pause = (self.trial.pause * 2).min(LAST_TRIAL);
    }

    /// Begins the trials anew: something changed for the better.
    pub fn reset_trials(&mut self, now: Time) {
        self.trial = TrialBackoff { next_at: now, pause: TRIAL_BACKOFF_MIN };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Time = Time::from_secs(1_000_000);
    const GONE: ProbeError = ProbeError::Unreachable;

    fn host(n: u8) -> Host {
        format!("h{n}.example").parse().unwrap()
    }

    fn at(secs: u64) -> Time {
        START + Duration::from_secs(secs)
    }

    fn fail(reach: &mut PathHealth, n: u8, good: bool, began: Time) -> PathVerdict {
        let ended = began + Duration::from_secs(10);
        reach.on_failure(
            PendingFailure { host: host(n), failure: GONE, was_healthy: good, started_at: began, ended },
            PathPopulation { known: 9, healthy: 5 },
        )
    }

    #[test]
    fn a_proof_soon_after_it_makes_a_failure_count() {
        let mut reach = PathHealth::new(Duration::ZERO);
        reach.on_proof(START);
        assert_eq!(fail(&mut reach, 1, false, at(900)), PathVerdict::Held);
        assert!(reach.has_pending_failure());
        assert_eq!(reach.on_proof(at(960)), [(host(1), GONE)]);
        assert!(!reach.has_pending_failure());
    }

    #[test]
    fn what_began_in_an_outage_is_forgiven_after_it() {
        let mut reach = PathHealth::new(Duration::ZERO);
        reach.mark_down(START);
        reach.on_proof(at(105));
        assert_eq!(fail(&mut reach, 1, false, at(100)), PathVerdict::Held);
        assert!(!reach.has_pending_failure());
    }

    #[test]
    fn a_proof_that_comes_late_forgives() {
        let mut reach = PathHealth::new(Duration::ZERO);
        fail(&mut reach, 1, false, START);
        assert!(reach.on_proof(at(600)).is_empty());
    }

    #[test]
    fn when_the_good_fail_as_well_the_way_is_down() {
        let mut reach = PathHealth::new(Duration::ZERO);
        assert_eq!(fail(&mut reach, 1, false, START), PathVerdict::Held);
        assert_eq!(fail(&mut reach, 2, false, START), PathVerdict::Held);
        assert_eq!(fail(&mut reach, 3, false, START), PathVerdict::Held);
        assert_eq!(fail(&mut reach, 4, true, START), PathVerdict::Held);
        assert_eq!(fail(&mut reach, 5, true, START), PathVerdict::Held);
        assert_eq!(fail(&mut reach, 6, true, START), PathVerdict::PathDown);
        assert!(reach.is_down());
        assert!(reach.on_proof(at(70)).is_empty());
        assert!(!reach.is_down());
    }

    #[test]
    fn only_time_between_proofs_counts() {
        let mut reach = PathHealth::new(Duration::ZERO);
        reach.on_proof(START);
        reach.on_proof(at(3600));
        assert_eq!(reach.working_time(), Duration::from_hours(1));
        reach.mark_down(at(4000));
        reach.on_proof(at(90_000));
        assert_eq!(reach.working_time(), Duration::from_hours(1));
        reach.on_proof(at(90_000 + 72 * 3600));
        assert_eq!(reach.working_time(), Duration::from_hours(25));
    }

    #[test]
    fn trials_grow_rare() {
        let mut reach = PathHealth::new(Duration::ZERO);
        reach.mark_down(START);
        let mut now = START;
        let mut trials = 0;
        while now < at(24 * 3600) {
            now = reach.next_trial();
            reach.trial_started(now);
            trials += 1;
        }
        assert!((100..170).contains(&trials), "{trials}");
    }
}
