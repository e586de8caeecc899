//! Open sessions of one ingress by source, with the rules of admission and eviction.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::connection::ClientSource;
use super::limits::{Limits, SourceQuota};
use crate::jsonrpc::RpcError;

/// Time that a source's meters are kept after its last session, and the interval of pruning.
///
/// Without it, a client could refill its quota by reconnecting.
pub(super) const SOURCE_TTL: Duration = Duration::from_secs(5);

/// Table of the open sessions of one ingress.
#[derive(Default)]
pub(super) struct SessionTable {
    /// Number of open sessions.
    pub open_sessions: usize,
    sources: HashMap<ClientSource, SourceSlots>,
    /// Index of the sources by their number of sessions, without those that have none.
    sources_by_sessions: BTreeSet<(usize, ClientSource)>,
}

/// Sessions and quota of one source.
struct SourceSlots {
    /// Shared quota. `None` for a shared Tor, whose clients can't be distinguished.
    quota: Option<Arc<SourceQuota>>,
    /// Sessions by number, the oldest first.
    sessions: BTreeMap<u64, AbortHandle>,
    /// Time of the end of the last session. `None` while one is open.
    idle_since: Option<Instant>,
}

/// Whether a session is free for another client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Capacity {
    /// A session is free.
    Free,
    /// All sessions are in use, so another one must be evicted.
    Exhausted,
}

/// Decision about a new session.
pub(super) enum Admission {
    /// Admit with this quota.
    Admit(Option<Arc<SourceQuota>>),
    /// Admit with this quota, and abort this session.
    AdmitEvicting(Option<Arc<SourceQuota>>, AbortHandle),
    /// Refuse with this error.
    Refused(RpcError),
}

impl SessionTable {
    /// Gives all sources new meters with the new limits.
    ///
    /// Open sessions keep the previous meters.
    pub(super) fn update_limits(&mut self, limits: &Limits) {
        for quota in self.sources.values_mut().filter_map(|slots| slots.quota.as_mut()) {
            *quota = Arc::new(SourceQuota::new(limits));
        }
    }

    /// Decides about a new session of this source.
    pub(super) fn admit(&mut self, source: ClientSource, capacity: Capacity, limits: &Limits) -> Admission {
        let slots = self.sources.entry(source).or_insert_with(|| SourceSlots {
            quota: (source != ClientSource::SharedTor).then(|| Arc::new(SourceQuota::new(limits))),
            sessions: BTreeMap::new(),
            idle_since: Some(Instant::now()),
        });
        let (quota, open) = (slots.quota.clone(), slots.sessions.len());
        if let Some(quota) = &quota {
            if open >= limits.sessions_per_source {
                return Admission::Refused(RpcError::ServerFull(" from your network"));
            }
            if !quota.requests.try_acquire(1) {
                return Admission::Refused(RpcError::RateLimited("connections"));
            }
        }
        if capacity == Capacity::Free {
            return Admission::Admit(quota);
        }
        // The source with the most sessions loses its oldest one to a source with fewer.
        let Some((largest, of)) = self.sources_by_sessions.last().copied().filter(|(largest, _)| *largest > open + 1)
        else {
            return Admission::Refused(RpcError::ServerFull(""));
        };
        let oldest = self.sources.get_mut(&of).and_then(|slots| slots.sessions.pop_first());
        self.update_index(of, largest);
        match oldest {
            Some((_, oldest)) => Admission::AdmitEvicting(quota, oldest),
            None => Admission::Refused(RpcError::ServerFull("")),
        }
    }

    /// Adds an admitted session.
    pub(super) fn insert(&mut self, source: ClientSource, number: u64, session: AbortHandle) {
        let Some(slots) = self.sources.get_mut(&source) else { return };
        let previous = slots.sessions.len();
        slots.sessions.insert(number, session);
        self.update_index(source, previous);
    }

    /// Removes an ended session.
    pub(super) fn remove(&mut self, source: ClientSource, number: u64) {
        let Some(slots) = self.sources.get_mut(&source) else { return };
        let previous = slots.sessions.len();
        slots.sessions.remove(&number);
        self.update_index(source, previous);
    }

    /// Updates index and total after a source's number of sessions has changed.
    fn update_index(&mut self, source: ClientSource, previous: usize) {
        let Some(slots) = self.sources.get_mut(&source) else { return };
        let now = slots.sessions.len();
        slots.idle_since = (now == 0).then(Instant::now);
        self.sources_by_sessions.remove(&(previous, source));
        if now > 0 {
            self.sources_by_sessions.insert((now, source));
        }
        self.open_sessions = (self.open_sessions + now).saturating_sub(previous);
    }

    /// Removes sources without sessions after [`SOURCE_TTL`].
    pub(super) fn prune(&mut self, now: Instant) {
        self.sources.retain(|_, slots| slots.idle_since.is_none_or(|since| now < since + SOURCE_TTL));
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::*;

    const LIMITS: Limits = Limits { sessions: 100, sessions_per_source: 4, ..BASE };
    const BASE: Limits = Limits {
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

    /// Table with pending tasks as sessions.
    struct TableHarness {
        sessions: SessionTable,
        max_sessions: usize,
        limits: Limits,
        tasks: JoinSet<()>,
        next_number: u64,
    }

    #[derive(Debug, PartialEq)]
    enum Outcome {
        Admitted(u64),
        AdmittedEvicting,
        Refused(i32),
    }

    impl TableHarness {
        fn new(max_sessions: usize) -> TableHarness {
            TableHarness {
                sessions: SessionTable::default(),
                max_sessions,
                limits: LIMITS,
                tasks: JoinSet::new(),
                next_number: 0,
            }
        }

        fn connect(&mut self, source: ClientSource) -> Outcome {
            self.next_number += 1;
            let is_full = self.sessions.open_sessions >= self.max_sessions;
            let capacity = if is_full { Capacity::Exhausted } else { Capacity::Free };
            let outcome = match self.sessions.admit(source, capacity, &self.limits) {
                Admission::Refused(error) => return Outcome::Refused(error.code()),
                Admission::Admit(_) => Outcome::Admitted(self.next_number),
                Admission::AdmitEvicting(_, evicted) => {
                    evicted.abort();
                    Outcome::AdmittedEvicting
                }
            };
            self.sessions.insert(source, self.next_number, self.tasks.spawn(std::future::pending()));
            outcome
        }

        fn connect_ok(&mut self, source: ClientSource) -> u64 {
            match self.connect(source) {
                Outcome::Admitted(number) => number,
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn source_over_session_limit_is_refused() {
        let mut table = TableHarness::new(100);
        let numbers: Vec<u64> = (0..4).map(|_| table.connect_ok(ClientSource::Circuit(1))).collect();
        assert_eq!(table.connect(ClientSource::Circuit(1)), Outcome::Refused(-102));
        table.connect_ok(ClientSource::Circuit(2));
        table.sessions.remove(ClientSource::Circuit(1), numbers[2]);
        table.connect_ok(ClientSource::Circuit(1));
        // A shared Tor has no limit of its own.
        (0..50).for_each(|_| _ = table.connect_ok(ClientSource::SharedTor));
        assert_eq!(table.sessions.open_sessions, 55);
    }

    #[tokio::test]
    async fn full_table_evicts_from_largest_source() {
        let mut table = TableHarness::new(6);
        (0..4).for_each(|_| _ = table.connect_ok(ClientSource::Circuit(1)));
        (0..2).for_each(|_| _ = table.connect_ok(ClientSource::Circuit(2)));
        assert_eq!(table.connect(ClientSource::Circuit(3)), Outcome::AdmittedEvicting);
        assert!(
            !table.sessions.sources[&ClientSource::Circuit(1)].sessions.contains_key(&1),
            "the oldest session is evicted"
        );
        assert_eq!(table.connect(ClientSource::Circuit(3)), Outcome::AdmittedEvicting);
        // All three sources have two sessions now.
        assert_eq!(table.connect(ClientSource::Circuit(3)), Outcome::Refused(-102));
        assert_eq!(table.connect(ClientSource::Circuit(4)), Outcome::AdmittedEvicting);
        assert_eq!(table.sessions.open_sessions, 6);
    }

    #[tokio::test]
    async fn new_limits_apply_to_new_sessions() {
        let mut table = TableHarness::new(100);
        let before: Vec<u64> = (0..4).map(|_| table.connect_ok(ClientSource::Circuit(1))).collect();
        let held = table.sessions.sources[&ClientSource::Circuit(1)].quota.clone().unwrap();
        table.limits = Limits { sessions_per_source: 2, source_requests_per_second: 1, ..LIMITS };
        table.sessions.update_limits(&table.limits);
        assert_eq!(table.sessions.open_sessions, 4, "open sessions remain");
        assert_eq!(table.connect(ClientSource::Circuit(1)), Outcome::Refused(-102));
        assert!(held.requests.try_acquire(26), "open sessions keep their quota");
        before.iter().for_each(|number| table.sessions.remove(ClientSource::Circuit(1), *number));
        table.connect_ok(ClientSource::Circuit(1));
        let renewed = table.sessions.sources[&ClientSource::Circuit(1)].quota.clone().unwrap();
        assert!(
            renewed.requests.try_acquire(2) && !renewed.requests.try_acquire(1),
            "a burst of three, of which the session took one"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn reconnecting_does_not_refill_quota() {
        let mut table = TableHarness::new(100);
        for _ in 0..30 {
            let number = table.connect_ok(ClientSource::Circuit(1));
            table.sessions.remove(ClientSource::Circuit(1), number);
            table.sessions.prune(Instant::now());
        }
        assert_eq!(table.connect(ClientSource::Circuit(1)), Outcome::Refused(-101));
        table.sessions.prune(Instant::now() + SOURCE_TTL);
        assert!(table.sessions.sources.is_empty() && table.sessions.sources_by_sessions.is_empty());
        assert_eq!(table.sessions.open_sessions, 0);
    }
}
