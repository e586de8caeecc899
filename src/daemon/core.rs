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

use super::clearnet_name::NameState;
use super::first_crawl::FirstCrawl;
use super::notice;
use crate::backend::Backend;
use crate::book::{Action, Attempt, Book, Caller, Event, Failure, Snapshot};
use crate::clock::{self, Time};
use crate::control::Status;
use crate::conversation::client::{Announcement, Expected};
use crate::conversation::identity::Ourselves;
use crate::dial::Dialer;
use crate::inbox::{Ask, Input};
use crate::irc::Visits;
use crate::peer::{Features, Host, RealName};
use crate::probe::{Deadlines, probe};
use crate::route::Via;
use crate::serve::Counters;
use crate::status::ProbeTally;
use crate::store::{Change, Changes, WriterStatus};
use crate::tor::{self, Health, OwnName};

/// Changes in what callers are told are gathered for this long, as drawing it up anew costs a look at every peer.
const GATHER: Duration = Duration::from_millis(500);

/// Longest time that the book is not woken: timers stand still while the machine sleeps, and the book's clock does not.
const LONGEST_SLEEP: Duration = Duration::from_mins(1);

/// Shortest time between two rewrites of the store after steps of the wall clock.
const REWRITE_PAUSE: Duration = Duration::from_mins(1);

/// What is known of us beside the book's own account.
#[derive(Debug)]
pub struct Facts {
    pub started: Time,
    /// Whether the book began empty.
    pub is_new: bool,
    pub listeners: Vec<String>,
    pub counters: Arc<Counters>,
    pub store: Arc<WriterStatus>,
    pub store_path: PathBuf,
    /// Where the status page is.
    pub page: Option<SocketAddr>,
    pub probes: ProbeTally,
    /// Our onion service, if we have one.
    pub onion: watch::Receiver<Option<OwnName>>,
    /// Which Tor is in use.
    pub tor: watch::Receiver<tor::Report>,
    /// How the own clearnet name fares, if there is one.
    pub clearnet: watch::Receiver<NameState>,
    pub ourselves: watch::Receiver<Arc<Ourselves>>,
    pub backend: Option<Arc<Backend>>,
    pub irc: Option<watch::Receiver<Visits>>,
}

/// Whom the book's news goes to.
#[derive(Debug)]
pub struct News {
    pub snapshot: watch::Sender<Arc<Snapshot>>,
    /// How Tor fares by what the book saw of it, for whoever looks after Tor.
    pub health: watch::Sender<Health>,
}

#[derive(Debug)]
pub struct Core {
    book: Book,
    rng: StdRng,
    store: Changes,
    dialer: Dialer,
    facts: Facts,
    news: News,
    /// When what callers are told is drawn up anew.
    publish_at: Option<Instant>,
    /// When what callers are told is too old in part.
    stale_after: Option<Time>,
    /// Look-ups and verifications under way, and whom each is about.
    flights: JoinSet<Event>,
    about: HashMap<Id, Host>,
    /// While the log says how it goes.
    first_crawl: Option<FirstCrawl>,
    /// How far ahead the wall clock was when the store's moments were last written by it.
    stored_ahead_millis: i64,
    /// When the store may be rewritten again after a step of the wall clock.
    next_rewrite: Instant,
}

impl Core {
    /// The task, of whose picture of the book a first one is drawn at once.
    pub fn new(
        book: Book,
        first: Vec<Action>,
        store: Changes,
        dialer: Dialer,
        facts: Facts,
        news: News,
        mut rng: StdRng,
    ) -> Core {
        let snapshot = book.snapshot(facts.started, &mut rng);
        let (flights, about) = (JoinSet::new(), HashMap::new());
        let (stale_after, publish_at) = (snapshot.stale_after(), None);
        news.snapshot.send_replace(Arc::new(snapshot));
        let somebody_to_try = facts.is_new && book.entries().next().is_some();
        let first_crawl = somebody_to_try.then(|| FirstCrawl::new(facts.started));
        let (stored_ahead_millis, next_rewrite) = (clock::wall_ahead_millis(), Instant::now());
        let mut core = Core {
            book,
            rng,
            store,
            dialer,
            facts,
            news,
            publish_at,
            stale_after,
            flights,
            about,
            first_crawl,
            stored_ahead_millis,
            next_rewrite,
        };
        core.act(first);
        core
    }

    /// Runs until told to stop. What is under way then is dropped, and counts for nothing.
    pub async fn run(mut self, mut inputs: mpsc::Receiver<Input>, mut stop: oneshot::Receiver<()>) {
        loop {
            let wakeup = self.wakeup();
            tokio::select! {
                _ = &mut stop => {
                    self.follow_clock();
                    return;
                }
                Some(input) = inputs.recv() => self.input(input),
                Some(landed) = self.flights.join_next_with_id() => self.landed(landed),
                () = sleep_until(wakeup) => self.handle(Event::Tick),
            }
            let stale = self.stale_after.is_some_and(|until| until < clock::now());
            if stale || self.publish_at.is_some_and(|at| at <= Instant::now()) {
                self.publish_at = None;
                let snapshot = self.book.snapshot(clock::now(), &mut self.rng);
                self.stale_after = snapshot.stale_after();
                self.news.snapshot.send_replace(Arc::new(snapshot));
            }
            self.tell_of_crawl(clock::now());
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

    fn tell_of_crawl(&mut self, now: Time) {
        let Some(crawl) = self.first_crawl.as_mut().filter(|crawl| crawl.is_due(now)) else { return };
        let (line, is_over) = crawl.look(self.book.counts(now), self.book.untried(), now);
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

    fn input(&mut self, input: Input) {
        match input {
            Input::Event(event) => self.handle(event),
            Input::AddPeer { features, from, reply } => {
                // A caller who left meanwhile has its peer verified all the same.
                let _ = reply.send(self.add_peer(&features, from));
            }
            Input::Ask { ask, reply } => {
                let _ = reply.send(self.answer(ask));
            }
        }
    }

    fn handle(&mut self, event: Event) {
        let actions = self.book.handle(event, clock::now(), &mut self.rng);
        self.act(actions);
        self.news.health.send_if_modified(|health| {
            let new = Health { state: self.book.tor().clone(), reached: self.book.tor_reached() };
            let differs = *health != new;
            *health = new;
            differs
        });
    }

    fn add_peer(&mut self, features: &Features, from: Option<IpAddr>) -> bool {
        match self.book.add_peer(features, from, clock::now(), &mut self.rng) {
            Ok(actions) => {
                self.act(actions);
                true
            }
            Err(refusal) => {
                tracing::debug!(%refusal, "an add_peer was refused");
                false
            }
        }
    }

    fn answer(&mut self, ask: Ask) -> Result<Value, String> {
        let now = clock::now();
        match ask {
            Ask::Status => serde_json::to_value(self.status(now)).map_err(|error| error.to_string()),
            Ask::Peers => Ok(self.book.entries().map(|entry| json!(notice::row(&self.book, entry, now))).collect()),
            Ask::Add(line) => {
                let name = RealName::parse(&line, self.book.settings().network.default_ports());
                let name = name.map_err(|error| notice::no_real_name(&line, error))?;
                let added = self.book.add(name, now, &mut self.rng);
                let actions = added.map_err(|refusal| format!("{refusal}{}", notice::advice(refusal)))?;
                self.act(actions);
                Ok(Value::Bool(true))
            }
            Ask::Forget(host) => {
                let host: Host = host
                    .parse()
                    .map_err(|error| format!("{host:?} is no host: {error}; `waypost peers` shows hosts"))?;
                let actions = self
                    .book
                    .forget(&host)
                    .ok_or_else(|| format!("no peer {host} is known; `waypost peers` shows those that are"))?;
                self.act(actions);
                Ok(Value::Bool(true))
            }
        }
    }

    fn status(&self, now: Time) -> Status {
        let Facts { started, listeners, counters, store, onion, backend, ourselves, irc, .. } = &self.facts;
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
                notice::clearnet(host, *ports, &self.facts.clearnet.borrow(), self.book.reached(host))
            }),
            listeners: listeners.clone(),
            page: self.facts.page.map(|address| format!("http://{address}")),
            backend: backend.as_ref().map(|backend| notice::backend(backend, &ourselves.borrow().identity)),
            irc: irc.as_ref().map(|visits| visits.borrow().clone()),
            peers: self.book.counts(now),
            next_probe: self.book.next_wakeup().max(now),
            store: notice::store(store, &self.facts.store_path),
            callers: notice::callers(counters),
        }
    }

    fn act(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Resolve(host, via) => self.resolve(host, via),
                Action::Probe(attempt) => self.probe(attempt),
                Action::Save(entry) => self.store.write(Change::Save(entry)),
                Action::Remove(host) => self.store.write(Change::Remove(host)),
                Action::SaveReach(via, total) => self.store.write(Change::Reach(via, total)),
                Action::Publish => {
                    self.publish_at.get_or_insert_with(|| Instant::now() + GATHER);
                }
                Action::Notice(notice) => notice::log(&notice),
            }
        }
    }

    fn resolve(&mut self, host: Host, via: Via) {
        let Host::Dns(name) = host.clone() else { return };
        let (about, dialer) = (host.clone(), self.dialer.clone());
        let handle = self.flights.spawn(async move {
            let addresses = dialer.resolve(&name, via).await;
            Event::Resolved { host, addresses }
        });
        self.about.insert(handle.id(), about);
    }

    fn probe(&mut self, attempt: Attempt) {
        let dialer = self.dialer.clone();
        let network = self.book.settings().network;
        let expected = Expected {
            host: Some(attempt.host.clone()),
            genesis_hash: network.genesis_hash(),
            default_ports: network.default_ports(),
            compare: attempt.compare,
            announce: attempt.announce.then(|| self.announcement(&attempt.host)).flatten(),
        };
        let (about, tally) = (attempt.host.clone(), self.facts.probes.clone());
        let handle = self.flights.spawn(async move {
            let deadlines = Deadlines::of(attempt.via);
            let host = attempt.host.clone();
            let outcome = probe(&dialer, &attempt, &expected, deadlines, |progress| {
                tracing::trace!(%host, ?progress, "probing");
            });
            let outcome = Box::new(outcome.await);
            tally.count(attempt.via, &outcome);
            tracing::debug!(host = %attempt.host, failure = ?outcome.as_ref().as_ref().err(), "probed");
            Event::Probed { host: attempt.host, outcome }
        });
        self.about.insert(handle.id(), about);
    }

    /// What this peer is told of us.
    fn announcement(&self, host: &Host) -> Option<Announcement> {
        let caller = if host.is_onion() { Caller::Onion } else { Caller::Clearnet };
        self.facts.ourselves.borrow().identity.announcement(caller)
    }

    fn landed(&mut self, landed: Result<(Id, Event), JoinError>) {
        match landed {
            Ok((id, event)) => {
                self.about.remove(&id);
                self.handle(event);
            }
            Err(error) => {
                let Some(host) = self.about.remove(&error.id()) else { return };
                tracing::error!(%host, "a probe broke down; the panic before this line says where");
                self.handle(Event::Probed { host, outcome: Box::new(Err(Failure::Internal)) });
            }
        }
    }
}
