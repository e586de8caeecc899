//! Creation of the backend, with the checks that need the network.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::DaemonError;
use super::loaded_books::Separation;
use super::side_book::{SnapshotSenders, side_dialer};
use crate::backend::{Backend, BackendError, PeerPool, Server, ServerList, UpstreamAddr};
use crate::book::{Ingress, PerIngress, Side};
use crate::book_handle::Inbox;
use crate::config::{Config, reaches};
use crate::connect::ProbeError;
use crate::dial::{Dialer, Tls};
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
    if config.backend.electrum.is_none() {
        return Ok(PerIngress::default());
    }
    let servers = create_servers(config, &dialer.tls, &chain);
    let checks = servers.iter().map(|server| check_server(server, own_addresses, dialer));
    futures_util::future::try_join_all(checks).await?;
    let servers = Arc::new(ServerList::new(servers));
    let backend = |side: Side, ingress: Ingress| {
        let pool = || PeerPool::new(side, side_dialer(side, dialer), snapshot[ingress].subscribe(), inbox.clone());
        let peers = config.backend.uses_peers().then(pool);
        Some(Arc::new(Backend { servers: Arc::clone(&servers), peers }))
    };
    Ok(match separation {
        Separation::Separate if config.backend.uses_peers() => PerIngress {
            clearnet: backend(Side::Clearnet, Ingress::Clearnet),
            onion: backend(Side::Onion, Ingress::Onion),
        },
        _ => PerIngress::both(backend(Side::Both, Ingress::Clearnet)),
    })
}

/// Creates the servers of the configuration.
pub(super) fn create_servers(
    config: &Config,
    tls: &Tls,
    chain: &watch::Receiver<Option<Arc<HeaderChain>>>,
) -> Vec<Server> {
    let servers = config.backend.servers().iter().cloned();
    let server = |address: UpstreamAddr| {
        let key_file = config.backend_key_path(&address);
        let server = Server::new(address, &config.book.chain, tls.clone(), key_file, chain.clone());
        server.with_proxy_headers(config.backend.proxy_protocol)
    };
    servers.map(server).collect()
}

/// Rejects a server that is Waypost itself, or that belongs to another network.
pub(super) async fn check_server(
    server: &Server,
    own_addresses: &[SocketAddr],
    dialer: &Dialer,
) -> Result<(), DaemonError> {
    check_not_self(&server.address, own_addresses, dialer).await?;
    match timeout(BACKEND_START_TIMEOUT, server.query_info(None)).await {
        Ok(Err(BackendError::Failed(ProbeError::ProtocolViolation(Fault::WrongGenesis)))) => {
            Err(DaemonError::OtherNetwork(server.address.to_string(), server.chain.name.clone()))
        }
        _ => Ok(()),
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
