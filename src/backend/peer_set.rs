//! The verified peers of one side as upstream: connections to them, and what sessions have shown of each.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::peer_ranking::PeerRecords;
use super::{BackendError, negotiate};
use crate::book::{Event, Side, Snapshot, UpstreamCandidate};
use crate::book_handle::{BookMessage, Inbox};
use crate::connect::{FailureOrigin, ProbeError};
use crate::dial::{Dialer, Isolation, Stream};
use crate::peer::Host;

/// Timeout for one peer to connect and negotiate, up to four round trips through Tor.
const PEER_GREETING_TIMEOUT: Duration = Duration::from_secs(12);

/// The peers that can serve the clients of one side.
#[derive(Debug)]
pub(super) struct PeerSet {
    /// Side whose clients the peers serve.
    pub side: Side,
    /// Snapshots of the book, which contain the candidates.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    dialer: Dialer,
    inbox: Inbox,
    records: Mutex<PeerRecords>,
    /// Number of the next connection's isolation group.
    connections: AtomicU64,
}

impl PeerSet {
    /// Creates a set without records.
    pub(super) fn new(side: Side, dialer: Dialer, snapshot: watch::Receiver<Arc<Snapshot>>, inbox: Inbox) -> PeerSet {
        let connections = AtomicU64::new(first_connection(side));
        PeerSet { side, snapshot, dialer, inbox, records: Mutex::default(), connections }
    }

    /// Returns the candidates in no particular order.
    pub(super) fn candidates(&self) -> Vec<UpstreamCandidate> {
        self.snapshot.borrow().upstream_candidates.clone()
    }

    /// Returns what is known of the peers. The guard must not be held for long.
    pub(super) fn records(&self) -> MutexGuard<'_, PeerRecords> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connects to a candidate on circuits of its own, and negotiates the version.
    pub(super) async fn connect(
        &self,
        candidate: &UpstreamCandidate,
        version: &str,
    ) -> Result<Box<dyn Stream>, BackendError> {
        let isolation = Isolation::Session(self.connections.fetch_add(1, Ordering::Relaxed));
        let dialer = Dialer { isolation, ..self.dialer.clone() };
        let attempt = async {
            let endpoint = candidate.target.endpoints.first().ok_or(ProbeError::Internal)?;
            let connection = dialer.dial(&candidate.target, *endpoint).await?;
            // The verified peer had another key.
            if let (Some(shown), Some(known)) =
                (connection.certificate.map(|certificate| certificate.key), candidate.key)
                && shown != known
            {
                return Err(ProbeError::Tls.into());
            }
            negotiate(connection.stream, version).await
        };
        timeout(PEER_GREETING_TIMEOUT, attempt).await.unwrap_or(Err(ProbeError::Timeout.into()))
    }

    /// Penalizes a peer to which no connection was possible, unless the cause is local or the client's.
    pub(super) fn record_connect_failure(&self, host: &Host, error: &BackendError) {
        tracing::debug!(%host, %error, "a peer can't serve a session");
        match error {
            BackendError::Failed(failure) if failure.blame() == FailureOrigin::Local => {}
            // A client chose the version, and must not choose the peer by it.
            BackendError::Versions => {}
            _ => {
                self.records().penalize(host, Instant::now());
                self.request_probe(host);
            }
        }
    }

    /// Records a failure that is the peer's own.
    pub(super) fn strike(&self, host: &Host) {
        self.records().strike(host, Instant::now());
        self.request_probe(host);
    }

    /// Asks the book to probe a peer. The request is dropped if the book is busy.
    pub(super) fn request_probe(&self, host: &Host) {
        let _ = self.inbox.try_send(BookMessage::SideEvent(self.side, Event::SuspectPeer(host.clone())));
    }
}

/// Returns the first number of a side's connections, so that those of the two sides never share a circuit.
fn first_connection(side: Side) -> u64 {
    match side {
        Side::Both | Side::Clearnet => 0,
        Side::Onion => 1 << 63,
    }
}
