//! Tor, as far as it is ours to look after: finding one or running one, our onion service, and whether others reach it.

#[cfg(feature = "embedded-tor")]
mod embedded;
mod onion_monitor;
mod socks_monitor;
#[cfg(feature = "embedded-tor")]
mod startup;

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

#[cfg(feature = "embedded-tor")]
pub use embedded::{
    ArtiConfigError, DirLock, EphemeralClient, LockError, OnionKeyError, bootstrap_ephemeral, check, import,
    onion_address,
};
pub use onion_monitor::{OnionMonitor, OnionServiceState};

use crate::book::Event;
use crate::book_handle::{BookMessage, Inbox};
use crate::clock::Time;
use crate::dial::{self, Stream};
use crate::peer::Port;
use crate::route::{OnionError, TorProbe, TorSource, TorState};

/// Which Tor is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Embedded where an onion service needs it; else a Tor that answers on a SOCKS port soon after the start; else
    /// embedded.
    #[default]
    Auto,
    /// A Tor of our own, in this process.
    Embedded,
    /// The one on a SOCKS port, which somebody else runs.
    Socks,
    /// No onion peer is contacted.
    Off,
}

/// Whether this program has a Tor of its own in it.
pub const IS_EMBEDDED: bool = cfg!(feature = "embedded-tor");

/// How Tor is used.
#[derive(Debug, Clone)]
pub struct TorOptions {
    pub mode: Mode,
    /// SOCKS addresses to look at, in this order.
    pub socks: Vec<SocketAddr>,
    /// Where our own Tor keeps its state and what it downloads.
    pub dir: PathBuf,
    /// Settings of Arti's, as TOML, that are laid over ours.
    pub arti: String,
    /// Our onion service, where we are to have one.
    pub service: Option<OnionServiceOptions>,
}

/// Our onion service.
#[derive(Debug, Clone, Copy)]
pub struct OnionServiceOptions {
    /// The port on which callers find it.
    pub port: Port,
    /// The operator asked for it, so that no Tor but our own will do.
    pub required: bool,
    /// Circuits of callers at once.
    pub circuits: usize,
    /// Streams, which are sessions, on one of them. A wallet needs one; who opens more than this loses the circuit.
    pub streams: u32,
}

/// A caller of our onion service, and the number of the circuit that it comes by.
pub type OnionStream = (Box<dyn Stream>, u64);

/// How Tor fares by what the book has seen of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TorHealth {
    pub state: TorState,
    /// When something got through it last.
    pub last_reached: Option<Time>,
}

/// Which Tor is in use, and what is wrong with its onion service, for operators.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// `None` until the choice begins, and for [`Mode::Off`].
    pub source: Option<TorSource>,
    pub onion_error: Option<OnionError>,
}

/// What a Tor is connected to in this program.
#[derive(Debug)]
pub struct TorChannels {
    /// Connector into its network, for dialling tasks.
    pub connector: watch::Sender<Option<dial::TorConnector>>,
    pub inbox: Inbox,
    pub health: watch::Receiver<TorHealth>,
    /// Our onion service's name, once it is known, and how it fares.
    pub onion_service: watch::Sender<Option<OnionServiceState>>,
    pub report: watch::Sender<Report>,
    pub onion_streams: mpsc::Sender<OnionStream>,
}

/// Looks after Tor until nobody listens to it any more. Not for [`Mode::Off`].
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
        // Callers know our onion service by its name, which goes wherever its key is: with our own Tor.
        Mode::Auto if settings.service.is_some_and(|service| service.required) || embedded::has_key(&settings.dir) => {
            TorBackend::Embedded
        }
        Mode::Auto => startup::choose(&settings.socks, channels, startup::wait_limit()).await,
    }
}

async fn report_probe(inbox: &Inbox, tor_probe: TorProbe) -> bool {
    inbox.send(BookMessage::Event(Event::Tor(tor_probe))).await.is_ok()
}
