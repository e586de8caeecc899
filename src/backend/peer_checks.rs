//! Checks of the peers that serve sessions, by requests of Waypost's own choice.
//!
//! A failure within a session proves nothing, as clients choose the requests. So the peer is asked on another connection,
//! which it can't tell from a wallet's. Some answers to wallets are compared with those of other peers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::codec::{Framed, LinesCodec};

use super::BackendError;
use super::cross_check::{ReadRequest, Verdict, verdict};
use super::peer_set::PeerSet;
use crate::book::UpstreamCandidate;
use crate::connect::ProbeError;
use crate::dial::Stream;
use crate::jsonrpc::{self, DEFAULT_PROTOCOL, MAX_RESPONSE_BYTES};
use crate::peer::Host;

/// Maximum number of checks of a kind at the same time.
const MAX_CHECKS: usize = 8;

/// Minimum and maximum time between two checks of one peer, in seconds. The peer can't predict the next one.
const CHECK_INTERVAL_SECS: std::ops::Range<u64> = 20..60;

/// Longest wait before a peer that failed is asked, in milliseconds, so that it can't expect the question.
const MAX_CHECK_DELAY_MS: u64 = 5_000;

/// Timeout for an answer. It is longer than a session's, which only changes to another peer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// Default time between two comparisons with different results. Meanwhile a new block reaches all servers.
pub(super) const REPEAT_DELAY: Duration = Duration::from_secs(30);

/// Number of requests of wallets from which checks choose.
const MAX_RECENT: usize = 64;

/// Earliest time of the next check of each peer.
#[derive(Debug, Default)]
struct Intervals(Mutex<BTreeMap<Host, Instant>>);

/// Checks of the peers of one side.
#[derive(Debug)]
pub(super) struct PeerChecks {
    comparisons: Semaphore,
    /// Permits of their own, as comparisons take half a minute.
    rechecks: Semaphore,
    /// Time between two comparisons with different results.
    repeat_delay: Duration,
    /// Earliest time of the next comparison of each peer.
    next_comparison: Intervals,
    /// Earliest time of the next question to each peer that failed.
    next_recheck: Intervals,
    /// Requests of wallets to which two peers gave the same answer.
    recent: Mutex<VecDeque<ReadRequest>>,
    agreed: AtomicU64,
    differed: AtomicU64,
}

impl PeerChecks {
    pub(super) fn new(repeat_delay: Duration) -> PeerChecks {
        PeerChecks {
            repeat_delay,
            comparisons: Semaphore::new(MAX_CHECKS),
            rechecks: Semaphore::new(MAX_CHECKS),
            next_comparison: Intervals::default(),
            next_recheck: Intervals::default(),
            recent: Mutex::default(),
            agreed: AtomicU64::new(0),
            differed: AtomicU64::new(0),
        }
    }

    /// Returns how many compared answers were the same, and how many were wrong.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.agreed.load(Ordering::Relaxed), self.differed.load(Ordering::Relaxed))
    }

    /// Returns whether an answer of a peer may be compared now, and starts the next interval.
    pub(super) fn begin_comparison(&self, host: &Host, now: Instant, rng: &mut impl Rng) -> bool {
        self.next_comparison.begin(host, now, rng)
    }

    /// Returns whether a peer that failed may be asked now, and starts the next interval.
    pub(super) fn begin_recheck(&self, host: &Host, now: Instant, rng: &mut impl Rng) -> bool {
        self.next_recheck.begin(host, now, rng)
    }

    /// Asks a peer that failed within a session. It is ranked last if it does not answer.
    pub(super) async fn recheck(&self, peers: &PeerSet, candidate: UpstreamCandidate, mut rng: StdRng) {
        let Ok(_permit) = self.rechecks.try_acquire() else { return };
        sleep(Duration::from_millis(rng.random_range(0..MAX_CHECK_DELAY_MS))).await;
        let request = self.choose_request(&mut rng);
        let _ = ask(peers, &candidate, &request).await;
    }

    /// Compares the answer that a peer gave to a wallet with that of a peer of another group.
    ///
    /// If they differ twice, a third one decides.
    pub(super) async fn compare(
        &self,
        peers: &PeerSet,
        first: UpstreamCandidate,
        request: ReadRequest,
        answer: Vec<u8>,
        mut rng: StdRng,
    ) {
        let Ok(_permit) = self.comparisons.try_acquire() else { return };
        let Some(answer) = request.confirmed(&answer) else { return };
        let host = first.target.host.clone();
        let Some(second) = next_candidate(peers, &first, std::slice::from_ref(&host), &mut rng) else { return };
        let Some(other) = ask(peers, &second, &request).await else { return };
        if request.confirmed(&other).as_ref() == Some(&answer) {
            self.agreed.fetch_add(1, Ordering::Relaxed);
            return self.remember(request);
        }
        sleep(self.repeat_delay).await;
        let used = [host.clone(), second.target.host.clone()];
        let Some(third) = next_candidate(peers, &first, &used, &mut rng) else { return };
        let (one, two, three) =
            tokio::join!(ask(peers, &first, &request), ask(peers, &second, &request), ask(peers, &third, &request));
        let answers = [one, two, three].map(|answer| answer.and_then(|answer| request.confirmed(&answer)));
        let [Some(one), Some(two), Some(three)] = answers else { return };
        let wrong = match verdict(&one, &two, &three) {
            Verdict::FirstIsWrong => host,
            Verdict::SecondIsWrong => second.target.host,
            Verdict::Open => return,
        };
        self.differed.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(peer = %wrong, "a peer's answer to a wallet differs from those of two other peers; it serves no sessions for a while");
        peers.strike(&wrong);
    }

    /// Chooses a recent request of a wallet, or an invented one, which most new addresses of wallets look like.
    fn choose_request(&self, rng: &mut impl Rng) -> ReadRequest {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let known = recent.get(rng.random_range(0..MAX_RECENT)).cloned();
        known.unwrap_or_else(|| ReadRequest::history(rng.random()))
    }

    fn remember(&self, request: ReadRequest) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.push_front(request);
        recent.truncate(MAX_RECENT);
    }
}

impl Intervals {
    fn begin(&self, host: &Host, now: Instant, rng: &mut impl Rng) -> bool {
        let mut next = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        next.retain(|_, next| *next > now);
        let is_due = !next.contains_key(host);
        if is_due {
            next.insert(host.clone(), now + Duration::from_secs(rng.random_range(CHECK_INTERVAL_SECS)));
        }
        is_due
    }
}

/// Returns a peer that is not among these, of another group if possible. Only senior peers judge a senior one.
fn next_candidate(
    peers: &PeerSet,
    judged: &UpstreamCandidate,
    used: &[Host],
    rng: &mut impl Rng,
) -> Option<UpstreamCandidate> {
    let mut candidates = peers.candidates();
    peers.records().sort(&mut candidates, None, used, Instant::now(), rng);
    candidates
        .into_iter()
        .find(|candidate| (candidate.is_senior || !judged.is_senior) && !used.contains(&candidate.target.host))
}

/// Asks a peer on a connection of its own. Returns the result, or `None` for an error or no answer.
///
/// A peer that accepts the connection and gives no answer gets a strike.
async fn ask(peers: &PeerSet, candidate: &UpstreamCandidate, request: &ReadRequest) -> Option<Vec<u8>> {
    let host = &candidate.target.host;
    let stream = match peers.connect(candidate, &DEFAULT_PROTOCOL.to_string()).await {
        Ok(stream) => stream,
        Err(error) => {
            peers.record_connect_failure(host, &error);
            return None;
        }
    };
    match timeout(ANSWER_TIMEOUT, exchange(stream, request)).await.unwrap_or(Err(ProbeError::Timeout.into())) {
        Ok(result) => {
            peers.records().record_answer(host, Instant::now());
            result
        }
        Err(error) => {
            tracing::debug!(peer = %host, %error, "a peer does not answer wallets' requests; it serves no sessions for a while");
            peers.strike(host);
            None
        }
    }
}

/// Sends the request, and returns the result; `None` if the response is an error.
async fn exchange(stream: Box<dyn Stream>, request: &ReadRequest) -> Result<Option<Vec<u8>>, BackendError> {
    const ID: u64 = 1;
    let mut lines = Framed::new(stream, LinesCodec::new_with_max_length(MAX_RESPONSE_BYTES));
    let line = String::from_utf8(jsonrpc::encode_request(ID, request.method(), &request.params()));
    let line = line.map_err(|_| ProbeError::Internal)?;
    lines.send(line.trim_end()).await.map_err(|_| ProbeError::Closed)?;
    loop {
        let line = match lines.next().await {
            Some(Ok(line)) => line,
            // A history may be longer than what is kept.
            Some(Err(tokio_util::codec::LinesCodecError::MaxLineLengthExceeded)) => return Ok(None),
            Some(Err(_)) | None => return Err(ProbeError::Closed.into()),
        };
        match jsonrpc::parse_response(&line) {
            Ok(jsonrpc::Response::Result { id: ID, result }) => return Ok(Some(result.get().as_bytes().to_vec())),
            Ok(jsonrpc::Response::Error { id: ID }) => return Ok(None),
            _ => {}
        }
    }
}

/// Creates the random generator of a check.
pub(super) fn check_rng(rng: &mut impl Rng) -> StdRng {
    StdRng::seed_from_u64(rng.next_u64())
}
