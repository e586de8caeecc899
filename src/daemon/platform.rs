//! Operating-system services: data directory, listeners, file descriptors, signals, randomness.

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

/// File descriptors reserved for everything but clients.
///
/// These are probes, operators, the store, standard streams and Tor.
pub(crate) const OWN_DESCRIPTORS: usize = 250;

/// Connections that the kernel queues per listener. Linux caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 1024;

/// Creates the generator that seeds all others, from the system's randomness.
#[expect(clippy::disallowed_methods, reason = "seeds all other generators")]
pub(crate) fn root_rng() -> StdRng {
    rand::make_rng()
}

/// Earliest plausible time, in seconds since 1970. Update it with each release.
///
/// An earlier clock was never set, as on a machine without a battery after power-on. Stored and
/// advertised times would be wrong, and Tor would reject all certificates.
const BUILD_DATE: Time = Time::from_secs(1_793_491_200); // 2026-11-01

/// Rejects a clock that is earlier than the build date.
pub(crate) fn check_clock(now: Time) -> Result<(), DaemonError> {
    if now < BUILD_DATE { Err(DaemonError::Clock(now)) } else { Ok(()) }
}

/// Creates the data directory with mode 0700, or checks that only this user can write to it.
///
/// Logs a warning if other users may read it.
pub(crate) fn data_directory(path: &Path) -> Result<(), DaemonError> {
    let failed = |error| DaemonError::MakeDirectory { path: path.to_owned(), error };
    if let Some(parent) = path.parent() {
        // The parent may hold the private data of another chain.
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
    if metadata.permissions().mode() & 0o022 != 0 {
        return Err(DaemonError::WritableDirectory(path.to_owned()));
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "other users may access the data directory; run `chmod 700` on it");
    }
    Ok(())
}

/// Opens a listener on each address of the configuration key `key`.
pub(crate) fn listen(key: &'static str, addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, BindError> {
    let listener = |address: &SocketAddr| {
        let failed = |error| BindError::new(key, *address, error);
        bind(*address).and_then(|socket| TcpListener::from_std(socket.into())).map_err(failed)
    };
    addresses.iter().map(listener).collect()
}

/// Takes the listeners inherited from systemd, with the kinds that their names state.
///
/// The names are set with `FileDescriptorName=`. An unknown name or another socket is an error.
pub(crate) fn systemd_listeners() -> Result<Vec<(ListenKind, TcpListener)>, DaemonError> {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut inherited = ListenFd::from_env();
    let mut names = names.split(':');
    let mut listeners = Vec::new();
    for index in 0..inherited.len() {
        let name = names.next().unwrap_or_default();
        let unusable = || DaemonError::Inherited(name.to_owned());
        let kind = ListenKind::by_name(name).ok_or_else(unusable)?;
        let socket = inherited.take_tcp_listener(index).ok().flatten().ok_or_else(unusable)?;
        socket.set_nonblocking(true).map_err(|_| unusable())?;
        listeners.push((kind, TcpListener::from_std(socket).map_err(|_| unusable())?));
    }
    Ok(listeners)
}

/// Opens a non-blocking listening socket.
fn bind(address: SocketAddr) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        // Otherwise [::] would also bind the port on 0.0.0.0, and configuring both would fail.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// Raises the soft limit of file descriptors, and returns how many sessions it permits.
///
/// The result is at most `sessions` and at least 1. Logs a warning if it is lower than `sessions`. `others` counts the
/// connections that are neither sessions nor among [`OWN_DESCRIPTORS`].
pub(crate) fn raise_fd_limit(sessions: usize, others: usize) -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok();
    let limit = if raised { maximum } else { current };
    let capacity = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let capacity = capacity.saturating_sub(OWN_DESCRIPTORS).saturating_sub(others).max(1);
    if sessions > capacity {
        tracing::warn!(
            sessions = capacity,
            "limits.max_sessions exceeds the file descriptors; raise `ulimit -n`, or LimitNOFILE= of the unit"
        );
    }
    sessions.min(capacity)
}

/// Stream of SIGHUP signals, which request a reload.
pub(crate) fn sighup_stream() -> std::io::Result<Signal> {
    signal(SignalKind::hangup())
}

/// Returns a future that resolves to the name of the first SIGTERM or SIGINT.
pub(crate) fn stop_signals() -> std::io::Result<impl Future<Output = &'static str>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}
