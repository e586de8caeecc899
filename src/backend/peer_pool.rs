//! The verified peers as upstream: each session is served by the best reachable one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::{BackendError, UpstreamConnection, negotiate, publish};
use crate::book::{Event, Ingress, Side, Snapshot, UpstreamCandidate};
use crate::book_handle::{BookMessage, Inbox};
use crate::connect::{FailureOrigin, ProbeError};
use crate::dial::{Dialer, Isolation, Stream};
use crate::electrum::identity::{BackendInfo, LocalIdentity};
use crate::jsonrpc::{DEFAULT_PROTOCOL, MAX_PROTOCOL};
use crate::peer::{Host, Version};
use crate::route::Route;

/// Timeout for a session's connection. Wallets give up after 30 seconds.
const OPEN_TIMEOUT: Duration = Duration::from_secs(25);

/// Timeout for one peer to connect and negotiate, up to four round trips through Tor.
const PEER_GREETING_TIMEOUT: Duration = Duration::from_secs(12);

/// Time during which peers without Tor are not tried while one through Tor may answer.
const CLEARNET_FALLBACK_DELAY: Duration = Duration::from_secs(12);

/// Time after which a hedged attempt with the next peer starts.
const HEDGE_DELAY: Duration = Duration::from_secs(4);
/// Maximum number of attempts at the same time.
const MAX_PARALLEL: usize = 3;

/// Time for which a peer that failed or was too slow is ranked last.
const PENALTY: Duration = Duration::from_secs(600);

/// Number of sessions of a peer that lower its rank by one.
const SESSIONS_PER_RANK: usize = 4;

/// The verified peers that can serve sessions.
#[derive(Debug)]
pub struct PeerPool {
    /// Side whose clients the peers serve.
    side: Side,
    dialer: Dialer,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    inbox: Inbox,
    loads: Arc<PeerLoads>,
    /// Number of the next session's isolation group.
    sessions: AtomicU64,
}

/// Sessions and penalties by peer.
type PeerLoads = watch::Sender<BTreeMap<Host, PeerLoad>>;

/// Load of a peer.
#[derive(Debug, Default, Clone, Copy)]
struct PeerLoad {
    /// Number of sessions that the peer serves.
    sessions: usize,
    /// Time until which the peer is ranked last. `None`: it is not penalized.
    penalized_until: Option<Instant>,
}

/// Counts a session at the peer that serves it, until dropped.
#[derive(Debug)]
pub struct UpstreamLease {
    host: Host,
    loads: Arc<PeerLoads>,
    side: Side,
    inbox: Inbox,
}

impl PeerPool {
    /// Creates a pool without sessions.
    pub fn new(side: Side, dialer: Dialer, snapshot: watch::Receiver<Arc<Snapshot>>, inbox: Inbox) -> PeerPool {
        PeerPool { side, dialer, snapshot, inbox, loads: Arc::default(), sessions: AtomicU64::new(first_session(side)) }
    }

    /// Opens a connection to the best reachable peer.
    ///
    /// A slow greeting starts a hedged attempt with the next peer.
    pub async fn open(&self, version: &str, failed: Option<&Host>) -> Result<UpstreamConnection, BackendError> {
        let mut candidates = self.ranked(version.parse().ok(), failed).into_iter().peekable();
        let mut in_flight: Vec<(Host, Route)> = Vec::new();
        let mut attempts = FuturesUnordered::new();
        let started_at = Instant::now();
        let mut start = started_at;
        loop {
            let next_via =
                candidates.peek().map(|candidate| candidate.target.via).filter(|_| attempts.len() < MAX_PARALLEL);
            // A route past Tor is used only after a delay, even if a circuit is slow.
            let through_tor = in_flight.iter().any(|(_, via)| *via == Route::Tor);
            let due = match next_via {
                Some(Route::Direct) if through_tor => start.max(started_at + CLEARNET_FALLBACK_DELAY),
                _ => start,
            };
            if next_via.is_some()
                && (due <= Instant::now() || attempts.is_empty())
                && let Some(candidate) = candidates.next()
            {
                in_flight.push((candidate.target.host.clone(), candidate.target.via));
                attempts.push(self.connect_candidate(candidate, version));
                start = Instant::now() + HEDGE_DELAY;
                continue;
            }
            if attempts.is_empty() {
                return Err(BackendError::NoPeer);
            }
            tokio::select! {
                Some((host, outcome)) = attempts.next() => {
                    match outcome {
                        Ok(stream) => {
                            self.penalize_slower(&in_flight, &host);
                            let lease = UpstreamLease::take(host, self);
                            return Ok(UpstreamConnection { stream, lease: Some(lease) });
                        }
                        Err(error) => self.failed(&host, &error),
                    }
                    in_flight.retain(|(attempted, _)| *attempted != host);
                    start = Instant::now();
                }
                () = sleep_until(due), if next_via.is_some() => {}
                () = sleep_until(started_at + OPEN_TIMEOUT) => {
                    in_flight.iter().for_each(|(host, _)| self.failed(host, &ProbeError::Timeout.into()));
                    return Err(ProbeError::Timeout.into());
                }
            }
        }
    }

    /// Publishes the protocol versions of the candidates as they change.
    pub async fn monitor(&self, local_identity: &watch::Sender<Arc<LocalIdentity>>) {
        let mut snapshot = self.snapshot.clone();
        loop {
            let newest = common_version(&snapshot.borrow_and_update().upstream_candidates);
            let info = BackendInfo { software: None, versions: (DEFAULT_PROTOCOL, newest), pruning: None, tip: None };
            let ingresses: Vec<Ingress> =
                Ingress::ALL.into_iter().filter(|ingress| self.side.serves(*ingress)).collect();
            publish(local_identity, &ingresses, &info);
            if snapshot.changed().await.is_err() {
                return;
            }
        }
    }

    /// Returns an error if there is no candidate.
    pub fn last_error(&self) -> Option<String> {
        let no_candidate = self.snapshot.borrow().upstream_candidates.is_empty();
        no_candidate.then(|| "no verified peer is suitable to serve a session".to_owned())
    }

    /// Returns the number of sessions for each peer that serves any.
    pub fn session_counts(&self) -> Vec<(Host, usize)> {
        let loads = self.loads.borrow();
        loads.iter().filter(|(_, load)| load.sessions > 0).map(|(host, load)| (host.clone(), load.sessions)).collect()
    }

    /// Returns the candidates in the order in which they are attempted.
    fn ranked(&self, wanted: Option<Version>, failed: Option<&Host>) -> Vec<UpstreamCandidate> {
        let candidate = self.snapshot.borrow().upstream_candidates.clone();
        let (loads, now) = (self.loads.borrow(), Instant::now());
        let mut ranked: Vec<_> = candidate.into_iter().enumerate().collect();
        ranked.sort_by_key(|(rank, candidate)| {
            let host = &candidate.target.host;
            let load = loads.get(host).copied().unwrap_or_default();
            let lacks_version = wanted.is_some_and(|wanted| candidate.newest.cmp_semver(&wanted).is_lt());
            let penalized = failed == Some(host) || load.is_penalized(now);
            (lacks_version, penalized, !host.is_onion(), rank + load.sessions / SESSIONS_PER_RANK)
        });
        ranked.into_iter().map(|(_, candidate)| candidate).collect()
    }

    /// Penalizes peers that were tried before the winner on the same route.
    fn penalize_slower(&self, in_flight: &[(Host, Route)], winner: &Host) {
        let winner_route = in_flight.iter().find(|(host, _)| host == winner).map(|(_, via)| *via);
        let slower = in_flight.iter().take_while(|(host, _)| host != winner);
        for (host, _) in slower.filter(|(_, via)| winner_route == Some(*via)) {
            penalize(&self.loads, host);
        }
    }

    /// Connects to a candidate and negotiates the version.
    async fn connect_candidate(
        &self,
        candidate: UpstreamCandidate,
        version: &str,
    ) -> (Host, Result<Box<dyn Stream>, BackendError>) {
        let isolation = Isolation::Session(self.sessions.fetch_add(1, Ordering::Relaxed));
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
        let outcome = timeout(PEER_GREETING_TIMEOUT, attempt).await.unwrap_or(Err(ProbeError::Timeout.into()));
        (candidate.target.host, outcome)
    }

    /// Penalizes a peer that failed, unless the cause is local or the client's.
    fn failed(&self, host: &Host, error: &BackendError) {
        tracing::debug!(%host, %error, "a peer can't serve a session");
        match error {
            BackendError::Failed(failure) if failure.blame() == FailureOrigin::Local => {}
            // A client chose the version, and must not choose the peer by it.
            BackendError::Versions => {}
            _ => {
                penalize(&self.loads, host);
                request_recheck(&self.inbox, self.side, host);
            }
        }
    }
}

impl UpstreamLease {
    fn take(host: Host, pool: &PeerPool) -> UpstreamLease {
        pool.loads.send_modify(|loads| loads.entry(host.clone()).or_default().sessions += 1);
        UpstreamLease { host, loads: Arc::clone(&pool.loads), side: pool.side, inbox: pool.inbox.clone() }
    }

    /// Returns the peer that serves the session.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Requests a recheck after the peer failed within the session.
    ///
    /// The peer is not penalized, because the client's requests may have caused the failure.
    pub fn failed(&self) {
        request_recheck(&self.inbox, self.side, &self.host);
    }
}

impl Drop for UpstreamLease {
    fn drop(&mut self) {
        self.loads.send_modify(|loads| {
            if let Some(load) = loads.get_mut(&self.host) {
                load.sessions -= 1;
            }
            let now = Instant::now();
            loads.retain(|_, load| load.sessions > 0 || load.is_penalized(now));
        });
    }
}

impl PeerLoad {
    fn is_penalized(&self, now: Instant) -> bool {
        self.penalized_until.is_some_and(|until| until > now)
    }
}

/// Ranks a peer last for a while.
fn penalize(loads: &PeerLoads, host: &Host) {
    let until = Instant::now() + PENALTY;
    loads.send_modify(|loads| loads.entry(host.clone()).or_default().penalized_until = Some(until));
}

/// Asks the book to probe the peer. The request is dropped if the book is busy.
/// Returns the first session number of a side, so that sessions of the two sides never share a circuit.
fn first_session(side: Side) -> u64 {
    match side {
        Side::Both | Side::Clearnet => 0,
        Side::Onion => 1 << 63,
    }
}

fn request_recheck(inbox: &Inbox, side: Side, host: &Host) {
    let _ = inbox.try_send(BookMessage::SideEvent(side, Event::SuspectPeer(host.clone())));
}

/// Returns the newest version that at least half of the candidates support.
fn common_version(candidate: &[UpstreamCandidate]) -> Version {
    let mut versions: Vec<Version> = candidate.iter().map(|candidate| candidate.newest).collect();
    versions.sort_unstable_by(Version::cmp_semver);
    let newest = versions.get(versions.len() / 2).copied().unwrap_or(DEFAULT_PROTOCOL);
    let newest = if newest.cmp_semver(&MAX_PROTOCOL).is_gt() { MAX_PROTOCOL } else { newest };
    if newest.cmp_semver(&DEFAULT_PROTOCOL).is_lt() { DEFAULT_PROTOCOL } else { newest }
}
