//! Through the Tor in this process.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arti_client::isolation::IsolationHelper;
use arti_client::{DataStream, ErrorKind, HasKind, StreamPrefs, TorClient};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tor_rtcompat::tokio::TokioRustlsRuntime;

use crate::book::Failure;
use crate::peer::{DnsName, Host, Port};

pub type Client = TorClient<TokioRustlsRuntime>;

/// Longer than this is no answer, whatever Arti still tries.
const CONNECT: Duration = Duration::from_secs(60);

/// A client, for dialling, until it is given up.
#[derive(Clone)]
pub struct Arti {
    client: Arc<Client>,
    given_up: CancellationToken,
}

impl std::fmt::Debug for Arti {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Arti")
    }
}

impl Arti {
    /// What is under way when the token is cancelled ends at once: it would keep the client, and its files, from whoever
    /// comes after it.
    pub fn new(client: Arc<Client>, given_up: CancellationToken) -> Arti {
        Arti { client, given_up }
    }

    /// Connects through circuits of this circle alone.
    ///
    /// Some errors say neither that the peer is gone nor that our Tor is; a circuit from last time that died meanwhile
    /// makes such a one. After those it is tried once more, on circuits that nobody used before.
    pub async fn connect(&self, host: &Host, port: Port, circle: &str) -> Result<DataStream, Failure> {
        let host = host.to_string();
        let connecting = async {
            let target = (host.as_str(), port.get());
            match self.client.connect_with_prefs(target, &kept(circle)).await {
                Err(error) if is_doubtful(error.kind()) => self.client.connect_with_prefs(target, &fresh(circle)).await,
                outcome => outcome,
            }
        };
        self.bounded(connecting, Failure::Unreachable).await
    }

    /// Has an exit look a name up.
    pub async fn resolve(&self, name: &DnsName, circle: &str) -> Result<Vec<IpAddr>, Failure> {
        let prefs = kept(circle);
        let resolving = self.client.resolve_with_prefs(name.as_str(), &prefs);
        match self.bounded(resolving, Failure::NotFound).await {
            Ok(addresses) => {
                let mut addresses: Vec<IpAddr> = addresses.iter().map(IpAddr::to_canonical).collect();
                // Every exit that lets anybody out does so by IPv4.
                addresses.sort_by_key(IpAddr::is_ipv6);
                addresses.dedup();
                Ok(addresses)
            }
            Err(ours @ (Failure::OurTor | Failure::OurLimits)) => Err(ours),
            Err(_) => Err(Failure::NotFound),
        }
    }

    async fn bounded<T>(
        &self,
        asking: impl Future<Output = Result<T, arti_client::Error>>,
        too_late: Failure,
    ) -> Result<T, Failure> {
        let given_up = self.given_up.clone();
        match given_up.run_until_cancelled(timeout(CONNECT, asking)).await {
            Some(Ok(Ok(answer))) => Ok(answer),
            Some(Ok(Err(error))) => {
                tracing::debug!(kind = ?error.kind(), "Tor refuses");
                Err(failure(error.kind()))
            }
            Some(Err(_)) => Err(too_late),
            None => Err(Failure::OurTor),
        }
    }
}

/// What tells circuits apart.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Label {
    circle: String,
    /// 0 for the circuits that a circle keeps.
    number: u64,
}

impl IsolationHelper for Label {
    fn compatible_same_type(&self, other: &Self) -> bool {
        self == other
    }

    fn join_same_type(&self, other: &Self) -> Option<Self> {
        (self == other).then(|| self.clone())
    }
}

fn kept(circle: &str) -> StreamPrefs {
    labelled(circle, 0)
}

fn fresh(circle: &str) -> StreamPrefs {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    labelled(circle, NEXT.fetch_add(1, Ordering::Relaxed))
}

fn labelled(circle: &str, number: u64) -> StreamPrefs {
    let mut prefs = StreamPrefs::new();
    prefs.set_isolation(Label { circle: circle.to_owned(), number });
    prefs
}

fn is_doubtful(kind: ErrorKind) -> bool {
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

/// Whose trouble an error is.
fn failure(kind: ErrorKind) -> Failure {
    use ErrorKind as Kind;
    match kind {
        Kind::OnionServiceNotFound | Kind::OnionServiceAddressInvalid | Kind::InvalidStreamTarget => {
            Failure::NoDescriptor
        }
        Kind::RemoteConnectionRefused
        | Kind::RemoteStreamClosed
        | Kind::RemoteStreamReset
        | Kind::RemoteStreamError
        | Kind::ExitPolicyRejected
        | Kind::OnionServiceMissingClientAuth
        | Kind::OnionServiceWrongClientAuth
        | Kind::OnionServiceProtocolViolation => Failure::Refused,
        Kind::RemoteHostNotFound | Kind::RemoteHostResolutionFailed => Failure::NotFound,
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
        | Kind::SoftwareDeprecated => Failure::OurTor,
        Kind::LocalResourceExhausted => Failure::OurLimits,
        // What may have been brought about by the peer is none of Tor's failing, nor surely the peer's.
        _ => Failure::Unreachable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::book::Blame;

    #[test]
    fn our_tor_is_told_from_the_peer() {
        assert_eq!(failure(ErrorKind::TorAccessFailed).blame(), Blame::Us);
        assert_eq!(failure(ErrorKind::DirectoryExpired).blame(), Blame::Us);
        assert_eq!(failure(ErrorKind::OnionServiceNotFound), Failure::NoDescriptor);
        assert_eq!(failure(ErrorKind::OnionServiceConnectionFailed), Failure::Unreachable);
        assert_eq!(failure(ErrorKind::RemoteStreamError), Failure::Refused);
        assert_eq!(failure(ErrorKind::RemoteHostNotFound), Failure::NotFound);
        // Whoever it was, it is not counted against the peer before something else gets through.
        for kind in [ErrorKind::RemoteNetworkTimeout, ErrorKind::TorNetworkTimeout, ErrorKind::NoExit] {
            assert_eq!(failure(kind).blame(), Blame::Unclear, "{kind:?}");
        }
    }

    #[test]
    fn circles_share_nothing() {
        let label = |circle: &str, number| Label { circle: circle.to_owned(), number };
        assert!(label("a", 0).compatible_same_type(&label("a", 0)));
        assert!(!label("a", 0).compatible_same_type(&label("b", 0)));
        assert!(!label("a", 0).compatible_same_type(&label("a", 1)));
        assert_eq!(label("a", 0).join_same_type(&label("b", 0)), None);
    }
}
