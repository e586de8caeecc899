//! The daemon: everything wired up, watched over and taken down again.

mod bind;
mod book_task;
mod clearnet_monitor;
mod error;
mod event_log;
mod file_watcher;
mod initial_crawl;
mod listeners;
mod own_address_check;
mod platform;
mod port_holder;
mod reload;
mod service_manager;
mod shared_data;
mod status_report;
mod task_set;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use self::book_task::{BookOutputs, BookTask, StatusInputs};
use self::clearnet_monitor::{ClearnetMonitor, NameState};
pub use self::error::DaemonError;
use self::file_watcher::{BanFile, FileWatcher};
use self::listeners::Listeners;
pub use self::reload::ReloadHooks;
use self::reload::Reloader;
pub use self::shared_data::{Moved, move_shared_data};
use self::task_set::TaskSet;
use crate::backend::{Backend, BackendError, BackendTarget, PeerPool, Server, UpstreamAddr};
use crate::ban_list::Bans;
use crate::book::{self, Event, Ingress, PeerBook, Snapshot};
use crate::book_handle::{self, Inbox};
use crate::clock;
use crate::config::{Config, reaches};
use crate::connect::ProbeError;
use crate::dial::{Dialer, Direct, Tls};
use crate::electrum::identity::LocalIdentity;
use crate::peer::{Fault, Host};
use crate::route::{PerRoute, RoutingPolicy};
use crate::server::{
    Acceptor, ClientSource, ConnectionKind, Counters, IncomingConnection, Limits, LongLinePool, SessionContext,
};
use crate::status_page::ProbeMetrics;
use crate::store::{LoadedState, Store, StoreHandle, Writer};
use crate::tor::{self, Mode, OnionServiceState, TorChannels, TorHealth};
use crate::{control, dial, irc_discovery, status_page};

/// What is left to be written must be on disk within this when we are told to stop.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(9);

/// The server behind us is waited for at the start no longer than this.
const BACKEND_START_TIMEOUT: Duration = Duration::from_secs(5);

/// Callers of our onion service that may wait to be talked to.
const ONION_CALLERS: usize = 64;

/// Runs until it is told to stop, or something that must never end does.
pub async fn run(config: Config, again: ReloadHooks) -> Result<(), DaemonError> {
    let start = |error: &dyn std::fmt::Display| DaemonError::Start(error.to_string());
    let mut rng = platform::root_rng();
    platform::check_clock(clock::now())?;
    move_shared_data(&config)?.log(&config);
    platform::data_directory(&config.data_dir)?;
    let (store, kept) = Store::open(&config.store_path(), config.book.network, clock::now())?;
    let ban_file = BanFile::new(config.ban_path(), config.ban_file.is_some());
    let bans = watch::Sender::new(Arc::new(ban_file.read()?));
    let listeners = Listeners::open(&config)?;
    let page = platform::listen("status.listen", config.page.address().as_slice())?.pop();
    let (certificate, acceptor) = if listeners.has_tls() {
        let credentials = watch::Sender::new(config.listen.certificate.load()?);
        let acceptor = Acceptor::new(credentials.subscribe()).map_err(|error| start(&error))?;
        (Some((config.listen.certificate.clone(), credentials)), Some(acceptor))
    } else {
        (None, None)
    };
    let control_path = config.control_path();
    let control =
        control::bind(&control_path).map_err(|error| DaemonError::Control { path: control_path.clone(), error })?;
    let stop = platform::stop_signals().map_err(|error| start(&error))?;
    let hangups = platform::sighup_stream().map_err(|error| start(&error))?;
    let (mut writer, changes) = Writer::spawn(store).map_err(|error| start(&error))?;
    let (inbox, inputs) = mpsc::channel(book_handle::CAPACITY);
    if !config.ignored_variables.is_empty() {
        tracing::info!(variables = ?config.ignored_variables, "ignored the environment variables of Kubernetes services");
    }
    tracing::info!(
        network = %config.book.network, peers = kept.entries.len(), listening = ?listeners.names(),
        "waypost {} is up", env!("CARGO_PKG_VERSION")
    );
    let tor = TorWiring::new(&config);
    let dialer = Dialer {
        tls: Tls::new().map_err(|error| start(&error))?,
        direct: (config.book.routing == RoutingPolicy::Split).then_some(Direct),
        tor: tor.way.subscribe(),
        circle: dial::Isolation::Peers,
    };
    let picture = watch::Sender::default();
    let mut own_addresses = listeners.addresses();
    own_addresses.extend(page.as_ref().and_then(|page| page.local_addr().ok()));
    let backend = backend(&config, &dialer, &own_addresses, picture.subscribe(), &inbox).await?;
    let counters = Arc::new(Counters::default());
    let visits = config.irc.as_ref().map(|irc| {
        watch::Sender::new(irc_discovery::IrcStatus {
            server: irc.server.to_string(),
            ..irc_discovery::IrcStatus::default()
        })
    });
    let (probes, clearnet) = (ProbeMetrics::default(), watch::Sender::new(NameState::default()));
    let facts = StatusInputs {
        started: clock::now(),
        is_new: kept.entries.is_empty(),
        listeners: listeners.names(),
        counters: Arc::clone(&counters),
        store: writer.status(),
        store_path: config.store_path(),
        page: page.as_ref().and_then(|page| page.local_addr().ok()),
        probes: probes.clone(),
        onion: tor.name.subscribe(),
        tor: tor.report.subscribe(),
        clearnet: clearnet.subscribe(),
        ourselves: tor.ourselves.subscribe(),
        backend: backend.clone(),
        irc: visits.as_ref().map(watch::Sender::subscribe),
    };
    let (health, tor_health) = watch::channel(TorHealth::default());
    let banned = Arc::clone(&bans.borrow());
    let (snapshot, seen) = (picture.subscribe(), picture.subscribe());
    let news = BookOutputs { snapshot: picture, health };
    let core = build_book_task(&config, kept, banned, changes, dialer.clone(), facts, news, &mut rng);
    let limits = watch::Sender::new(limits(&config));
    let shared = SessionContext {
        ourselves: tor.ourselves.subscribe(),
        snapshot,
        bans: bans.subscribe(),
        inbox: inbox.clone(),
        limits: limits.subscribe(),
        tls: acceptor,
        backend: backend.clone(),
        long_lines: LongLinePool::new(if backend.is_some() { config.backend.line_bytes } else { 0 }),
        counters,
    };

    let mut tasks = TaskSet::default();
    let (stop_core, core_stops) = oneshot::channel();
    let mut core = tokio::spawn(core.run(inputs, core_stops));
    let own_service = config.tor.settings.service.is_some();
    let door = listeners.serve(&mut tasks, shared, own_service, &config.backend, &mut rng);
    let files = FileWatcher::new(ban_file, bans, certificate, inbox.clone());
    let reloader = Reloader { running: config.clone(), hooks: again, limits, files, inbox: inbox.clone() };
    tasks.spawn("the file watcher", async move { reloader.run(hangups).await });
    if config.identity.clearnet.is_some() {
        let name = ClearnetMonitor {
            network: config.book.network,
            dialer: dialer.clone(),
            local_identity: tor.ourselves.subscribe(),
            address: config.identity.address,
            allows_private: config.book.allow_private,
            health: tor_health.clone(),
            state: clearnet,
            inbox: inbox.clone(),
        };
        let watching = name.run(StdRng::seed_from_u64(rng.next_u64()));
        tasks.spawn("the clearnet monitor", watching);
    }
    if let (Some(settings), Some(visits)) = (config.irc.clone(), visits) {
        let visitor =
            irc_discovery::IrcTask { settings, dialer: dialer.clone(), inbox: inbox.clone(), snapshot: seen, visits };
        let visiting = visitor.run(StdRng::seed_from_u64(rng.next_u64()));
        tasks.spawn("the IRC task", visiting);
    }
    if let Some(backend) = backend {
        let (ourselves, inbox) = (tor.ourselves.clone(), inbox.clone());
        tasks.spawn("the backend monitor", async move { backend.monitor(&ourselves, inbox).await });
    }
    if let Some(page) = page {
        let showing = status_page::serve(page, config.status.clone(), probes, inbox.clone());
        tasks.spawn("the status page", showing);
    }
    let operators = inbox.clone();
    tasks.spawn("the control socket", async move { control::serve(control, operators).await });
    tor.serve(&mut tasks, &config, dialer, tor_health, (door, inbox.clone()), &mut rng);
    let asked = inbox.clone();
    tasks.spawn("the watchdog", async move { service_manager::run_watchdog(asked).await });
    service_manager::ready();
    let ended = tokio::select! {
        name = stop => {
            tracing::info!(signal = name, "stopping");
            None
        }
        name = tasks.ended() => Some(name),
        _ = &mut core => Some("the book's task"),
        () = writer.exited() => Some("the store's writer"),
    };
    service_manager::stopping();
    tasks.shutdown().await;
    // Before the store is released: a process that waits for it binds its own socket.
    let _ = std::fs::remove_file(&control_path);
    let drained = drain(core, stop_core, writer).await;
    match ended {
        Some(name) => Err(DaemonError::Ended(name)),
        None => drained,
    }
}

/// Ends the book's task, and waits until the writer has flushed what is left.
async fn drain(book: JoinHandle<()>, stop: oneshot::Sender<()>, writer: Writer) -> Result<(), DaemonError> {
    let _ = stop.send(());
    // The end of the book's task drops the handle of the store, which ends the writer.
    let flushed = timeout(SHUTDOWN_TIMEOUT, async {
        if !book.is_finished() {
            let _ = book.await;
        }
        let _ = tokio::task::spawn_blocking(move || writer.join()).await;
    });
    flushed.await.map_err(|_| DaemonError::Unwritten)
}

/// Why seeds of this configuration can't be taken in, and what to do.
///
/// Reads the ban file. One that this user may not read, as it is the daemon's, is a warning as well.
pub fn seed_warnings(config: &Config) -> Vec<String> {
    let (bans, unread) = match BanFile::new(config.ban_path(), config.ban_file.is_some()).read() {
        Ok(bans) => (bans, None),
        Err(error) => (Bans::default(), Some(error.to_string())),
    };
    let settings = book::BookConfig { bans: Arc::new(bans), ..config.book.clone() };
    let book = PeerBook::new(settings, Vec::new(), PerRoute::default(), clock::now());
    let refused = book.refused_seeds();
    unread.into_iter().chain(refused.iter().map(|seed| event_log::refused_seed(&seed.name, seed.reason))).collect()
}

/// What callers may use, as far as there are descriptors for it.
fn limits(config: &Config) -> Arc<Limits> {
    Arc::new(Limits { sessions: platform::raise_fd_limit(config.limits.sessions), ..config.limits.clone() })
}

/// The server that we stand in front of. One that can't be reached now may be later; one of another network is a mistake.
async fn backend(
    config: &Config,
    dialer: &Dialer,
    own_addresses: &[SocketAddr],
    snapshot: watch::Receiver<Arc<Snapshot>>,
    inbox: &Inbox,
) -> Result<Option<Arc<Backend>>, DaemonError> {
    let address = match config.backend.electrum.clone() {
        None => return Ok(None),
        Some(BackendTarget::Peers) => {
            let peers = PeerPool::new(dialer.clone(), snapshot, inbox.clone());
            return Ok(Some(Arc::new(Backend::Peers(peers))));
        }
        Some(BackendTarget::Server(address)) => address,
    };
    check_not_self(&address, own_addresses, dialer).await?;
    let (network, tls) = (config.book.network, dialer.tls.clone());
    let server = Server::new(address, network, tls, config.backend_key_path());
    match timeout(BACKEND_START_TIMEOUT, server.query_info(None)).await {
        Ok(Err(BackendError::Failed(ProbeError::ProtocolViolation(Fault::WrongGenesis)))) => {
            Err(DaemonError::OtherNetwork(server.address.to_string(), network))
        }
        _ => Ok(Some(Arc::new(Backend::Server(server)))),
    }
}

/// Rejects a backend whose name leads to a listener, systemd's included.
async fn check_not_self(address: &UpstreamAddr, listeners: &[SocketAddr], dialer: &Dialer) -> Result<(), DaemonError> {
    let (UpstreamAddr::Tcp(endpoint) | UpstreamAddr::Tls(endpoint)) = address else { return Ok(()) };
    let addresses = match (&endpoint.host, dialer.direct) {
        (Host::Ip(ip), _) => vec![*ip],
        // A name that isn't found now is looked up again for each connection.
        (Host::Dns(name), Some(direct)) => {
            timeout(BACKEND_START_TIMEOUT, direct.resolve(name)).await.ok().and_then(Result::ok).unwrap_or_default()
        }
        _ => return Ok(()),
    };
    let reached = |listener: &&SocketAddr| addresses.iter().any(|ip| reaches(*ip, endpoint.port.get(), **listener));
    match listeners.iter().find(reached) {
        Some(listener) => Err(DaemonError::BackendIsSelf { backend: address.to_string(), listener: *listener }),
        None => Ok(()),
    }
}

/// Our ends of what Tor is connected to.
struct TorWiring {
    way: watch::Sender<Option<dial::TorConnector>>,
    name: watch::Sender<Option<OnionServiceState>>,
    report: watch::Sender<tor::Report>,
    ourselves: watch::Sender<Arc<LocalIdentity>>,
}

impl TorWiring {
    fn new(config: &Config) -> TorWiring {
        let name = config.tor.onion_host.clone().map(|(host, port)| OnionServiceState::new(host, port));
        TorWiring {
            way: watch::Sender::new(None),
            name: watch::Sender::new(name),
            report: watch::Sender::default(),
            ourselves: watch::Sender::new(Arc::new(LocalIdentity::new(config.identity.clone()))),
        }
    }

    fn serve(
        self,
        tasks: &mut TaskSet,
        config: &Config,
        dialer: Dialer,
        health: watch::Receiver<TorHealth>,
        (door, inbox): (mpsc::Sender<IncomingConnection>, Inbox),
        rng: &mut StdRng,
    ) {
        if config.tor.settings.mode == Mode::Off {
            return;
        }
        let (callers, mut onion_callers) = mpsc::channel(ONION_CALLERS);
        let watch = tor::OnionMonitor {
            network: config.book.network,
            dialer,
            name: self.name.clone(),
            ourselves: self.ourselves,
            health: health.clone(),
            inbox: inbox.clone(),
        };
        let watching = watch.run(StdRng::seed_from_u64(rng.next_u64()));
        tasks.spawn("the onion monitor", watching);
        let outlets = TorChannels { connector: self.way, inbox, health, name: self.name, report: self.report, callers };
        let (settings, secret) = (config.tor.settings.clone(), rng.random());
        tasks.spawn("the Tor supervisor", async move { tor::run(settings, secret, outlets).await });
        tasks.spawn("the onion service", async move {
            while let Some((stream, circuit)) = onion_callers.recv().await {
                let source = ClientSource::Circuit(circuit);
                let kind = ConnectionKind { backend_access: true, ..ConnectionKind::default() };
                let arrival = IncomingConnection { stream, from: None, source, ingress: Ingress::Onion, kind };
                if door.send(arrival).await.is_err() {
                    break;
                }
            }
        });
    }
}

/// The book's task, ready to run, with the first picture of what it knows.
#[expect(clippy::too_many_arguments, reason = "called once, from the wiring")]
fn build_book_task(
    config: &Config,
    kept: LoadedState,
    bans: Arc<Bans>,
    changes: StoreHandle,
    dialer: Dialer,
    facts: StatusInputs,
    news: BookOutputs,
    rng: &mut StdRng,
) -> BookTask {
    let now = facts.started;
    if let Some((aside, reason)) = &kept.quarantined {
        tracing::warn!(kept_as = %aside.display(), reason, "the store was damaged; it was moved aside and a new one begun");
    }
    if kept.unreadable > 0 {
        tracing::warn!(records = kept.unreadable, "the store has records that can't be read; they are left alone");
    }
    let mut book =
        PeerBook::new(config.book.clone(), kept.entries, PerRoute { direct: kept.direct, tor: kept.tor }, now);
    let mut first = book.handle(Event::BansReplaced(bans), now, rng);
    first.extend(book.add_seeds(now, rng));
    BookTask::new(book, first, changes, dialer, facts, news, StdRng::seed_from_u64(rng.next_u64()))
}
