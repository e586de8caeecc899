//! Task that owns the book: it passes events to the book and executes the returned actions.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::clearnet_monitor::NameState;
use super::event_log;
use super::initial_crawl::InitialCrawl;
use super::loaded_books::LoadedBooks;
use super::peer_decline::PeerDecline;
use super::side_book::{SideBook, SnapshotSenders};
use crate::api::{BanListStatus, IrcStatus};
use crate::backend::Backend;
use crate::book::{Action, Event, PeerBook, PerIngress, Side};
use crate::book_handle::BookMessage;
use crate::client_counters::Counters;
use crate::clock::{self, Time};
use crate::connect::{ProbeError, ProbeTarget};
use crate::dial::Dialer;
use crate::electrum::identity::LocalIdentity;
use crate::electrum::prober::{AddPeerOffer, ChainProof, FeaturesStep, ProbeExpectations, RequestOrder};
use crate::header_chain::HeaderChain;
use crate::peer::{Features, Host, Ports};
use crate::probe::{Deadlines, probe};
use crate::route::Route;
use crate::status_page::ProbeMetrics;
use crate::store::{Change, StoreHandle, WriterStatus};
use crate::tor::{self, OnionServiceState, TorHealth};
use crate::tor_state::TorState;
use crate::trends::Trends;

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
    /// Clearnet names with their ports and states, `identity.host` first. Empty without one.
    pub own_names: Vec<((Host, Ports), watch::Receiver<NameState>)>,
    /// Names of the node.
    pub local_identity: watch::Receiver<Arc<LocalIdentity>>,
    /// Backend of each ingress; `None` without one.
    pub backend: PerIngress<Option<Arc<Backend>>>,
    /// State of IRC discovery; `None` if it is off.
    pub irc: Option<watch::Receiver<IrcStatus>>,
    /// State of the ban lists.
    pub ban_lists: watch::Receiver<Vec<BanListStatus>>,
}

/// Receivers of what the books publish.
#[derive(Debug)]
pub(super) struct BookOutputs {
    /// Advertised peers, for sessions.
    pub snapshot: SnapshotSenders,
    /// Health of Tor as the books see it, for the supervisor of Tor.
    pub health: watch::Sender<TorHealth>,
    /// Known chain with the most work, for the check of the backend; `None` if work is not followed.
    pub chain: watch::Sender<Option<Arc<HeaderChain>>>,
}

/// Task that owns the books: one for both ingresses, or one for each.
#[derive(Debug)]
pub(super) struct BookTask {
    /// Book for both ingresses, or for clearnet alone.
    pub(super) main: SideBook,
    /// Book of the onion side; `None` if `main` serves both ingresses.
    pub(super) onion: Option<SideBook>,
    store: StoreHandle,
    pub(super) inputs: StatusInputs,
    /// Samples of the last thirty days.
    pub(super) trends: Trends,
    outputs: BookOutputs,
    /// Name lookups and probes in flight, with the side that started them.
    tasks: JoinSet<(Side, Event)>,
    /// Side and host of each task.
    task_hosts: HashMap<Id, (Side, Host)>,
    /// Progress of the initial crawl; `None` once it is over.
    initial_crawl: Option<InitialCrawl>,
    decline: PeerDecline,
    /// Offset of the wall clock to the book's clock when the store was last written, in milliseconds.
    stored_ahead_millis: i64,
    /// Earliest time of the next rewrite of the store.
    next_rewrite: Instant,
}

impl BookTask {
    /// Creates the task, publishes a first snapshot, and executes the actions of the start.
    pub(super) fn new(
        books: LoadedBooks,
        store: StoreHandle,
        dialer: &Dialer,
        inputs: StatusInputs,
        outputs: BookOutputs,
        rng: &mut StdRng,
    ) -> BookTask {
        let now = inputs.started;
        let has_initial_crawl = inputs.is_new && books.main.entries().next().is_some();
        let mut side = |book| SideBook::new(book, dialer, now, StdRng::seed_from_u64(rng.next_u64()));
        let mut task = BookTask {
            main: side(books.main),
            onion: books.onion.map(side),
            store,
            inputs,
            trends: books.trends,
            outputs,
            tasks: JoinSet::new(),
            task_hosts: HashMap::new(),
            initial_crawl: has_initial_crawl.then(|| InitialCrawl::new(now)),
            decline: PeerDecline::new(now),
            stored_ahead_millis: clock::wall_ahead_millis(),
            next_rewrite: Instant::now(),
        };
        for side in [Some(&mut task.main), task.onion.as_mut()].into_iter().flatten() {
            side.publish(&task.outputs.snapshot, now);
        }
        task.publish_chain();
        for change in books.moves {
            task.store.write(change);
        }
        for (side, actions) in books.actions {
            task.execute(side, actions);
        }
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
                () = sleep_until(wakeup) => self.broadcast(&Event::Tick),
            }
            let now = clock::now();
            for side in [Some(&mut self.main), self.onion.as_mut()].into_iter().flatten() {
                side.publish_due(&self.outputs.snapshot, now);
            }
            self.log_crawl_progress(now);
            self.log_decline(now);
            self.sample_trends(now);
            if Instant::now() >= self.next_rewrite {
                self.follow_clock();
            }
        }
    }

    /// Returns the side of that name, or the single book.
    fn side(&mut self, side: Side) -> &mut SideBook {
        match &mut self.onion {
            Some(onion) if side == Side::Onion => onion,
            _ => &mut self.main,
        }
    }

    pub(super) fn sides(&self) -> impl Iterator<Item = &SideBook> {
        std::iter::once(&self.main).chain(&self.onion)
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
        for side in self.sides() {
            for entry in side.book.entries() {
                self.store.write(Change::Save(side.side(), Box::new(entry.clone())));
            }
        }
        self.store.write(Change::SaveTrends(Box::new(self.trends.clone())));
    }

    /// Records a sample of the node's state if one is due.
    fn sample_trends(&mut self, now: Time) {
        if self.trends.is_due(now) {
            self.trends.record(self.trend_sample(now));
            self.store.write(Change::SaveTrends(Box::new(self.trends.clone())));
        }
    }

    /// Warns if many peers were lost. An outage of Tor or of the network has a line of its own.
    fn log_decline(&mut self, now: Time) {
        let book = &self.main.book;
        let is_outage = book.network_is_down() || matches!(book.tor(), TorState::Down { .. });
        if self.decline.is_due(now)
            && !is_outage
            && let Some(warning) = self.decline.sample(book.counts(now).verified, now)
        {
            tracing::warn!("{warning}");
        }
    }

    fn log_crawl_progress(&mut self, now: Time) {
        let Some(crawl) = self.initial_crawl.as_mut().filter(|crawl| crawl.is_due(now)) else { return };
        let (line, is_over) = crawl.report(self.main.book.counts(now), self.main.book.pending_first_probes(), now);
        if let Some(line) = line {
            tracing::info!("{line}");
        }
        if is_over {
            self.initial_crawl = None;
        }
    }

    fn wakeup(&self) -> Instant {
        let now = clock::now();
        let crawl = self.initial_crawl.as_ref().map(InitialCrawl::next);
        let next = self.sides().map(SideBook::next_wakeup).chain(crawl).min();
        Instant::now() + next.map_or(MAX_SLEEP, |next| next.since(now)).min(MAX_SLEEP)
    }

    fn on_message(&mut self, message: BookMessage) {
        match message {
            BookMessage::Event(event) => match event.side() {
                Some(side) => self.handle(side, event),
                None => self.broadcast(&event),
            },
            BookMessage::SideEvent(side, event) => self.handle(side, event),
            BookMessage::AddPeer { ingress, features, from, reply } => {
                // The peer is verified even if the client has disconnected.
                let _ = reply.send(self.add_peer(Side::of(ingress), &features, from));
            }
            BookMessage::Admin(request) => self.answer(request),
        }
    }

    /// Passes an event to each book.
    fn broadcast(&mut self, event: &Event) {
        self.handle(Side::Clearnet, event.clone());
        if self.onion.is_some() {
            self.handle(Side::Onion, event.clone());
        }
    }

    fn handle(&mut self, side: Side, event: Event) {
        let actions = self.side(side).handle(event);
        self.execute(side, actions);
        self.publish_chain();
        self.outputs.health.send_if_modified(|health| {
            let books = || std::iter::once(&self.main).chain(&self.onion).map(|side| &side.book);
            // One side may lack peers that answer.
            let ready = books().map(PeerBook::tor).find(|tor| tor.is_ready());
            let state = ready.unwrap_or_else(|| self.main.book.tor()).clone();
            let new = TorHealth { state, last_reached: books().filter_map(PeerBook::tor_reached).max() };
            let differs = *health != new;
            *health = new;
            differs
        });
    }

    /// Publishes the chain of the clearnet side, to which the backend belongs.
    fn publish_chain(&self) {
        let chain = self.main.book.header_chain();
        self.outputs.chain.send_if_modified(|known| {
            let is_same = match (&known, chain) {
                (Some(known), Some(chain)) => Arc::ptr_eq(known, chain),
                (known, chain) => known.is_none() && chain.is_none(),
            };
            if !is_same {
                *known = chain.cloned();
            }
            !is_same
        });
    }

    fn add_peer(&mut self, side: Side, features: &Features, from: Option<IpAddr>) -> bool {
        let SideBook { book, rng, .. } = self.side(side);
        match book.add_peer(features, from, clock::now(), rng) {
            Ok(actions) => {
                self.execute(side, actions);
                true
            }
            Err(refusal) => {
                tracing::debug!(%refusal, "add_peer request rejected");
                false
            }
        }
    }

    pub(super) fn execute(&mut self, side: Side, actions: Vec<Action>) {
        // A single book stores the peers of both sides in one table.
        let side = self.side(side).side();
        for action in actions {
            match action {
                Action::Resolve(host, via) => self.resolve(side, host, via),
                Action::Probe(target) => self.probe(side, target),
                Action::Upsert(entry) => self.store.write(Change::Save(side, entry)),
                Action::Remove(host) => self.store.write(Change::Remove(side, host)),
                Action::SaveChain(chain) => self.store.write(Change::SaveChain(side, chain)),
                Action::SavePathUptime(via, total) => self.store.write(Change::Reach(side, via, total)),
                Action::SnapshotDirty => self.side(side).on_change(clock::now()),
                Action::Notice(notice) => event_log::log(&notice, side),
            }
        }
    }

    fn resolve(&mut self, side: Side, host: Host, via: Route) {
        let Host::Dns(name) = host.clone() else { return };
        let (task_host, dialer) = (host.clone(), self.side(side).dialer.clone());
        let handle = self.tasks.spawn(async move {
            let addresses = dialer.resolve(&name, via).await;
            (side, Event::Resolved { host, addresses })
        });
        self.task_hosts.insert(handle.id(), (side, task_host));
    }

    fn probe(&mut self, side: Side, target: ProbeTarget) {
        let dialer = self.side(side).dialer.clone();
        let chain = self.main.book.config().chain.clone();
        let expected = ProbeExpectations {
            host: target.must_list_host.then(|| target.host.clone()),
            chain,
            proof: ChainProof::Required,
            checkpoint_height: target.checkpoint_height,
            reference: target.reference.clone(),
            features: FeaturesStep::within(target.limits),
            order: RequestOrder::within(target.limits),
            announce: target.announce.as_ref().and_then(|own| self.announcement(own)),
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
            (side, Event::Probed { host: target.host, outcome })
        });
        self.task_hosts.insert(handle.id(), (side, task_host));
    }

    /// Builds the offer of an own name for `server.add_peer`.
    fn announcement(&self, own: &Host) -> Option<AddPeerOffer> {
        self.inputs.local_identity.borrow().identity.announcement(own)
    }

    fn on_task_done(&mut self, result: Result<(Id, (Side, Event)), JoinError>) {
        match result {
            Ok((id, (side, event))) => {
                self.task_hosts.remove(&id);
                self.handle(side, event);
            }
            Err(error) => {
                let Some((side, host)) = self.task_hosts.remove(&error.id()) else { return };
                tracing::error!(%host, "a probe panicked; see the panic message before this line");
                self.handle(side, Event::Probed { host, outcome: Box::new(Err(ProbeError::Internal)) });
            }
        }
    }
}
