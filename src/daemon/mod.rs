//! The daemon: everything wired up, watched over and taken down again.

mod core;
mod notice;

use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use self::core::{Core, Facts};
use crate::book::Book;
use crate::clock;
use crate::config::Config;
use crate::dial::{Dialer, Tls};
use crate::inbox::{self, Inbox};
use crate::serve::{self, Counters, Shared};
use crate::store::{Changes, Kept, Store, StoreError, Writer};
use crate::{control, tor};

/// What is left to be written must be on disk within this when we are told to stop.
const GOODBYE: Duration = Duration::from_secs(9);

/// File descriptors for all but callers: probes, operators, the store, standard streams.
const OWN_DESCRIPTORS: usize = 200;

#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    #[error("can't make the data directory {}: {source}; choose another data_dir, or make it for this user", path.display())]
    MakeDirectory { path: PathBuf, source: std::io::Error },
    #[error("the data directory {} belongs to another user; choose another data_dir, or run as its owner", .0.display())]
    OthersDirectory(PathBuf),
    #[error("can't listen on {address}: {source}; is another server running there? listen.tcp chooses the address")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("can't make the control socket {}: {source}", path.display())]
    Control { path: PathBuf, source: std::io::Error },
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
    let mut rng = generator();
    data_directory(&config.data_dir)?;
    let (store, kept) = Store::open(&config.store_path(), clock::now())?;
    let listeners = listen(&config.listen)?;
    let control_path = config.control_path();
    let control =
        control::bind(&control_path).map_err(|source| DaemonError::Control { path: control_path.clone(), source })?;
    let stop = stop_signals().map_err(|error| DaemonError::Start(error.to_string()))?;
    let (mut writer, changes) = Writer::spawn(store).map_err(|error| DaemonError::Start(error.to_string()))?;
    let (inbox, inputs) = mpsc::channel(inbox::CAPACITY);
    let (found_tor, socks) = watch::channel(None);
    let tls = Tls::new().map_err(|error| DaemonError::Start(error.to_string()))?;
    let addresses = listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect::<Vec<_>>();
    tracing::info!(
        network = %config.book.network, peers = kept.entries.len(), listening = ?addresses,
        "waypost {} is up", env!("CARGO_PKG_VERSION")
    );
    let counters = Arc::new(Counters::default());
    let facts = Facts {
        started: clock::now(),
        listeners: addresses.iter().map(|address| format!("tcp://{address}")).collect(),
        counters: Arc::clone(&counters),
        store: writer.status(),
    };
    let (core, snapshot) = begin(&config, kept, changes, Dialer { tls, socks }, facts, &mut rng);
    let identity = Arc::new(config.identity.clone());
    let slots = Arc::new(Semaphore::new(descriptors(config.limits.sessions)));
    let shared = Shared { identity, snapshot, inbox: inbox.clone(), limits: config.limits.clone(), slots, counters };

    let mut tasks: JoinSet<&'static str> = JoinSet::new();
    let (stop_core, core_stops) = oneshot::channel();
    let mut core = tokio::spawn(core.run(inputs, core_stops));
    for listener in listeners {
        let session = serve::serve(listener, shared.clone(), StdRng::seed_from_u64(rng.next_u64()));
        tasks.spawn(async move {
            session.await;
            "a listener"
        });
    }
    spawn_rest(&mut tasks, &config, control, inbox, found_tor, &mut rng);
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

/// The book's task, ready to run, with the first picture of what it knows.
fn begin(
    config: &Config,
    kept: Kept,
    changes: Changes,
    dialer: Dialer,
    facts: Facts,
    rng: &mut StdRng,
) -> (Core, watch::Receiver<Arc<crate::book::Snapshot>>) {
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
    Core::new(book, first, changes, dialer, facts, StdRng::seed_from_u64(rng.next_u64()))
}

fn spawn_rest(
    tasks: &mut JoinSet<&'static str>,
    config: &Config,
    control: tokio::net::UnixListener,
    inbox: Inbox,
    found_tor: watch::Sender<Option<crate::dial::Socks>>,
    rng: &mut StdRng,
) {
    let operators = inbox.clone();
    tasks.spawn(async move {
        control::serve(control, operators).await;
        "the control socket"
    });
    let (addresses, secret) = (config.tor.socks.clone(), rng.random());
    if !addresses.is_empty() {
        tasks.spawn(async move {
            tor::watch(addresses, secret, found_tor, inbox).await;
            "the watch on Tor"
        });
    }
}

#[expect(clippy::disallowed_methods, reason = "the one generator that all others descend from")]
fn generator() -> StdRng {
    rand::make_rng()
}

/// Makes the data directory for us alone, or sees that it is ours.
fn data_directory(path: &Path) -> Result<(), DaemonError> {
    let failed = |source| DaemonError::MakeDirectory { path: path.to_owned(), source };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(error)),
    }
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if !metadata.is_dir() {
        return Err(failed(std::io::ErrorKind::NotADirectory.into()));
    }
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(DaemonError::OthersDirectory(path.to_owned()));
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "others may look into the data directory; `chmod 700` it");
    }
    Ok(())
}

fn listen(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, DaemonError> {
    let listener = |address: &SocketAddr| {
        let failed = |source| DaemonError::Listen { address: *address, source };
        bind(*address).and_then(|socket| TcpListener::from_std(socket.into())).map_err(failed)
    };
    addresses.iter().map(listener).collect()
}

fn bind(address: SocketAddr) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        // Or [::] would take the same port of 0.0.0.0, and to name both be an error.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    Ok(socket)
}

/// Sees to it that there are descriptors for as many sessions as may be; how many there may be is the answer.
fn descriptors(sessions: usize) -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok();
    let limit = if raised { maximum } else { current };
    let room = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let room = room.saturating_sub(OWN_DESCRIPTORS).max(1);
    if sessions > room {
        tracing::warn!(
            sessions = room,
            "fewer sessions than limits.sessions, for want of file descriptors (ulimit -n)"
        );
    }
    sessions.min(room)
}

/// Resolves when we are told to stop, with the name of how.
fn stop_signals() -> std::io::Result<impl Future<Output = &'static str>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}
