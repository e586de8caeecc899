//! Checks of the peers that serve sessions, by requests of Waypost's own choice.
//!
//! A failure within a session proves nothing, as clients choose the requests. So the peer is asked on another connection,
//! which it can't tell from a wallet's, for the history of a random script hash. That looks like an unused address of a
//! wallet, and costs a server nothing. Some answers to wallets are compared with those of other peers.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::codec::{Framed, LinesCodec};

use super::cross_check::{ReadRequest, Verdict, verdict};
use super::peer_set::PeerSet;
use crate::book::UpstreamCandidate;
use crate::dial::Stream;
use crate::jsonrpc::{self, DEFAULT_PROTOCOL, MAX_RESPONSE_BYTES, Response};
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

/// Outcome of asking a peer.
#[derive(Debug)]
enum Outcome {
    /// The result as JSON.
    Result(Vec<u8>),
    /// The peer returned an error.
    Error,
    /// The peer closed the connection, was silent, or sent something else.
    NoAnswer,
    /// There was no connection.
    Unreachable,
}

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

    /// Asks a peer that failed within a session. It is ranked last if it returns no result.
    pub(super) async fn recheck(&self, peers: &PeerSet, candidate: UpstreamCandidate, mut rng: StdRng) {
        let Ok(_permit) = self.rechecks.try_acquire() else { return };
        sleep(Duration::from_millis(rng.random_range(0..MAX_CHECK_DELAY_MS))).await;
        let outcome = ask(peers, &candidate, &ReadRequest::history(rng.random())).await;
        if matches!(outcome, Outcome::Error | Outcome::NoAnswer) {
            let host = &candidate.target.host;
            tracing::debug!(peer = %host, ?outcome, "a peer does not serve wallets; it gets no sessions for a while");
            peers.strike(host);
        }
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
        // A client chose the request, so no answer at all is no fault.
        let Outcome::Result(other) = ask(peers, &second, &request).await else { return };
        if request.confirmed(&other).as_ref() == Some(&answer) {
            self.agreed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        sleep(self.repeat_delay).await;
        let used = [host.clone(), second.target.host.clone()];
        let Some(third) = next_candidate(peers, &first, &used, &mut rng) else { return };
        let (one, two, three) =
            tokio::join!(ask(peers, &first, &request), ask(peers, &second, &request), ask(peers, &third, &request));
        let answers = [one, two, three].map(|outcome| match outcome {
            Outcome::Result(answer) => request.confirmed(&answer),
            Outcome::Error | Outcome::NoAnswer | Outcome::Unreachable => None,
        });
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

/// Asks a peer on a connection of its own.
async fn ask(peers: &PeerSet, candidate: &UpstreamCandidate, request: &ReadRequest) -> Outcome {
    let host = &candidate.target.host;
    let stream = match peers.connect(candidate, &DEFAULT_PROTOCOL.to_string()).await {
        Ok(stream) => stream,
        Err(error) => {
            peers.record_connect_failure(host, &error);
            return Outcome::Unreachable;
        }
    };
    let outcome = timeout(ANSWER_TIMEOUT, exchange(stream, request)).await.unwrap_or(Outcome::NoAnswer);
    if let Outcome::Result(_) = outcome {
        peers.records().record_answer(host, Instant::now());
    }
    outcome
}

/// Sends the request, and waits for the response.
async fn exchange(stream: Box<dyn Stream>, request: &ReadRequest) -> Outcome {
    const ID: u64 = 1;
    let mut lines = Framed::new(stream, LinesCodec::new_with_max_length(MAX_RESPONSE_BYTES));
    let Ok(line) = String::from_utf8(jsonrpc::encode_request(ID, request.method(), &request.params())) else {
        return Outcome::Unreachable;
    };
    if lines.send(line.trim_end()).await.is_err() {
        return Outcome::NoAnswer;
    }
    // A line that is too long is an error too: the expected answers are short.
    while let Some(Ok(line)) = lines.next().await {
        match jsonrpc::parse_response(&line) {
            Ok(Response::Result { id: ID, result }) => return Outcome::Result(result.get().as_bytes().to_vec()),
            Ok(Response::Error { id: ID }) => return Outcome::Error,
            _ => {}
        }
    }
    Outcome::NoAnswer
}

/// Creates the random generator of a check.
pub(super) fn check_rng(rng: &mut impl Rng) -> StdRng {
    StdRng::seed_from_u64(rng.next_u64())
}
