//! The operator's Electrum server as upstream.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::key_pinning::verify_or_pin;
use super::{BackendError, GREETING_TIMEOUT, UpstreamAddr, negotiate, publish};
use crate::book::{Checkpoint, Event, Ingress, height_to_compare};
use crate::book_handle::{BookMessage, Inbox};
use crate::connect::{ProbeError, ProbeReport};
use crate::dial::{Direct, Stream, Tls};
use crate::electrum::identity::{BackendInfo, LocalIdentity};
use crate::electrum::prober::ProbeExpectations;
use crate::jsonrpc::{MAX_PROTOCOL, MIN_PROTOCOL};
use crate::network::Network;
use crate::peer::{Endpoint, Host};
use crate::probe::{Deadlines, run_prober};
use crate::route::Route;

/// Interval between two polls after a success.
const POLL_OK: Duration = Duration::from_secs(60);
/// Interval between two polls after a failure.
const POLL_FAILED: Duration = Duration::from_secs(5);

/// The operator's Electrum server.
#[derive(Debug)]
pub struct Server {
    /// Where the server listens.
    pub address: UpstreamAddr,
    /// The chain that the server must serve.
    pub network: Network,
    /// TLS client.
    pub tls: Tls,
    /// File of the pinned TLS key.
    pub key_file: PathBuf,
    /// Error of the last poll. `None`: it succeeded.
    last_error: watch::Sender<Option<String>>,
}

impl Server {
    /// Creates the upstream. Its last error says that it was not polled yet.
    pub fn new(address: UpstreamAddr, network: Network, tls: Tls, key_file: PathBuf) -> Server {
        let last_error = watch::Sender::new(Some("not polled yet".to_owned()));
        Server { address, network, tls, key_file, last_error }
    }

    /// Opens a connection with this protocol version.
    pub async fn open(&self, version: &str) -> Result<Box<dyn Stream>, BackendError> {
        let stream = timeout(GREETING_TIMEOUT, async { negotiate(self.connect().await?, version).await });
        stream.await.unwrap_or(Err(BackendError::Failed(ProbeError::Timeout)))
    }

    /// Probes the server and returns its properties, and its block at `checkpoint_height`.
    pub async fn query_info(
        &self,
        checkpoint_height: Option<u32>,
    ) -> Result<(BackendInfo, Option<Checkpoint>), BackendError> {
        let stream = timeout(GREETING_TIMEOUT, self.connect()).await.unwrap_or(Err(ProbeError::Timeout.into()))?;
        let expected = ProbeExpectations {
            host: None,
            genesis_hash: self.network.genesis_hash(),
            default_ports: self.network.default_ports(),
            announce: None,
            checkpoint_height,
            pin: self.network.pin(),
        };
        let deadlines = Deadlines::for_route(Route::Direct);
        let report = run_prober(stream, &expected, deadlines, Instant::now() + deadlines.total, &mut |_| {}).await?;
        let checkpoint = report.checkpoint;
        Ok((backend_info(report)?, checkpoint))
    }

    /// Returns the error of the last poll. `None`: it succeeded.
    pub fn last_error(&self) -> Option<String> {
        self.last_error.borrow().clone()
    }

    /// Polls the server until shutdown, and publishes its properties and tip.
    pub async fn monitor(&self, local_identity: &watch::Sender<Arc<LocalIdentity>>, inbox: Inbox) {
        let (mut was_ok, mut checkpoint_height) = (None, None);
        while !inbox.is_closed() {
            let result = self.query_info(checkpoint_height).await;
            match &result {
                Ok(_) if was_ok != Some(true) => tracing::info!(backend = %self.address, "the backend server works"),
                Err(error) if was_ok != Some(false) => {
                    tracing::warn!(backend = %self.address, %error, "the backend server failed; only discovery is served until it works again");
                }
                _ => {}
            }
            was_ok = Some(result.is_ok());
            self.last_error.send_replace(result.as_ref().err().map(BackendError::to_string));
            if let Ok((info, checkpoint)) = result {
                let (tip, previous) = (info.tip, checkpoint_height);
                publish(local_identity, &Ingress::ALL, &info);
                checkpoint_height = tip.map(height_to_compare);
                if checkpoint_height != previous {
                    // The tip must come with the block at the height at which peers are compared.
                    continue;
                }
                if let Some(tip) = tip {
                    let _ = inbox.send(BookMessage::Event(Event::BackendTip { tip, block: checkpoint })).await;
                }
            }
            sleep(if was_ok == Some(true) { POLL_OK } else { POLL_FAILED }).await;
        }
    }

    /// Connects, with a TLS handshake if configured.
    async fn connect(&self) -> Result<Box<dyn Stream>, BackendError> {
        let Endpoint { host, port } = match &self.address {
            UpstreamAddr::Unix(path) => return Ok(Box::new(Direct.connect_unix(path).await?)),
            UpstreamAddr::Tcp(endpoint) | UpstreamAddr::Tls(endpoint) => endpoint,
        };
        let addresses = match host {
            Host::Ip(ip) => vec![*ip],
            Host::Dns(name) => Direct.resolve(name).await?,
            Host::Onion(_) => return Err(ProbeError::NameNotFound.into()),
        };
        let (stream, _) = Direct.connect(&addresses, *port).await?;
        if matches!(self.address, UpstreamAddr::Tcp(..)) {
            return Ok(Box::new(stream));
        }
        let (stream, certificate) = self.tls.connect(host, stream).await?;
        verify_or_pin(&self.key_file, certificate.ok_or(ProbeError::Tls)?.key)?;
        Ok(Box::new(stream))
    }
}

/// Extracts the properties of the server from a report.
fn backend_info(report: ProbeReport) -> Result<BackendInfo, BackendError> {
    let features = report.features.unwrap_or_default();
    // A server that does not report its versions supports at least the negotiated one.
    let (oldest, newest) = (
        features.protocol_min.unwrap_or(report.negotiated_version),
        features.protocol_max.unwrap_or(report.negotiated_version),
    );
    let oldest = if oldest.cmp_semver(&MIN_PROTOCOL).is_lt() { MIN_PROTOCOL } else { oldest };
    let newest = if newest.cmp_semver(&MAX_PROTOCOL).is_gt() { MAX_PROTOCOL } else { newest };
    if oldest.cmp_semver(&newest).is_gt() {
        return Err(BackendError::Versions);
    }
    Ok(BackendInfo {
        software: report.software,
        versions: (oldest, newest),
        pruning: features.pruning,
        tip: report.tip_height,
    })
}
