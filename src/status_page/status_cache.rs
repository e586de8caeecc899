//! What is shown: the answers of the book's task, as fresh as is worth the asking.

use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use crate::book_handle::{AdminRequest, Inbox};
use crate::control::{self, PeerInfo, Status};
use crate::route::TorState;

/// Time during which a sample is reused.
const FRESH: Duration = Duration::from_secs(1);
const ROWS_FRESH: Duration = Duration::from_secs(3);

/// The book's task answers within this, or something is badly wrong.
const PATIENCE: Duration = Duration::from_secs(5);

/// How we were at one moment.
#[derive(Debug, Clone)]
pub struct StatusSample {
    pub status: Status,
    /// Every peer, where they were asked for.
    pub rows: Arc<Vec<PeerInfo>>,
    /// How long the book's task took to answer, behind everything else that it had to do.
    pub answered_in: Duration,
    /// Inputs that wait for it.
    pub waiting: usize,
}

#[derive(Debug)]
pub struct StatusCache {
    inbox: Inbox,
    last: Mutex<Last>,
}

#[derive(Debug, Default)]
struct Last {
    status: Answer,
    all: Answer,
}

/// The last one, and when it came. That there was none is remembered as well: those who wait needn't all find out in turn.
type Answer = Option<(Instant, Result<Arc<StatusSample>, String>)>;

impl StatusCache {
    pub fn new(inbox: Inbox) -> StatusCache {
        StatusCache { inbox, last: Mutex::default() }
    }

    /// How we are, without the peers; or why that can't be said.
    pub async fn status(&self) -> Result<Arc<StatusSample>, String> {
        let mut last = self.last.lock().await;
        if let Some(answer) = fresh(&last.status, FRESH) {
            return answer;
        }
        let answer = self.read(Arc::default()).await.map(Arc::new);
        last.status = Some((Instant::now(), answer.clone()));
        answer
    }

    /// How we are, and every peer.
    pub async fn all(&self) -> Result<Arc<StatusSample>, String> {
        let mut last = self.last.lock().await;
        if let Some(answer) = fresh(&last.all, ROWS_FRESH) {
            return answer;
        }
        let answer = match self.ask(AdminRequest::Peers).await {
            Ok(rows) => self.read(Arc::new(rows)).await.map(Arc::new),
            Err(reason) => Err(reason),
        };
        last.all = Some((Instant::now(), answer.clone()));
        answer
    }

    async fn read(&self, rows: Arc<Vec<PeerInfo>>) -> Result<StatusSample, String> {
        let waiting = self.inbox.max_capacity().saturating_sub(self.inbox.capacity());
        let began = Instant::now();
        let status = self.ask(AdminRequest::Status).await?;
        Ok(StatusSample { status, rows, answered_in: began.elapsed(), waiting })
    }

    async fn ask<T: DeserializeOwned>(&self, ask: AdminRequest) -> Result<T, String> {
        let answer = timeout(PATIENCE, control::query(&self.inbox, ask)).await;
        let answer = answer.map_err(|_| format!("the book's task didn't answer within {} s", PATIENCE.as_secs()))??;
        serde_json::from_value(answer).map_err(|error| error.to_string())
    }
}

impl StatusSample {
    /// What is amiss, each in a line.
    pub fn problems(&self) -> Vec<String> {
        let StatusSample { status, .. } = self;
        let mut troubles = Vec::new();
        if status.store.failing {
            let waiting = status.store.pending;
            troubles.push(format!("the book can't be written to disk; {waiting} records wait. Is the disk full?"));
        }
        if status.network_down {
            troubles.push("our own network seems to be down: nobody answers directly".to_owned());
        }
        if let TorState::Down { reason, .. } = &status.tor {
            troubles.push(format!("Tor is down: {reason}. Clients are sent a few onion servers at random"));
        }
        if let Some(reason) = &status.clearnet_blocked {
            troubles.push(format!("clearnet peers can't be reached: {reason}"));
        }
        if let Some(error) = &status.onion_error {
            troubles.push(format!("the onion service does not run: {error}"));
        }
        if let Some(name) = &status.clearnet
            && let Some(reason) = &name.error
        {
            troubles.push(format!("{} can't be reached: {reason}", name.host));
        }
        if let Some(problem) = status.backend.as_ref().and_then(|backend| backend.error.as_ref()) {
            troubles.push(format!("the backend failed: {problem}"));
        }
        if status.clients.panicked_sessions > 0 {
            troubles.push(format!("{} sessions broke down; the log says where", status.clients.panicked_sessions));
        }
        troubles
    }
}

fn fresh(last: &Answer, age: Duration) -> Option<Result<Arc<StatusSample>, String>> {
    last.as_ref().filter(|(at, _)| at.elapsed() < age).map(|(_, answer)| answer.clone())
}
