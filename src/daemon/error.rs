//! Why the daemon does not start, or ends.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::bind::{self, BindError};
use crate::clock::Time;
use crate::network::Network;
use crate::server::CertificateError;
use crate::store::StoreError;

/// A reason that ends the daemon, with advice for the operator.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    #[error(
        "the clock of this machine says {0}, which was before this version was made; set it, with `timedatectl set-ntp true` say"
    )]
    Clock(Time),
    #[error("can't make the data directory {}: {error}; choose another data_dir, or make it for this user", path.display())]
    MakeDirectory { path: PathBuf, error: std::io::Error },
    #[error(
        "can't move {} to {}: {error}; move it by hand, or name the directory that has the data with data_dir",
        from.display(),
        to.display()
    )]
    MoveData { from: PathBuf, to: PathBuf, error: std::io::Error },
    #[error("the data directory {} belongs to another user; choose another data_dir, or run as its owner", .0.display())]
    OthersDirectory(PathBuf),
    #[error(transparent)]
    Listen(#[from] BindError),
    #[error("can't make the control socket {}: {error}; {}", path.display(), bind::control_advice(error))]
    Control { path: PathBuf, error: std::io::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the ban file {}: {reason}; correct it, or choose another with discovery.ban_file", path.display())]
    Bans { path: PathBuf, reason: String },
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    #[error(
        "systemd handed over the socket {0:?}, which is unknown; name it tcp, tls, ws, wss or onion with FileDescriptorName="
    )]
    Inherited(String),
    #[error("the server at backend.electrum, {0}, is one of another network; point it at one of {1}, or set network")]
    OtherNetwork(String, Network),
    #[error(
        "backend.electrum: {backend} is Waypost itself, which listens on {listener}; name the address of the Electrum server behind it"
    )]
    BackendIsSelf { backend: String, listener: SocketAddr },
    #[error("can't start: {0}")]
    Start(String),
    #[error("the store was not written in time; what was learnt in the last moments may be lost")]
    Unwritten,
    #[error("{0} ended, which it never should; start the daemon again, and report the lines before this one")]
    Ended(&'static str),
}

impl DaemonError {
    /// Whether the configuration is at fault, so that another start would fail in the same way.
    pub fn is_configuration(&self) -> bool {
        match self {
            DaemonError::Store(StoreError::OtherChain { .. })
            | DaemonError::Bans { .. }
            | DaemonError::BackendIsSelf { .. } => true,
            DaemonError::Certificate(error) => error.is_configuration_error(),
            _ => false,
        }
    }
}
