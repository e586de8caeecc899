//! Tasks of Tor: its supervisor, the onion service and the monitor of the onion name.

use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use tokio::sync::{mpsc, watch};

use super::task_set::TaskSet;
use crate::backend::BackendAccess;
use crate::book::Ingress;
use crate::book_handle::Inbox;
use crate::config::Config;
use crate::dial::{self, Dialer};
use crate::electrum::identity::LocalIdentity;
use crate::peer::Transport;
use crate::server::{ClientSource, ConnectionKind, IncomingConnection};
use crate::tor::{self, Mode, OnionServiceState, OnionStream, TorChannels, TorHealth};

/// Maximum number of onion connections that wait for admission.
const ONION_ACCEPT_QUEUE: usize = 64;

/// State that the Tor tasks publish.
pub(super) struct TorWiring {
    /// Connector of the Tor in use; `None` while there is none.
    pub connector: watch::Sender<Option<dial::TorConnector>>,
    /// State of the onion service; `None` if the node has none.
    pub onion: watch::Sender<Option<OnionServiceState>>,
    /// Description of the Tor in use, for operators.
    pub report: watch::Sender<tor::Report>,
    /// Names and replies of the node.
    pub identity: watch::Sender<Arc<LocalIdentity>>,
}

/// Parts of the daemon that the Tor tasks use.
pub(super) struct TorPeers {
    /// Dialer for the test of the onion name.
    pub dialer: Dialer,
    /// Health of Tor as the book sees it.
    pub health: watch::Receiver<TorHealth>,
    /// Queue of connections that wait for admission.
    pub arrivals: mpsc::Sender<IncomingConnection>,
    /// Queue of the book's task.
    pub inbox: Inbox,
}

impl TorWiring {
    /// Creates the initial state. Nothing runs yet.
    pub(super) fn new(config: &Config) -> TorWiring {
        let onion = config.tor.onion_host.clone().map(|(host, ports)| OnionServiceState::new(host, ports));
        TorWiring {
            connector: watch::Sender::new(None),
            onion: watch::Sender::new(onion),
            report: watch::Sender::default(),
            identity: watch::Sender::new(Arc::new(LocalIdentity::new(config.identity.clone()))),
        }
    }

    /// Starts the tasks, unless the configuration disables Tor.
    pub(super) fn spawn(self, tasks: &mut TaskSet, config: &Config, peers: TorPeers, rng: &mut StdRng) {
        if config.tor.settings.mode == Mode::Off {
            return;
        }
        let TorPeers { dialer, health, arrivals, inbox } = peers;
        let monitor = tor::OnionMonitor {
            chain: config.book.chain.clone(),
            dialer,
            onion_service: self.onion.clone(),
            local_identity: self.identity,
            health: health.clone(),
            inbox: inbox.clone(),
        };
        let monitor_rng = StdRng::seed_from_u64(rng.next_u64());
        tasks.spawn("the onion monitor", monitor.run(monitor_rng));
        let (streams, mut onion_streams) = mpsc::channel(ONION_ACCEPT_QUEUE);
        let channels = TorChannels {
            connector: self.connector,
            inbox,
            health,
            onion_service: self.onion,
            report: self.report,
            onion_streams: streams,
        };
        let (settings, secret) = (config.tor.settings.clone(), rng.random());
        tasks.spawn("the Tor supervisor", tor::run(settings, secret, channels));
        tasks.spawn("the onion service", async move {
            while let Some(OnionStream { stream, circuit, transport }) = onion_streams.recv().await {
                let source = ClientSource::Circuit(circuit);
                let tls = transport == Transport::Tls;
                let kind = ConnectionKind { tls, backend_access: BackendAccess::All, ..ConnectionKind::default() };
                let connection = IncomingConnection { stream, from: None, source, ingress: Ingress::Onion, kind };
                if arrivals.send(connection).await.is_err() {
                    break;
                }
            }
        });
    }
}
