//! Cache of the book's replies, shared by all requests of the page.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, oneshot};
use tokio::time::{Instant, timeout};

use crate::api::{AdminRequest, PeerDetails, PeerInfo, PeerSummary, Status};
use crate::book::Side;
use crate::book_handle::{self, Inbox};
use crate::peer::Host;
use crate::tor_state::TorState;
use crate::trends::Trends;

/// Time during which a status is reused.
const STATUS_TTL: Duration = Duration::from_secs(1);

/// Time during which a status with all peers is reused.
const PEERS_TTL: Duration = Duration::from_secs(3);

/// Maximum time to wait for the book's task; milliseconds are normal.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);

/// State of the node at one point in time.
#[derive(Debug, Clone)]
pub(crate) struct StatusSample {
    /// Reply to the status request.
    pub status: Status,
    /// All peers, for metrics of each; empty if only the status was requested.
    pub rows: Arc<Vec<PeerInfo>>,
    /// Time that the book's task took to answer, including its queue.
    pub answered_in: Duration,
    /// Number of messages in the queue of the book's task.
    pub waiting: usize,
}

/// Values of the page at one point in time.
#[derive(Debug, Clone)]
pub(crate) struct PageSample {
    /// Status without peers.
    pub sample: Arc<StatusSample>,
    /// Values by which the peers are sorted.
    pub peers: Arc<Vec<PeerSummary>>,
    /// Samples of the last thirty days.
    pub trends: Arc<Trends>,
}

/// Cache of status samples.
#[derive(Debug)]
pub(crate) struct StatusCache {
    inbox: Inbox,
    last: Mutex<Last>,
}

#[derive(Debug, Default)]
struct Last {
    status: Cached<Arc<StatusSample>>,
    with_rows: Cached<Arc<StatusSample>>,
    page: Cached<PageSample>,
}

/// Last result with its time. Errors are cached as well, so that concurrent requests fail together.
type Cached<T> = Option<(Instant, Result<T, String>)>;

impl StatusCache {
    /// Creates an empty cache.
    pub(crate) fn new(inbox: Inbox) -> StatusCache {
        StatusCache { inbox, last: Mutex::default() }
    }

    /// Returns the status without peers, or why it is unavailable.
    pub(crate) async fn status(&self) -> Result<Arc<StatusSample>, String> {
        let mut last = self.last.lock().await;
        if let Some(answer) = fresh(&last.status, STATUS_TTL) {
            return answer;
        }
        let answer = self.read(Arc::default()).await.map(Arc::new);
        last.status = Some((Instant::now(), answer.clone()));
        answer
    }

    /// Returns the status with all peers, or why it is unavailable.
    pub(crate) async fn with_rows(&self) -> Result<Arc<StatusSample>, String> {
        let mut last = self.last.lock().await;
        if let Some(answer) = fresh(&last.with_rows, PEERS_TTL) {
            return answer;
        }
        let answer = match self.query(AdminRequest::Peers).await {
            Ok(rows) => self.read(Arc::new(rows)).await.map(Arc::new),
            Err(reason) => Err(reason),
        };
        last.with_rows = Some((Instant::now(), answer.clone()));
        answer
    }

    /// Returns the values of the page, or why they are unavailable.
    pub(crate) async fn page(&self) -> Result<PageSample, String> {
        let mut last = self.last.lock().await;
        if let Some(answer) = fresh(&last.page, PEERS_TTL) {
            return answer;
        }
        // With many peers, the old values are dropped before there are new ones.
        last.page = None;
        let answer = self.read_page().await;
        last.page = Some((Instant::now(), answer.clone()));
        answer
    }

    /// Returns these peers in the same order, or why they are unavailable.
    pub(crate) async fn peers_named(&self, names: Vec<(Side, Host)>) -> Result<Vec<PeerInfo>, String> {
        self.query(|reply| AdminRequest::PeersNamed { names, reply }).await
    }

    /// Returns a peer as each side knows it, or why it is unavailable.
    pub(crate) async fn peer(&self, host: Host) -> Result<Vec<PeerDetails>, String> {
        self.query(|reply| AdminRequest::Peer { host, reply }).await
    }

    /// Returns the samples of the last thirty days, or why they are unavailable.
    pub(crate) async fn trends(&self) -> Result<Trends, String> {
        self.query(AdminRequest::Trends).await
    }

    async fn read_page(&self) -> Result<PageSample, String> {
        let peers = Arc::new(self.query(AdminRequest::Summaries).await?);
        let trends = Arc::new(self.trends().await?);
        Ok(PageSample { sample: Arc::new(self.read(Arc::default()).await?), peers, trends })
    }

    async fn read(&self, rows: Arc<Vec<PeerInfo>>) -> Result<StatusSample, String> {
        let waiting = self.inbox.max_capacity().saturating_sub(self.inbox.capacity());
        let started = Instant::now();
        let status = self.query(AdminRequest::Status).await?;
        Ok(StatusSample { status, rows, answered_in: started.elapsed(), waiting })
    }

    async fn query<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> AdminRequest) -> Result<T, String> {
        match timeout(REPLY_TIMEOUT, book_handle::query(&self.inbox, request)).await {
            Ok(reply) => reply.map_err(|error| error.to_string()),
            Err(_) => Err(format!("the book's task did not answer within {} s", REPLY_TIMEOUT.as_secs())),
        }
    }
}

impl StatusSample {
    /// Returns all problems of the node, one line each.
    pub(crate) fn problems(&self) -> Vec<String> {
        let StatusSample { status, .. } = self;
        let mut problems = Vec::new();
        if status.store.failing {
            let waiting = status.store.pending;
            problems.push(format!("the store can't be written; {waiting} records wait. Is the disk full?"));
        }
        if status.network_down {
            problems.push("no peer is reachable directly: the local network seems to be down".to_owned());
        }
        if let TorState::Down { reason, .. } = &status.tor {
            problems.push(format!("Tor is down: {reason}. Clients receive a few onion servers at random"));
        }
        if let Some(reason) = &status.clearnet_blocked {
            problems.push(format!("clearnet peers can't be reached: {reason}"));
        }
        if let Some(error) = &status.onion_error {
            problems.push(format!("the onion service does not run: {error}"));
        }
        let unreached = status.clearnet_names().filter_map(|name| Some((&name.host, name.error.as_ref()?)));
        problems.extend(unreached.map(|(host, reason)| format!("{host} can't be reached: {reason}")));
        if let Some(problem) = status.backend.as_ref().and_then(|backend| backend.error.as_ref()) {
            problems.push(format!("the backend failed: {problem}"));
        }
        if let Some(backend) = status.backend.as_ref().filter(|backend| backend.is_behind()) {
            let blocks = backend.blocks_behind.unwrap_or_default();
            problems.push(format!("the backend is {blocks} blocks behind the chain with the most work"));
        }
        for reason in status.ban_lists.iter().filter_map(|list| list.error.as_ref()) {
            problems.push(format!("a ban list can't be used, and its previous version stays in force: {reason}"));
        }
        if status.clients.panicked_sessions > 0 {
            problems.push(format!("{} sessions ended by a bug; see the log", status.clients.panicked_sessions));
        }
        problems
    }
}

/// Returns the cached result if it is younger than `age`.
fn fresh<T: Clone>(last: &Cached<T>, age: Duration) -> Option<Result<T, String>> {
    last.as_ref().filter(|(at, _)| at.elapsed() < age).map(|(_, answer)| answer.clone())
}
