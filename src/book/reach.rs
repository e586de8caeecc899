//! Whether a way out works, and whose fault a failure on it was.
//!
//! A peer that doesn't answer may be gone, or our own network may be. Nothing in the failure itself tells. So such a
//! failure is held until a proof comes, an attempt on the same way that got through: soon after it, the failure was the
//! peer's own; otherwise it counts for nothing. A proof from before is not enough, as our network may have broken down
//! since. While one is held, the book asks a peer that was fine lately, to find out. When even those fail, the way is
//! down, and is only tried now and then until somebody answers.

use std::time::Duration;

use super::outcome::Failure;
use crate::clock::Time;
use crate::peer::Host;

/// A proof this long after an attempt failed shows that the way worked during it.
const NEAR_AFTER: Duration = Duration::from_mins(2);

/// Failures further apart than this have nothing to do with each other.
const DOUBT: Duration = Duration::from_mins(15);

/// A pause between two proofs counts as time that the way worked for no more than this, as the next outage may hide in it.
const LONGEST_PAUSE: Duration = Duration::from_hours(24);

/// So many peers without an answer, three of them fine lately if there are, and the way is down. That two of those are
/// gone at the same time happens every day where there are thousands.
const SUSPECTS: usize = 4;
const GOOD_SUSPECTS: usize = 3;

/// When a way that is down is tried again: after the first of these, then twice as long, up to the second.
const FIRST_TRIAL: Duration = Duration::from_secs(5);
const LAST_TRIAL: Duration = Duration::from_mins(10);

/// So much of the time that a way worked may be lost in a crash.
const SAVE_EVERY: Duration = Duration::from_mins(10);

/// The health of one way out.
#[derive(Debug)]
pub struct Reach {
    down: bool,
    last_proof: Option<Time>,
    /// When it was last found to work again. What began before that may have met the outage.
    up_since: Time,
    /// In all, since this book was begun.
    total: Duration,
    /// What of it was written down last.
    saved: Duration,
    held: Vec<Suspect>,
    trial: Trial,
}

/// A failure that waits for its verdict.
#[derive(Debug)]
pub struct Suspect {
    pub host: Host,
    pub failure: Failure,
    /// It was verified recently.
    pub good: bool,
    pub began: Time,
    pub ended: Time,
}

/// How many peers there are on this way.
#[derive(Debug, Clone, Copy)]
pub struct Company {
    pub known: usize,
    /// Verified recently.
    pub good: usize,
}

impl Company {
    /// More would change no verdict.
    pub const ENOUGH: usize = SUSPECTS;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing can be said yet.
    Held,
    /// This was one too many: the way is down, and nobody failed.
    WayDown,
}

#[derive(Debug)]
struct Trial {
    next: Time,
    pause: Duration,
}

impl Reach {
    pub fn new(total: Duration) -> Reach {
        let trial = Trial { next: Time::default(), pause: FIRST_TRIAL };
        Reach { down: false, last_proof: None, up_since: Time::default(), total, saved: total, held: Vec::new(), trial }
    }

    pub fn is_down(&self) -> bool {
        self.down
    }

    /// For how long this way has worked.
    pub fn total(&self) -> Duration {
        self.total
    }

    /// It worked for so much longer, as another way has shown.
    pub fn credit(&mut self, gained: Duration) {
        self.total += gained;
    }

    /// When something got through last.
    pub fn last_proof(&self) -> Option<Time> {
        self.last_proof
    }

    /// The total, if enough has come together since it was last written down.
    pub fn take_unsaved(&mut self) -> Option<Duration> {
        let due = self.total.saturating_sub(self.saved) >= SAVE_EVERY;
        due.then(|| {
            self.saved = self.total;
            self.total
        })
    }

    /// Whether a peer should be asked just to find out.
    pub fn in_doubt(&self) -> bool {
        !self.down && !self.held.is_empty()
    }

    /// An attempt got through. Returns those who failed shortly before, and must now bear it.
    pub fn proven(&mut self, now: Time) -> Vec<(Host, Failure)> {
        if let (Some(before), false) = (self.last_proof, self.down) {
            self.total += now.since(before).min(LONGEST_PAUSE);
        }
        if self.down {
            self.up_since = now;
        }
        self.down = false;
        self.last_proof = Some(now);
        self.trial = Trial { next: now, pause: FIRST_TRIAL };
        self.held
            .drain(..)
            .filter(|held| now.since(held.ended) <= NEAR_AFTER)
            .map(|held| (held.host, held.failure))
            .collect()
    }

    /// Whether one more failure, with so many peers known, may be one too many.
    pub fn comes_to_a_verdict(&self, known: usize) -> bool {
        self.held.len() + 1 >= SUSPECTS.min(known)
    }

    /// An attempt came to nothing.
    pub fn failed(&mut self, suspect: Suspect, company: Company) -> Verdict {
        if self.down || suspect.began < self.up_since {
            return Verdict::Held;
        }
        let now = suspect.ended;
        self.held.retain(|held| held.host != suspect.host && now.since(held.ended) <= DOUBT);
        self.held.push(suspect);
        let good = self.held.iter().filter(|held| held.good).count();
        if self.held.len() >= SUSPECTS.min(company.known) && good >= GOOD_SUSPECTS.min(company.good) {
            self.give_up(now);
            return Verdict::WayDown;
        }
        Verdict::Held
    }

    /// The way is known to be down. Nobody who failed on it is to blame.
    pub fn give_up(&mut self, now: Time) {
        self.down = true;
        self.held.clear();
        self.trial = Trial { next: now + FIRST_TRIAL, pause: FIRST_TRIAL };
    }

    /// What waits for a verdict that no proof will bring any more is let go.
    pub fn sweep(&mut self, now: Time) {
        self.held.retain(|held| now.since(held.ended) <= NEAR_AFTER);
    }

    /// When the next trial of a way that is down is due.
    pub fn next_trial(&self) -> Time {
        self.trial.next
    }

    /// Whether none was made since there was hope.
    pub fn is_first_trial(&self) -> bool {
        self.trial.pause == FIRST_TRIAL
    }

    /// One is under way.
    pub fn tried(&mut self, now: Time) {
        self.trial.next = now + self.trial.pause;
        self.trial.pause = (self.trial.pause * 2).min(LAST_TRIAL);
    }

    /// Begins the trials anew: something changed for the better.
    pub fn try_soon(&mut self, now: Time) {
        self.trial = Trial { next: now, pause: FIRST_TRIAL };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Time = Time::from_secs(1_000_000);
    const GONE: Failure = Failure::Unreachable;

    fn host(n: u8) -> Host {
        format!("h{n}.example").parse().unwrap()
    }

    fn at(secs: u64) -> Time {
        START + Duration::from_secs(secs)
    }

    fn fail(reach: &mut Reach, n: u8, good: bool, began: Time) -> Verdict {
        let ended = began + Duration::from_secs(10);
        reach.failed(Suspect { host: host(n), failure: GONE, good, began, ended }, Company { known: 9, good: 5 })
    }

    #[test]
    fn a_proof_soon_after_it_makes_a_failure_count() {
        let mut reach = Reach::new(Duration::ZERO);
        reach.proven(START);
        assert_eq!(fail(&mut reach, 1, false, at(900)), Verdict::Held);
        assert!(reach.in_doubt());
        assert_eq!(reach.proven(at(960)), [(host(1), GONE)]);
        assert!(!reach.in_doubt());
    }

    #[test]
    fn what_began_in_an_outage_is_forgiven_after_it() {
        let mut reach = Reach::new(Duration::ZERO);
        reach.give_up(START);
        reach.proven(at(105));
        assert_eq!(fail(&mut reach, 1, false, at(100)), Verdict::Held);
        assert!(!reach.in_doubt());
    }

    #[test]
    fn a_proof_that_comes_late_forgives() {
        let mut reach = Reach::new(Duration::ZERO);
        fail(&mut reach, 1, false, START);
        assert!(reach.proven(at(600)).is_empty());
    }

    #[test]
    fn when_the_good_fail_as_well_the_way_is_down() {
        let mut reach = Reach::new(Duration::ZERO);
        assert_eq!(fail(&mut reach, 1, false, START), Verdict::Held);
        assert_eq!(fail(&mut reach, 2, false, START), Verdict::Held);
        assert_eq!(fail(&mut reach, 3, false, START), Verdict::Held);
        assert_eq!(fail(&mut reach, 4, true, START), Verdict::Held);
        assert_eq!(fail(&mut reach, 5, true, START), Verdict::Held);
        assert_eq!(fail(&mut reach, 6, true, START), Verdict::WayDown);
        assert!(reach.is_down());
        assert!(reach.proven(at(70)).is_empty());
        assert!(!reach.is_down());
    }

    #[test]
    fn only_time_between_proofs_counts() {
        let mut reach = Reach::new(Duration::ZERO);
        reach.proven(START);
        reach.proven(at(3600));
        assert_eq!(reach.total(), Duration::from_hours(1));
        reach.give_up(at(4000));
        reach.proven(at(90_000));
        assert_eq!(reach.total(), Duration::from_hours(1));
        reach.proven(at(90_000 + 72 * 3600));
        assert_eq!(reach.total(), Duration::from_hours(25));
    }

    #[test]
    fn trials_grow_rare() {
        let mut reach = Reach::new(Duration::ZERO);
        reach.give_up(START);
        let mut now = START;
        let mut trials = 0;
        while now < at(24 * 3600) {
            now = reach.next_trial();
            reach.tried(now);
            trials += 1;
        }
        assert!((100..170).contains(&trials), "{trials}");
    }
}
