//! The door: who gets a session, and who has to go when there is no room.

use std::collections::HashMap;
use std::fmt;
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

use super::limits::Limits;
use super::room::{Admission, MEMORY, Room};
use super::{Shared, session};
use crate::book::Caller;
use crate::conversation::server::Session;
use crate::dial::Stream;
use crate::netgroup::Netgroup;
use crate::protocol::RpcError;

/// Callers that may wait at the door.
pub const WAITING: usize = 64;

/// A caller who wants a session.
pub struct Arrival {
    pub stream: Box<dyn Stream>,
    /// Where the caller is, if that means anything.
    pub from: Option<IpAddr>,
    pub source: Source,
    pub caller: Caller,
    pub manner: Manner,
}

impl fmt::Debug for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrival").field("caller", &self.caller).field("manner", &self.manner).finish_non_exhaustive()
    }
}

/// How a caller's bytes are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Manner {
    pub tls: bool,
    pub websocket: bool,
    /// Whether it gets to the server behind us, if there is one.
    pub fronted: bool,
}

/// Whom a caller's use of us is counted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    Site(Netgroup),
    /// A circuit of our onion service.
    Circuit(u64),
    /// A Tor beside us that doesn't say which circuit it is, and may have many callers.
    Tor,
}

/// Keeps the door until nobody can come any more, and then until it is dropped, with every session.
///
/// `both` is whether there are callers of both our names, who must not starve each other.
pub async fn keep(mut arrivals: mpsc::Receiver<Arrival>, both: bool, shared: Shared, rng: StdRng) {
    let limits = Arc::clone(&shared.limits.borrow());
    let mut renewed = shared.limits.clone();
    let mut door = Door {
        running: JoinSet::new(),
        places: HashMap::new(),
        come: 0,
        clearnet: Room::default(),
        onion: Room::default(),
        both,
        limits,
        shared,
        rng,
    };
    let mut sweep = interval(MEMORY);
    loop {
        tokio::select! {
            Some(ended) = door.running.join_next_with_id() => {
                let id = match &ended {
                    Ok((id, ())) => *id,
                    Err(error) => error.id(),
                };
                door.leave(id);
            }
            Some(arrival) = arrivals.recv() => door.arrive(arrival),
            Ok(()) = renewed.changed() => door.renew(Arc::clone(&renewed.borrow_and_update())),
            now = sweep.tick() => {
                door.clearnet.forget(now);
                door.onion.forget(now);
            }
        }
    }
}

struct Door {
    running: JoinSet<()>,
    /// Whose place each session takes, and which number it came in as.
    places: HashMap<Id, (Caller, Source, u64)>,
    come: u64,
    clearnet: Room,
    onion: Room,
    /// Whether there may be callers in both rooms.
    both: bool,
    /// What holds for whoever comes now.
    limits: Arc<Limits>,
    shared: Shared,
    rng: StdRng,
}

impl Door {
    fn arrive(&mut self, arrival: Arrival) {
        let counters = Arc::clone(&self.shared.counters);
        if arrival.from.is_some_and(|ip| self.shared.bans.borrow().has_address(ip)) {
            counters.refused_banned.add(1);
            return;
        }
        let most = self.limits.sessions;
        let most_of_one = if self.both { most - most / 4 } else { most };
        let open = self.clearnet.open + self.onion.open;
        let room = match arrival.caller {
            Caller::Clearnet => &mut self.clearnet,
            Caller::Onion => &mut self.onion,
        };
        let full = open >= most || room.open >= most_of_one;
        let allowance = match room.admit(arrival.source, full, &self.limits) {
            Admission::Welcome(allowance) => allowance,
            Admission::Instead(allowance, evicted) => {
                counters.evicted.add(1);
                self.places.remove(&evicted.id());
                evicted.abort();
                allowance
            }
            Admission::Refused(error) => {
                match error {
                    RpcError::Full("") => counters.refused_full.add(1),
                    _ => counters.refused_source.add(1),
                }
                return turn_away(arrival, &error);
            }
        };
        let (caller, source) = (arrival.caller, arrival.source);
        let (shared, rng) = (self.shared.clone(), StdRng::seed_from_u64(self.rng.random()));
        let session = self.running.spawn(async move {
            counters.sessions.add(1);
            counters.sessions_onion.add(u64::from(caller == Caller::Onion));
            let _open = Open::new(&shared);
            let running = session::run(arrival, allowance, &shared, rng);
            if AssertUnwindSafe(running).catch_unwind().await.is_err() {
                counters.broken_sessions.add(1);
                tracing::error!("a session broke down; the panic before this line says where");
            }
        });
        self.come += 1;
        self.places.insert(session.id(), (caller, source, self.come));
        match caller {
            Caller::Clearnet => self.clearnet.seat(source, self.come, session),
            Caller::Onion => self.onion.seat(source, self.come, session),
        }
    }

    /// Has other limits hold for those who come from now on. Whoever is in stays, and keeps to what held before.
    fn renew(&mut self, limits: Arc<Limits>) {
        self.clearnet.renew(&limits);
        self.onion.renew(&limits);
        self.limits = limits;
    }

    fn leave(&mut self, id: Id) {
        match self.places.remove(&id) {
            Some((Caller::Clearnet, source, number)) => self.clearnet.leave(source, number),
            Some((Caller::Onion, source, number)) => self.onion.leave(source, number),
            // It was sent off.
            None => {}
        }
    }
}

/// Says why, if that can be said at once.
fn turn_away(mut arrival: Arrival, error: &RpcError) {
    if !arrival.manner.tls && !arrival.manner.websocket {
        let _ = arrival.stream.write_all(&Session::farewell(error).to_vec()).now_or_never();
    }
}

/// Counts a session for as long as it lasts, however it ends.
struct Open<'a>(&'a Shared);

impl Open<'_> {
    fn new(shared: &Shared) -> Open<'_> {
        shared.counters.open.add(1);
        Open(shared)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.counters.open.take_one();
    }
}
