//! The node: its parts as opened at the start, and its tasks once they run.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::ban_lists::BanLists;
use super::book_task::{BookOutputs, BookTask, StatusInputs};
use super::clearnet_monitor::{ClearnetMonitor, ISOLATION_GROUPS, NameState};
use super::file_watcher::{FileWatcher, PublishedBans};
use super::listeners::Listeners;
use super::loaded_books::{LoadedBooks, Separation};
use super::name_check::NameCheck;
use super::reload::{ReloadHooks, Reloader, ServerReload};
use super::side_book::SnapshotSenders;
use super::task_set::TaskSet;
use super::tor_wiring::{TorPeers, TorWiring};
use super::{DaemonError, as_map_file, backend_check, limits, move_shared_data, platform, service_manager};
use crate::api::IrcStatus;
use crate::backend::Backend;
use crate::book::{Ingress, PerIngress, Side};
use crate::book_handle::{self, BookMessage, Inbox};
use crate::client_counters::Counters;
use crate::config::{Config, PageAddresses};
use crate::dial::{Dialer, Direct, Isolation, LocalAddresses, NameAddresses, Tls};
use crate::header_chain::HeaderChain;
use crate::irc_discovery::{IrcConfig, IrcTask};
use crate::jsonrpc::MAX_REQUEST_BYTES;
use crate::peer::{Host, Ports};
use crate::route::RoutingPolicy;
use crate::server::{Acceptor, CertificateSource, Credentials, MemoryPool, SessionContext};
use crate::status_page::{ProbeMetrics, PublicPage};
use crate::store::{LoadedState, Quarantine, Store, StoreHandle, Writer};
use crate::tor::TorHealth;
use crate::{clock, control, status_page};

/// Maximum time for the store's last writes after a stop signal.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(9);

type StopSignal = Pin<Box<dyn Future<Output = &'static str> + Send>>;

/// Parts of a node that is ready to run.
pub(super) struct Node {
    config: Config,
    hooks: ReloadHooks,
    rng: StdRng,
    separation: Separation,
    sockets: Sockets,
    storage: Storage,
    tor: TorWiring,
    dialer: Dialer,
    announce_from: watch::Sender<NameAddresses>,
    backend: PerIngress<Option<Arc<Backend>>>,
    own_addresses: Vec<SocketAddr>,
    snapshot: SnapshotSenders,
    chain: watch::Sender<Option<Arc<HeaderChain>>>,
    inbox: Inbox,
    messages: mpsc::Receiver<BookMessage>,
}

/// Sockets and signals of the process.
struct Sockets {
    listeners: Listeners,
    page: Option<TcpListener>,
    public_pages: Vec<(Ingress, TcpListener)>,
    control: UnixListener,
    control_path: PathBuf,
    tls: Option<TlsFiles>,
    onion_tls: Option<Acceptor>,
    stop: StopSignal,
    sighup: Signal,
}

/// Certificate of the TLS listeners.
struct TlsFiles {
    source: CertificateSource,
    credentials: watch::Sender<Credentials>,
    acceptor: Acceptor,
}

/// Files that hold the state of the node.
struct Storage {
    loaded: LoadedState,
    writer: Writer,
    handle: StoreHandle,
    bans: PublishedBans,
}

/// Tasks of a running node.
pub(super) struct RunningNode {
    tasks: TaskSet,
    book: JoinHandle<()>,
    stop_book: oneshot::Sender<()>,
    writer: Writer,
    stop: StopSignal,
    control_path: PathBuf,
}

impl Node {
    /// Opens all files and sockets, and checks the backend.
    pub(super) async fn build(mut config: Config, hooks: ReloadHooks) -> Result<Node, DaemonError> {
        let mut rng = platform::root_rng();
        platform::check_clock(clock::now())?;
        config.check_bind()?;
        move_shared_data(&config)?.log(&config);
        platform::data_directory(&config.data_dir)?;
        let (store, loaded) = Store::open(&config.store_path(), &config.book.chain, clock::now())?;
        let lists = BanLists::read(config.ban_files())?;
        config.book.as_map = as_map_file::read(config.as_map_file.as_deref())?;
        let sockets = Sockets::open(&config)?;
        let (writer, handle) = Writer::spawn(store).map_err(start_error)?;
        lists.log_warnings();
        let storage = Storage { loaded, writer, handle, bans: PublishedBans::new(lists) };
        if !config.ignored_variables.is_empty() {
            tracing::info!(
                variables = ?config.ignored_variables, "ignored the environment variables of Kubernetes services"
            );
        }
        for warning in config.warnings() {
            tracing::warn!("{warning}");
        }
        tracing::info!(
            network = %config.book.chain, peers = storage.loaded.entries.len(), listening = ?sockets.listeners.names(),
            "waypost {} is up", env!("CARGO_PKG_VERSION")
        );
        let tor = TorWiring::new(&config);
        let announce_from = watch::Sender::new(config.announcement_sources());
        let dialer = Dialer {
            tls: Tls::new().map_err(start_error)?,
            direct: (config.book.routing == RoutingPolicy::Split).then_some(Direct),
            tor: tor.connector.subscribe(),
            isolation: Isolation::Peers,
            announce_from: LocalAddresses::new(announce_from.subscribe()),
        };
        // A page on an onion service must not be linked to the clearnet name either.
        let has_onion_page = !config.pages.public.onion.is_empty();
        let has_onion = sockets.listeners.has_onion() || config.tor.settings.service.is_some() || has_onion_page;
        let separation = Separation::of(has_onion, config.identity.link_identities);
        let snapshot = SnapshotSenders::default();
        let (inbox, messages) = mpsc::channel(book_handle::CAPACITY);
        let own_addresses = sockets.addresses();
        let (chain, known) = watch::channel(None);
        let backend = backend_check::create(&config, &dialer, &own_addresses, &snapshot, known, separation, &inbox);
        let backend = backend.await?;
        let rng = StdRng::seed_from_u64(rng.next_u64());
        Ok(Node {
            config,
            hooks,
            rng,
            separation,
            sockets,
            storage,
            tor,
            dialer,
            announce_from,
            backend,
            own_addresses,
            snapshot,
            chain,
            inbox,
            messages,
        })
    }

    /// Spawns all tasks.
    pub(super) fn spawn(mut self) -> RunningNode {
        let mut tasks = TaskSet::default();
        let counters = Arc::new(Counters::default());
        let probes = ProbeMetrics::default();
        let own_names = own_names(&self.config);
        let (health_sender, health) = watch::channel(TorHealth::default());
        let irc = self.config.irc.as_ref().map(|irc| {
            let server = irc.server.to_string();
            watch::Sender::new(IrcStatus { server, ..IrcStatus::default() })
        });
        let status_inputs = StatusInputs {
            started: clock::now(),
            is_new: self.storage.loaded.entries.is_empty(),
            listeners: self.sockets.listeners.names(),
            counters: Arc::clone(&counters),
            store: self.storage.writer.status(),
            store_path: self.config.store_path(),
            page: self.sockets.page.as_ref().and_then(|page| page.local_addr().ok()),
            probes: probes.clone(),
            onion: self.tor.onion.subscribe(),
            tor: self.tor.report.subscribe(),
            own_names: own_names.iter().map(|(name, state)| (name.clone(), state.subscribe())).collect(),
            local_identity: self.tor.identity.subscribe(),
            backend: self.backend.clone(),
            irc: irc.as_ref().map(watch::Sender::subscribe),
            ban_lists: self.storage.bans.subscribe_status(),
        };
        let has_backend = self.backend.clearnet.is_some();
        let max_line_bytes = if has_backend { self.config.backend.max_line_bytes } else { MAX_REQUEST_BYTES };
        let memory = || MemoryPool::new(max_line_bytes, Arc::clone(&counters));
        let memory = PerIngress { clearnet: memory(), onion: memory() };
        let limits = watch::Sender::new(limits(&self.config));
        let context = SessionContext {
            local_identity: self.tor.identity.subscribe(),
            snapshot: PerIngress {
                clearnet: self.snapshot.clearnet.subscribe(),
                onion: self.snapshot.onion.subscribe(),
            },
            bans: self.storage.bans.subscribe(),
            inbox: self.inbox.clone(),
            limits: limits.subscribe(),
            tls: PerIngress {
                clearnet: self.sockets.tls.as_ref().map(|tls| tls.acceptor.clone()),
                onion: self.sockets.onion_tls.clone(),
            },
            backend: self.backend.clone(),
            max_line_bytes,
            memory,
            book_requests: PerIngress::default(),
            counters,
        };
        let (config, inbox) = (self.config, self.inbox);
        let seen = self.snapshot.clearnet.subscribe();
        for (ingress, listener) in self.sockets.public_pages {
            let snapshot = self.snapshot[ingress].subscribe();
            let public = PublicPage { ingress, chain: config.book.chain.clone(), snapshot };
            tasks.spawn("a public status page", status_page::serve_public(listener, public));
        }
        let known_chain = self.chain.subscribe();
        let outputs = BookOutputs { snapshot: self.snapshot, health: health_sender, chain: self.chain };
        let Storage { loaded, writer, handle, bans } = self.storage;
        log_store_problems(&loaded);
        let (started, banned) = (status_inputs.started, Arc::clone(&bans.subscribe().borrow()));
        let books = LoadedBooks::load(&config.book, self.separation, loaded, &banned, started, &mut self.rng);
        let book = BookTask::new(books, handle, &self.dialer, status_inputs, outputs, &mut self.rng);
        let (stop_book, book_stops) = oneshot::channel();
        let book = tokio::spawn(book.run(self.messages, book_stops));

        let Sockets { listeners, page, control, control_path, tls, stop, sighup, .. } = self.sockets;
        let has_onion_service = config.tor.settings.service.is_some();
        let ingresses = listeners.ingresses(has_onion_service, self.separation);
        let trusted_proxies = watch::Sender::new(Arc::new(config.listen.trusted_proxies.clone()));
        let proxies = trusted_proxies.subscribe();
        let arrivals = listeners.spawn(&mut tasks, context, ingresses, &config.backend, proxies, &mut self.rng);
        let certificate = tls.map(|tls| (tls.source, tls.credentials));
        let files = FileWatcher::new(bans, certificate, inbox.clone());
        let list = self.backend.clearnet.as_ref().map(|backend| Arc::clone(&backend.servers));
        if let Some(list) = list.clone() {
            let inbox = inbox.clone();
            tasks.spawn("the monitor of the backend's servers", async move { list.monitor(inbox).await });
        }
        let (dialer, own_addresses) = (self.dialer.clone(), self.own_addresses);
        let servers = list.map(|list| ServerReload { list, dialer, chain: known_chain, own_addresses });
        let (running, inbox_of_book) = (config.clone(), inbox.clone());
        let hooks = self.hooks;
        let reloader = Reloader { running, hooks, limits, trusted_proxies, files, servers, inbox: inbox_of_book };
        tasks.spawn("the file watcher", reloader.run(sighup));
        for (number, (name, state)) in (0..).zip(own_names) {
            let check = NameCheck::new(&config, &self.dialer, &name.0);
            let monitor = ClearnetMonitor {
                key: if check.is_primary { "identity.host" } else { "identity.other_names" },
                check,
                name,
                first_group: number * ISOLATION_GROUPS,
                local_identity: self.tor.identity.subscribe(),
                announce_from: Some(self.announce_from.clone()).filter(|_| config.announce_from.is_empty()),
                health: health.clone(),
                state,
                inbox: inbox.clone(),
            };
            tasks.spawn("a clearnet monitor", monitor.run(child_rng(&mut self.rng)));
        }
        if let (Some(mut settings), Some(visits)) = (config.irc.clone(), irc) {
            let side = irc_side(&mut settings, self.separation, config.book.routing);
            let (dialer, inbox) = (self.dialer.clone(), inbox.clone());
            let task = IrcTask { settings, dialer, inbox, snapshot: seen, side, status: visits };
            tasks.spawn("the IRC task", task.run(child_rng(&mut self.rng)));
        }
        let PerIngress { clearnet: backend, onion: onion_backend } = self.backend;
        // The ingresses share a backend, unless peers serve each from a pool of its own.
        let onion_backend =
            onion_backend.filter(|onion| !backend.as_ref().is_some_and(|main| Arc::ptr_eq(main, onion)));
        for backend in backend.into_iter().chain(onion_backend) {
            let identity = self.tor.identity.clone();
            tasks.spawn("the backend monitor", async move { backend.publish_info(&identity).await });
        }
        if let Some(page) = page {
            tasks.spawn("the status page", status_page::serve(page, config.status.clone(), probes, inbox.clone()));
        }
        tasks.spawn("the control socket", control::serve(control, inbox.clone()));
        tasks.spawn("the watchdog", service_manager::run_watchdog(inbox.clone()));
        let peers = TorPeers { dialer: self.dialer, health, arrivals, inbox };
        self.tor.spawn(&mut tasks, &config, peers, &mut self.rng);
        RunningNode { tasks, book, stop_book, writer, stop, control_path }
    }
}

/// Returns the clearnet names, `identity.host` first, each with a channel for its state.
fn own_names(config: &Config) -> Vec<((Host, Ports), watch::Sender<NameState>)> {
    let names = config.identity.clearnet_names().cloned();
    names.map(|name| (name, watch::Sender::new(NameState::default()))).collect()
}

impl RunningNode {
    /// Waits for a stop signal, or for the end of a task that never should; returns the name of that task.
    pub(super) async fn ended(&mut self) -> Option<&'static str> {
        tokio::select! {
            signal = &mut self.stop => {
                tracing::info!(signal, "stopping");
                None
            }
            task = self.tasks.ended() => Some(task),
            _ = &mut self.book => Some("the book's task"),
            () = self.writer.exited() => Some("the store's writer"),
        }
    }

    /// Stops all tasks, and waits until the writer has flushed what is left.
    pub(super) async fn drain(mut self) -> Result<(), DaemonError> {
        self.tasks.shutdown().await;
        // The socket goes before the store is released: a process that waits for the store binds its own socket.
        let _ = std::fs::remove_file(&self.control_path);
        let _ = self.stop_book.send(());
        // The end of the book's task drops the handle of the store, which ends the writer.
        let flushed = timeout(SHUTDOWN_TIMEOUT, async {
            if !self.book.is_finished() {
                let _ = self.book.await;
            }
            let _ = tokio::task::spawn_blocking(move || self.writer.join()).await;
        });
        flushed.await.map_err(|_| DaemonError::Unwritten)
    }
}

impl Sockets {
    fn open(config: &Config) -> Result<Sockets, DaemonError> {
        let listeners = Listeners::open(config)?;
        let page = platform::listen("status.listen", config.pages.private.address().as_slice())?.pop();
        let mut public_pages = Vec::new();
        for ingress in Ingress::ALL {
            let opened = platform::listen(PageAddresses::public_key(ingress), &config.pages.public[ingress])?;
            public_pages.extend(opened.into_iter().map(|listener| (ingress, listener)));
        }
        let tls = listeners.has_tls().then(|| TlsFiles::load(&config.listen.certificate)).transpose()?;
        let service_has_tls = config.tor.settings.service.as_ref().is_some_and(|service| service.tls_port.is_some());
        let needs_onion_tls = listeners.has_onion_tls() || service_has_tls;
        let onion_tls = needs_onion_tls.then(|| TlsFiles::load(&config.listen.onion_certificate)).transpose()?;
        let onion_tls = onion_tls.map(|tls| tls.acceptor);
        let control_path = config.control_path();
        let control =
            control::bind(&control_path).map_err(|error| DaemonError::Control { path: control_path.clone(), error })?;
        let stop = Box::pin(platform::stop_signals().map_err(start_error)?);
        let sighup = platform::sighup_stream().map_err(start_error)?;
        Ok(Sockets { listeners, page, public_pages, control, control_path, tls, onion_tls, stop, sighup })
    }

    fn addresses(&self) -> Vec<std::net::SocketAddr> {
        let pages = self.page.iter().chain(self.public_pages.iter().map(|(_, listener)| listener));
        let pages = pages.filter_map(|page| page.local_addr().ok());
        self.listeners.addresses().into_iter().chain(pages).collect()
    }
}

impl TlsFiles {
    fn load(source: &CertificateSource) -> Result<TlsFiles, DaemonError> {
        let credentials = watch::Sender::new(source.load()?);
        let acceptor = Acceptor::new(credentials.subscribe()).map_err(start_error)?;
        Ok(TlsFiles { source: source.clone(), credentials, acceptor })
    }
}

/// Logs what the store could not provide.
fn log_store_problems(loaded: &LoadedState) {
    if let Some(Quarantine { path: kept_as, reason }) = &loaded.quarantined {
        tracing::warn!(kept_as = %kept_as.display(), reason, "the store was damaged; it was moved aside and a new one begun");
    }
    if loaded.unreadable > 0 {
        tracing::warn!(records = loaded.unreadable, "the store has records that can't be read; they are left alone");
    }
}

/// Returns the side that learns names from IRC, by the route of the visits.
///
/// A visit through Tor that feeds the onion side does not advertise the clearnet name. Otherwise an IRC server could give
/// each visitor other names, and see which onion service lists them.
fn irc_side(irc: &mut IrcConfig, separation: Separation, routing: RoutingPolicy) -> Side {
    match (separation, irc.tor) {
        (Separation::Shared, _) => Side::Both,
        (Separation::Separate, false) => Side::Clearnet,
        // With tor.only, the clearnet side dials through Tor too.
        (Separation::Separate, true) if routing == RoutingPolicy::TorOnly && irc.visit.advertise.is_some() => {
            Side::Clearnet
        }
        (Separation::Separate, true) => {
            if irc.visit.advertise.take().is_some() {
                tracing::warn!(
                    "irc.advertise has no effect: visits through Tor serve the onion service, which must not be linked to \
                     identity.host; set irc.tor = false, or identity.link_identities = true"
                );
            }
            Side::Onion
        }
    }
}

fn child_rng(rng: &mut StdRng) -> StdRng {
    StdRng::seed_from_u64(rng.next_u64())
}

fn start_error(error: impl std::fmt::Display) -> DaemonError {
    DaemonError::Start(error.to_string())
}
