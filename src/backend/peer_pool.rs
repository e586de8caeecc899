//! Our peers as the server that we stand in front of: each session is carried by one of them, the best that can be reached.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::{BackendError, Connection, negotiate, publish};
use crate::book::{Event, Snapshot, UpstreamCandidate};
use crate::book_handle::{BookMessage, Inbox};
use crate::connect::{FailureOrigin, ProbeError};
use crate::dial::{Dialer, Isolation, Stream};
use crate::electrum::identity::{BackendInfo, LocalIdentity};
use crate::jsonrpc::{DEFAULT_PROTOCOL, MAX_PROTOCOL};
use crate::peer::{Host, Version};
use crate::route::Route;

/// How long a caller is kept waiting for a peer. Wallets give up after 30 seconds.
const OPEN_TIMEOUT: Duration = Duration::from_secs(25);

/// How long one of them may take to greet us, which is four ways there and back through Tor.
const GREETING_TIMEOUT: Duration = Duration::from_secs(12);

/// Those that are reached directly don't come into it before this, while one through Tor may still answer.
const CLEARNET_FALLBACK_DELAY: Duration = Duration::from_secs(12);

/// Who doesn't greet us within this has a rival; so many are tried at once.
const HEDGE_DELAY: Duration = Duration::from_secs(4);
const MAX_PARALLEL: usize = 3;

/// Who can't be reached, or was overtaken, comes after all others for so long.
const PENALTY: Duration = Duration::from_secs(600);

/// Sessions that a peer carries before the next best is as good.
const SESSIONS_PER_RANK: usize = 4;

#[derive(Debug)]
pub struct PeerPool {
    dialer: Dialer,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    inbox: Inbox,
    loads: Arc<PeerLoads>,
    /// Each session has circuits of its own.
    sessions: AtomicU64,
}

/// What is known of the peers that carry sessions, or lately failed to.
type PeerLoads = watch::Sender<BTreeMap<Host, PeerLoad>>;

#[derive(Debug, Default, Clone, Copy)]
struct PeerLoad {
    sessions: usize,
    avoided_until: Option<Instant>,
}

/// A session's place at the peer that carries it.
#[derive(Debug)]
pub struct UpstreamLease {
    host: Host,
    loads: Arc<PeerLoads>,
    inbox: Inbox,
}

impl PeerPool {
    pub fn new(dialer: Dialer, snapshot: watch::Receiver<Arc<Snapshot>>, inbox: Inbox) -> PeerPool {
        PeerPool { dialer, snapshot, inbox, loads: Arc::default(), sessions: AtomicU64::new(0) }
    }

    /// Opens a connection to the best reachable peer. A slow greeting starts a hedged attempt with the next peer.
    pub async fn open(&self, version: &str, failed: Option<&Host>) -> Result<Connection, BackendError> {
        let mut waiting = self.ranked(version.parse().ok(), failed).into_iter().peekable();
        let mut under_way: Vec<(Host, Route)> = Vec::new();
        let mut trying = FuturesUnordered::new();
        let began = Instant::now();
        let mut start = began;
        loop {
            let next_via = waiting.peek().map(|carrier| carrier.target.via).filter(|_| trying.len() < MAX_PARALLEL);
            // Who asks for Tor's sake is not to be sent past it because a circuit takes its time.
            let through_tor = under_way.iter().any(|(_, via)| *via == Route::Tor);
            let due = match next_via {
                Some(Route::Direct) if through_tor => start.max(began + CLEARNET_FALLBACK_DELAY),
                _ => start,
            };
            if next_via.is_some()
                && (due <= Instant::now() || trying.is_empty())
                && let Some(carrier) = waiting.next()
            {
                under_way.push((carrier.target.host.clone(), carrier.target.via));
                trying.push(self.connect_candidate(carrier, version));
                start = Instant::now() + HEDGE_DELAY;
                continue;
            }
            if trying.is_empty() {
                return Err(BackendError::NoPeer);
            }
            tokio::select! {
                Some((host, outcome)) = trying.next() => {
                    match outcome {
                        Ok(stream) => {
                            self.penalize_slower(&under_way, &host);
                            let seat = UpstreamLease::take(host, &self.loads, &self.inbox);
                            return Ok(Connection { stream, seat: Some(seat) });
                        }
                        Err(error) => self.failed(&host, &error),
                    }
                    under_way.retain(|(tried, _)| *tried != host);
                    start = Instant::now();
                }
                () = sleep_until(due), if next_via.is_some() => {}
                () = sleep_until(began + OPEN_TIMEOUT) => {
                    under_way.iter().for_each(|(host, _)| self.failed(host, &ProbeError::Timeout.into()));
                    return Err(ProbeError::Timeout.into());
                }
            }
        }
    }

    /// Tells callers of the protocol versions that our peers speak, as those change.
    pub async fn monitor(&self, ourselves: &watch::Sender<Arc<LocalIdentity>>) {
        let mut snapshot = self.snapshot.clone();
        loop {
            let newest = common_version(&snapshot.borrow_and_update().upstream_candidates);
            publish(
                ourselves,
                BackendInfo { software: None, versions: (DEFAULT_PROTOCOL, newest), pruning: None, tip: None },
            );
            if snapshot.changed().await.is_err() {
                return;
            }
        }
    }

    pub fn last_error(&self) -> Option<String> {
        let nobody = self.snapshot.borrow().upstream_candidates.is_empty();
        nobody.then(|| "no verified peer that can be reached is fit to carry a session".to_owned())
    }

    pub fn session_counts(&self) -> Vec<(Host, usize)> {
        let loads = self.loads.borrow();
        loads.iter().filter(|(_, load)| load.sessions > 0).map(|(host, load)| (host.clone(), load.sessions)).collect()
    }

    /// Returns the candidates in the order in which they are tried.
    fn ranked(&self, wanted: Option<Version>, failed: Option<&Host>) -> Vec<UpstreamCandidate> {
        let carriers = self.snapshot.borrow().upstream_candidates.clone();
        let (loads, now) = (self.loads.borrow(), Instant::now());
        let mut ranked: Vec<_> = carriers.into_iter().enumerate().collect();
        ranked.sort_by_key(|(place, carrier)| {
            let host = &carrier.target.host;
            let load = loads.get(host).copied().unwrap_or_default();
            let lacks = wanted.is_some_and(|wanted| carrier.newest.cmp_semver(&wanted).is_lt());
            let avoided = failed == Some(host) || load.is_avoided(now);
            (lacks, avoided, !host.is_onion(), place + load.sessions / SESSIONS_PER_RANK)
        });
        ranked.into_iter().map(|(_, carrier)| carrier).collect()
    }

    /// Those that were tried before the one that won were slower than it and its handicap. Nobody who goes through Tor is held to
    /// the pace of those who don't.
    fn penalize_slower(&self, under_way: &[(Host, Route)], winner: &Host) {
        let pace = under_way.iter().find(|(host, _)| host == winner).map(|(_, via)| *via);
        let slower = under_way.iter().take_while(|(host, _)| host != winner);
        for (host, _) in slower.filter(|(_, via)| pace == Some(*via)) {
            penalize(&self.loads, host);
        }
    }

    async fn connect_candidate(
        &self,
        carrier: UpstreamCandidate,
        version: &str,
    ) -> (Host, Result<Box<dyn Stream>, BackendError>) {
        let circle = Isolation::Session(self.sessions.fetch_add(1, Ordering::Relaxed));
        let dialer = Dialer { circle, ..self.dialer.clone() };
        let reached = async {
            let door = carrier.target.endpoints.first().ok_or(ProbeError::Internal)?;
            let dialled = dialer.dial(&carrier.target, *door).await?;
            // The verified peer had another key.
            if let (Some(shown), Some(known)) = (dialled.key, carrier.key)
                && shown != known
            {
                return Err(ProbeError::Tls.into());
            }
            negotiate(dialled.stream, version).await
        };
        let outcome = timeout(GREETING_TIMEOUT, reached).await.unwrap_or(Err(ProbeError::Timeout.into()));
        (carrier.target.host, outcome)
    }

    fn failed(&self, host: &Host, error: &BackendError) {
        tracing::debug!(%host, %error, "a peer that was to carry a session can't");
        match error {
            BackendError::Failed(failure) if failure.blame() == FailureOrigin::Local => {}
            // A caller chose the version, and mustn't choose the peer by that.
            BackendError::Versions => {}
            _ => {
                penalize(&self.loads, host);
                request_recheck(&self.inbox, host);
            }
        }
    }
}

impl UpstreamLease {
    fn take(host: Host, loads: &Arc<PeerLoads>, inbox: &Inbox) -> UpstreamLease {
        loads.send_modify(|loads| loads.entry(host.clone()).or_default().sessions += 1);
        UpstreamLease { host, loads: Arc::clone(loads), inbox: inbox.clone() }
    }

    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The peer let its session down. What a session asks for may have brought that about, so the peer isn't avoided by others
    /// before the book has looked at it.
    pub fn failed(&self) {
        request_recheck(&self.inbox, &self.host);
    }
}

impl Drop for UpstreamLease {
    fn drop(&mut self) {
        self.loads.send_modify(|loads| {
            if let Some(load) = loads.get_mut(&self.host) {
                load.sessions -= 1;
            }
            let now = Instant::now();
            loads.retain(|_, load| load.sessions > 0 || load.is_avoided(now));
        });
    }
}

impl PeerLoad {
    fn is_avoided(&self, now: Instant) -> bool {
        self.avoided_until.is_some_and(|until| until > now)
    }
}

fn penalize(loads: &PeerLoads, host: &Host) {
    let until = Instant::now() + PENALTY;
    loads.send_modify(|loads| loads.entry(host.clone()).or_default().avoided_until = Some(until));
}

/// Has the book look at it; where that has too much to do, it will in its own time.
fn request_recheck(inbox: &Inbox, host: &Host) {
    let _ = inbox.try_send(BookMessage::Event(Event::SuspectPeer(host.clone())));
}

/// The newest version that at least half of them speak.
fn common_version(carriers: &[UpstreamCandidate]) -> Version {
    let mut versions: Vec<Version> = carriers.iter().map(|carrier| carrier.newest).collect();
    versions.sort_unstable_by(Version::cmp_semver);
    let newest = versions.get(versions.len() / 2).copied().unwrap_or(DEFAULT_PROTOCOL);
    let newest = if newest.cmp_semver(&MAX_PROTOCOL).is_gt() { MAX_PROTOCOL } else { newest };
    if newest.cmp_semver(&DEFAULT_PROTOCOL).is_lt() { DEFAULT_PROTOCOL } else { newest }
}
