//! Admission of clients: which connection gets a session, and which session is evicted.

use std::collections::HashMap;
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
use super::session_table::{Admission, Capacity, SOURCE_TTL, SessionTable};
use super::{SessionContext, session};
use crate::book::Ingress;
use crate::electrum::responder::Responder;
use crate::jsonrpc::RpcError;

/// Maximum number of connections that wait for admission.
pub const ACCEPT_QUEUE: usize = 64;

/// Ingresses that the node has listeners or services for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ingresses {
    /// One, whose clients may use all sessions.
    One,
    /// Clearnet and onion. The clients of each may use three quarters of the sessions.
    Both,
}

/// Session of a client, as the table counts it.
#[derive(Debug, Clone, Copy)]
struct SessionSlot {
    ingress: Ingress,
    source: ClientSource,
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
    let mut new_limits = shared.limits.clone();
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
    fn admit_connection(&mut self, connection: IncomingConnection) {
        let counters = Arc::clone(&self.shared.counters);
        if connection.from.is_some_and(|ip| self.shared.bans.borrow().bans_ip(ip)) {
            counters.refused_banned.add(1);
            return;
        }
        let max_sessions = self.limits.sessions;
        let max_per_ingress = match self.ingresses {
            Ingresses::One => max_sessions,
            Ingresses::Both => max_sessions - max_sessions / 4,
        };
        let open = self.clearnet.open_sessions + self.onion.open_sessions;
        let table = match connection.ingress {
            Ingress::Clearnet => &mut self.clearnet,
            Ingress::Onion => &mut self.onion,
        };
        let is_full = open >= max_sessions || table.open_sessions >= max_per_ingress;
        let capacity = if is_full { Capacity::Exhausted } else { Capacity::Free };
        let quota = match table.admit(connection.source, capacity, &self.limits) {
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
        let (ingress, source) = (connection.ingress, connection.source);
        let (shared, rng) = (self.shared.clone(), StdRng::seed_from_u64(self.rng.random()));
        let session = self.tasks.spawn(async move {
            counters.sessions.add(1);
            counters.sessions_onion.add(u64::from(ingress == Ingress::Onion));
            let _guard = OpenSessionGuard::new(&shared);
            let session = session::run(connection, quota, &shared, rng);
            if AssertUnwindSafe(session).catch_unwind().await.is_err() {
                counters.panicked_sessions.add(1);
                tracing::error!("panic in a session; the preceding log line shows its location");
            }
        });
        self.last_session_number += 1;
        let slot = SessionSlot { ingress, source, number: self.last_session_number };
        self.sessions_by_task.insert(session.id(), slot);
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

    fn remove_session(&mut self, id: Id) {
        match self.sessions_by_task.remove(&id) {
            Some(SessionSlot { ingress: Ingress::Clearnet, source, number }) => self.clearnet.remove(source, number),
            Some(SessionSlot { ingress: Ingress::Onion, source, number }) => self.onion.remove(source, number),
            // An evicted session is already removed.
            None => {}
        }
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
        self.0.counters.open_sessions.decrement();
    }
}
