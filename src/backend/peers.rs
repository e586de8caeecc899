//! Our peers as the server that we stand in front of: each session is carried by one of them, the best that can be reached.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::{BackendError, Connection, greet, tell};
use crate::book::{Blame, Carrier, Event, Failure, Snapshot};
use crate::conversation::identity::{Behind, Ourselves};
use crate::dial::{Circle, Dialer, Stream};
use crate::inbox::{Inbox, Input};
use crate::peer::{Host, Version};
use crate::protocol::{NEWEST, USUAL};
use crate::route::Via;

/// How long a caller is kept waiting for a peer. Wallets give up after 30 seconds.
const PATIENCE: Duration = Duration::from_secs(25);

/// How long one of them may take to greet us, which is four ways there and back through Tor.
const ATTEMPT: Duration = Duration::from_secs(12);

/// Those that are reached directly don't come into it before this, while one through Tor may still answer.
const PAST_TOR: Duration = Duration::from_secs(12);

/// Who doesn't greet us within this has a rival; so many are tried at once.
const HEDGE: Duration = Duration::from_secs(4);
const AT_ONCE: usize = 3;

/// Who can't be reached, or was overtaken, comes after all others for so long.
const AVOIDED: Duration = Duration::from_secs(600);

/// Sessions that a peer carries before the next best is as good.
const SHARE: usize = 4;

#[derive(Debug)]
pub struct Peers {
    dialer: Dialer,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    inbox: Inbox,
    loads: Arc<Loads>,
    /// Each session has circuits of its own.
    sessions: AtomicU64,
}

/// What is known of the peers that carry sessions, or lately failed to.
type Loads = watch::Sender<BTreeMap<Host, Load>>;

#[derive(Debug, Default, Clone, Copy)]
struct Load {
    sessions: usize,
    avoided_until: Option<Instant>,
}

/// A session's place at the peer that carries it.
#[derive(Debug)]
pub struct Seat {
    host: Host,
    loads: Arc<Loads>,
    inbox: Inbox,
}

impl Peers {
    pub fn new(dialer: Dialer, snapshot: watch::Receiver<Arc<Snapshot>>, inbox: Inbox) -> Peers {
        Peers { dialer, snapshot, inbox, loads: Arc::default(), sessions: AtomicU64::new(0) }
    }

    /// A connection to the best peer that can be had. Whoever is slow to greet us has the next best for a rival.
    pub async fn open(&self, version: &str, failed: Option<&Host>) -> Result<Connection, BackendError> {
        let mut waiting = self.in_turn(version.parse().ok(), failed).into_iter().peekable();
        let mut under_way: Vec<(Host, Via)> = Vec::new();
        let mut trying = FuturesUnordered::new();
        let began = Instant::now();
        let mut start = began;
        loop {
            let next_via = waiting.peek().map(|carrier| carrier.attempt.via).filter(|_| trying.len() < AT_ONCE);
            // Who asks for Tor's sake is not to be sent past it because a circuit takes its time.
            let through_tor = under_way.iter().any(|(_, via)| *via == Via::Tor);
            let due = match next_via {
                Some(Via::Direct) if through_tor => start.max(began + PAST_TOR),
                _ => start,
            };
            if next_via.is_some()
                && (due <= Instant::now() || trying.is_empty())
                && let Some(carrier) = waiting.next()
            {
                under_way.push((carrier.attempt.host.clone(), carrier.attempt.via));
                trying.push(self.reach(carrier, version));
                start = Instant::now() + HEDGE;
                continue;
            }
            if trying.is_empty() {
                return Err(BackendError::NoPeer);
            }
            tokio::select! {
                Some((host, outcome)) = trying.next() => {
                    match outcome {
                        Ok(stream) => {
                            self.overtaken(&under_way, &host);
                            let seat = Seat::take(host, &self.loads, &self.inbox);
                            return Ok(Connection { stream, seat: Some(seat) });
                        }
                        Err(error) => self.failed(&host, &error),
                    }
                    under_way.retain(|(tried, _)| *tried != host);
                    start = Instant::now();
                }
                () = sleep_until(due), if next_via.is_some() => {}
                () = sleep_until(began + PATIENCE) => {
                    under_way.iter().for_each(|(host, _)| self.failed(host, &Failure::Silent.into()));
                    return Err(Failure::Silent.into());
                }
            }
        }
    }

    /// Tells callers of the protocol versions that our peers speak, as those change.
    pub async fn watch(&self, ourselves: &watch::Sender<Arc<Ourselves>>) {
        let mut snapshot = self.snapshot.clone();
        loop {
            let newest = newest(&snapshot.borrow_and_update().carriers);
            tell(ourselves, Behind { software: None, versions: (USUAL, newest), pruning: None, tip: None });
            if snapshot.changed().await.is_err() {
                return;
            }
        }
    }

    pub fn trouble(&self) -> Option<String> {
        let nobody = self.snapshot.borrow().carriers.is_empty();
        nobody.then(|| "no verified peer that can be reached is fit to carry a session".to_owned())
    }

    pub fn carried(&self) -> Vec<(Host, usize)> {
        let loads = self.loads.borrow();
        loads.iter().filter(|(_, load)| load.sessions > 0).map(|(host, load)| (host.clone(), load.sessions)).collect()
    }

    /// Whom to try, in that order.
    fn in_turn(&self, wanted: Option<Version>, failed: Option<&Host>) -> Vec<Carrier> {
        let carriers = self.snapshot.borrow().carriers.clone();
        let (loads, now) = (self.loads.borrow(), Instant::now());
        let mut ranked: Vec<_> = carriers.into_iter().enumerate().collect();
        ranked.sort_by_key(|(place, carrier)| {
            let host = &carrier.attempt.host;
            let load = loads.get(host).copied().unwrap_or_default();
            let lacks = wanted.is_some_and(|wanted| carrier.newest.cmp_release(&wanted).is_lt());
            let avoided = failed == Some(host) || load.is_avoided(now);
            (lacks, avoided, !host.is_onion(), place + load.sessions / SHARE)
        });
        ranked.into_iter().map(|(_, carrier)| carrier).collect()
    }

    /// Those that were tried before the one that won were slower than it and its handicap. Nobody who goes through Tor is held to
    /// the pace of those who don't.
    fn overtaken(&self, under_way: &[(Host, Via)], winner: &Host) {
        let pace = under_way.iter().find(|(host, _)| host == winner).map(|(_, via)| *via);
        let slower = under_way.iter().take_while(|(host, _)| host != winner);
        for (host, _) in slower.filter(|(_, via)| pace == Some(*via)) {
            avoid(&self.loads, host);
        }
    }

    async fn reach(&self, carrier: Carrier, version: &str) -> (Host, Result<Box<dyn Stream>, BackendError>) {
        let circle = Circle::Session(self.sessions.fetch_add(1, Ordering::Relaxed));
        let dialer = Dialer { circle, ..self.dialer.clone() };
        let reached = async {
            let door = carrier.attempt.doors.first().ok_or(Failure::Internal)?;
            let dialled = dialer.dial(&carrier.attempt, *door).await?;
            // Whoever it was that was verified, this is somebody else.
            if let (Some(shown), Some(known)) = (dialled.key, carrier.key)
                && shown != known
            {
                return Err(Failure::Tls.into());
            }
            greet(dialled.stream, version).await
        };
        let outcome = timeout(ATTEMPT, reached).await.unwrap_or(Err(Failure::Silent.into()));
        (carrier.attempt.host, outcome)
    }

    fn failed(&self, host: &Host, error: &BackendError) {
        tracing::debug!(%host, %error, "a peer that was to carry a session can't");
        match error {
            BackendError::Failed(failure) if failure.blame() == Blame::Us => {}
            // A caller chose the version, and mustn't choose the peer by that.
            BackendError::Versions => {}
            _ => {
                avoid(&self.loads, host);
                doubt(&self.inbox, host);
            }
        }
    }
}

impl Seat {
    fn take(host: Host, loads: &Arc<Loads>, inbox: &Inbox) -> Seat {
        loads.send_modify(|loads| loads.entry(host.clone()).or_default().sessions += 1);
        Seat { host, loads: Arc::clone(loads), inbox: inbox.clone() }
    }

    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The peer let its session down. What a session asks for may have brought that about, so the peer isn't avoided by others
    /// before the book has looked at it.
    pub fn failed(&self) {
        doubt(&self.inbox, &self.host);
    }
}

impl Drop for Seat {
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

impl Load {
    fn is_avoided(&self, now: Instant) -> bool {
        self.avoided_until.is_some_and(|until| until > now)
    }
}

fn avoid(loads: &Loads, host: &Host) {
    let until = Instant::now() + AVOIDED;
    loads.send_modify(|loads| loads.entry(host.clone()).or_default().avoided_until = Some(until));
}

/// Has the book look at it; where that has too much to do, it will in its own time.
fn doubt(inbox: &Inbox, host: &Host) {
    let _ = inbox.try_send(Input::Event(Event::Doubted(host.clone())));
}

/// The newest version that at least half of them speak.
fn newest(carriers: &[Carrier]) -> Version {
    let mut versions: Vec<Version> = carriers.iter().map(|carrier| carrier.newest).collect();
    versions.sort_unstable_by(Version::cmp_release);
    let newest = versions.get(versions.len() / 2).copied().unwrap_or(USUAL);
    let newest = if newest.cmp_release(&NEWEST).is_gt() { NEWEST } else { newest };
    if newest.cmp_release(&USUAL).is_lt() { USUAL } else { newest }
}
