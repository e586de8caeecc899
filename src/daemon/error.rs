//! Errors that prevent a start or end the daemon.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::bind::{self, BindError};
use crate::ban_files::BanFileError;
use crate::chain::ChainName;
use crate::clock::Time;
use crate::config::InvalidValue;
use crate::server::CertificateError;
use crate::store::StoreError;

/// Error that ends the daemon, with advice for the operator.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The machine's clock is earlier than the build date.
    #[error(
        "the clock of this machine says {0}, which is before this version was built; set it, for example with `timedatectl set-ntp true`"
    )]
    Clock(Time),
    /// The data directory can't be created or read.
    #[error(
        "the data directory {} can't be created: {error}; choose another data_dir, or create it for this user",
        path.display()
    )]
    MakeDirectory {
        /// Data directory, of which a parent may be at fault.
        path: PathBuf,
        /// Cause.
        error: std::io::Error,
    },
    /// A file of the formerly shared data directory can't be moved.
    #[error(
        "{} can't be moved to {}: {error}; move it by hand, or set data_dir to the directory that holds the data",
        from.display(),
        to.display()
    )]
    MoveData {
        /// Present path.
        from: PathBuf,
        /// Path in the chain's own directory.
        to: PathBuf,
        /// Cause.
        error: std::io::Error,
    },
    /// Another user owns the data directory.
    #[error("the data directory {} belongs to another user; choose another data_dir, or run as its owner", .0.display())]
    OthersDirectory(PathBuf),
    /// Other users can replace files of the data directory.
    #[error("other users can write to the data directory {path}; run `chmod go-w {path}`", path = .0.display())]
    WritableDirectory(PathBuf),
    /// A configured address can't be bound.
    #[error(transparent)]
    Listen(#[from] BindError),
    /// This machine lacks an address of `identity.bind`.
    #[error(transparent)]
    AnnounceFrom(#[from] InvalidValue),
    /// The control socket can't be created.
    #[error("the control socket {} can't be created: {error}; {}", path.display(), bind::control_advice(error))]
    Control {
        /// Path of the socket.
        path: PathBuf,
        /// Cause.
        error: std::io::Error,
    },
    /// The AS map can't be read.
    #[error("the AS map {} can't be used: {reason}; correct discovery.asmap, or remove it", path.display())]
    AsMap {
        /// Path of the file.
        path: PathBuf,
        /// Cause.
        reason: String,
    },
    /// The store can't be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A ban list can't be read or parsed, or lacks a valid signature.
    #[error(transparent)]
    Bans(#[from] BanFileError),
    /// The TLS certificate can't be loaded or generated.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// A socket from systemd, named here, is not a listener of a known kind.
    #[error(
        "socket {0:?} from systemd is not a TCP listener of a known name; name it tcp, tls, ws, wss or onion with FileDescriptorName="
    )]
    Inherited(String),
    /// The backend at this address follows another chain than the configured network.
    #[error(
        "the server at backend.electrum, {0}, belongs to another network; set it to a server of {1}, or correct network"
    )]
    OtherNetwork(String, ChainName),
    /// The backend's address leads to a listener of this process.
    #[error(
        "backend.electrum: {backend} is Waypost itself, which listens on {listener}; set it to the address of the Electrum server"
    )]
    BackendIsSelf {
        /// Configured address of the backend.
        backend: String,
        /// Address of the listener that it leads to.
        listener: SocketAddr,
    },
    /// Another step of the start failed.
    #[error("start failed: {0}")]
    Start(String),
    /// The store's writer did not finish within the shutdown timeout.
    #[error("the store was not written in time; the latest changes may be lost")]
    Unwritten,
    /// A task, named here, ended although it runs until the shutdown.
    #[error("{0} ended unexpectedly; restart the daemon, and report the log lines before this one")]
    Ended(&'static str),
}

impl DaemonError {
    /// Whether the configuration is at fault, so that a restart would fail in the same way.
    pub fn is_configuration(&self) -> bool {
        match self {
            DaemonError::Store(StoreError::OtherChain { .. })
            | DaemonError::Bans(_)
            | DaemonError::BackendIsSelf { .. } => true,
            DaemonError::Certificate(error) => error.is_configuration_error(),
            _ => false,
        }
    }
}
