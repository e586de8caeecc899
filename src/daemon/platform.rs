//! What the daemon asks of the machine: a directory, listeners, descriptors, signals, chance.

use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;

use listenfd::ListenFd;
use rand::rngs::StdRng;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::DaemonError;
use super::bind::BindError;
use crate::clock::Time;
use crate::config::ListenKind;

/// File descriptors for all but callers: probes, operators, the store, standard streams, and Tor's.
const OWN_DESCRIPTORS: usize = 250;

#[expect(clippy::disallowed_methods, reason = "the one generator that all others descend from")]
pub fn root_rng() -> StdRng {
    rand::make_rng()
}

/// No machine on which this version runs can have lived before it was made: one that says so has a clock that nobody set, as those
/// without a battery have for a while after they are switched on. With it nothing that is kept or advertised would be right, and
/// Tor would find all certificates out of date. To be moved on with each release.
const BUILD_DATE: Time = Time::from_secs(1_793_491_200); // 2026-11-01

/// Sees that the clock has been set.
pub fn check_clock(now: Time) -> Result<(), DaemonError> {
    if now < BUILD_DATE { Err(DaemonError::Clock(now)) } else { Ok(()) }
}

/// Makes the data directory for us alone, or sees that it is ours.
pub fn data_directory(path: &Path) -> Result<(), DaemonError> {
    let failed = |error| DaemonError::MakeDirectory { path: path.to_owned(), error };
    if let Some(parent) = path.parent() {
        // Another chain's data may go there, which is no more for others to see.
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(failed)?;
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

/// Opens a listener on each address of a configuration key.
pub fn listen(key: &'static str, addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, BindError> {
    let listener = |address: &SocketAddr| {
        let failed = |error| BindError::new(key, *address, error);
        bind(*address).and_then(|socket| TcpListener::from_std(socket.into())).map_err(failed)
    };
    addresses.iter().map(listener).collect()
}

/// The listeners that systemd handed over, by the names that their units give them.
pub fn systemd_listeners() -> Result<Vec<(ListenKind, TcpListener)>, DaemonError> {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut handed_over = ListenFd::from_env();
    let mut names = names.split(':');
    let mut listeners = Vec::new();
    for index in 0..handed_over.len() {
        let name = names.next().unwrap_or_default();
        let unusable = || DaemonError::Inherited(name.to_owned());
        let kind = ListenKind::by_name(name).ok_or_else(unusable)?;
        let socket = handed_over.take_tcp_listener(index).ok().flatten().ok_or_else(unusable)?;
        socket.set_nonblocking(true).map_err(|_| unusable())?;
        listeners.push((kind, TcpListener::from_std(socket).map_err(|_| unusable())?));
    }
    Ok(listeners)
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
pub fn raise_fd_limit(sessions: usize) -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok();
    let limit = if raised { maximum } else { current };
    let room = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let room = room.saturating_sub(OWN_DESCRIPTORS).max(1);
    if sessions > room {
        tracing::warn!(
            sessions = room,
            "fewer sessions than limits.max_sessions, for want of file descriptors (ulimit -n)"
        );
    }
    sessions.min(room)
}

/// How we are told to read our files again.
pub fn sighup_stream() -> std::io::Result<Signal> {
    signal(SignalKind::hangup())
}

/// Resolves when we are told to stop, with the name of how.
pub fn stop_signals() -> std::io::Result<impl Future<Output = &'static str>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}
