//! Path health, and attribution of failures.
//!
//! A timeout may be the fault of the peer or of the local network. Such a failure stays pending until a later success
//! on the same path (a proof). A proof soon after the failure attributes it to the peer; otherwise it is discarded.
//! An earlier proof is not enough, as the local network may have failed since.
//!
//! While a failure is pending, the book probes a healthy peer. If healthy peers fail as well, the path is down. It is
//! then only tried at intervals until a peer answers.

use std::time::Duration;

use crate::backoff::Backoff;
use crate::clock::Time;
use crate::connect::ProbeError;
use crate::peer::Host;

/// Maximum time from a failure to the proof that attributes it to the peer.
const ATTRIBUTION_WINDOW: Duration = Duration::from_mins(2);

/// Maximum age of a pending failure; older ones are considered unrelated.
const PENDING_FAILURE_TTL: Duration = Duration::from_mins(15);

/// Maximum working time credited between two proofs, as a longer gap may hide an outage.
const MAX_CREDITED_GAP: Duration = Duration::from_hours(24);

/// Number of pending failures at which a path is down.
const DOWN_THRESHOLD: usize = 4;
/// Number of healthy peers among them. Two can fail at the same time by chance among thousands.
const DOWN_THRESHOLD_HEALTHY: usize = 3;

/// Delay before the first trial of a path that is down. It doubles with each trial.
const TRIAL_BACKOFF_MIN: Duration = Duration::from_secs(5);
/// Maximum delay between two trials.
const TRIAL_BACKOFF_MAX: Duration = Duration::from_mins(10);

/// Interval between stores of the working time, which is the maximum loss in a crash.
const SAVE_EVERY: Duration = Duration::from_mins(10);

/// Health of one path.
#[derive(Debug)]
pub(super) struct PathHealth {
    down: bool,
    last_proof: Option<Time>,
    /// Time of the last recovery. Probes that started earlier may have met the outage.
    recovered_at: Time,
    /// Total working time since the book was created.
    working_time: Duration,
    /// Working time that was stored last.
    last_persisted: Duration,
    pending: Vec<PendingFailure>,
    trial: TrialBackoff,
}

/// Failure that is not attributed yet.
#[derive(Debug)]
pub(super) struct PendingFailure {
    /// Peer that failed.
    pub host: Host,
    /// Error of the probe.
    pub failure: ProbeError,
    /// Whether the peer was verified recently.
    pub was_healthy: bool,
    /// Start of the probe.
    pub started_at: Time,
    /// End of the probe.
    pub ended: Time,
}

/// Number of peers on a path.
#[derive(Debug, Clone, Copy)]
pub(super) struct PathPopulation {
    /// All peers.
    pub known: usize,
    /// Peers verified recently.
    pub healthy: usize,
}

impl PathPopulation {
    /// Count above which the verdict does not change.
    pub(super) const COUNT_CAP: usize = DOWN_THRESHOLD;
}

/// Result of recording a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PathVerdict {
    /// The failure is not attributed yet.
    Pending,
    /// The path is down, so no peer is at fault.
    PathDown,
}

#[derive(Debug)]
struct TrialBackoff {
    next_at: Time,
    /// Trials since the last reset.
    trials: u32,
}

impl PathHealth {
    /// Creates a path that works, with its stored working time.
    pub(super) fn new(working_time: Duration) -> PathHealth {
        let trial = TrialBackoff { next_at: Time::default(), trials: 0 };
        PathHealth {
            down: false,
            last_proof: None,
            recovered_at: Time::default(),
            working_time,
            last_persisted: working_time,
            pending: Vec::new(),
            trial,
        }
    }

    /// Returns whether the path is down.
    pub(super) fn is_down(&self) -> bool {
        self.down
    }

    /// Returns the total working time.
    pub(super) fn working_time(&self) -> Duration {
        self.working_time
    }

    /// Adds working time that another path has proven.
    pub(super) fn add_working_time(&mut self, gained: Duration) {
        self.working_time += gained;
    }

    /// Returns the time of the last proof.
    pub(super) fn last_proof(&self) -> Option<Time> {
        self.last_proof
    }

    /// Returns the working time if enough was added since the last store.
    pub(super) fn take_dirty(&mut self) -> Option<Duration> {
        let due = self.working_time.saturating_sub(self.last_persisted) >= SAVE_EVERY;
        due.then(|| {
            self.last_persisted = self.working_time;
            self.working_time
        })
    }

    /// Returns whether a healthy peer should be probed to attribute a failure.
    pub(super) fn has_pending_failure(&self) -> bool {
        !self.down && !self.pending.is_empty()
    }

    /// Records a proof. Returns failures now attributed to the peer.
    pub(super) fn on_proof(&mut self, now: Time) -> Vec<(Host, ProbeError)> {
        if let (Some(before), false) = (self.last_proof, self.down) {
            self.working_time += now.since(before).min(MAX_CREDITED_GAP);
        }
        if self.down {
            self.recovered_at = now;
        }
        self.down = false;
        self.last_proof = Some(now);
        self.trial = TrialBackoff { next_at: now, trials: 0 };
        self.pending
            .drain(..)
            .filter(|pending| now.since(pending.ended) <= ATTRIBUTION_WINDOW)
            .map(|pending| (pending.host, pending.failure))
            .collect()
    }

    /// Returns whether one more failure could mark the path as down.
    pub(super) fn would_decide(&self, known: usize) -> bool {
        self.pending.len() + 1 >= DOWN_THRESHOLD.min(known)
    }

    /// Records a failure that is not attributed yet.
    pub(super) fn on_failure(&mut self, failure: PendingFailure, population: PathPopulation) -> PathVerdict {
        if self.down || failure.started_at < self.recovered_at {
            return PathVerdict::Pending;
        }
        let now = failure.ended;
        self.pending.retain(|pending| pending.host != failure.host && now.since(pending.ended) <= PENDING_FAILURE_TTL);
        self.pending.push(failure);
        let good = self.pending.iter().filter(|pending| pending.was_healthy).count();
        if self.pending.len() >= DOWN_THRESHOLD.min(population.known)
            && good >= DOWN_THRESHOLD_HEALTHY.min(population.healthy)
        {
            self.mark_down(now);
            return PathVerdict::PathDown;
        }
        PathVerdict::Pending
    }

    /// Marks the path as down and discards pending failures.
    pub(super) fn mark_down(&mut self, now: Time) {
        self.down = true;
        self.pending.clear();
        self.trial = TrialBackoff { next_at: now + TRIAL_BACKOFF_MIN, trials: 0 };
    }

    /// Drops failures that no proof can attribute any more.
    pub(super) fn prune(&mut self, now: Time) {
        self.pending.retain(|pending| now.since(pending.ended) <= ATTRIBUTION_WINDOW);
    }

    /// Returns the time of the next trial.
    pub(super) fn next_trial(&self) -> Time {
        self.trial.next_at
    }

    /// Returns whether no trial was made since the last reset.
    pub(super) fn is_first_trial(&self) -> bool {
        self.trial.trials == 0
    }

    /// Records the start of a trial.
    pub(super) fn trial_started(&mut self, now: Time) {
        self.trial.trials = self.trial.trials.saturating_add(1);
        self.trial.next_at = now + Backoff::new(TRIAL_BACKOFF_MIN, TRIAL_BACKOFF_MAX).after(self.trial.trials);
    }

    /// Resets the trial delay after a change that may restore the path.
    pub(super) fn reset_trials(&mut self, now: Time) {
        self.trial = TrialBackoff { next_at: now, trials: 0 };
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
    fn proof_soon_after_failure_attributes_it_to_the_peer() {
        let mut reach = PathHealth::new(Duration::ZERO);
        reach.on_proof(START);
        assert_eq!(fail(&mut reach, 1, false, at(900)), PathVerdict::Pending);
        assert!(reach.has_pending_failure());
        assert_eq!(reach.on_proof(at(960)), [(host(1), GONE)]);
        assert!(!reach.has_pending_failure());
    }

    #[test]
    fn probe_started_in_outage_is_not_attributed() {
        let mut reach = PathHealth::new(Duration::ZERO);
        reach.mark_down(START);
        reach.on_proof(at(105));
        assert_eq!(fail(&mut reach, 1, false, at(100)), PathVerdict::Pending);
        assert!(!reach.has_pending_failure());
    }

    #[test]
    fn late_proof_discards_failure() {
        let mut reach = PathHealth::new(Duration::ZERO);
        fail(&mut reach, 1, false, START);
        assert!(reach.on_proof(at(600)).is_empty());
    }

    #[test]
    fn failures_of_healthy_peers_mark_path_down() {
        let mut reach = PathHealth::new(Duration::ZERO);
        assert_eq!(fail(&mut reach, 1, false, START), PathVerdict::Pending);
        assert_eq!(fail(&mut reach, 2, false, START), PathVerdict::Pending);
        assert_eq!(fail(&mut reach, 3, false, START), PathVerdict::Pending);
        assert_eq!(fail(&mut reach, 4, true, START), PathVerdict::Pending);
        assert_eq!(fail(&mut reach, 5, true, START), PathVerdict::Pending);
        assert_eq!(fail(&mut reach, 6, true, START), PathVerdict::PathDown);
        assert!(reach.is_down());
        assert!(reach.on_proof(at(70)).is_empty());
        assert!(!reach.is_down());
    }

    #[test]
    fn working_time_counts_only_between_proofs() {
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
    fn trials_of_down_path_back_off() {
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
