//! The sessions of callers of one of our names, by their sources: who is let in, and who gives way.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::door::Source;
use super::limits::{Allowance, Limits};
use crate::protocol::RpcError;

/// What a source has used is remembered for as long after its last session, or it would only have to call again to begin
/// anew; and how often those are looked for whose time is over.
pub const MEMORY: Duration = Duration::from_secs(5);

/// The sessions of callers of one of our names, by their sources.
#[derive(Default)]
pub struct Room {
    pub open: usize,
    sources: HashMap<Source, Seats>,
    /// Sources by how many sessions they have.
    by_size: BTreeSet<(usize, Source)>,
}

struct Seats {
    /// What the source may use; nothing is counted for a Tor that many call through.
    allowance: Option<Arc<Allowance>>,
    /// By the numbers that they came in as.
    sessions: BTreeMap<u64, AbortHandle>,
    empty_since: Option<Instant>,
}

/// Whether somebody is let in.
pub enum Admission {
    Welcome(Option<Arc<Allowance>>),
    /// In the place of this session.
    Instead(Option<Arc<Allowance>>, AbortHandle),
    Refused(RpcError),
}

impl Room {
    /// What each source may use is counted anew.
    pub fn renew(&mut self, limits: &Limits) {
        for allowance in self.sources.values_mut().filter_map(|seats| seats.allowance.as_mut()) {
            *allowance = Arc::new(Allowance::new(limits));
        }
    }

    pub fn admit(&mut self, source: Source, full: bool, limits: &Limits) -> Admission {
        let seats = self.sources.entry(source).or_insert_with(|| Seats {
            allowance: (source != Source::Tor).then(|| Arc::new(Allowance::new(limits))),
            sessions: BTreeMap::new(),
            empty_since: Some(Instant::now()),
        });
        let (allowance, taken) = (seats.allowance.clone(), seats.sessions.len());
        if let Some(allowance) = &allowance {
            if taken >= limits.sessions_per_source {
                return Admission::Refused(RpcError::Full(" from where you are"));
            }
            if !allowance.requests.take(1) {
                return Admission::Refused(RpcError::Excessive("connections"));
            }
        }
        if !full {
            return Admission::Welcome(allowance);
        }
        // Whoever has many sessions gives one up for somebody with fewer.
        let Some((largest, of)) = self.by_size.last().copied().filter(|(largest, _)| *largest > taken + 1) else {
            return Admission::Refused(RpcError::Full(""));
        };
        let oldest = self.sources.get_mut(&of).and_then(|seats| seats.sessions.pop_first());
        self.resized(of, largest);
        match oldest {
            Some((_, oldest)) => Admission::Instead(allowance, oldest),
            None => Admission::Refused(RpcError::Full("")),
        }
    }

    pub fn seat(&mut self, source: Source, number: u64, session: AbortHandle) {
        let Some(seats) = self.sources.get_mut(&source) else { return };
        let before = seats.sessions.len();
        seats.sessions.insert(number, session);
        self.resized(source, before);
    }

    pub fn leave(&mut self, source: Source, number: u64) {
        let Some(seats) = self.sources.get_mut(&source) else { return };
        let before = seats.sessions.len();
        seats.sessions.remove(&number);
        self.resized(source, before);
    }

    /// A source has not as many sessions any more as it had.
    fn resized(&mut self, source: Source, before: usize) {
        let Some(seats) = self.sources.get_mut(&source) else { return };
        let now = seats.sessions.len();
        seats.empty_since = (now == 0).then(Instant::now);
        self.by_size.remove(&(before, source));
        if now > 0 {
            self.by_size.insert((now, source));
        }
        self.open = (self.open + now).saturating_sub(before);
    }

    /// Forgets the sources that have been away for long enough.
    pub fn forget(&mut self, now: Instant) {
        self.sources.retain(|_, seats| seats.empty_since.is_none_or(|since| now < since + MEMORY));
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::*;

    const LIMITS: Limits = Limits { sessions: 100, sessions_per_source: 4, ..DEFAULT };
    const DEFAULT: Limits = Limits {
        sessions: 0,
        sessions_per_source: 0,
        requests_per_second: 20,
        source_requests_per_second: 10,
        bytes_in_per_second: 1,
        bytes_out_per_second: 1,
        passed_requests_per_second: 10,
        batch: 1,
        handshake: Duration::from_secs(1),
        idle: Duration::from_secs(1),
        line: Duration::from_secs(1),
    };

    /// A room, and tasks that stand for sessions.
    struct Bench {
        room: Room,
        most: usize,
        limits: Limits,
        sessions: JoinSet<()>,
        come: u64,
    }

    #[derive(Debug, PartialEq)]
    enum Outcome {
        In(u64),
        /// In the place of another.
        Instead,
        Refused(i32),
    }

    impl Bench {
        fn new(most: usize) -> Bench {
            Bench { room: Room::default(), most, limits: LIMITS, sessions: JoinSet::new(), come: 0 }
        }

        fn come(&mut self, source: Source) -> Outcome {
            self.come += 1;
            let full = self.room.open >= self.most;
            let outcome = match self.room.admit(source, full, &self.limits) {
                Admission::Refused(error) => return Outcome::Refused(error.code()),
                Admission::Welcome(_) => Outcome::In(self.come),
                Admission::Instead(_, evicted) => {
                    evicted.abort();
                    Outcome::Instead
                }
            };
            self.room.seat(source, self.come, self.sessions.spawn(std::future::pending()));
            outcome
        }

        fn stay(&mut self, source: Source) -> u64 {
            match self.come(source) {
                Outcome::In(number) => number,
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_source_has_so_many_sessions() {
        let mut bench = Bench::new(100);
        let numbers: Vec<u64> = (0..4).map(|_| bench.stay(Source::Circuit(1))).collect();
        assert_eq!(bench.come(Source::Circuit(1)), Outcome::Refused(-102));
        bench.stay(Source::Circuit(2));
        bench.room.leave(Source::Circuit(1), numbers[2]);
        bench.stay(Source::Circuit(1));
        // A Tor that many call through is no source of that kind.
        (0..50).for_each(|_| _ = bench.stay(Source::Tor));
        assert_eq!(bench.room.open, 55);
    }

    #[tokio::test]
    async fn where_there_is_no_room_who_has_most_gives_way() {
        let mut bench = Bench::new(6);
        (0..4).for_each(|_| _ = bench.stay(Source::Circuit(1)));
        (0..2).for_each(|_| _ = bench.stay(Source::Circuit(2)));
        assert_eq!(bench.come(Source::Circuit(3)), Outcome::Instead);
        assert!(!bench.room.sources[&Source::Circuit(1)].sessions.contains_key(&1), "the oldest");
        assert_eq!(bench.come(Source::Circuit(3)), Outcome::Instead);
        // Now all three have two.
        assert_eq!(bench.come(Source::Circuit(3)), Outcome::Refused(-102));
        assert_eq!(bench.come(Source::Circuit(4)), Outcome::Instead);
        assert_eq!(bench.room.open, 6);
    }

    #[tokio::test]
    async fn other_limits_are_for_those_who_come_then() {
        let mut bench = Bench::new(100);
        let before: Vec<u64> = (0..4).map(|_| bench.stay(Source::Circuit(1))).collect();
        let held = bench.room.sources[&Source::Circuit(1)].allowance.clone().unwrap();
        bench.limits = Limits { sessions_per_source: 2, source_requests_per_second: 1, ..LIMITS };
        bench.room.renew(&bench.limits);
        assert_eq!(bench.room.open, 4, "nobody has to go");
        assert_eq!(bench.come(Source::Circuit(1)), Outcome::Refused(-102));
        assert!(held.requests.take(26), "they keep to what they had");
        before.iter().for_each(|number| bench.room.leave(Source::Circuit(1), *number));
        bench.stay(Source::Circuit(1));
        let given = bench.room.sources[&Source::Circuit(1)].allowance.clone().unwrap();
        assert!(given.requests.take(2) && !given.requests.take(1), "three at once, of which one came in");
    }

    #[tokio::test(start_paused = true)]
    async fn to_hang_up_and_call_again_gives_nothing_back() {
        let mut bench = Bench::new(100);
        for _ in 0..30 {
            let number = bench.stay(Source::Circuit(1));
            bench.room.leave(Source::Circuit(1), number);
            bench.room.forget(Instant::now());
        }
        assert_eq!(bench.come(Source::Circuit(1)), Outcome::Refused(-101));
        bench.room.forget(Instant::now() + MEMORY);
        assert!(bench.room.sources.is_empty() && bench.room.by_size.is_empty());
        assert_eq!(bench.room.open, 0);
    }
}
