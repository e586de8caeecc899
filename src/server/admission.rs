//! Admission of clients: which connection gets a session, and which session is evicted.

use std::collections::HashMap;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio::task::{Id, JoinSet};
use tokio::time::interval;

use super::connection::{ClientSource, IncomingConnection};
use super::limits::Limits;
use super::session_activity::SessionActivity;
use super::session_table::{Admission, Capacity, OpenSession, SOURCE_TTL, SessionTable};
use super::{SessionContext, session};
use crate::ban_list::Bans;
use crate::book::Ingress;
use crate::clock;
use crate::electrum::responder::Responder;
use crate::jsonrpc::RpcError;
use crate::netgroup::Netgroup;

/// Maximum number of connections that wait for admission.
pub const ACCEPT_QUEUE: usize = 64;

/// Ingresses that the node has listeners or services for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ingresses {
    /// One, whose clients may use all sessions.
    One,
    /// Both, under linked names. The clients of each may use three quarters of the sessions.
    Linked,
    /// Both, under names that must not be linked. The clients of each have half of the sessions.
    ///
    /// What one side leaves free is of no use to the other. Otherwise an observer could fill one and measure the other.
    Separate,
}

impl Ingresses {
    /// Returns whether a session of an ingress is free, given the sessions open there and on the other.
    fn capacity(self, open: usize, open_elsewhere: usize, max_sessions: usize) -> Capacity {
        let is_free = match self {
            Ingresses::One => open < max_sessions,
            Ingresses::Linked => open < max_sessions - max_sessions / 4 && open + open_elsewhere < max_sessions,
            Ingresses::Separate => open < (max_sessions / 2).max(1),
        };
        if is_free { Capacity::Free } else { Capacity::Exhausted }
    }
}

/// Session of a client, as the table counts it.
#[derive(Debug, Clone, Copy)]
struct SessionSlot {
    ingress: Ingress,
    source: ClientSource,
    /// Address of the client. `None` on the onion ingress.
    from: Option<IpAddr>,
    /// Sessions are numbered in the order of admission.
    number: u64,
}

/// Runs admission and owns all sessions. Dropping the future aborts them.
pub async fn run_admission(
    mut connections: mpsc::Receiver<IncomingConnection>,
    ingresses: Ingresses,
    shared: SessionContext,
    rng: StdRng,
) {
    let limits = Arc::clone(&shared.limits.borrow());
    let (mut new_limits, mut new_bans) = (shared.limits.clone(), shared.bans.clone());
    let mut manager = SessionManager {
        tasks: JoinSet::new(),
        sessions_by_task: HashMap::new(),
        last_session_number: 0,
        clearnet: SessionTable::default(),
        onion: SessionTable::default(),
        ingresses,
        limits,
        shared,
        rng,
    };
    let mut prune_interval = interval(SOURCE_TTL);
    loop {
        tokio::select! {
            Some(ended) = manager.tasks.join_next_with_id() => {
                let id = match &ended {
                    Ok((id, ())) => *id,
                    Err(error) => error.id(),
                };
                manager.remove_session(id);
            }
            Some(connection) = connections.recv() => manager.admit_connection(connection),
            Ok(()) = new_limits.changed() => manager.update_limits(Arc::clone(&new_limits.borrow_and_update())),
            Ok(()) = new_bans.changed() => {
                let bans = Arc::clone(&new_bans.borrow_and_update());
                manager.end_banned_sessions(&bans);
            }
            now = prune_interval.tick() => {
                manager.clearnet.prune(now);
                manager.onion.prune(now);
            }
        }
    }
}

struct SessionManager {
    tasks: JoinSet<()>,
    /// Slot of each session, by its task.
    sessions_by_task: HashMap<Id, SessionSlot>,
    /// Number of the last admitted session.
    last_session_number: u64,
    clearnet: SessionTable,
    onion: SessionTable,
    ingresses: Ingresses,
    /// Limits of new sessions.
    limits: Arc<Limits>,
    shared: SessionContext,
    rng: StdRng,
}

impl SessionManager {
    fn admit_connection(&mut self, mut connection: IncomingConnection) {
        let counters = Arc::clone(&self.shared.counters);
        let now = clock::now();
        if connection.from.is_some_and(|ip| self.shared.bans.borrow().bans_client(ip)) {
            counters.refused_banned.add(1);
            return;
        }
        if let Some(ip) = connection.from.filter(|ip| self.limits.exempt.contains(*ip)) {
            connection.source = ClientSource::Exempt(Netgroup::rate_limit_subnet(ip));
        }
        let (table, other) = match connection.ingress {
            Ingress::Clearnet => (&mut self.clearnet, &self.onion),
            Ingress::Onion => (&mut self.onion, &self.clearnet),
        };
        let capacity = self.ingresses.capacity(table.open_sessions, other.open_sessions, self.limits.sessions);
        let quota = match table.admit(connection.source, capacity, &self.limits, now) {
            Admission::Admit(quota) => quota,
            Admission::AdmitEvicting(quota, evicted) => {
                counters.evicted.add(1);
                self.sessions_by_task.remove(&evicted.id());
                evicted.abort();
                quota
            }
            Admission::Refused(error) => {
                match error {
                    RpcError::ServerFull("") => counters.refused_full.add(1),
                    _ => counters.refused_source.add(1),
                }
                return reject(connection, &error);
            }
        };
        let (ingress, source, from) = (connection.ingress, connection.source, connection.from);
        let (shared, rng) = (self.shared.clone(), StdRng::seed_from_u64(self.rng.random()));
        let activity = Arc::new(SessionActivity::new(now));
        let session_activity = Arc::clone(&activity);
        self.last_session_number += 1;
        let memory = shared.memory[ingress].open(source, self.last_session_number);
        let session_memory = Arc::clone(&memory);
        let task = self.tasks.spawn(async move {
            counters.sessions.add(1);
            counters.sessions_onion.add(u64::from(ingress == Ingress::Onion));
            let _guard = OpenSessionGuard::new(&shared);
            let session = session::run(connection, quota, session_activity, session_memory, &shared, rng);
            if AssertUnwindSafe(session).catch_unwind().await.is_err() {
                counters.panicked_sessions.add(1);
                tracing::error!("panic in a session; the preceding log line shows its location");
            }
        });
        memory.set_task(task.clone());
        let slot = SessionSlot { ingress, source, from, number: self.last_session_number };
        self.sessions_by_task.insert(task.id(), slot);
        let session = OpenSession { task, activity };
        match ingress {
            Ingress::Clearnet => self.clearnet.insert(source, self.last_session_number, session),
            Ingress::Onion => self.onion.insert(source, self.last_session_number, session),
        }
    }

    /// Applies new limits to new sessions. Open sessions keep the previous limits.
    fn update_limits(&mut self, limits: Arc<Limits>) {
        self.clearnet.update_limits(&limits);
        self.onion.update_limits(&limits);
        self.limits = limits;
    }

    /// Ends the sessions of banned addresses.
    fn end_banned_sessions(&mut self, bans: &Bans) {
        let is_banned = |slot: &SessionSlot| slot.from.is_some_and(|ip| bans.bans_client(ip));
        for (_, slot) in self.sessions_by_task.extract_if(|_, slot| is_banned(slot)) {
            if let Some(session) = self.clearnet.take(slot.source, slot.number) {
                session.task.abort();
                self.shared.counters.refused_banned.add(1);
            }
        }
    }

    fn remove_session(&mut self, id: Id) {
        // An evicted session is already removed.
        let Some(SessionSlot { ingress, source, number, .. }) = self.sessions_by_task.remove(&id) else { return };
        match ingress {
            Ingress::Clearnet => self.clearnet.take(source, number),
            Ingress::Onion => self.onion.take(source, number),
        };
    }
}

/// Sends the reason, if no handshake must come first and the socket accepts it at once.
fn reject(mut connection: IncomingConnection, error: &RpcError) {
    if !connection.kind.tls && !connection.kind.websocket {
        let _ = connection.stream.write_all(&Responder::closing_error(error).to_vec()).now_or_never();
    }
}

/// Guard that counts a session as open until it is dropped.
struct OpenSessionGuard<'a>(&'a SessionContext);

impl OpenSessionGuard<'_> {
    fn new(shared: &SessionContext) -> OpenSessionGuard<'_> {
        shared.counters.open_sessions.add(1);
        OpenSessionGuard(shared)
    }
}

impl Drop for OpenSessionGuard<'_> {
    fn drop(&mut self) {
        self.0.counters.open_sessions.subtract(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_of_separate_names_do_not_depend_on_each_other() {
        for open in [0, 49, 50, 100] {
            let capacity = |elsewhere| Ingresses::Separate.capacity(open, elsewhere, 100);
            assert_eq!(capacity(0), capacity(50), "{open} sessions");
            assert_eq!(capacity(0) == Capacity::Free, open < 50, "{open} sessions");
        }
        assert_eq!(Ingresses::Separate.capacity(0, 0, 1), Capacity::Free, "each name serves at least one client");
    }

    #[test]
    fn sessions_of_linked_names_are_shared_up_to_three_quarters() {
        assert_eq!(Ingresses::Linked.capacity(74, 25, 100), Capacity::Free);
        assert_eq!(Ingresses::Linked.capacity(75, 0, 100), Capacity::Exhausted);
        assert_eq!(Ingresses::Linked.capacity(50, 50, 100), Capacity::Exhausted);
        assert_eq!(Ingresses::One.capacity(99, 0, 100), Capacity::Free);
    }
}
