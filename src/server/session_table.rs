//! Open sessions of one ingress by source, with the rules of admission and eviction.
//!
//! Sources nest: subnets in allocations, and circuits in the onion service. When all sessions are in use, the largest
//! group loses a session: one without a request, or the one whose last request is the longest ago.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::connection::{ClientSource, SourceGroup};
use super::limits::{Limits, SourceQuota};
use super::session_activity::{EvictionRank, SessionActivity};
use crate::clock::Time;
use crate::jsonrpc::RpcError;

/// Time that a source's meters are kept after its last session, and the interval of pruning.
///
/// Without it, a client could refill its quota by reconnecting.
pub(super) const SOURCE_TTL: Duration = Duration::from_secs(5);

/// Time without a request after which a session may be evicted for another of the same group.
///
/// Half of the time after which ElectrumX disconnects silent clients, for which wallets send pings.
const MIN_IDLE: Duration = Duration::from_secs(300);

/// Table of the open sessions of one ingress.
#[derive(Default)]
pub(super) struct SessionTable {
    /// Number of open sessions.
    pub open_sessions: usize,
    sources: HashMap<ClientSource, SourceSlots>,
    /// Sources with open sessions of each group.
    groups: HashMap<SourceGroup, GroupSlots>,
    /// Index of the groups by their number of sessions.
    groups_by_sessions: BTreeSet<(usize, SourceGroup)>,
}

/// Sessions and quota of one source.
struct SourceSlots {
    quota: Arc<SourceQuota>,
    /// Sessions by number, the oldest first.
    sessions: BTreeMap<u64, OpenSession>,
    /// Time of the end of the last session. `None` while one is open.
    idle_since: Option<Instant>,
}

/// Sources of one group that have sessions.
#[derive(Default)]
struct GroupSlots {
    sources: BTreeSet<ClientSource>,
    sessions: usize,
}

/// Session that can be aborted.
pub(super) struct OpenSession {
    /// Handle of its task.
    pub task: AbortHandle,
    /// Time of its last request.
    pub activity: Arc<SessionActivity>,
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
    Admit(Arc<SourceQuota>),
    /// Admit with this quota, and abort this session.
    AdmitEvicting(Arc<SourceQuota>, AbortHandle),
    /// Refuse with this error.
    Refused(RpcError),
}

impl SessionTable {
    /// Gives all sources new meters with the new limits.
    ///
    /// Open sessions keep the previous meters.
    pub(super) fn update_limits(&mut self, limits: &Limits) {
        for slots in self.sources.values_mut() {
            slots.quota = Arc::new(SourceQuota::new(limits));
        }
    }

    /// Decides about a new session of this source.
    pub(super) fn admit(&mut self, source: ClientSource, capacity: Capacity, limits: &Limits, now: Time) -> Admission {
        let slots = self.sources.entry(source).or_insert_with(|| SourceSlots {
            quota: Arc::new(SourceQuota::new(limits)),
            sessions: BTreeMap::new(),
            idle_since: Some(Instant::now()),
        });
        let quota = match source {
            // Clients behind a shared Tor can't be distinguished, so each session has its own quota.
            ClientSource::SharedTor => Arc::new(SourceQuota::new(limits)),
            ClientSource::Exempt(_) => Arc::new(SourceQuota::unlimited()),
            _ if slots.sessions.len() >= limits.sessions_per_source => {
                return Admission::Refused(RpcError::ServerFull(" from your network"));
            }
            _ => Arc::clone(&slots.quota),
        };
        if !quota.requests.try_acquire(1) {
            return Admission::Refused(RpcError::RateLimited("connections"));
        }
        if capacity == Capacity::Free {
            return Admission::Admit(quota);
        }
        match self.choose_victim(source, limits, now).and_then(|(of, number)| self.take(of, number)) {
            Some(evicted) => Admission::AdmitEvicting(quota, evicted.task),
            None => Admission::Refused(RpcError::ServerFull("")),
        }
    }

    /// Adds an admitted session.
    pub(super) fn insert(&mut self, source: ClientSource, number: u64, session: OpenSession) {
        let Some(slots) = self.sources.get_mut(&source) else { return };
        slots.sessions.insert(number, session);
        slots.idle_since = None;
        self.update_group(source, 1);
    }

    /// Removes sources without sessions after [`SOURCE_TTL`].
    pub(super) fn prune(&mut self, now: Instant) {
        self.sources.retain(|_, slots| slots.idle_since.is_none_or(|since| now < since + SOURCE_TTL));
    }

    /// Removes a session, to abort it; `None` if it has ended.
    pub(super) fn take(&mut self, source: ClientSource, number: u64) -> Option<OpenSession> {
        let slots = self.sources.get_mut(&source)?;
        let session = slots.sessions.remove(&number)?;
        slots.idle_since = slots.sessions.is_empty().then(Instant::now);
        self.update_group(source, -1);
        Some(session)
    }

    /// Updates groups, index and total after a session was added or removed.
    fn update_group(&mut self, source: ClientSource, change: isize) {
        let group = source.group();
        let slots = self.groups.entry(group).or_default();
        self.groups_by_sessions.remove(&(slots.sessions, group));
        slots.sessions = slots.sessions.saturating_add_signed(change);
        if self.sources.get(&source).is_some_and(|slots| !slots.sessions.is_empty()) {
            slots.sources.insert(source);
        } else {
            slots.sources.remove(&source);
        }
        if slots.sessions > 0 {
            self.groups_by_sessions.insert((slots.sessions, group));
        } else {
            self.groups.remove(&group);
        }
        self.open_sessions = self.open_sessions.saturating_add_signed(change);
    }

    /// Chooses the session that makes room for a source; `None` if no group is larger than that of the source.
    ///
    /// Within its own group, a source displaces a larger source, or a session that is idle for long.
    fn choose_victim(&self, source: ClientSource, limits: &Limits, now: Time) -> Option<(ClientSource, u64)> {
        let own = source.group();
        // Exempt clients displace others, and are never displaced.
        let is_exempt = own == SourceGroup::Exempt;
        let own_sessions = self.groups.get(&own).map_or(0, |slots| slots.sessions);
        let mut by_sessions = self.groups_by_sessions.iter().rev().copied();
        let (largest, group) = by_sessions.find(|(_, group)| *group != SourceGroup::Exempt)?;
        if is_exempt {
            return self.most_idle(self.largest_sources(group)).map(|(_, found)| found);
        }
        if largest > own_sessions + 1 && group != own {
            return self.most_idle(self.largest_sources(group)).map(|(_, found)| found);
        }
        let open = self.sources.get(&source).map_or(0, |slots| slots.sessions.len());
        let sources = self.largest_sources(own);
        if sources.first().is_some_and(|largest| self.session_count(*largest) > open + 1) {
            return self.most_idle(sources).map(|(_, found)| found);
        }
        let all = self.groups.get(&own)?.sources.iter().copied().collect();
        let (rank, found) = self.most_idle(all)?;
        let is_idle = match rank {
            EvictionRank::Silent(since) => now.since(since) >= limits.handshake,
            EvictionRank::Idle(since) => now.since(since) >= MIN_IDLE,
        };
        is_idle.then_some(found)
    }

    /// Returns the sources of a group that have the most sessions.
    fn largest_sources(&self, group: SourceGroup) -> Vec<ClientSource> {
        let Some(slots) = self.groups.get(&group) else { return Vec::new() };
        let most = slots.sources.iter().map(|source| self.session_count(*source)).max();
        slots.sources.iter().copied().filter(|source| Some(self.session_count(*source)) == most).collect()
    }

    fn session_count(&self, source: ClientSource) -> usize {
        self.sources.get(&source).map_or(0, |slots| slots.sessions.len())
    }

    /// Returns the first session in the order of eviction.
    fn most_idle(&self, sources: Vec<ClientSource>) -> Option<(EvictionRank, (ClientSource, u64))> {
        let sessions = sources.into_iter().filter_map(|source| Some((source, self.sources.get(&source)?)));
        let ranked = sessions.flat_map(|(source, slots)| {
            slots.sessions.iter().map(move |(number, session)| (session.activity.rank(), (source, *number)))
        });
        ranked.min()
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::*;
    use crate::netgroup::Netgroup;

    fn limits() -> Limits {
        Limits {
            sessions: 100,
            sessions_per_source: 4,
            requests_per_second: 20,
            source_requests_per_second: 10,
            forwarded_requests_per_second: 10,
            handshake: Duration::from_secs(1),
            ..Limits::default()
        }
    }

    /// Table with pending tasks as sessions.
    struct TableHarness {
        sessions: SessionTable,
        max_sessions: usize,
        limits: Limits,
        tasks: JoinSet<()>,
        next_number: u64,
        now: Time,
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
                limits: limits(),
                tasks: JoinSet::new(),
                next_number: 0,
                now: Time::from_secs(1_700_000_000),
            }
        }

        fn connect(&mut self, source: ClientSource) -> Outcome {
            self.next_number += 1;
            let is_full = self.sessions.open_sessions >= self.max_sessions;
            let capacity = if is_full { Capacity::Exhausted } else { Capacity::Free };
            let outcome = match self.sessions.admit(source, capacity, &self.limits, self.now) {
                Admission::Refused(error) => return Outcome::Refused(error.code()),
                Admission::Admit(_) => Outcome::Admitted(self.next_number),
                Admission::AdmitEvicting(_, evicted) => {
                    evicted.abort();
                    Outcome::AdmittedEvicting
                }
            };
            let task = self.tasks.spawn(std::future::pending());
            let activity = Arc::new(SessionActivity::new(self.now));
            self.sessions.insert(source, self.next_number, OpenSession { task, activity });
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
        table.sessions.take(ClientSource::Circuit(1), numbers[2]);
        table.connect_ok(ClientSource::Circuit(1));
        // A shared Tor has no limit of its own.
        (0..50).for_each(|_| _ = table.connect_ok(ClientSource::SharedTor));
        assert_eq!(table.sessions.open_sessions, 55);
    }

    #[tokio::test]
    async fn sessions_behind_a_shared_tor_have_meters_of_their_own() {
        let mut table = TableHarness::new(100);
        let mut quota = || match table.sessions.admit(ClientSource::SharedTor, Capacity::Free, &limits(), table.now) {
            Admission::Admit(quota) => quota,
            _ => panic!("a session is free"),
        };
        let (one, other) = (quota(), quota());
        assert!(one.forwarded.try_acquire(3 * limits().forwarded_requests_per_second as usize));
        assert!(!one.forwarded.try_acquire(1), "the limit of one session");
        assert!(other.forwarded.try_acquire(1));
    }

    fn subnet(ip: &str) -> ClientSource {
        ClientSource::Subnet(Netgroup::rate_limit_subnet(ip.parse().unwrap()))
    }

    #[tokio::test]
    async fn full_table_evicts_from_largest_source() {
        let mut table = TableHarness::new(6);
        let [one, two, three, four] = ["5.1.1.1", "5.2.1.1", "5.3.1.1", "5.4.1.1"].map(subnet);
        (0..4).for_each(|_| _ = table.connect_ok(one));
        (0..2).for_each(|_| _ = table.connect_ok(two));
        assert_eq!(table.connect(three), Outcome::AdmittedEvicting);
        assert!(!table.sessions.sources[&one].sessions.contains_key(&1), "the oldest silent session is evicted");
        assert_eq!(table.connect(three), Outcome::AdmittedEvicting);
        // All three sources have two sessions now.
        assert_eq!(table.connect(three), Outcome::Refused(-102));
        assert_eq!(table.connect(four), Outcome::AdmittedEvicting);
        assert_eq!(table.sessions.open_sessions, 6);
    }

    #[tokio::test]
    async fn subnets_of_one_allocation_do_not_lock_others_out() {
        let mut table = TableHarness::new(60);
        (0..60).for_each(|n| _ = table.connect_ok(subnet(&format!("2a01:4f8:{n:x}::1"))));
        for n in 0..20 {
            assert_eq!(table.connect(subnet(&format!("5.9.{n}.1"))), Outcome::AdmittedEvicting);
        }
        assert_eq!(table.connect(subnet("2a01:4f8:ffff::1")), Outcome::Refused(-102), "the largest group");
        table.now = table.now + limits().handshake;
        assert_eq!(table.connect(subnet("2a01:4f8:ffff::1")), Outcome::AdmittedEvicting, "one of its silent sessions");
    }

    #[tokio::test]
    async fn exempt_clients_are_neither_limited_nor_evicted() {
        let mut table = TableHarness::new(100);
        let exempt = ClientSource::Exempt(Netgroup::rate_limit_subnet("5.9.0.1".parse().unwrap()));
        (0..60).for_each(|_| _ = table.connect_ok(exempt));
        (0..40).for_each(|n| _ = table.connect_ok(subnet(&format!("88.{n}.0.1"))));
        assert_eq!(table.connect(exempt), Outcome::AdmittedEvicting, "a session of another source");
        table.now = table.now + limits().handshake;
        assert_eq!(table.connect(subnet("89.0.0.1")), Outcome::Refused(-102), "no other source has two sessions");
        assert_eq!(table.sessions.session_count(exempt), 61);
    }

    #[tokio::test]
    async fn sessions_without_a_request_are_evicted_first_and_active_ones_never() {
        let mut table = TableHarness::new(4);
        let numbers: Vec<u64> = (0..4).map(|n| table.connect_ok(ClientSource::Circuit(n))).collect();
        let record = |table: &TableHarness, n: u64| {
            table.sessions.sources[&ClientSource::Circuit(n)].sessions.values().for_each(|session| {
                session.activity.record_request(table.now);
            });
        };
        [0, 1, 3].iter().for_each(|n| record(&table, *n));
        table.now = table.now + limits().handshake;
        assert_eq!(table.connect(ClientSource::Circuit(9)), Outcome::AdmittedEvicting);
        assert!(table.sessions.sources[&ClientSource::Circuit(2)].sessions.is_empty(), "{numbers:?}");
        record(&table, 9);
        assert_eq!(table.connect(ClientSource::Circuit(10)), Outcome::Refused(-102), "all are active");
        table.now = table.now + MIN_IDLE;
        record(&table, 0);
        record(&table, 9);
        assert_eq!(table.connect(ClientSource::Circuit(10)), Outcome::AdmittedEvicting);
        assert!(table.sessions.sources[&ClientSource::Circuit(1)].sessions.is_empty(), "the longest idle one");
    }

    #[tokio::test]
    async fn new_limits_apply_to_new_sessions() {
        let mut table = TableHarness::new(100);
        let before: Vec<u64> = (0..4).map(|_| table.connect_ok(ClientSource::Circuit(1))).collect();
        let held = Arc::clone(&table.sessions.sources[&ClientSource::Circuit(1)].quota);
        table.limits = Limits { sessions_per_source: 2, source_requests_per_second: 1, ..limits() };
        table.sessions.update_limits(&table.limits);
        assert_eq!(table.sessions.open_sessions, 4, "open sessions remain");
        assert_eq!(table.connect(ClientSource::Circuit(1)), Outcome::Refused(-102));
        assert!(held.requests.try_acquire(26), "open sessions keep their quota");
        before.iter().for_each(|number| _ = table.sessions.take(ClientSource::Circuit(1), *number));
        table.connect_ok(ClientSource::Circuit(1));
        let renewed = Arc::clone(&table.sessions.sources[&ClientSource::Circuit(1)].quota);
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
            table.sessions.take(ClientSource::Circuit(1), number);
            table.sessions.prune(Instant::now());
        }
        assert_eq!(table.connect(ClientSource::Circuit(1)), Outcome::Refused(-101));
        table.sessions.prune(Instant::now() + SOURCE_TTL);
        assert!(table.sessions.sources.is_empty() && table.sessions.groups_by_sessions.is_empty());
        assert_eq!(table.sessions.open_sessions, 0);
    }
}
