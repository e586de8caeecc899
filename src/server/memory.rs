//! Memory that sessions hold for their clients: partial requests, and responses that a client has not read.
//!
//! What exceeds a small free amount is charged when it is received, to the session's source and to the pool of the
//! ingress. When the pool is exhausted, the source that holds the most loses a session. If that is the one that asks, the
//! session that has held memory for the longest time ends, unless that time is short.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::connection::ClientSource;
use crate::client_counters::Counters;

/// Minimum size of a pool, in bytes.
const MIN_POOL_BYTES: usize = 40 * 1024 * 1024;

/// Size of a pool in longest lines.
///
/// A line is in memory up to three times for a moment: in the read buffer, as a string, and in the upstream's buffer.
/// One source may hold half of the pool.
const POOL_LINES: usize = 8;

/// Share of the pool that one source may hold of required memory.
const SOURCE_SHARE: usize = 2;

/// Share of the pool that optional memory may fill.
const OPTIONAL_SHARE: usize = 2;

/// Share of the pool that one source may hold when it asks for optional memory.
const OPTIONAL_SOURCE_SHARE: usize = 16;

/// Time for which a session may hold memory, whatever others need.
///
/// A transaction of the largest size that nodes relay, 800 KB, is received within ten seconds at the default limits. An
/// attacker whose sources hold little each must send that much again and again, instead of once.
const MIN_HOLD: Duration = Duration::from_secs(10);

/// Pool of memory for the clients of one ingress.
///
/// A pool of both ingresses would show the load of one on the other.
#[derive(Debug, Clone)]
pub struct MemoryPool(Arc<Pool>);

struct Pool {
    limit: usize,
    counters: Arc<Counters>,
    holdings: Mutex<Holdings>,
}

/// Memory held by all sessions of a pool, in bytes.
#[derive(Default)]
struct Holdings {
    total: usize,
    sources: HashMap<PayingSource, SourceHoldings>,
}

#[derive(Default)]
struct SourceHoldings {
    total: usize,
    sessions: HashMap<u64, SessionHoldings>,
}

struct SessionHoldings {
    bytes: usize,
    /// Time of the first charge.
    since: Instant,
    memory: Arc<SessionMemory>,
}

/// Source that memory is charged to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum PayingSource {
    Client(ClientSource),
    /// Session behind a Tor that all onion clients share.
    Session(u64),
}

/// Memory of one session.
pub(super) struct SessionMemory {
    pool: Arc<Pool>,
    source: PayingSource,
    number: u64,
    /// Task of the session. Unset for a moment after the session starts.
    task: OnceLock<AbortHandle>,
}

/// Charged memory, which is released when it is dropped.
pub(super) struct MemoryCharge {
    memory: Arc<SessionMemory>,
    bytes: usize,
}

/// Need for memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// Without it, the session ends. A session of a source that holds more may end instead.
    Required,
    /// The session continues without it.
    Optional,
}

/// Error: the pool, or the source's share of it, is exhausted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OutOfMemory;

impl MemoryPool {
    /// Creates a pool for sessions with lines of up to this length in bytes.
    pub fn new(max_line_bytes: usize, counters: Arc<Counters>) -> MemoryPool {
        MemoryPool::with_limit(MIN_POOL_BYTES.max(POOL_LINES * max_line_bytes), counters)
    }

    fn with_limit(limit: usize, counters: Arc<Counters>) -> MemoryPool {
        MemoryPool(Arc::new(Pool { limit, counters, holdings: Mutex::default() }))
    }

    /// Opens the account of a session with this number.
    pub(super) fn open(&self, source: ClientSource, number: u64) -> Arc<SessionMemory> {
        let source = match source {
            ClientSource::SharedTor => PayingSource::Session(number),
            ClientSource::Subnet(_) | ClientSource::Circuit(_) | ClientSource::Exempt(_) => {
                PayingSource::Client(source)
            }
        };
        Arc::new(SessionMemory { pool: Arc::clone(&self.0), source, number, task: OnceLock::new() })
    }
}

impl SessionMemory {
    /// Sets the task that is aborted when others need the memory.
    pub(super) fn set_task(&self, task: AbortHandle) {
        // A second call would be for the same task.
        let _ = self.task.set(task);
    }

    /// Starts a charge of zero bytes.
    pub(super) fn charge(self: &Arc<SessionMemory>) -> MemoryCharge {
        MemoryCharge { memory: Arc::clone(self), bytes: 0 }
    }
}

impl MemoryCharge {
    /// Returns the charged bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Changes the charge to this number of bytes.
    ///
    /// # Errors
    /// Returns an error, and charges nothing more, if the memory is exhausted.
    pub(super) fn resize(&mut self, bytes: usize, need: Need) -> Result<(), OutOfMemory> {
        if bytes > self.bytes {
            self.memory.pool.grow(&self.memory, bytes - self.bytes, need)?;
        } else if bytes < self.bytes {
            self.memory.pool.shrink(&self.memory, self.bytes - bytes);
        }
        self.bytes = bytes;
        Ok(())
    }

    /// Releases all of it.
    pub(super) fn release(&mut self) {
        // A charge can always shrink.
        let _ = self.resize(0, Need::Optional);
    }
}

impl Drop for MemoryCharge {
    fn drop(&mut self) {
        self.release();
    }
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, Holdings> {
        self.holdings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn grow(&self, memory: &Arc<SessionMemory>, growth: usize, need: Need) -> Result<(), OutOfMemory> {
        let (total_share, source_share) = match need {
            Need::Required => (1, SOURCE_SHARE),
            Need::Optional => (OPTIONAL_SHARE, OPTIONAL_SOURCE_SHARE),
        };
        let mut holdings = self.lock();
        let own = holdings.of(memory.source) + growth;
        if own > self.limit / source_share {
            return Err(OutOfMemory);
        }
        while holdings.total + growth > self.limit / total_share {
            if need == Need::Optional {
                return Err(OutOfMemory);
            }
            let larger = holdings.largest_session_of_larger_source(memory.source, own);
            let victim = larger.or_else(|| holdings.longest_holder(memory.number, Instant::now()));
            let evicted = victim.and_then(|(source, number)| holdings.evict(source, number)).ok_or(OutOfMemory)?;
            self.counters.memory_bytes.subtract(evicted.bytes as u64);
            if let Some(task) = evicted.memory.task.get() {
                self.counters.out_of_memory.add(1);
                task.abort();
            }
        }
        holdings.add(memory, growth);
        self.counters.memory_bytes.add(growth as u64);
        Ok(())
    }

    fn shrink(&self, memory: &SessionMemory, bytes: usize) {
        let removed = self.lock().remove(memory, bytes);
        self.counters.memory_bytes.subtract(removed as u64);
    }
}

impl Holdings {
    /// Returns the memory of a source.
    fn of(&self, source: PayingSource) -> usize {
        self.sources.get(&source).map_or(0, |held| held.total)
    }

    fn add(&mut self, memory: &Arc<SessionMemory>, growth: usize) {
        self.total += growth;
        let source = self.sources.entry(memory.source).or_default();
        source.total += growth;
        let empty = || SessionHoldings { bytes: 0, since: Instant::now(), memory: Arc::clone(memory) };
        source.sessions.entry(memory.number).or_insert_with(empty).bytes += growth;
    }

    /// Removes memory of a session, and returns how much. A session that was evicted holds none.
    fn remove(&mut self, memory: &SessionMemory, bytes: usize) -> usize {
        let Some(source) = self.sources.get_mut(&memory.source) else { return 0 };
        let Some(session) = source.sessions.get_mut(&memory.number) else { return 0 };
        let bytes = bytes.min(session.bytes);
        session.bytes -= bytes;
        if session.bytes == 0 {
            source.sessions.remove(&memory.number);
        }
        self.removed_from(memory.source, bytes);
        bytes
    }

    /// Returns the largest session of the largest source; `None` if that source asks or holds no more than `own`.
    fn largest_session_of_larger_source(&self, asking: PayingSource, own: usize) -> Option<(PayingSource, u64)> {
        let (source, held) = self.sources.iter().max_by_key(|(_, held)| held.total)?;
        let (number, _) = held.sessions.iter().max_by_key(|(_, session)| session.bytes)?;
        (*source != asking && held.total > own).then_some((*source, *number))
    }

    /// Returns the session that has held memory for the longest time; `None` if all hold it for a short time.
    fn longest_holder(&self, asking: u64, now: Instant) -> Option<(PayingSource, u64)> {
        let sources = self.sources.iter();
        let all =
            sources.flat_map(|(source, held)| held.sessions.iter().map(move |(number, held)| (source, number, held)));
        let old = all.filter(|(_, number, held)| **number != asking && now >= held.since + MIN_HOLD);
        old.min_by_key(|(.., held)| held.since).map(|(source, number, _)| (*source, *number))
    }

    fn evict(&mut self, source: PayingSource, number: u64) -> Option<SessionHoldings> {
        let session = self.sources.get_mut(&source)?.sessions.remove(&number)?;
        self.removed_from(source, session.bytes);
        Some(session)
    }

    /// Updates the totals after memory of a source was removed.
    fn removed_from(&mut self, source: PayingSource, bytes: usize) {
        self.total -= bytes;
        if let Some(held) = self.sources.get_mut(&source) {
            held.total -= bytes;
            if held.total == 0 {
                self.sources.remove(&source);
            }
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("limit", &self.limit).finish_non_exhaustive()
    }
}

#[cfg(test)]
impl SessionMemory {
    /// Returns the account of a session that can't be evicted, in a pool of its own.
    pub(super) fn for_tests() -> Arc<SessionMemory> {
        MemoryPool::new(0, Arc::default()).open(ClientSource::Circuit(1), 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: usize = 1000;

    /// Pool of 100 sources that hold one charge each.
    struct PoolHarness {
        pool: MemoryPool,
        counters: Arc<Counters>,
        charges: Vec<MemoryCharge>,
    }

    impl PoolHarness {
        fn new(limit: usize) -> PoolHarness {
            let counters = Arc::<Counters>::default();
            PoolHarness { pool: MemoryPool::with_limit(limit, Arc::clone(&counters)), counters, charges: Vec::new() }
        }

        /// Opens a session with an endless task, which can be evicted.
        fn session(&self, source: u64, number: u64) -> (Arc<SessionMemory>, tokio::task::JoinHandle<()>) {
            let task = tokio::spawn(std::future::pending());
            let memory = self.pool.open(ClientSource::Circuit(source), number);
            memory.set_task(task.abort_handle());
            (memory, task)
        }

        fn fill(&mut self, sources: u64, bytes: usize) {
            for source in 0..sources {
                let mut charge = self.session(source, source).0.charge();
                charge.resize(bytes, Need::Required).unwrap();
                self.charges.push(charge);
            }
        }
    }

    #[tokio::test]
    async fn dropped_charges_are_released() {
        let mut harness = PoolHarness::new(100 * SMALL);
        harness.fill(100, SMALL);
        assert_eq!(harness.counters.memory_bytes.value(), 100 * SMALL as u64);
        let mut other = harness.session(200, 200).0.charge();
        assert_eq!(other.resize(SMALL, Need::Required), Err(OutOfMemory), "no source holds more");
        harness.charges.truncate(10);
        assert_eq!(harness.counters.memory_bytes.value(), 10 * SMALL as u64);
        assert_eq!(other.resize(SMALL, Need::Required), Ok(()));
    }

    #[tokio::test]
    async fn largest_source_loses_a_session_to_a_smaller_one() {
        let mut harness = PoolHarness::new(100 * SMALL);
        let (large, task) = harness.session(500, 500);
        let (mut one, mut two) = (large.charge(), large.charge());
        one.resize(10 * SMALL, Need::Required).unwrap();
        two.resize(10 * SMALL, Need::Required).unwrap();
        harness.fill(80, SMALL);
        let mut small = harness.session(501, 501).0.charge();
        assert_eq!(small.resize(SMALL, Need::Optional), Err(OutOfMemory), "optional memory evicts no session");
        assert_eq!(small.resize(SMALL, Need::Required), Ok(()));
        assert!(task.await.unwrap_err().is_cancelled());
        assert_eq!((harness.counters.out_of_memory.value(), harness.counters.memory_bytes.value()), (1, 81_000));
        drop((one, two));
        assert_eq!(harness.counters.memory_bytes.value(), 81_000, "an evicted session holds nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn quiet_sessions_lose_their_memory_to_larger_requests() {
        let mut harness = PoolHarness::new(100 * SMALL);
        harness.fill(100, SMALL);
        let mut large = harness.session(200, 200).0.charge();
        assert_eq!(large.resize(5 * SMALL, Need::Required), Err(OutOfMemory), "no source holds more");
        tokio::time::advance(MIN_HOLD).await;
        assert_eq!(large.resize(5 * SMALL, Need::Required), Ok(()));
        assert_eq!(harness.counters.out_of_memory.value(), 5);
        assert_eq!(harness.counters.memory_bytes.value(), 100 * SMALL as u64);
    }

    #[tokio::test]
    async fn source_holds_at_most_its_share() {
        let harness = PoolHarness::new(100 * SMALL);
        let (mut one, mut two) = (harness.session(1, 1).0.charge(), harness.session(1, 2).0.charge());
        assert_eq!(one.resize(40 * SMALL, Need::Required), Ok(()));
        assert_eq!(two.resize(11 * SMALL, Need::Required), Err(OutOfMemory));
        assert_eq!(two.resize(10 * SMALL, Need::Required), Ok(()));
        assert_eq!(two.bytes(), 10 * SMALL);
        let mut shared = harness.pool.open(ClientSource::SharedTor, 3).charge();
        assert_eq!(shared.resize(7 * SMALL, Need::Optional), Err(OutOfMemory), "over half of the pool is in use");
        one.release();
        assert_eq!(shared.resize(6 * SMALL, Need::Optional), Ok(()));
        assert_eq!(shared.resize(7 * SMALL, Need::Optional), Err(OutOfMemory), "a sixteenth of the pool");
    }
}
