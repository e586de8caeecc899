//! Detection and supervision of Tor, and the node's onion service.

mod client_keys;
#[cfg(feature = "embedded-tor")]
mod embedded;
mod onion_monitor;
mod socks_monitor;
#[cfg(feature = "embedded-tor")]
mod startup;
mod temporary;

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

pub use client_keys::{ClientKey, ClientKeyError, PeerKey, read_client_keys, read_peer_keys};
#[cfg(feature = "embedded-tor")]
pub use embedded::{
    ArtiConfigError, DirLock, EphemeralClient, ExistingKey, LockError, OnionKeyError, bootstrap_ephemeral, check,
    export, generate, import, onion_address,
};
pub use onion_monitor::{OnionMonitor, OnionServiceState, probe_onion_name};
pub use temporary::{TemporaryTor, TemporaryTorError};

use crate::book::Event;
use crate::book_handle::{BookMessage, Inbox};
use crate::clock::Time;
use crate::dial::{self, SocksPort, Stream};
use crate::peer::{Port, Ports, Transport};
use crate::tor_state::{OnionError, TorProbe, TorSource, TorState};

/// Which Tor is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Embedded if an onion service needs it or no Tor answers on a SOCKS port, else external.
    #[default]
    Auto,
    /// Arti, within this process.
    Embedded,
    /// An external Tor on a SOCKS port.
    Socks,
    /// None. No onion peer is contacted.
    Off,
}

/// Whether this build contains the embedded Tor.
pub const IS_EMBEDDED: bool = cfg!(feature = "embedded-tor");

/// Options of [`run`].
#[derive(Debug, Clone)]
pub struct TorOptions {
    /// Which Tor is used.
    pub mode: Mode,
    /// SOCKS ports to check, in this order.
    pub socks: Vec<SocksPort>,
    /// Directory of the embedded Tor's state and cache.
    pub dir: PathBuf,
    /// Arti configuration in TOML that overrides Waypost's defaults.
    pub arti: String,
    /// Keys for onion peers that require one. Used by the embedded Tor.
    pub peer_keys: Vec<PeerKey>,
    /// The onion service. `None`: none is launched.
    pub service: Option<OnionServiceOptions>,
}

/// Options of the onion service.
#[derive(Debug, Clone)]
pub struct OnionServiceOptions {
    /// Virtual ports for TCP, none twice. The first is advertised.
    pub ports: Vec<Port>,
    /// Virtual port for TLS, not one of the others. `None`: TCP only.
    pub tls_port: Option<Port>,
    /// Whether the operator asked for the service, which only the embedded Tor can run.
    pub required: bool,
    /// Maximum number of client circuits at the same time.
    pub circuits: usize,
    /// Maximum number of streams, each a session, per circuit.
    ///
    /// A wallet needs one. A client that opens more loses the circuit.
    pub streams: u32,
    /// Number of introduction points, from 3 to 20. `None`: Arti's default, 3.
    pub introduction_points: Option<u8>,
    /// Keys of the only clients that can reach the service. `None`: all clients can.
    pub clients: Option<Vec<ClientKey>>,
}

impl OnionServiceOptions {
    /// Returns the ports that are advertised once they were reached.
    pub fn advertised(&self) -> Option<Ports> {
        Ports::new(self.ports.first().copied(), self.tls_port)
    }

    /// Returns the transport of a virtual port. `None` for ports that the service does not have.
    pub fn transport(&self, port: u16) -> Option<Transport> {
        if self.tls_port.is_some_and(|tls_port| tls_port.get() == port) {
            return Some(Transport::Tls);
        }
        self.ports.iter().any(|own| own.get() == port).then_some(Transport::Tcp)
    }
}

/// Stream of a client of the onion service.
pub struct OnionStream {
    /// Bytes of the stream.
    pub stream: Box<dyn Stream>,
    /// Number of its circuit.
    pub circuit: u64,
    /// Transport of the virtual port. The client starts a TLS handshake if it is TLS.
    pub transport: Transport,
}

impl fmt::Debug for OnionStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnionStream").field("transport", &self.transport).finish_non_exhaustive()
    }
}

/// State of Tor according to the book.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TorHealth {
    /// Whether Tor is ready, starting or down.
    pub state: TorState,
    /// Time of the last success through Tor. `None`: none yet.
    pub last_reached: Option<Time>,
}

/// The Tor in use and the error of its onion service, for operators.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// The Tor in use. `None` before the selection starts, and for [`Mode::Off`].
    pub source: Option<TorSource>,
    /// Why the onion service does not run. `None`: it runs, or there is none.
    pub onion_error: Option<OnionError>,
}

/// Channels between the Tor task and the rest of the daemon.
#[derive(Debug)]
pub struct TorChannels {
    /// Connector for dialling tasks. `None` while there is no Tor.
    pub connector: watch::Sender<Option<dial::TorConnector>>,
    /// Messages to the book.
    pub inbox: Inbox,
    /// State of Tor according to the book.
    pub health: watch::Receiver<TorHealth>,
    /// Name and reachability of the onion service. `None` until the name is known.
    pub onion_service: watch::Sender<Option<OnionServiceState>>,
    /// Report for operators.
    pub report: watch::Sender<Report>,
    /// Streams of clients of the onion service.
    pub onion_streams: mpsc::Sender<OnionStream>,
}

/// Supervises Tor until the daemon shuts down. Not for [`Mode::Off`].
pub async fn run(settings: TorOptions, secret: u128, channels: TorChannels) {
    match choose(&settings, &channels).await {
        #[cfg(feature = "embedded-tor")]
        TorBackend::Embedded => embedded::run(settings, channels).await,
        TorBackend::External => socks_monitor::watch(settings.socks, secret, channels).await,
    }
}

enum TorBackend {
    #[cfg(feature = "embedded-tor")]
    Embedded,
    External,
}

#[cfg(not(feature = "embedded-tor"))]
async fn choose(_: &TorOptions, _: &TorChannels) -> TorBackend {
    TorBackend::External
}

#[cfg(feature = "embedded-tor")]
async fn choose(settings: &TorOptions, channels: &TorChannels) -> TorBackend {
    match settings.mode {
        Mode::Socks | Mode::Off => TorBackend::External,
        Mode::Embedded => TorBackend::Embedded,
        // The name of an existing service depends on its key in the embedded Tor's directory.
        Mode::Auto
            if settings.service.as_ref().is_some_and(|service| service.required)
                || embedded::has_key(&settings.dir) =>
        {
            TorBackend::Embedded
        }
        Mode::Auto => startup::choose(&settings.socks, channels, startup::wait_limit()).await,
    }
}

/// Sends the state of Tor to the book. Returns false if the book's task has ended.
async fn report_probe(inbox: &Inbox, tor_probe: TorProbe) -> bool {
    inbox.send(BookMessage::Event(Event::Tor(tor_probe))).await.is_ok()
}
