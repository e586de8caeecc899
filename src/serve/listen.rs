//! Taking callers in.

use std::io::{Error, ErrorKind};
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{Shared, session};
use crate::book::Caller;

/// After an accept that failed for want of descriptors or memory, which sessions that end will give back.
const PAUSE: Duration = Duration::from_millis(200);

/// Serves the callers of one listener until it is dropped, and with it every session.
pub async fn serve(listener: TcpListener, shared: Shared, mut rng: StdRng) {
    let mut sessions = JoinSet::new();
    let mut short = false;
    loop {
        while sessions.try_join_next().is_some() {}
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
        let counters = &shared.counters;
        let Ok(slot) = Arc::clone(&shared.slots).try_acquire_owned() else {
            counters.refused_sessions.add(1);
            continue;
        };
        let _ = stream.set_nodelay(true);
        let (shared, rng) = (shared.clone(), StdRng::seed_from_u64(rng.random()));
        let from: IpAddr = address.ip().to_canonical();
        sessions.spawn(async move {
            let counters = Arc::clone(&shared.counters);
            counters.sessions.add(1);
            counters.open.add(1);
            let running = session::run(stream, Some(from), Caller::Clearnet, shared, rng);
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
