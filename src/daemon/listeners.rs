//! Listeners: configured addresses, or sockets from systemd.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use super::loaded_books::Separation;
use super::task_set::TaskSet;
use super::{DaemonError, platform};
use crate::backend::BackendAccess;
use crate::book::Ingress;
use crate::config::{BackendConfig, Config, ListenKind};
use crate::server::{
    self, ClientListener, ConnectionKind, IncomingConnection, Ingresses, SessionContext, TrustedProxies,
};

/// All listeners, with the kind of each.
pub(super) struct Listeners(Vec<(ListenKind, TcpListener)>);

impl Listeners {
    /// Opens the listeners. Inherited sockets replace the configured addresses of their kind.
    pub(super) fn open(config: &Config) -> Result<Listeners, DaemonError> {
        let mut open = platform::systemd_listeners()?;
        let inherited: Vec<ListenKind> = open.iter().map(|(kind, _)| *kind).collect();
        for kind in ListenKind::ALL.into_iter().filter(|kind| !inherited.contains(kind)) {
            let listeners = platform::listen(kind.key(), config.listen.addresses(kind))?;
            open.extend(listeners.into_iter().map(|listener| (kind, listener)));
        }
        Ok(Listeners(open))
    }

    /// Returns whether any clearnet listener needs a certificate.
    pub(super) fn has_tls(&self) -> bool {
        self.0.iter().any(|(kind, _)| connection_kind(*kind).tls && !kind.is_onion())
    }

    /// Returns whether a listener for clients of an onion service needs a certificate.
    pub(super) fn has_onion_tls(&self) -> bool {
        self.0.iter().any(|(kind, _)| *kind == ListenKind::OnionTls)
    }

    /// Returns whether a listener serves the clients of an onion service.
    pub(super) fn has_onion(&self) -> bool {
        self.0.iter().any(|(kind, _)| kind.is_onion())
    }

    /// Returns the ingresses of these listeners and of the embedded onion service, if there is one.
    pub(super) fn ingresses(&self, has_onion_service: bool, separation: Separation) -> Ingresses {
        let from_onion = has_onion_service || self.has_onion();
        let from_clearnet = self.0.iter().any(|(kind, _)| !kind.is_onion());
        match separation {
            _ if !(from_onion && from_clearnet) => Ingresses::One,
            Separation::Shared => Ingresses::Linked,
            Separation::Separate => Ingresses::Separate,
        }
    }

    /// Returns the addresses of all listeners.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.0.iter().filter_map(|(_, listener)| listener.local_addr().ok()).collect()
    }

    /// Returns the listeners as URLs, for the log and the status.
    pub(super) fn names(&self) -> Vec<String> {
        let address = |listener: &TcpListener| listener.local_addr().ok();
        let named = self.0.iter().filter_map(|(kind, listener)| address(listener).map(|at: SocketAddr| (kind, at)));
        named.map(|(kind, address)| format!("{kind}://{address}")).collect()
    }

    /// Spawns admission and one task per listener.
    ///
    /// Returns the queue of admission, for the clients of the embedded onion service.
    pub(super) fn spawn(
        self,
        tasks: &mut TaskSet,
        context: SessionContext,
        ingresses: Ingresses,
        backend: &BackendConfig,
        trusted_proxies: watch::Receiver<Arc<TrustedProxies>>,
        rng: &mut StdRng,
    ) -> mpsc::Sender<IncomingConnection> {
        let (arrivals, admitted) = mpsc::channel(server::ACCEPT_QUEUE);
        let rng = StdRng::seed_from_u64(rng.next_u64());
        let counters = Arc::clone(&context.counters);
        tasks.spawn("admission", server::run_admission(admitted, ingresses, context, rng));
        for (kind, socket) in self.0 {
            let access = |address| backend.access(kind, address);
            let backend_access = socket.local_addr().map_or(BackendAccess::None, access);
            let listener = ClientListener {
                socket,
                ingress: if kind.is_onion() { Ingress::Onion } else { Ingress::Clearnet },
                kind: ConnectionKind { backend_access, ..connection_kind(kind) },
                // As on a listener for all addresses of this machine.
                proxied_backend_access: access((Ipv4Addr::UNSPECIFIED, 0).into()),
                trusted_proxies: trusted_proxies.clone(),
                counters: Arc::clone(&counters),
            };
            tasks.spawn("a listener", server::accept(listener, arrivals.clone()));
        }
        arrivals
    }
}

fn connection_kind(kind: ListenKind) -> ConnectionKind {
    match kind {
        ListenKind::Tcp | ListenKind::Onion => ConnectionKind::default(),
        ListenKind::Tls | ListenKind::OnionTls => ConnectionKind { tls: true, ..ConnectionKind::default() },
        ListenKind::Ws => ConnectionKind { websocket: true, ..ConnectionKind::default() },
        ListenKind::Wss => ConnectionKind { tls: true, websocket: true, ..ConnectionKind::default() },
    }
}
