//! Creation of the backend, with the checks that need the network.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::DaemonError;
use super::loaded_books::Separation;
use super::side_book::{SnapshotSenders, side_dialer};
use crate::backend::{Backend, BackendError, BackendTarget, PeerPool, Server, UpstreamAddr};
use crate::book::{Ingress, PerIngress, Side};
use crate::book_handle::Inbox;
use crate::config::{Config, reaches};
use crate::connect::ProbeError;
use crate::dial::Dialer;
use crate::header_chain::HeaderChain;
use crate::peer::{Fault, Host};

/// Maximum time that the start waits for the backend.
const BACKEND_START_TIMEOUT: Duration = Duration::from_secs(5);

/// Creates the backend of the configuration; `None` if it names none.
///
/// A server that can't be reached now may be reachable later. A server of another network is an error.
pub(super) async fn create(
    config: &Config,
    dialer: &Dialer,
    own_addresses: &[SocketAddr],
    snapshot: &SnapshotSenders,
    chain: watch::Receiver<Option<Arc<HeaderChain>>>,
    separation: Separation,
    inbox: &Inbox,
) -> Result<PerIngress<Option<Arc<Backend>>>, DaemonError> {
    let address = match config.backend.electrum.clone() {
        None => return Ok(PerIngress::default()),
        Some(BackendTarget::Peers) => {
            let pool = |side: Side, ingress: Ingress| {
                let dialer = side_dialer(side, dialer);
                let pool = PeerPool::new(side, dialer, snapshot[ingress].subscribe(), inbox.clone());
                Some(Arc::new(Backend::Peers(pool)))
            };
            return Ok(match separation {
                Separation::Shared => PerIngress::both(pool(Side::Both, Ingress::Clearnet)),
                Separation::Separate => PerIngress {
                    clearnet: pool(Side::Clearnet, Ingress::Clearnet),
                    onion: pool(Side::Onion, Ingress::Onion),
                },
            });
        }
        Some(BackendTarget::Server(address)) => address,
    };
    check_not_self(&address, own_addresses, dialer).await?;
    let (network, tls) = (config.book.network, dialer.tls.clone());
    let server = Server::new(address, network, tls, config.backend_key_path(), chain);
    match timeout(BACKEND_START_TIMEOUT, server.query_info(None)).await {
        Ok(Err(BackendError::Failed(ProbeError::ProtocolViolation(Fault::WrongGenesis)))) => {
            Err(DaemonError::OtherNetwork(server.address.to_string(), network))
        }
        _ => Ok(PerIngress::both(Some(Arc::new(Backend::Server(server))))),
    }
}

/// Rejects a backend whose name leads to a listener, systemd's included.
async fn check_not_self(address: &UpstreamAddr, listeners: &[SocketAddr], dialer: &Dialer) -> Result<(), DaemonError> {
    let (UpstreamAddr::Tcp(endpoint) | UpstreamAddr::Tls(endpoint)) = address else { return Ok(()) };
    let addresses = match (&endpoint.host, dialer.direct) {
        (Host::Ip(ip), _) => vec![*ip],
        // A name that can't be resolved now is resolved for each connection.
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
