//! Where callers come in: what was asked for, opened, or handed over by systemd.

use std::net::SocketAddr;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::task_set::TaskSet;
use super::{DaemonError, platform};
use crate::book::Ingress;
use crate::config::{BackendConfig, Config, ListenKind};
use crate::server::{self, ConnectionKind, IncomingConnection, Ingresses, SessionContext};

/// All listeners, each with what its callers are.
pub struct Listeners(Vec<(ListenKind, TcpListener)>);

impl Listeners {
    /// Inherited sockets replace the configured addresses of their kind.
    pub fn open(config: &Config) -> Result<Listeners, DaemonError> {
        let mut open = platform::systemd_listeners()?;
        let inherited: Vec<ListenKind> = open.iter().map(|(kind, _)| *kind).collect();
        for kind in ListenKind::ALL.into_iter().filter(|kind| !inherited.contains(kind)) {
            let listeners = platform::listen(kind.key(), config.listen.addresses(kind))?;
            open.extend(listeners.into_iter().map(|listener| (kind, listener)));
        }
        Ok(Listeners(open))
    }

    /// Whether any of their callers come by TLS.
    pub fn has_tls(&self) -> bool {
        self.0.iter().any(|(kind, _)| manner(*kind).tls)
    }

    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.0.iter().filter_map(|(_, listener)| listener.local_addr().ok()).collect()
    }

    pub fn names(&self) -> Vec<String> {
        let address = |listener: &TcpListener| listener.local_addr().ok();
        let named = self.0.iter().filter_map(|(kind, listener)| address(listener).map(|at: SocketAddr| (kind, at)));
        named.map(|(kind, address)| format!("{kind}://{address}")).collect()
    }

    /// Has everybody's callers brought to one door, at which those of our own onion service arrive as well.
    pub fn serve(
        self,
        tasks: &mut TaskSet,
        shared: SessionContext,
        own_service: bool,
        fronted: &BackendConfig,
        rng: &mut StdRng,
    ) -> mpsc::Sender<IncomingConnection> {
        let (door, arrivals) = mpsc::channel(server::ACCEPT_QUEUE);
        let from_onion = own_service || self.0.iter().any(|(kind, _)| *kind == ListenKind::Onion);
        let from_clearnet = self.0.iter().any(|(kind, _)| *kind != ListenKind::Onion);
        let ingresses = if from_onion && from_clearnet { Ingresses::Both } else { Ingresses::One };
        let keeping = server::run_admission(arrivals, ingresses, shared, StdRng::seed_from_u64(rng.next_u64()));
        tasks.spawn("admission", keeping);
        for (kind, listener) in self.0 {
            let fronted = listener.local_addr().is_ok_and(|address| fronted.grants_backend(kind, address));
            let manner = ConnectionKind { backend_access: fronted, ..manner(kind) };
            let ingress = if kind == ListenKind::Onion { Ingress::Onion } else { Ingress::Clearnet };
            let listening = server::accept(listener, ingress, manner, door.clone());
            tasks.spawn("a listener", listening);
        }
        door
    }
}

fn manner(kind: ListenKind) -> ConnectionKind {
    match kind {
        ListenKind::Tcp | ListenKind::Onion => ConnectionKind::default(),
        ListenKind::Tls => ConnectionKind { tls: true, ..ConnectionKind::default() },
        ListenKind::Ws => ConnectionKind { websocket: true, ..ConnectionKind::default() },
        ListenKind::Wss => ConnectionKind { tls: true, websocket: true, backend_access: false },
    }
}
