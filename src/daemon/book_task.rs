//! The task that owns the book, its generator and the way to the store: it hands the book what happens, and has done
//! what the book wants.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::clearnet_monitor::NameState;
use super::initial_crawl::FirstCrawl;
use super::notice;
use crate::backend::Backend;
use crate::book::{Action, Event, Ingress, PeerBook, Snapshot};
use crate::book_handle::{AdminRequest, BookMessage};
use crate::clock::{self, Time};
use crate::connect::{ProbeError, ProbeTarget};
use crate::control::Status;
use crate::dial::Dialer;
use crate::electrum::identity::LocalIdentity;
use crate::electrum::prober::{AddPeerOffer, ProbeExpectations};
use crate::irc_discovery::IrcStatus;
use crate::peer::{Features, Host, RealName};
use crate::probe::{Deadlines, probe};
use crate::route::Route;
use crate::server::Counters;
use crate::status_page::ProbeMetrics;
use crate::store::{Change, StoreHandle, WriterStatus};
use crate::tor::{self, OnionServiceState, TorHealth};

/// Changes in what callers are told are gathered for this long, as rebuilding it costs a look at every peer.
const GATHER: Duration = Duration::from_millis(500);

/// Longest time that the book is not woken: timers stand still while the machine sleeps, and the book's clock does not.
const LONGEST_SLEEP: Duration = Duration::from_mins(1);

/// Shortest time between two rewrites of the store after steps of the wall clock.
const REWRITE_PAUSE: Duration = Duration::from_mins(1);

/// State of the node outside of the book, for the status.
#[derive(Debug)]
pub struct StatusInputs {
    pub started: Time,
    /// Whether the book began empty.
    pub is_new: bool,
    pub listeners: Vec<String>,
    pub counters: Arc<Counters>,
    pub store: Arc<WriterStatus>,
    pub store_path: PathBuf,
    /// Where the status page is.
    pub page: Option<SocketAddr>,
    pub probes: ProbeMetrics,
    /// Our onion service, if we have one.
    pub onion: watch::Receiver<Option<OnionServiceState>>,
    /// Which Tor is in use.
    pub tor: watch::Receiver<tor::Report>,
    /// How the own clearnet name fares, if there is one.
    pub clearnet: watch::Receiver<NameState>,
    pub ourselves: watch::Receiver<Arc<LocalIdentity>>,
    pub backend: Option<Arc<Backend>>,
    pub irc: Option<watch::Receiver<IrcStatus>>,
}

/// Receivers of what the book publishes.
#[derive(Debug)]
pub struct BookOutputs {
    pub snapshot: watch::Sender<Arc<Snapshot>>,
    /// Tor's health as the book sees it, for the supervisor of Tor.
    pub health: watch::Sender<TorHealth>,
}

#[derive(Debug)]
pub struct BookTask {
    book: PeerBook,
    rng: StdRng,
    store: StoreHandle,
    dialer: Dialer,
    facts: StatusInputs,
    news: BookOutputs,
    /// When what callers are told is rebuilt.
    publish_at: Option<Instant>,
    /// When what callers are told is too old in part.
    stale_after: Option<Time>,
    /// Look-ups and verifications in flight, and the host of each.
    tasks: JoinSet<Event>,
    task_hosts: HashMap<Id, Host>,
    /// While the log says how it goes.
    first_crawl: Option<FirstCrawl>,
    /// How far ahead the wall clock was when the store's moments were last written by it.
    stored_ahead_millis: i64,
    /// When the store may be rewritten again after a step of the wall clock.
    next_rewrite: Instant,
}

impl BookTask {
    /// The task, of whose picture of the book a first one is drawn at once.
    pub fn new(
        book: PeerBook,
        first: Vec<Action>,
        store: StoreHandle,
        dialer: Dialer,
        facts: StatusInputs,
        news: BookOutputs,
        mut rng: StdRng,
    ) -> BookTask {
        let snapshot = book.snapshot(facts.started, &mut rng);
        let (flights, about) = (JoinSet::new(), HashMap::new());
        let (stale_after, publish_at) = (snapshot.stale_after(), None);
        news.snapshot.send_replace(Arc::new(snapshot));
        let somebody_to_try = facts.is_new && book.entries().next().is_some();
        let first_crawl = somebody_to_try.then(|| FirstCrawl::new(facts.started));
        let (stored_ahead_millis, next_rewrite) = (clock::wall_ahead_millis(), Instant::now());
        let mut core = BookTask {
            book,
            rng,
            store,
            dialer,
            facts,
            news,
            publish_at,
            stale_after,
            tasks: flights,
            task_hosts: about,
            first_crawl,
            stored_ahead_millis,
            next_rewrite,
        };
        core.execute(first);
        core
    }

    /// Runs until told to stop. What is under way then is dropped, and counts for nothing.
    pub async fn run(mut self, mut inputs: mpsc::Receiver<BookMessage>, mut stop: oneshot::Receiver<()>) {
        loop {
            let wakeup = self.wakeup();
            tokio::select! {
                _ = &mut stop => {
                    self.follow_clock();
                    return;
                }
                Some(input) = inputs.recv() => self.input(input),
                Some(landed) = self.tasks.join_next_with_id() => self.on_task_done(landed),
                () = sleep_until(wakeup) => self.handle(Event::Tick),
            }
            let stale = self.stale_after.is_some_and(|until| until < clock::now());
            if stale || self.publish_at.is_some_and(|at| at <= Instant::now()) {
                self.publish_at = None;
                let snapshot = self.book.snapshot(clock::now(), &mut self.rng);
                self.stale_after = snapshot.stale_after();
                self.news.snapshot.send_replace(Arc::new(snapshot));
            }
            self.log_crawl_progress(clock::now());
            if Instant::now() >= self.next_rewrite {
                self.follow_clock();
            }
        }
    }

    /// Rewrites the store after the wall clock was stepped.
    ///
    /// The book itself runs on the process's clock and is not affected. Its moments on disk are by the wall clock, so
    /// they would be wrong for the next process.
    fn follow_clock(&mut self) {
        let ahead = clock::wall_ahead_millis();
        if ahead == self.stored_ahead_millis {
            return;
        }
        let step = Duration::from_millis(ahead.abs_diff(self.stored_ahead_millis));
        let direction = if ahead > self.stored_ahead_millis { "ahead" } else { "back" };
        let step = humantime::format_duration(Duration::from_secs(step.as_secs()));
        tracing::info!("the wall clock was set {direction} by {step}; peers and their schedule are not affected");
        self.stored_ahead_millis = ahead;
        self.next_rewrite = Instant::now() + REWRITE_PAUSE;
        for entry in self.book.entries() {
            self.store.write(Change::Save(Box::new(entry.clone())));
        }
    }

    fn log_crawl_progress(&mut self, now: Time) {
        let Some(crawl) = self.first_crawl.as_mut().filter(|crawl| crawl.is_due(now)) else { return };
        let (line, is_over) = crawl.report(self.book.counts(now), self.book.pending_first_probes(), now);
        if let Some(line) = line {
            tracing::info!("{line}");
        }
        if is_over {
            self.first_crawl = None;
        }
    }

    fn wakeup(&self) -> Instant {
        let now = clock::now();
        let next = self.stale_after.map_or(self.book.next_wakeup(), |until| self.book.next_wakeup().min(until));
        let next = self.first_crawl.as_ref().map_or(next, |crawl| next.min(crawl.next()));
        let tick = Instant::now() + next.since(now).min(LONGEST_SLEEP);
        self.publish_at.map_or(tick, |at| at.min(tick))
    }

    fn input(&mut self, input: BookMessage) {
        match input {
            BookMessage::Event(event) => self.handle(event),
            BookMessage::AddPeer { features, from, reply } => {
                // A caller who left meanwhile has its peer verified all the same.
                let _ = reply.send(self.add_peer(&features, from));
            }
            BookMessage::Query { request: ask, reply } => {
                let _ = reply.send(self.answer(ask));
            }
        }
    }

    fn handle(&mut self, event: Event) {
        let actions = self.book.handle(event, clock::now(), &mut self.rng);
        self.execute(actions);
        self.news.health.send_if_modified(|health| {
            let new = TorHealth { state: self.book.tor().clone(), reached: self.book.tor_reached() };
            let differs = *health != new;
            *health = new;
            differs
        });
    }

    fn add_peer(&mut self, features: &Features, from: Option<IpAddr>) -> bool {
        match self.book.add_peer(features, from, clock::now(), &mut self.rng) {
            Ok(actions) => {
                self.execute(actions);
                true
            }
            Err(refusal) => {
                tracing::debug!(%refusal, "an add_peer was refused");
                false
            }
        }
    }

    fn answer(&mut self, ask: AdminRequest) -> Result<Value, String> {
        let now = clock::now();
        match ask {
            AdminRequest::Status => serde_json::to_value(self.status(now)).map_err(|error| error.to_string()),
            AdminRequest::Peers => {
                Ok(self.book.entries().map(|entry| json!(notice::peer_info(&self.book, entry, now))).collect())
            }
            AdminRequest::Add(line) => {
                let name = RealName::parse(&line, self.book.settings().network.default_ports());
                let name = name.map_err(|error| notice::no_real_name(&line, error))?;
                let added = self.book.add(name, now, &mut self.rng);
                let actions = added.map_err(|refusal| format!("{refusal}{}", notice::advice(refusal)))?;
                self.execute(actions);
                Ok(Value::Bool(true))
            }
            AdminRequest::Forget(host) => {
                let host: Host = host
                    .parse()
                    .map_err(|error| format!("{host:?} is no host: {error}; `waypost peers` shows hosts"))?;
                let actions = self
                    .book
                    .forget(&host)
                    .ok_or_else(|| format!("no peer {host} is known; `waypost peers` shows those that are"))?;
                self.execute(actions);
                Ok(Value::Bool(true))
            }
        }
    }

    fn status(&self, now: Time) -> Status {
        let StatusInputs { started, listeners, counters, store, onion, backend, ourselves, irc, .. } = &self.facts;
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            network: self.book.settings().network,
            uptime_secs: now.since(*started).as_secs(),
            tor: self.book.tor().clone(),
            tor_source: self.facts.tor.borrow().source.clone(),
            clearnet_blocked: self.book.clearnet_blocked().map(str::to_owned),
            network_down: self.book.network_is_down(),
            onion: onion.borrow().as_ref().map(notice::onion),
            onion_error: self.facts.tor.borrow().onion_error.clone(),
            clearnet: ourselves.borrow().identity.clearnet.as_ref().map(|(host, ports)| {
                notice::clearnet(host, *ports, &self.facts.clearnet.borrow(), self.book.last_reached(host))
            }),
            listeners: listeners.clone(),
            page: self.facts.page.map(|address| format!("http://{address}")),
            backend: backend.as_ref().map(|backend| notice::backend(backend, &ourselves.borrow().identity)),
            irc: irc.as_ref().map(|visits| visits.borrow().clone()),
            peers: self.book.counts(now),
            next_probe: self.book.next_wakeup().max(now),
            store: notice::store(store, &self.facts.store_path),
            clients: counters.stats(),
        }
    }

    fn execute(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Resolve(host, via) => self.resolve(host, via),
                Action::Probe(attempt) => self.probe(attempt),
                Action::Upsert(entry) => self.store.write(Change::Save(entry)),
                Action::Remove(host) => self.store.write(Change::Remove(host)),
                Action::SavePathUptime(via, total) => self.store.write(Change::Reach(via, total)),
                Action::SnapshotDirty => {
                    self.publish_at.get_or_insert_with(|| Instant::now() + GATHER);
                }
                Action::Notice(notice) => notice::log(&notice),
            }
        }
    }

    fn resolve(&mut self, host: Host, via: Route) {
        let Host::Dns(name) = host.clone() else { return };
        let (about, dialer) = (host.clone(), self.dialer.clone());
        let handle = self.tasks.spawn(async move {
            let addresses = dialer.resolve(&name, via).await;
            Event::Resolved { host, addresses }
        });
        self.task_hosts.insert(handle.id(), about);
    }

    fn probe(&mut self, attempt: ProbeTarget) {
        let dialer = self.dialer.clone();
        let network = self.book.settings().network;
        let expected = ProbeExpectations {
            host: Some(attempt.host.clone()),
            genesis_hash: network.genesis_hash(),
            default_ports: network.default_ports(),
            compare: attempt.checkpoint_height,
            announce: attempt.announce.then(|| self.announcement(&attempt.host)).flatten(),
        };
        let (about, tally) = (attempt.host.clone(), self.facts.probes.clone());
        let handle = self.tasks.spawn(async move {
            let deadlines = Deadlines::for_route(attempt.via);
            let host = attempt.host.clone();
            let outcome = probe(&dialer, &attempt, &expected, deadlines, |progress| {
                tracing::trace!(%host, ?progress, "probing");
            });
            let outcome = Box::new(outcome.await);
            tally.count(attempt.via, &outcome);
            tracing::debug!(host = %attempt.host, failure = ?outcome.as_ref().as_ref().err(), "probed");
            Event::Probed { host: attempt.host, outcome }
        });
        self.task_hosts.insert(handle.id(), about);
    }

    /// Builds the offer for `server.add_peer` to this peer.
    fn announcement(&self, host: &Host) -> Option<AddPeerOffer> {
        let ingress = if host.is_onion() { Ingress::Onion } else { Ingress::Clearnet };
        self.facts.ourselves.borrow().identity.announcement(ingress)
    }

    fn on_task_done(&mut self, landed: Result<(Id, Event), JoinError>) {
        match landed {
            Ok((id, event)) => {
                self.task_hosts.remove(&id);
                self.handle(event);
            }
            Err(error) => {
                let Some(host) = self.task_hosts.remove(&error.id()) else { return };
                tracing::error!(%host, "a probe broke down; the panic before this line says where");
                self.handle(Event::Probed { host, outcome: Box::new(Err(ProbeError::Internal)) });
            }
        }
    }
}
