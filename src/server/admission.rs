//! The door: who gets a session, and who has to go when there is no room.

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
use super::session_table::{Admission, SOURCE_TTL, SessionTable};
use super::{SessionContext, session};
use crate::book::Ingress;
use crate::electrum::responder::Responder;
use crate::jsonrpc::RpcError;

/// Callers that may wait at the door.
pub const ACCEPT_QUEUE: usize = 64;

/// Keeps the door until nobody can come any more, and then until it is dropped, with every session.
///
/// `both` is whether there are callers of both our names, who must not starve each other.
pub async fn run_admission(
    mut arrivals: mpsc::Receiver<IncomingConnection>,
    both: bool,
    shared: SessionContext,
    rng: StdRng,
) {
    let limits = Arc::clone(&shared.limits.borrow());
    let mut renewed = shared.limits.clone();
    let mut door = SessionManager {
        running: JoinSet::new(),
        sessions_by_task: HashMap::new(),
        next_session_no: 0,
        clearnet: SessionTable::default(),
        onion: SessionTable::default(),
        dual_ingress: both,
        limits,
        shared,
        rng,
    };
    let mut sweep = interval(SOURCE_TTL);
    loop {
        tokio::select! {
            Some(ended) = door.running.join_next_with_id() => {
                let id = match &ended {
                    Ok((id, ())) => *id,
                    Err(error) => error.id(),
                };
                door.remove_session(id);
            }
            Some(arrival) = arrivals.recv() => door.admit_connection(arrival),
            Ok(()) = renewed.changed() => door.update_limits(Arc::clone(&renewed.borrow_and_update())),
            now = sweep.tick() => {
                door.clearnet.prune(now);
                door.onion.prune(now);
            }
        }
    }
}

struct SessionManager {
    running: JoinSet<()>,
    /// Whose place each session takes, and which number it came in as.
    sessions_by_task: HashMap<Id, (Ingress, ClientSource, u64)>,
    next_session_no: u64,
    clearnet: SessionTable,
    onion: SessionTable,
    /// Whether there may be callers in both rooms.
    dual_ingress: bool,
    /// Limits of new sessions.
    limits: Arc<Limits>,
    shared: SessionContext,
    rng: StdRng,
}

impl SessionManager {
    fn admit_connection(&mut self, arrival: IncomingConnection) {
        let counters = Arc::clone(&self.shared.counters);
        if arrival.from.is_some_and(|ip| self.shared.bans.borrow().bans_ip(ip)) {
            counters.refused_banned.add(1);
            return;
        }
        let most = self.limits.sessions;
        let most_of_one = if self.dual_ingress { most - most / 4 } else { most };
        let open = self.clearnet.open_sessions + self.onion.open_sessions;
        let room = match arrival.ingress {
            Ingress::Clearnet => &mut self.clearnet,
            Ingress::Onion => &mut self.onion,
        };
        let full = open >= most || room.open_sessions >= most_of_one;
        let allowance = match room.admit(arrival.source, full, &self.limits) {
            Admission::Admit(allowance) => allowance,
            Admission::AdmitEvicting(allowance, evicted) => {
                counters.evicted.add(1);
                self.sessions_by_task.remove(&evicted.id());
                evicted.abort();
                allowance
            }
            Admission::Refused(error) => {
                match error {
                    RpcError::ServerFull("") => counters.refused_full.add(1),
                    _ => counters.refused_source.add(1),
                }
                return reject(arrival, &error);
            }
        };
        let (ingress, source) = (arrival.ingress, arrival.source);
        let (shared, rng) = (self.shared.clone(), StdRng::seed_from_u64(self.rng.random()));
        let session = self.running.spawn(async move {
            counters.sessions.add(1);
            counters.sessions_onion.add(u64::from(ingress == Ingress::Onion));
            let _open = OpenSessionGuard::new(&shared);
            let running = session::run(arrival, allowance, &shared, rng);
            if AssertUnwindSafe(running).catch_unwind().await.is_err() {
                counters.panicked_sessions.add(1);
                tracing::error!("a session broke down; the panic before this line says where");
            }
        });
        self.next_session_no += 1;
        self.sessions_by_task.insert(session.id(), (ingress, source, self.next_session_no));
        match ingress {
            Ingress::Clearnet => self.clearnet.insert(source, self.next_session_no, session),
            Ingress::Onion => self.onion.insert(source, self.next_session_no, session),
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
            Some((Ingress::Clearnet, source, number)) => self.clearnet.remove(source, number),
            Some((Ingress::Onion, source, number)) => self.onion.remove(source, number),
            // It was disconnected.
            None => {}
        }
    }
}

/// Says why, if that can be said at once.
fn reject(mut arrival: IncomingConnection, error: &RpcError) {
    if !arrival.kind.tls && !arrival.kind.websocket {
        let _ = arrival.stream.write_all(&Responder::closing_error(error).to_vec()).now_or_never();
    }
}

/// Counts a session for as long as it lasts, however it ends.
struct OpenSessionGuard<'a>(&'a SessionContext);

impl OpenSessionGuard<'_> {
    fn new(shared: &SessionContext) -> OpenSessionGuard<'_> {
        shared.counters.open.add(1);
        OpenSessionGuard(shared)
    }
}

impl Drop for OpenSessionGuard<'_> {
    fn drop(&mut self) {
        self.0.counters.open.decrement();
    }
}
