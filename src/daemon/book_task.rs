//! Task that owns the book: it passes events to the book and executes the returned actions.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::clearnet_monitor::NameState;
use super::initial_crawl::InitialCrawl;
use super::{event_log, status_report};
use crate::api::{AdminRequest, IrcStatus, Status};
use crate::backend::Backend;
use crate::book::{Action, Event, Ingress, PeerBook, Snapshot};
use crate::book_handle::BookMessage;
use crate::client_counters::Counters;
use crate::clock::{self, Time};
use crate::connect::{ProbeError, ProbeTarget};
use crate::dial::Dialer;
use crate::electrum::identity::LocalIdentity;
use crate::electrum::prober::{AddPeerOffer, ProbeExpectations};
use crate::peer::{Features, Host, RealName};
use crate::probe::{Deadlines, probe};
use crate::route::Route;
use crate::status_page::ProbeMetrics;
use crate::store::{Change, StoreHandle, WriterStatus};
use crate::tor::{self, OnionServiceState, TorHealth};

/// Delay from a change to the next snapshot, which covers all changes until then. A snapshot reads every entry.
const SNAPSHOT_DELAY: Duration = Duration::from_millis(500);

/// Maximum time between two wake-ups. Timers stop during suspend, while the book's clock runs on.
const MAX_SLEEP: Duration = Duration::from_mins(1);

/// Minimum interval between two rewrites of the store after steps of the wall clock.
const REWRITE_INTERVAL: Duration = Duration::from_mins(1);

/// State of the node outside of the book, for the status.
#[derive(Debug)]
pub(super) struct StatusInputs {
    /// Start of the daemon.
    pub started: Time,
    /// Whether the store was empty at the start.
    pub is_new: bool,
    /// Addresses of the listeners.
    pub listeners: Vec<String>,
    /// Counters of sessions and requests.
    pub counters: Arc<Counters>,
    /// State of the store's writer.
    pub store: Arc<WriterStatus>,
    /// File of the store.
    pub store_path: PathBuf,
    /// Address of the status page; `None` if it is off.
    pub page: Option<SocketAddr>,
    /// Counters of probes.
    pub probes: ProbeMetrics,
    /// State of the onion service; `None` if there is none.
    pub onion: watch::Receiver<Option<OnionServiceState>>,
    /// Description of the Tor in use.
    pub tor: watch::Receiver<tor::Report>,
    /// State of the own clearnet name.
    pub clearnet: watch::Receiver<NameState>,
    /// Names of the node.
    pub local_identity: watch::Receiver<Arc<LocalIdentity>>,
    /// Backend; `None` without one.
    pub backend: Option<Arc<Backend>>,
    /// State of IRC discovery; `None` if it is off.
    pub irc: Option<watch::Receiver<IrcStatus>>,
}

/// Receivers of what the book publishes.
#[derive(Debug)]
pub(super) struct BookOutputs {
    /// Advertised peers, for sessions.
    pub snapshot: watch::Sender<Arc<Snapshot>>,
    /// Health of Tor as the book sees it, for the supervisor of Tor.
    pub health: watch::Sender<TorHealth>,
}

/// Task that owns the book.
#[derive(Debug)]
pub(super) struct BookTask {
    book: PeerBook,
    rng: StdRng,
    store: StoreHandle,
    dialer: Dialer,
    inputs: StatusInputs,
    outputs: BookOutputs,
    /// Time of the next snapshot; `None` if nothing has changed.
    publish_at: Option<Instant>,
    /// Time at which an advertised entry becomes too old; `None` if no entry is advertised.
    stale_after: Option<Time>,
    /// Name lookups and probes in flight.
    tasks: JoinSet<Event>,
    /// Host of each task.
    task_hosts: HashMap<Id, Host>,
    /// Progress of the initial crawl; `None` once it is over.
    initial_crawl: Option<InitialCrawl>,
    /// Offset of the wall clock to the book's clock when the store was last written, in milliseconds.
    stored_ahead_millis: i64,
    /// Earliest time of the next rewrite of the store.
    next_rewrite: Instant,
}

impl BookTask {
    /// Creates the task, publishes a first snapshot, and executes the actions of the start.
    pub(super) fn new(
        (book, actions): (PeerBook, Vec<Action>),
        store: StoreHandle,
        dialer: Dialer,
        inputs: StatusInputs,
        outputs: BookOutputs,
        mut rng: StdRng,
    ) -> BookTask {
        let snapshot = book.snapshot(inputs.started, &mut rng);
        let stale_after = snapshot.stale_after();
        outputs.snapshot.send_replace(Arc::new(snapshot));
        let has_initial_crawl = inputs.is_new && book.entries().next().is_some();
        let initial_crawl = has_initial_crawl.then(|| InitialCrawl::new(inputs.started));
        let mut task = BookTask {
            book,
            rng,
            store,
            dialer,
            inputs,
            outputs,
            publish_at: None,
            stale_after,
            tasks: JoinSet::new(),
            task_hosts: HashMap::new(),
            initial_crawl,
            stored_ahead_millis: clock::wall_ahead_millis(),
            next_rewrite: Instant::now(),
        };
        task.execute(actions);
        task
    }

    /// Runs until the stop. Probes in flight are dropped then, without a result.
    pub(super) async fn run(mut self, mut messages: mpsc::Receiver<BookMessage>, mut stop: oneshot::Receiver<()>) {
        loop {
            let wakeup = self.wakeup();
            tokio::select! {
                _ = &mut stop => {
                    self.follow_clock();
                    return;
                }
                Some(message) = messages.recv() => self.on_message(message),
                Some(result) = self.tasks.join_next_with_id() => self.on_task_done(result),
                () = sleep_until(wakeup) => self.handle(Event::Tick),
            }
            let stale = self.stale_after.is_some_and(|until| until < clock::now());
            if stale || self.publish_at.is_some_and(|at| at <= Instant::now()) {
                self.publish_at = None;
                let snapshot = self.book.snapshot(clock::now(), &mut self.rng);
                self.stale_after = snapshot.stale_after();
                self.outputs.snapshot.send_replace(Arc::new(snapshot));
            }
            self.log_crawl_progress(clock::now());
            if Instant::now() >= self.next_rewrite {
                self.follow_clock();
            }
        }
    }

    /// Rewrites the store after the wall clock was stepped.
    ///
    /// The book runs on the clock of the process and is not affected. Times on disk follow the wall clock, and would be
    /// wrong for the next process.
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
        self.next_rewrite = Instant::now() + REWRITE_INTERVAL;
        for entry in self.book.entries() {
            self.store.write(Change::Save(Box::new(entry.clone())));
        }
    }

    fn log_crawl_progress(&mut self, now: Time) {
        let Some(crawl) = self.initial_crawl.as_mut().filter(|crawl| crawl.is_due(now)) else { return };
        let (line, is_over) = crawl.report(self.book.counts(now), self.book.pending_first_probes(), now);
        if let Some(line) = line {
            tracing::info!("{line}");
        }
        if is_over {
            self.initial_crawl = None;
        }
    }

    fn wakeup(&self) -> Instant {
        let now = clock::now();
        let next = self.stale_after.map_or(self.book.next_wakeup(), |until| self.book.next_wakeup().min(until));
        let next = self.initial_crawl.as_ref().map_or(next, |crawl| next.min(crawl.next()));
        let tick = Instant::now() + next.since(now).min(MAX_SLEEP);
        self.publish_at.map_or(tick, |at| at.min(tick))
    }

    fn on_message(&mut self, message: BookMessage) {
        match message {
            BookMessage::Event(event) => self.handle(event),
            BookMessage::AddPeer { features, from, reply } => {
                // The peer is verified even if the client has disconnected.
                let _ = reply.send(self.add_peer(&features, from));
            }
            BookMessage::Admin(request) => self.answer(request),
        }
    }

    fn handle(&mut self, event: Event) {
        let actions = self.book.handle(event, clock::now(), &mut self.rng);
        self.execute(actions);
        self.outputs.health.send_if_modified(|health| {
            let new = TorHealth { state: self.book.tor().clone(), last_reached: self.book.tor_reached() };
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
                tracing::debug!(%refusal, "add_peer request rejected");
                false
            }
        }
    }

    /// Answers an operator's request. A receiver that is gone is no error.
    fn answer(&mut self, request: AdminRequest) {
        let now = clock::now();
        match request {
            AdminRequest::Status(reply) => drop(reply.send(self.status(now))),
            AdminRequest::Peers(reply) => {
                let peers = self.book.entries().map(|entry| status_report::peer_info(&self.book, entry, now));
                drop(reply.send(peers.collect()));
            }
            AdminRequest::Add { name, reply } => drop(reply.send(self.add(&name, now))),
            AdminRequest::Forget { host, reply } => drop(reply.send(self.forget(&host))),
        }
    }

    fn add(&mut self, name: &str, now: Time) -> Result<(), String> {
        let parsed = RealName::parse(name, self.book.config().network.default_ports());
        let parsed = parsed.map_err(|error| event_log::no_real_name(name, error))?;
        let added = self.book.add(parsed, now, &mut self.rng);
        let actions = added.map_err(|refusal| format!("{refusal}{}", event_log::advice(refusal)))?;
        self.execute(actions);
        Ok(())
    }

    fn forget(&mut self, host: &str) -> Result<(), String> {
        let host: Host =
            host.parse().map_err(|error| format!("{host:?} is no host: {error}; `waypost peers` shows hosts"))?;
        let actions = self
            .book
            .forget(&host)
            .ok_or_else(|| format!("no peer {host} is known; `waypost peers` shows those that are"))?;
        self.execute(actions);
        Ok(())
    }

    fn status(&self, now: Time) -> Status {
        let StatusInputs { started, listeners, counters, store, onion, backend, local_identity, irc, .. } =
            &self.inputs;
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            network: self.book.config().network,
            uptime_secs: now.since(*started).as_secs(),
            tor: self.book.tor().clone(),
            tor_source: self.inputs.tor.borrow().source.clone(),
            clearnet_blocked: self.book.clearnet_blocked().map(str::to_owned),
            network_down: self.book.network_is_down(),
            onion: onion.borrow().as_ref().map(status_report::onion),
            onion_error: self.inputs.tor.borrow().onion_error.clone(),
            clearnet: local_identity.borrow().identity.clearnet.as_ref().map(|(host, ports)| {
                status_report::clearnet(host, *ports, &self.inputs.clearnet.borrow(), self.book.last_reached(host))
            }),
            listeners: listeners.clone(),
            page: self.inputs.page.map(|address| format!("http://{address}")),
            backend: backend.as_ref().map(|backend| status_report::backend(backend, &local_identity.borrow().identity)),
            irc: irc.as_ref().map(|visits| visits.borrow().clone()),
            peers: self.book.counts(now),
            next_probe: self.book.next_wakeup().max(now),
            store: status_report::store(store, &self.inputs.store_path),
            clients: counters.stats(),
        }
    }

    fn execute(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Resolve(host, via) => self.resolve(host, via),
                Action::Probe(target) => self.probe(target),
                Action::Upsert(entry) => self.store.write(Change::Save(entry)),
                Action::Remove(host) => self.store.write(Change::Remove(host)),
                Action::SavePathUptime(via, total) => self.store.write(Change::Reach(via, total)),
                Action::SnapshotDirty => {
                    self.publish_at.get_or_insert_with(|| Instant::now() + SNAPSHOT_DELAY);
                }
                Action::Notice(notice) => event_log::log(&notice),
            }
        }
    }

    fn resolve(&mut self, host: Host, via: Route) {
        let Host::Dns(name) = host.clone() else { return };
        let (task_host, dialer) = (host.clone(), self.dialer.clone());
        let handle = self.tasks.spawn(async move {
            let addresses = dialer.resolve(&name, via).await;
            Event::Resolved { host, addresses }
        });
        self.task_hosts.insert(handle.id(), task_host);
    }

    fn probe(&mut self, target: ProbeTarget) {
        let dialer = self.dialer.clone();
        let network = self.book.config().network;
        let expected = ProbeExpectations {
            host: Some(target.host.clone()),
            genesis_hash: network.genesis_hash(),
            default_ports: network.default_ports(),
            checkpoint_height: target.checkpoint_height,
            announce: target.announce.then(|| self.announcement(&target.host)).flatten(),
        };
        let (task_host, metrics) = (target.host.clone(), self.inputs.probes.clone());
        let handle = self.tasks.spawn(async move {
            let deadlines = Deadlines::for_route(target.via);
            let host = target.host.clone();
            let outcome = probe(&dialer, &target, &expected, deadlines, |progress| {
                tracing::trace!(%host, ?progress, "probing");
            });
            let outcome = Box::new(outcome.await);
            metrics.count(target.via, &outcome);
            tracing::debug!(host = %target.host, failure = ?outcome.as_ref().as_ref().err(), "probed");
            Event::Probed { host: target.host, outcome }
        });
        self.task_hosts.insert(handle.id(), task_host);
    }

    /// Builds the offer for `server.add_peer` to this peer.
    fn announcement(&self, host: &Host) -> Option<AddPeerOffer> {
        let ingress = if host.is_onion() { Ingress::Onion } else { Ingress::Clearnet };
        self.inputs.local_identity.borrow().identity.announcement(ingress)
    }

    fn on_task_done(&mut self, result: Result<(Id, Event), JoinError>) {
        match result {
            Ok((id, event)) => {
                self.task_hosts.remove(&id);
                self.handle(event);
            }
            Err(error) => {
                let Some(host) = self.task_hosts.remove(&error.id()) else { return };
                tracing::error!(%host, "a probe panicked; see the panic message before this line");
                self.handle(Event::Probed { host, outcome: Box::new(Err(ProbeError::Internal)) });
            }
        }
    }
}
