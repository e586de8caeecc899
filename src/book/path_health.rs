//! Path health, and attribution of failures.
//!
//! A timeout may be the fault of the peer or of the local network. Such a failure stays pending until a later success
//! on the same path (a proof). A proof soon after the failure attributes it to the peer; otherwise it is discarded.
//! An earlier proof is not enough, as the local network may have failed since.
//!
//! While a failure is pending, the book probes witnesses: peers that were verified recently. Only their failures decide
//! that the path is down, and only if none of them answers in the meantime. Names are free, so:
//!
//! - On the direct path, one network (/16 or /32) is one witness.
//! - On the Tor path every name is free. So many witnesses must fail, and peers with standing first: the operator's, and
//!   long-standing ones. While one of these answers, no number of vanished names marks Tor down.
//! - A peer without standing does not testify against one with standing. Otherwise a single hostile onion that answers
//!   in a partial outage would put the blame on honest peers, and keep Tor ready.
//! - A peer that failed in an outage is no witness of the next one until some time has passed. So a group cannot cause
//!   outage after outage and be excused each time.
//!
//! A path that is down is only tried at intervals. Any answer proves that it reaches something. If peers with standing
//! had decided that it is down, a few others must answer before it counts as up.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use crate::backoff::Backoff;
use crate::clock::Time;
use crate::connect::ProbeError;
use crate::netgroup::Netgroup;
use crate::peer::Host;
use crate::route::Route;

/// Maximum time from a failure to the proof that attributes it to the peer.
const ATTRIBUTION_WINDOW: Duration = Duration::from_mins(2);

/// Maximum age of a pending failure; older ones are considered unrelated.
const PENDING_FAILURE_TTL: Duration = Duration::from_mins(15);

/// Maximum working time credited between two proofs, as a longer gap may hide an outage.
const MAX_CREDITED_GAP: Duration = Duration::from_hours(24);

/// Minimum number of pending failures at which a path is down.
const DOWN_THRESHOLD: usize = 4;

/// Number of failing witnesses that mark the direct path down, each from another network.
///
/// Two can fail at the same time by chance among thousands.
const DIRECT_WITNESSES: usize = 3;

/// Number of failing witnesses that mark the Tor path down.
///
/// If six of seven names vanish together, sixteen random ones have all vanished in one of twenty cases.
const TOR_WITNESSES: usize = 16;

/// Number of peers without standing whose answers contradict failures of peers with standing.
const FREE_ANSWERS: usize = 3;

/// Time for which a peer that failed in an outage is no witness.
const EXCUSED_FOR: Duration = Duration::from_hours(24);

/// Interval between searches for witnesses once all suitable ones were probed. Each search reads all verified peers.
const WITNESS_SEARCH_INTERVAL: Duration = Duration::from_secs(10);

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
    /// Recent answers of peers without standing, with the time.
    free_answers: HashMap<Host, Time>,
    /// Peers whose failure was attributed to the path, with the time.
    excused: HashMap<Host, Time>,
    /// Whether peers with standing decided that the path is down.
    is_down_by_standing: bool,
    /// Time before which no further witness is sought, as none was found.
    witness_search_at: Time,
    trial: TrialBackoff,
}

/// Peer that answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    /// Host of the peer; `None` for a connection to the node itself.
    pub host: Option<Host>,
    /// Whether the peer has standing. The node itself has.
    pub has_standing: bool,
}

/// Witness whose failures count once.
///
/// A network on the direct path, and a host on the Tor path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum WitnessGroup {
    /// IPv4 /16 or IPv6 /32.
    Network(Netgroup),
    /// Peer without a known address.
    Host(Host),
}

/// Failure that is not attributed yet.
#[derive(Debug)]
pub(super) struct PendingFailure {
    /// Peer that failed.
    pub host: Host,
    /// Error of the probe.
    pub failure: ProbeError,
    /// Witness that failed; `None` if the peer was not verified recently.
    pub witness: Option<WitnessGroup>,
    /// Whether this witness has standing.
    pub has_standing: bool,
    /// Start of the probe.
    pub started_at: Time,
    /// End of the probe.
    pub ended: Time,
}

/// Number of peers on a path, including the one that failed.
#[derive(Debug, Clone, Copy)]
pub(super) struct PathPopulation {
    /// All peers.
    pub known: usize,
    /// Peers verified recently, by witness group.
    pub witnesses: usize,
    /// Witnesses with standing among them.
    pub standing: usize,
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
            free_answers: HashMap::new(),
            excused: HashMap::new(),
            is_down_by_standing: false,
            witness_search_at: Time::default(),
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

    /// Returns the number of witnesses whose failure is pending.
    pub(super) fn failed_witnesses(&self) -> usize {
        self.count_witnesses(|_| true)
    }

    /// Returns the witnesses whose failure is pending.
    pub(super) fn pending_witnesses(&self) -> BTreeSet<WitnessGroup> {
        self.pending.iter().filter_map(|pending| pending.witness.clone()).collect()
    }

    /// Returns whether a peer may be a witness: it was not excused lately.
    pub(super) fn may_be_witness(&self, host: &Host, now: Time) -> bool {
        self.excused.get(host).is_none_or(|at| now.since(*at) > EXCUSED_FOR)
    }

    /// Returns whether witnesses may be sought.
    pub(super) fn may_seek_witnesses(&self, now: Time) -> bool {
        now >= self.witness_search_at
    }

    /// Records that there are no more witnesses at present.
    pub(super) fn no_witness_found(&mut self, now: Time) {
        self.witness_search_at = now + WITNESS_SEARCH_INTERVAL;
    }

    /// Records an answer. Returns failures now attributed to the peer.
    pub(super) fn on_answer(&mut self, answer: Answer, now: Time) -> Vec<(Host, ProbeError)> {
        let Answer { host, has_standing } = answer;
        if !has_standing {
            self.free_answers.retain(|_, at| now.since(*at) <= PENDING_FAILURE_TTL);
            self.free_answers.extend(host.map(|host| (host, now)));
        }
        let is_conclusive = has_standing || self.free_answers.len() >= FREE_ANSWERS;
        if self.down && self.is_down_by_standing && !is_conclusive {
            // Another peer is tried at once.
            self.trial.next_at = self.trial.next_at.min(now + TRIAL_BACKOFF_MIN);
            return Vec::new();
        }
        if let (Some(before), false) = (self.last_proof, self.down) {
            self.working_time += now.since(before).min(MAX_CREDITED_GAP);
        }
        if self.down {
            self.recovered_at = now;
        }
        self.down = false;
        self.last_proof = Some(now);
        self.trial = TrialBackoff { next_at: now, trials: 0 };
        if is_conclusive {
            self.free_answers.clear();
        }
        let is_answered = |pending: &PendingFailure| is_conclusive || !pending.has_standing;
        let (answered, pending): (Vec<_>, Vec<_>) = self.pending.drain(..).partition(is_answered);
        self.pending = pending;
        let recent = answered.into_iter().filter(|pending| now.since(pending.ended) <= ATTRIBUTION_WINDOW);
        recent.map(|pending| (pending.host, pending.failure)).collect()
    }

    /// Returns whether one more failure could mark the path as down.
    pub(super) fn would_decide(&self, known: usize) -> bool {
        self.pending.len() + 1 >= DOWN_THRESHOLD.min(known)
    }

    /// Returns the largest numbers of witnesses, and of those with standing, with which one more failure could mark the
    /// path as down. `None`: any number.
    pub(super) fn max_deciding_witnesses(&self, route: Route) -> (Option<usize>, Option<usize>) {
        let max = |failed: usize| (failed + 1 < required_witnesses(route)).then_some(failed + 1);
        (max(self.failed_witnesses()), max(self.count_witnesses(|pending| pending.has_standing)))
    }

    /// Records a failure that is not attributed yet.
    pub(super) fn on_failure(
        &mut self,
        failure: PendingFailure,
        population: PathPopulation,
        route: Route,
    ) -> PathVerdict {
        if self.down || failure.started_at < self.recovered_at {
            return PathVerdict::Pending;
        }
        let now = failure.ended;
        self.pending.retain(|pending| pending.host != failure.host && now.since(pending.ended) <= PENDING_FAILURE_TTL);
        self.pending.push(failure);
        if self.pending.len() < DOWN_THRESHOLD.min(population.known) || !self.have_all_failed(population, route, now) {
            return PathVerdict::Pending;
        }
        self.mark_down(now);
        self.is_down_by_standing = population.standing >= DOWN_THRESHOLD.min(population.witnesses);
        PathVerdict::PathDown
    }

    /// Returns whether enough witnesses have failed.
    fn have_all_failed(&self, population: PathPopulation, route: Route, now: Time) -> bool {
        let required = required_witnesses(route);
        if population.witnesses == 0 {
            // No peer can contradict, so the last answer must be long ago.
            return self.last_proof.is_none_or(|proof| now.since(proof) > PENDING_FAILURE_TTL);
        }
        self.failed_witnesses() >= required.min(population.witnesses)
            && self.count_witnesses(|pending| pending.has_standing) >= required.min(population.standing)
    }

    fn count_witnesses(&self, fits: impl Fn(&PendingFailure) -> bool) -> usize {
        let fitting = self.pending.iter().filter(|pending| fits(pending));
        fitting.filter_map(|pending| pending.witness.as_ref()).collect::<BTreeSet<_>>().len()
    }

    /// Marks the path as down and excuses pending failures.
    pub(super) fn mark_down(&mut self, now: Time) {
        self.down = true;
        self.is_down_by_standing = false;
        self.free_answers.clear();
        self.excused.extend(self.pending.drain(..).map(|pending| (pending.host, now)));
        self.trial = TrialBackoff { next_at: now + TRIAL_BACKOFF_MIN, trials: 0 };
    }

    /// Drops failures that no proof can attribute any more.
    pub(super) fn prune(&mut self, now: Time) {
        self.pending.retain(|pending| now.since(pending.ended) <= ATTRIBUTION_WINDOW);
        self.excused.retain(|_, at| now.since(*at) <= EXCUSED_FOR);
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

/// Returns the number of witnesses that must fail, if there are as many.
fn required_witnesses(route: Route) -> usize {
    match route {
        Route::Direct => DIRECT_WITNESSES,
        Route::Tor => TOR_WITNESSES,
    }
}

#[cfg(test)]
mod tests;
