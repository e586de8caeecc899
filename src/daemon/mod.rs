//! The daemon: everything wired up, watched over and taken down again.

mod core;
mod machine;
mod notice;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use self::core::{Core, Facts};
use crate::book::{Book, Caller, Snapshot};
use crate::clock;
use crate::config::Config;
use crate::conversation::server::Identity;
use crate::dial::{Dialer, Direct, Tls};
use crate::inbox::{self, Inbox};
use crate::route::Routing;
use crate::serve::{self, Counters, Shared};
use crate::store::{Changes, Kept, Store, StoreError, Writer};
use crate::tor::{self, Health, Mode, Outlets, OwnName};
use crate::{control, dial};

/// What is left to be written must be on disk within this when we are told to stop.
const GOODBYE: Duration = Duration::from_secs(9);

/// Callers of our onion service that may wait to be talked to.
const ONION_CALLERS: usize = 64;

#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    #[error("can't make the data directory {}: {error}; choose another data_dir, or make it for this user", path.display())]
    MakeDirectory { path: PathBuf, error: std::io::Error },
    #[error("the data directory {} belongs to another user; choose another data_dir, or run as its owner", .0.display())]
    OthersDirectory(PathBuf),
    #[error("can't listen on {address}: {error}; is another server running there? {key} chooses the address")]
    Listen { key: &'static str, address: SocketAddr, error: std::io::Error },
    #[error("can't make the control socket {}: {error}", path.display())]
    Control { path: PathBuf, error: std::io::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("can't start: {0}")]
    Start(String),
    #[error("the store was not written in time; what was learnt in the last moments may be lost")]
    Unwritten,
    #[error("{0} ended, which it never should; start the daemon again, and report the lines before this one")]
    Ended(&'static str),
}

/// Runs until it is told to stop, or something that must never end does.
pub async fn run(config: Config) -> Result<(), DaemonError> {
    let start = |error: &dyn std::fmt::Display| DaemonError::Start(error.to_string());
    let mut rng = machine::generator();
    machine::data_directory(&config.data_dir)?;
    let (store, kept) = Store::open(&config.store_path(), clock::now())?;
    let listeners = Listeners::open(&config)?;
    let control_path = config.control_path();
    let control =
        control::bind(&control_path).map_err(|error| DaemonError::Control { path: control_path.clone(), error })?;
    let stop = machine::stop_signals().map_err(|error| start(&error))?;
    let (mut writer, changes) = Writer::spawn(store).map_err(|error| start(&error))?;
    let (inbox, inputs) = mpsc::channel(inbox::CAPACITY);
    tracing::info!(
        network = %config.book.network, peers = kept.entries.len(), listening = ?listeners.names(),
        "waypost {} is up", env!("CARGO_PKG_VERSION")
    );
    let tor = TorEnds::new(&config);
    let dialer = Dialer {
        tls: Tls::new().map_err(|error| start(&error))?,
        direct: (config.book.routing == Routing::Mixed).then_some(Direct),
        tor: tor.way.subscribe(),
        circle: dial::Circle::Peers,
    };
    let counters = Arc::new(Counters::default());
    let facts = Facts {
        started: clock::now(),
        listeners: listeners.names(),
        counters: Arc::clone(&counters),
        store: writer.status(),
        onion: tor.name.subscribe(),
    };
    let (health, tor_health) = watch::channel(Health::default());
    let (core, snapshot) = begin(&config, kept, changes, dialer.clone(), facts, health, &mut rng);
    let shared = Shared {
        identity: tor.identity.subscribe(),
        snapshot,
        inbox: inbox.clone(),
        limits: config.limits.clone(),
        slots: Arc::new(Semaphore::new(machine::descriptors(config.limits.sessions))),
        counters,
    };

    let mut tasks: Tasks = JoinSet::new();
    let (stop_core, core_stops) = oneshot::channel();
    let mut core = tokio::spawn(core.run(inputs, core_stops));
    listeners.serve(&mut tasks, &shared, &mut rng);
    let operators = inbox.clone();
    tasks.spawn(async move {
        control::serve(control, operators).await;
        "the control socket"
    });
    tor.serve(&mut tasks, &config, dialer, tor_health, shared, &mut rng);
    let ended = tokio::select! {
        name = stop => {
            tracing::info!(signal = name, "stopping");
            None
        }
        ended = tasks.join_next() => Some(ended.and_then(Result::ok).unwrap_or("a task")),
        _ = &mut core => Some("the book's task"),
        () = writer.ended() => Some("the store's writer"),
    };
    tasks.shutdown().await;
    // Before the store is let go of, as whoever waits for it makes a socket of its own.
    let _ = std::fs::remove_file(&control_path);
    let _ = stop_core.send(());
    // The core's end lets go of the store, and the writer then writes what is left.
    let goodbye = timeout(GOODBYE, async {
        if !core.is_finished() {
            let _ = core.await;
        }
        let _ = tokio::task::spawn_blocking(move || writer.finish()).await;
    });
    match (ended, goodbye.await) {
        (Some(name), _) => Err(DaemonError::Ended(name)),
        (None, Ok(())) => Ok(()),
        (None, Err(_)) => Err(DaemonError::Unwritten),
    }
}

/// Everything that must not end, each by the name that an operator is told when it does.
type Tasks = JoinSet<&'static str>;

/// Where callers come in.
struct Listeners {
    clearnet: Vec<TcpListener>,
    /// From a Tor beside us.
    onion: Vec<TcpListener>,
}

impl Listeners {
    fn open(config: &Config) -> Result<Listeners, DaemonError> {
        let clearnet = machine::listen("listen.tcp", &config.listen)?;
        Ok(Listeners { clearnet, onion: machine::listen("listen.onion_tcp", &config.listen_onion)? })
    }

    fn names(&self) -> Vec<String> {
        let named = |listeners: &[TcpListener], kind: &str| {
            let addresses = listeners.iter().filter_map(|listener| listener.local_addr().ok());
            addresses.map(|address| format!("{kind}://{address}")).collect::<Vec<_>>()
        };
        [named(&self.clearnet, "tcp"), named(&self.onion, "onion")].concat()
    }

    fn serve(self, tasks: &mut Tasks, shared: &Shared, rng: &mut StdRng) {
        let clearnet = self.clearnet.into_iter().map(|listener| (listener, Caller::Clearnet));
        for (listener, caller) in clearnet.chain(self.onion.into_iter().map(|listener| (listener, Caller::Onion))) {
            let serving = serve::serve(listener, caller, shared.clone(), StdRng::seed_from_u64(rng.next_u64()));
            tasks.spawn(async move {
                serving.await;
                "a listener"
            });
        }
    }
}

/// Our ends of what Tor is connected to.
struct TorEnds {
    way: watch::Sender<Option<dial::Tor>>,
    name: watch::Sender<Option<OwnName>>,
    identity: watch::Sender<Arc<Identity>>,
}

impl TorEnds {
    fn new(config: &Config) -> TorEnds {
        let name = config.tor.onion_host.clone().map(|(host, port)| OwnName::new(host, port));
        TorEnds {
            way: watch::Sender::new(None),
            name: watch::Sender::new(name),
            identity: watch::Sender::new(Arc::new(config.identity.clone())),
        }
    }

    fn serve(
        self,
        tasks: &mut Tasks,
        config: &Config,
        dialer: Dialer,
        health: watch::Receiver<Health>,
        shared: Shared,
        rng: &mut StdRng,
    ) {
        if config.tor.settings.mode == Mode::Off {
            return;
        }
        let (callers, onion_callers) = mpsc::channel(ONION_CALLERS);
        let inbox: Inbox = shared.inbox.clone();
        let watch = tor::NameWatch {
            network: config.book.network,
            dialer,
            name: self.name.clone(),
            identity: self.identity,
            health: health.clone(),
            inbox: inbox.clone(),
        };
        let watching = watch.run(StdRng::seed_from_u64(rng.next_u64()));
        tasks.spawn(async move {
            watching.await;
            "the watch on our onion name"
        });
        let outlets = Outlets { way: self.way, inbox, health, name: self.name, callers };
        let (settings, secret) = (config.tor.settings.clone(), rng.random());
        tasks.spawn(async move {
            tor::run(settings, secret, outlets).await;
            "the watch on Tor"
        });
        let serving = serve::serve_onion(onion_callers, shared, StdRng::seed_from_u64(rng.next_u64()));
        tasks.spawn(async move {
            serving.await;
            "our onion service"
        });
    }
}

/// The book's task, ready to run, with the first picture of what it knows.
fn begin(
    config: &Config,
    kept: Kept,
    changes: Changes,
    dialer: Dialer,
    facts: Facts,
    health: watch::Sender<Health>,
    rng: &mut StdRng,
) -> (Core, watch::Receiver<Arc<Snapshot>>) {
    let now = facts.started;
    if let Some((aside, why)) = &kept.moved_aside {
        tracing::warn!(kept_as = %aside.display(), why, "the store was damaged; it was moved aside and a new one begun");
    }
    if kept.unreadable > 0 {
        tracing::warn!(records = kept.unreadable, "the store has records that can't be read; they are left alone");
    }
    let empty = kept.entries.is_empty();
    let mut book = Book::new(config.book.clone(), kept.entries, kept.direct, kept.tor, now);
    let first = if empty { book.seed(now, rng) } else { Vec::new() };
    Core::new(book, first, changes, dialer, facts, health, StdRng::seed_from_u64(rng.next_u64()))
}
