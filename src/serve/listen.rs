//! Taking callers in, from a listener or from our onion service.

use std::io::{Error, ErrorKind};
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{Shared, session};
use crate::book::Caller;
use crate::dial::Stream;

/// After an accept that failed for want of descriptors or memory, which sessions that end will give back.
const PAUSE: Duration = Duration::from_millis(200);

/// Serves the callers of one listener until it is dropped, and with it every session.
///
/// Callers on onion listeners come through a Tor beside us, so where they call from says nothing of them.
pub async fn serve(listener: TcpListener, caller: Caller, shared: Shared, rng: StdRng) {
    let mut sessions = Sessions { running: JoinSet::new(), shared, caller, rng };
    let mut short = false;
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) if is_callers(&error) => continue,
            Err(error) => {
                if !std::mem::replace(&mut short, true) {
                    tracing::warn!(%error, "can't take callers in for the moment");
                }
                sleep(PAUSE).await;
                continue;
            }
        };
        if std::mem::take(&mut short) {
            tracing::info!("taking callers in again");
        }
        let _ = stream.set_nodelay(true);
        let from = match caller {
            Caller::Clearnet => Some(address.ip().to_canonical()),
            Caller::Onion => None,
        };
        sessions.begin(stream, from);
    }
}

/// Serves the callers of our own onion service.
pub async fn serve_onion<S: Stream + 'static>(mut callers: mpsc::Receiver<S>, shared: Shared, rng: StdRng) {
    let mut sessions = Sessions { running: JoinSet::new(), shared, caller: Caller::Onion, rng };
    while let Some(stream) = callers.recv().await {
        sessions.begin(stream, None);
    }
}

struct Sessions {
    running: JoinSet<()>,
    shared: Shared,
    caller: Caller,
    rng: StdRng,
}

impl Sessions {
    /// Talks with one more caller, if there is room.
    fn begin<S: Stream + 'static>(&mut self, stream: S, from: Option<IpAddr>) {
        while self.running.try_join_next().is_some() {}
        let Ok(slot) = Arc::clone(&self.shared.slots).try_acquire_owned() else {
            self.shared.counters.refused_sessions.add(1);
            return;
        };
        let (shared, caller, rng) = (self.shared.clone(), self.caller, StdRng::seed_from_u64(self.rng.random()));
        self.running.spawn(async move {
            let counters = Arc::clone(&shared.counters);
            counters.sessions.add(1);
            counters.open.add(1);
            let running = session::run(stream, from, caller, shared, rng);
            if AssertUnwindSafe(running).catch_unwind().await.is_err() {
                counters.broken_sessions.add(1);
                tracing::error!("a session broke down; the panic before this line says where");
            }
            counters.open.take_one();
            drop(slot);
        });
    }
}

/// Errors of one caller who went away again, not of the listener.
fn is_callers(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted)
}
