//! The verified peers as upstream: each session is served by one that answers.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rand::Rng;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::cross_check::ReadRequest;
use super::peer_checks::{PeerChecks, REPEAT_DELAY, check_rng};
use super::peer_set::PeerSet;
use super::{BackendError, UpstreamConnection, UpstreamLease};
use crate::book::{Side, Snapshot, UpstreamCandidate};
use crate::book_handle::Inbox;
use crate::connect::ProbeError;
use crate::dial::{Dialer, Stream};
use crate::jsonrpc::{DEFAULT_PROTOCOL, MAX_PROTOCOL};
use crate::peer::{Host, Version};
use crate::route::Route;

/// Timeout for a session's connection. Wallets give up after 30 seconds.
const OPEN_TIMEOUT: Duration = Duration::from_secs(25);

/// Time during which peers without Tor are not tried while one through Tor may answer.
const CLEARNET_FALLBACK_DELAY: Duration = Duration::from_secs(12);

/// Time after which a hedged attempt with the next peer starts.
const HEDGE_DELAY: Duration = Duration::from_secs(4);
/// Maximum number of attempts at the same time.
const MAX_PARALLEL: usize = 3;

/// Minimum time between two records of answers of one session.
const ANSWER_RECORD_INTERVAL: Duration = Duration::from_secs(60);

/// One in this many answers is compared with another peer's, if the peer's next check is due.
const SAMPLING_RATE: u64 = 4;

/// The verified peers that can serve sessions.
#[derive(Debug)]
pub struct PeerPool {
    peers: Arc<PeerSet>,
    checks: Arc<PeerChecks>,
}

/// Counts a session at the peer that serves it, until dropped.
#[derive(Debug)]
pub struct PeerLease {
    candidate: UpstreamCandidate,
    peers: Arc<PeerSet>,
    checks: Arc<PeerChecks>,
    /// Time of the last answer that was recorded; `None` before the first.
    answer_recorded: Option<Instant>,
}

/// What is known of a peer's failure within a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionFailure {
    /// The client's requests may be the cause.
    Unclear,
    /// The only request was one that costs a server nothing.
    OwnFault,
}

impl PeerPool {
    /// Creates a pool without sessions.
    pub fn new(side: Side, dialer: Dialer, snapshot: watch::Receiver<Arc<Snapshot>>, inbox: Inbox) -> PeerPool {
        let peers = Arc::new(PeerSet::new(side, dialer, snapshot, inbox));
        PeerPool { peers, checks: Arc::new(PeerChecks::new(REPEAT_DELAY)) }
    }

    /// Changes the time between two comparisons of answers that differ.
    #[cfg(test)]
    pub(crate) fn with_repeat_delay(self, delay: Duration) -> PeerPool {
        PeerPool { checks: Arc::new(PeerChecks::new(delay)), ..self }
    }

    /// Opens a connection to a peer, if possible none of those that failed within the session.
    ///
    /// A slow greeting starts a hedged attempt with the next peer.
    pub async fn open(
        &self,
        version: &str,
        failed: &[Host],
        rng: &mut impl Rng,
    ) -> Result<UpstreamConnection, BackendError> {
        let mut candidates = self.peers.candidates();
        self.peers.records().sort(&mut candidates, version.parse().ok(), failed, Instant::now(), rng);
        let mut candidates = candidates.into_iter().peekable();
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
                attempts.push(attempt(&self.peers, candidate, version));
                start = Instant::now() + HEDGE_DELAY;
                continue;
            }
            if attempts.is_empty() {
                return Err(BackendError::NoPeer);
            }
            tokio::select! {
                Some((candidate, outcome)) = attempts.next() => {
                    let host = candidate.target.host.clone();
                    match outcome {
                        Ok(stream) => {
                            self.penalize_slower(&in_flight, &host);
                            return Ok(UpstreamConnection { stream, lease: UpstreamLease::Peer(Box::new(self.lease(candidate))) });
                        }
                        Err(error) => self.peers.record_connect_failure(&host, &error),
                    }
                    in_flight.retain(|(attempted, _)| *attempted != host);
                    start = Instant::now();
                }
                () = sleep_until(due), if next_via.is_some() => {}
                () = sleep_until(started_at + OPEN_TIMEOUT) => {
                    in_flight.iter().for_each(|(host, _)| self.peers.record_connect_failure(host, &ProbeError::Timeout.into()));
                    return Err(ProbeError::Timeout.into());
                }
            }
        }
    }

    /// Returns a receiver of the snapshots that contain the candidates.
    pub(super) fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.peers.snapshot.clone()
    }

    /// Returns the side whose clients the peers serve.
    pub(super) fn side(&self) -> Side {
        self.peers.side
    }

    /// Returns the newest version that at least half of the candidates support.
    pub(super) fn common_version(&self) -> Version {
        common_version(&self.peers.snapshot.borrow().upstream_candidates)
    }

    /// Returns an error if there is no candidate.
    pub fn last_error(&self) -> Option<String> {
        let no_candidate = self.peers.snapshot.borrow().upstream_candidates.is_empty();
        no_candidate.then(|| "no verified peer is suitable to serve a session".to_owned())
    }

    /// Returns the number of sessions for each peer that serves any.
    pub fn session_counts(&self) -> Vec<(Host, usize)> {
        self.peers.records().session_counts()
    }

    /// Returns how many answers to wallets agreed with those of another peer, and how many were wrong.
    pub fn check_counts(&self) -> (u64, u64) {
        self.checks.counts()
    }

    fn lease(&self, candidate: UpstreamCandidate) -> PeerLease {
        self.peers.records().add_session(&candidate.target.host);
        let (peers, checks) = (Arc::clone(&self.peers), Arc::clone(&self.checks));
        PeerLease { candidate, peers, checks, answer_recorded: None }
    }

    /// Penalizes peers that were tried before the winner on the same route.
    fn penalize_slower(&self, in_flight: &[(Host, Route)], winner: &Host) {
        let winner_route = in_flight.iter().find(|(host, _)| host == winner).map(|(_, via)| *via);
        let slower = in_flight.iter().take_while(|(host, _)| host != winner);
        for (host, _) in slower.filter(|(_, via)| winner_route == Some(*via)) {
            self.peers.records().penalize(host, Instant::now());
        }
    }
}

async fn attempt(
    peers: &PeerSet,
    candidate: UpstreamCandidate,
    version: &str,
) -> (UpstreamCandidate, Result<Box<dyn Stream>, BackendError>) {
    let outcome = peers.connect(&candidate, version).await;
    (candidate, outcome)
}

impl PeerLease {
    /// Returns the peer that serves the session.
    pub fn host(&self) -> &Host {
        &self.candidate.target.host
    }

    /// Records that the peer has answered a request.
    pub fn record_answer(&mut self, now: Instant) {
        if self.answer_recorded.is_none_or(|recorded| now >= recorded + ANSWER_RECORD_INTERVAL) {
            self.peers.records().record_answer(self.host(), now);
            self.answer_recorded = Some(now);
        }
    }

    /// Returns whether the answer to a request is to be compared with that of another peer.
    pub fn samples(&self, rng: &mut StdRng) -> bool {
        rng.next_u64().is_multiple_of(SAMPLING_RATE) && self.checks.begin_comparison(self.host(), Instant::now(), rng)
    }

    /// Compares the peer's answer with those of others, in the background. `None` is an error, which is checked.
    pub fn compare(&self, request: ReadRequest, answer: Option<Vec<u8>>, rng: &mut StdRng) {
        let Some(answer) = answer else { return self.failed(SessionFailure::Unclear, rng) };
        let (peers, checks, candidate) = (Arc::clone(&self.peers), Arc::clone(&self.checks), self.candidate.clone());
        let rng = check_rng(rng);
        tokio::spawn(async move { checks.compare(&peers, candidate, request, answer, rng).await });
    }

    /// Handles the failure of the peer within the session.
    ///
    /// Unless it is clear, the peer is asked again with a request that the client did not choose.
    pub fn failed(&self, failure: SessionFailure, rng: &mut StdRng) {
        self.peers.request_probe(self.host());
        if failure == SessionFailure::OwnFault {
            self.peers.strike(self.host());
        } else if self.checks.begin_recheck(self.host(), Instant::now(), rng) {
            let (peers, checks, candidate) =
                (Arc::clone(&self.peers), Arc::clone(&self.checks), self.candidate.clone());
            let rng = check_rng(rng);
            tokio::spawn(async move { checks.recheck(&peers, candidate, rng).await });
        }
    }
}

impl Drop for PeerLease {
    fn drop(&mut self) {
        self.peers.records().remove_session(self.host(), Instant::now());
    }
}

/// Returns the newest version that at least half of the candidates support.
fn common_version(candidates: &[UpstreamCandidate]) -> Version {
    let mut versions: Vec<Version> = candidates.iter().map(|candidate| candidate.newest).collect();
    versions.sort_unstable_by(Version::cmp_semver);
    let newest = versions.get(versions.len() / 2).copied().unwrap_or(DEFAULT_PROTOCOL);
    let newest = if newest.cmp_semver(&MAX_PROTOCOL).is_gt() { MAX_PROTOCOL } else { newest };
    if newest.cmp_semver(&DEFAULT_PROTOCOL).is_lt() { DEFAULT_PROTOCOL } else { newest }
}
