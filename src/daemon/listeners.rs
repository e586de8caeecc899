//! Where callers come in: what was asked for, opened, or handed over by systemd.

use std::net::SocketAddr;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::{DaemonError, Tasks, machine};
use crate::book::Caller;
use crate::config::{Config, Fronted, ListenKind};
use crate::serve::{self, Arrival, Manner, Shared};

/// All listeners, each with what its callers are.
pub struct Listeners(Vec<(ListenKind, TcpListener)>);

impl Listeners {
    /// A kind of which systemd hands sockets over is not opened beside them.
    pub fn open(config: &Config) -> Result<Listeners, DaemonError> {
        let mut open = machine::inherited()?;
        let inherited: Vec<ListenKind> = open.iter().map(|(kind, _)| *kind).collect();
        for kind in ListenKind::ALL.into_iter().filter(|kind| !inherited.contains(kind)) {
            let listeners = machine::listen(kind.key(), config.listen.addresses(kind))?;
            open.extend(listeners.into_iter().map(|listener| (kind, listener)));
        }
        Ok(Listeners(open))
    }

    /// Whether any of their callers come by TLS.
    pub fn need_certificate(&self) -> bool {
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
        tasks: &mut Tasks,
        shared: Shared,
        own_service: bool,
        fronted: &Fronted,
        rng: &mut StdRng,
    ) -> mpsc::Sender<Arrival> {
        let (door, arrivals) = mpsc::channel(serve::WAITING);
        let from_onion = own_service || self.0.iter().any(|(kind, _)| *kind == ListenKind::Onion);
        let from_clearnet = self.0.iter().any(|(kind, _)| *kind != ListenKind::Onion);
        let keeping = serve::keep(arrivals, from_onion && from_clearnet, shared, StdRng::seed_from_u64(rng.next_u64()));
        tasks.spawn(async move {
            keeping.await;
            "the door"
        });
        for (kind, listener) in self.0 {
            let fronted = listener.local_addr().is_ok_and(|address| fronted.serves(kind, address));
            let manner = Manner { fronted, ..manner(kind) };
            let caller = if kind == ListenKind::Onion { Caller::Onion } else { Caller::Clearnet };
            let listening = serve::listen(listener, caller, manner, door.clone());
            tasks.spawn(async move {
                listening.await;
                "a listener"
            });
        }
        door
    }
}

fn manner(kind: ListenKind) -> Manner {
    match kind {
        ListenKind::Tcp | ListenKind::Onion => Manner::default(),
        ListenKind::Tls => Manner { tls: true, ..Manner::default() },
        ListenKind::Ws => Manner { websocket: true, ..Manner::default() },
        ListenKind::Wss => Manner { tls: true, websocket: true, fronted: false },
    }
}
