//! The sessions of callers of one of our names, by their sources: who is let in, and who gives way.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::connection::ClientSource;
use super::limits::{Limits, SourceQuota};
use crate::jsonrpc::RpcError;

/// What a source has used is remembered for as long after its last session, or it would only have to call again to begin
/// again; and how often those are looked for whose time is over.
pub const SOURCE_TTL: Duration = Duration::from_secs(5);

/// The sessions of callers of one of our names, by their sources.
#[derive(Default)]
pub struct SessionTable {
    pub open_sessions: usize,
    sources: HashMap<ClientSource, SourceSlots>,
    /// Sources by how many sessions they have.
    sources_by_sessions: BTreeSet<(usize, ClientSource)>,
}

struct SourceSlots {
    /// What the source may use; nothing is counted for a Tor that many call through.
    allowance: Option<Arc<SourceQuota>>,
    /// By the numbers that they came in as.
    sessions: BTreeMap<u64, AbortHandle>,
    idle_since: Option<Instant>,
}

/// Whether somebody is let in.
pub enum Admission {
    Admit(Option<Arc<SourceQuota>>),
    /// In the place of this session.
    AdmitEvicting(Option<Arc<SourceQuota>>, AbortHandle),
    Refused(RpcError),
}

impl SessionTable {
    /// What each source may use is counted again.
    pub fn update_limits(&mut self, limits: &Limits) {
        for allowance in self.sources.values_mut().filter_map(|seats| seats.allowance.as_mut()) {
            *allowance = Arc::new(SourceQuota::new(limits));
        }
    }

    pub fn admit(&mut self, source: ClientSource, full: bool, limits: &Limits) -> Admission {
        let seats = self.sources.entry(source).or_insert_with(|| SourceSlots {
            allowance: (source != ClientSource::SharedTor).then(|| Arc::new(SourceQuota::new(limits))),
            sessions: BTreeMap::new(),
            idle_since: Some(Instant::now()),
        });
        let (allowance, taken) = (seats.allowance.clone(), seats.sessions.len());
        if let Some(allowance) = &allowance {
            if taken >= limits.sessions_per_source {
                return Admission::Refused(RpcError::ServerFull(" from where you are"));
            }
            if !allowance.requests.try_acquire(1) {
                return Admission::Refused(RpcError::RateLimited("connections"));
            }
        }
        if !full {
            return Admission::Admit(allowance);
        }
        // A source with many sessions loses one to a source with fewer.
        let Some((largest, of)) = self.sources_by_sessions.last().copied().filter(|(largest, _)| *largest > taken + 1)
        else {
            return Admission::Refused(RpcError::ServerFull(""));
        };
        let oldest = self.sources.get_mut(&of).and_then(|seats| seats.sessions.pop_first());
        self.update_index(of, largest);
        match oldest {
            Some((_, oldest)) => Admission::AdmitEvicting(allowance, oldest),
            None => Admission::Refused(RpcError::ServerFull("")),
        }
    }

    pub fn insert(&mut self, source: ClientSource, number: u64, session: AbortHandle) {
        let Some(seats) = self.sources.get_mut(&source) else { return };
        let before = seats.sessions.len();
        seats.sessions.insert(number, session);
        self.update_index(source, before);
    }

    pub fn remove(&mut self, source: ClientSource, number: u64) {
        let Some(seats) = self.sources.get_mut(&source) else { return };
        let before = seats.sessions.len();
        seats.sessions.remove(&number);
        self.update_index(source, before);
    }

    /// A source has not as many sessions any more as it had.
    fn update_index(&mut self, source: ClientSource, before: usize) {
        let Some(seats) = self.sources.get_mut(&source) else { return };
        let now = seats.sessions.len();
        seats.idle_since = (now == 0).then(Instant::now);
        self.sources_by_sessions.remove(&(before, source));
        if now > 0 {
            self.sources_by_sessions.insert((now, source));
        }
        self.open_sessions = (self.open_sessions + now).saturating_sub(before);
    }

    /// Forgets the sources that have been away for long enough.
    pub fn prune(&mut self, now: Instant) {
        self.sources.retain(|_, seats| seats.idle_since.is_none_or(|since| now < since + SOURCE_TTL));
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
        forwarded_requests_per_second: 10,
        batch: 1,
        handshake: Duration::from_secs(1),
        idle: Duration::from_secs(1),
        line: Duration::from_secs(1),
    };

    /// A room, and tasks that stand for sessions.
    struct Bench {
        room: SessionTable,
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
            Bench { room: SessionTable::default(), most, limits: LIMITS, sessions: JoinSet::new(), come: 0 }
        }

        fn come(&mut self, source: ClientSource) -> Outcome {
            self.come += 1;
            let full = self.room.open_sessions >= self.most;
            let outcome = match self.room.admit(source, full, &self.limits) {
                Admission::Refused(error) => return Outcome::Refused(error.code()),
                Admission::Admit(_) => Outcome::In(self.come),
                Admission::AdmitEvicting(_, evicted) => {
                    evicted.abort();
                    Outcome::Instead
                }
            };
            self.room.insert(source, self.come, self.sessions.spawn(std::future::pending()));
            outcome
        }

        fn stay(&mut self, source: ClientSource) -> u64 {
            match self.come(source) {
                Outcome::In(number) => number,
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_source_has_so_many_sessions() {
        let mut bench = Bench::new(100);
        let numbers: Vec<u64> = (0..4).map(|_| bench.stay(ClientSource::Circuit(1))).collect();
        assert_eq!(bench.come(ClientSource::Circuit(1)), Outcome::Refused(-102));
        bench.stay(ClientSource::Circuit(2));
        bench.room.remove(ClientSource::Circuit(1), numbers[2]);
        bench.stay(ClientSource::Circuit(1));
        // A Tor that many call through is no source of that kind.
        (0..50).for_each(|_| _ = bench.stay(ClientSource::SharedTor));
        assert_eq!(bench.room.open_sessions, 55);
    }

    #[tokio::test]
    async fn where_there_is_no_room_who_has_most_gives_way() {
        let mut bench = Bench::new(6);
        (0..4).for_each(|_| _ = bench.stay(ClientSource::Circuit(1)));
        (0..2).for_each(|_| _ = bench.stay(ClientSource::Circuit(2)));
        assert_eq!(bench.come(ClientSource::Circuit(3)), Outcome::Instead);
        assert!(!bench.room.sources[&ClientSource::Circuit(1)].sessions.contains_key(&1), "the oldest");
        assert_eq!(bench.come(ClientSource::Circuit(3)), Outcome::Instead);
        // Now all three have two.
        assert_eq!(bench.come(ClientSource::Circuit(3)), Outcome::Refused(-102));
        assert_eq!(bench.come(ClientSource::Circuit(4)), Outcome::Instead);
        assert_eq!(bench.room.open_sessions, 6);
    }

    #[tokio::test]
    async fn other_limits_are_for_those_who_come_then() {
        let mut bench = Bench::new(100);
        let before: Vec<u64> = (0..4).map(|_| bench.stay(ClientSource::Circuit(1))).collect();
        let held = bench.room.sources[&ClientSource::Circuit(1)].allowance.clone().unwrap();
        bench.limits = Limits { sessions_per_source: 2, source_requests_per_second: 1, ..LIMITS };
        bench.room.update_limits(&bench.limits);
        assert_eq!(bench.room.open_sessions, 4, "nobody has to go");
        assert_eq!(bench.come(ClientSource::Circuit(1)), Outcome::Refused(-102));
        assert!(held.requests.try_acquire(26), "they keep to what they had");
        before.iter().for_each(|number| bench.room.remove(ClientSource::Circuit(1), *number));
        bench.stay(ClientSource::Circuit(1));
        let given = bench.room.sources[&ClientSource::Circuit(1)].allowance.clone().unwrap();
        assert!(given.requests.try_acquire(2) && !given.requests.try_acquire(1), "three at once, of which one came in");
    }

    #[tokio::test(start_paused = true)]
    async fn to_hang_up_and_call_again_gives_nothing_back() {
        let mut bench = Bench::new(100);
        for _ in 0..30 {
            let number = bench.stay(ClientSource::Circuit(1));
            bench.room.remove(ClientSource::Circuit(1), number);
            bench.room.prune(Instant::now());
        }
        assert_eq!(bench.come(ClientSource::Circuit(1)), Outcome::Refused(-101));
        bench.room.prune(Instant::now() + SOURCE_TTL);
        assert!(bench.room.sources.is_empty() && bench.room.sources_by_sessions.is_empty());
        assert_eq!(bench.room.open_sessions, 0);
    }
}
