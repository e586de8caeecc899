//! Connections through the embedded Tor.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arti_client::isolation::IsolationHelper;
use arti_client::{DataStream, ErrorKind, HasKind, StreamPrefs, TorClient};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tor_rtcompat::tokio::TokioRustlsRuntime;

use super::IsolationGroup;
use crate::connect::ProbeError;
use crate::peer::{DnsName, Host, Port};

/// Arti's client on Tokio with rustls.
pub type Client = TorClient<TokioRustlsRuntime>;

/// Timeout for a connection or resolution, whatever Arti still tries.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);

/// Connector through an Arti client, until the client is shut down.
#[derive(Clone)]
pub struct Arti {
    client: Arc<Client>,
    cancelled: CancellationToken,
}

impl std::fmt::Debug for Arti {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Arti")
    }
}

impl Arti {
    /// Creates a connector whose operations end when the token is cancelled.
    ///
    /// An operation that went on would hold the client and its files.
    pub fn new(client: Arc<Client>, cancelled: CancellationToken) -> Arti {
        Arti { client, cancelled }
    }

    /// Connects through the circuits of this isolation group.
    ///
    /// Some errors, such as a circuit that has died, blame neither the peer nor Tor. After those it
    /// is tried once more on new circuits.
    pub(super) async fn connect(
        &self,
        host: &Host,
        port: Port,
        group: &IsolationGroup,
    ) -> Result<DataStream, ProbeError> {
        let host = host.to_string();
        let connection = async {
            let target = (host.as_str(), port.get());
            match self.client.connect_with_prefs(target, &shared_prefs(group)).await {
                Err(error) if is_retryable(error.kind()) => {
                    self.client.connect_with_prefs(target, &new_circuit_prefs(group)).await
                }
                outcome => outcome,
            }
        };
        self.with_timeout(connection, ProbeError::Unreachable).await
    }

    /// Resolves a name through an exit.
    pub(super) async fn resolve(&self, name: &DnsName, group: &IsolationGroup) -> Result<Vec<IpAddr>, ProbeError> {
        let prefs = shared_prefs(group);
        let resolution = self.client.resolve_with_prefs(name.as_str(), &prefs);
        match self.with_timeout(resolution, ProbeError::NameNotFound).await {
            Ok(addresses) => {
                let mut addresses: Vec<IpAddr> = addresses.iter().map(IpAddr::to_canonical).collect();
                // Every exit that allows clearnet has IPv4.
                addresses.sort_by_key(IpAddr::is_ipv6);
                addresses.dedup();
                Ok(addresses)
            }
            Err(local @ (ProbeError::TorUnavailable | ProbeError::LocalResourceExhausted)) => Err(local),
            Err(_) => Err(ProbeError::NameNotFound),
        }
    }

    async fn with_timeout<T>(
        &self,
        operation: impl Future<Output = Result<T, arti_client::Error>>,
        on_timeout: ProbeError,
    ) -> Result<T, ProbeError> {
        let cancelled = self.cancelled.clone();
        match cancelled.run_until_cancelled(timeout(CONNECT_TIMEOUT, operation)).await {
            Some(Ok(Ok(answer))) => Ok(answer),
            Some(Ok(Err(error))) => {
                tracing::debug!(kind = ?error.kind(), "the embedded Tor failed to connect");
                Err(probe_error(error.kind()))
            }
            Some(Err(_)) => Err(on_timeout),
            None => Err(ProbeError::TorUnavailable),
        }
    }
}

/// Label of a stream. Streams with different labels share no circuit.
#[derive(Debug, Clone, PartialEq, Eq)]
struct IsolationLabel {
    group: IsolationGroup,
    /// 0 for the shared circuits of the group, else unique.
    number: u64,
}

impl IsolationHelper for IsolationLabel {
    fn compatible_same_type(&self, other: &Self) -> bool {
        self == other
    }

    fn join_same_type(&self, other: &Self) -> Option<Self> {
        (self == other).then(|| self.clone())
    }
}

/// Returns preferences for the group's shared circuits.
fn shared_prefs(group: &IsolationGroup) -> StreamPrefs {
    prefs(group, 0)
}

/// Returns preferences for a circuit that no other stream uses.
fn new_circuit_prefs(group: &IsolationGroup) -> StreamPrefs {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    prefs(group, NEXT.fetch_add(1, Ordering::Relaxed))
}

fn prefs(group: &IsolationGroup, number: u64) -> StreamPrefs {
    let mut prefs = StreamPrefs::new();
    prefs.set_isolation(IsolationLabel { group: group.clone(), number });
    prefs
}

/// Whether a connection is tried once more after this error.
fn is_retryable(kind: ErrorKind) -> bool {
    use ErrorKind::{
        BadApiUsage, CircuitCollapse, CircuitRefused, ExitTimeout, RelayTooBusy, RemoteNetworkTimeout,
        TorNetworkTimeout, TransientFailure,
    };
    matches!(
        kind,
        BadApiUsage
            | CircuitCollapse
            | CircuitRefused
            | ExitTimeout
            | RelayTooBusy
            | RemoteNetworkTimeout
            | TorNetworkTimeout
            | TransientFailure
    )
}

/// Maps an error of Arti to the error of a probe, which determines its origin.
fn probe_error(kind: ErrorKind) -> ProbeError {
    use ErrorKind as Kind;
    match kind {
        Kind::OnionServiceNotFound | Kind::OnionServiceAddressInvalid | Kind::InvalidStreamTarget => {
            ProbeError::OnionDescriptorNotFound
        }
        Kind::RemoteConnectionRefused
        | Kind::RemoteStreamClosed
        | Kind::RemoteStreamReset
        | Kind::RemoteStreamError
        | Kind::ExitPolicyRejected
        | Kind::OnionServiceMissingClientAuth
        | Kind::OnionServiceWrongClientAuth
        | Kind::OnionServiceProtocolViolation => ProbeError::Refused,
        Kind::RemoteHostNotFound | Kind::RemoteHostResolutionFailed => ProbeError::NameNotFound,
        Kind::TorAccessFailed
        | Kind::BootstrapRequired
        | Kind::DirectoryExpired
        | Kind::TorDirectoryError
        | Kind::TorDirectoryUnusable
        | Kind::LocalNetworkError
        | Kind::NoPath
        | Kind::ClockSkew
        | Kind::ArtiShuttingDown
        | Kind::ReactorShuttingDown
        | Kind::SoftwareDeprecated => ProbeError::TorUnavailable,
        Kind::LocalResourceExhausted => ProbeError::LocalResourceExhausted,
        // The origin is unclear: the peer may have caused the error.
        _ => ProbeError::Unreachable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connect::FailureOrigin;

    #[test]
    fn tor_errors_map_to_local_peer_or_ambiguous_origin() {
        assert_eq!(probe_error(ErrorKind::TorAccessFailed).blame(), FailureOrigin::Local);
        assert_eq!(probe_error(ErrorKind::DirectoryExpired).blame(), FailureOrigin::Local);
        assert_eq!(probe_error(ErrorKind::OnionServiceNotFound), ProbeError::OnionDescriptorNotFound);
        assert_eq!(probe_error(ErrorKind::OnionServiceConnectionFailed), ProbeError::Unreachable);
        assert_eq!(probe_error(ErrorKind::RemoteStreamError), ProbeError::Refused);
        assert_eq!(probe_error(ErrorKind::RemoteHostNotFound), ProbeError::NameNotFound);
        // The origin is unclear, so the failure counts against the peer only after another success.
        for kind in [ErrorKind::RemoteNetworkTimeout, ErrorKind::TorNetworkTimeout, ErrorKind::NoExit] {
            assert_eq!(probe_error(kind).blame(), FailureOrigin::Ambiguous, "{kind:?}");
        }
    }

    #[test]
    fn labels_that_differ_are_incompatible() {
        let label = |session, number| IsolationLabel { group: IsolationGroup::Session(session), number };
        assert!(label(1, 0).compatible_same_type(&label(1, 0)));
        assert!(!label(1, 0).compatible_same_type(&label(2, 0)));
        assert!(!label(1, 0).compatible_same_type(&label(1, 1)));
        assert_eq!(label(1, 0).join_same_type(&label(2, 0)), None);
    }
}
