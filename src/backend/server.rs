//! A server of the operator's: how it is reached, and what it says of itself.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::key_pinning::verify_or_pin;
use super::{BackendError, GREETING, UpstreamAddr, negotiate, publish};
use crate::book::{Checkpoint, Event, height_to_compare};
use crate::book_handle::{BookMessage, Inbox};
use crate::connect::ProbeError;
use crate::dial::{Direct, Stream, Tls};
use crate::electrum::identity::{BackendInfo, LocalIdentity};
use crate::electrum::prober::ProbeExpectations;
use crate::jsonrpc::{MAX_PROTOCOL, MIN_PROTOCOL};
use crate::network::Network;
use crate::peer::{Endpoint, Host, ProbeReport};
use crate::probe::{Deadlines, run_prober};
use crate::route::Route;

/// Between two looks at how it does: when it was well, and when it wasn't.
const POLL_OK: Duration = Duration::from_secs(60);
const POLL_FAILED: Duration = Duration::from_secs(5);

/// The server behind us.
#[derive(Debug)]
pub struct Server {
    pub address: UpstreamAddr,
    pub network: Network,
    pub tls: Tls,
    /// Where the key of its certificate is remembered.
    pub key_file: PathBuf,
    /// Why it was of no use when it was last asked.
    last_error: watch::Sender<Option<String>>,
}

impl Server {
    pub fn new(address: UpstreamAddr, network: Network, tls: Tls, key_file: PathBuf) -> Server {
        let last_error = watch::Sender::new(Some("it wasn't asked yet".to_owned()));
        Server { address, network, tls, key_file, last_error }
    }

    pub async fn open(&self, version: &str) -> Result<Box<dyn Stream>, BackendError> {
        let greeted = timeout(GREETING, async { negotiate(self.connect().await?, version).await });
        greeted.await.unwrap_or(Err(BackendError::Failed(ProbeError::Timeout)))
    }

    /// What it says of itself, if it is a server of our network; and which block it has at this height.
    pub async fn query_info(&self, compare: Option<u32>) -> Result<(BackendInfo, Option<Checkpoint>), BackendError> {
        let stream = timeout(GREETING, self.connect()).await.unwrap_or(Err(ProbeError::Timeout.into()))?;
        let expected = ProbeExpectations {
            host: None,
            genesis_hash: self.network.genesis_hash(),
            default_ports: self.network.default_ports(),
            announce: None,
            compare,
        };
        let deadlines = Deadlines::for_route(Route::Direct);
        let report = run_prober(stream, &expected, deadlines, Instant::now() + deadlines.total, &mut |_| {}).await?;
        let block = report.checkpoint;
        Ok((behind(report)?, block))
    }

    pub fn last_error(&self) -> Option<String> {
        self.last_error.borrow().clone()
    }

    /// Keeps asking it.
    pub async fn monitor(&self, ourselves: &watch::Sender<Arc<LocalIdentity>>, inbox: Inbox) {
        let (mut well, mut compare) = (None, None);
        while !inbox.is_closed() {
            let said = self.query_info(compare).await;
            match &said {
                Ok(_) if well != Some(true) => tracing::info!(backend = %self.address, "the backend server works"),
                Err(error) if well != Some(false) => {
                    tracing::warn!(backend = %self.address, %error, "the backend server failed; only discovery is served until it works again");
                }
                _ => {}
            }
            well = Some(said.is_ok());
            self.last_error.send_replace(said.as_ref().err().map(BackendError::to_string));
            if let Ok((behind, block)) = said {
                let (tip, before) = (behind.tip, compare);
                publish(ourselves, behind);
                compare = tip.map(height_to_compare);
                if compare != before {
                    // Peers will be asked of another block than it was.
                    continue;
                }
                if let Some(tip) = tip {
                    let _ = inbox.send(BookMessage::Event(Event::BackendTip { tip, block })).await;
                }
            }
            sleep(if well == Some(true) { POLL_OK } else { POLL_FAILED }).await;
        }
    }

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
        let (stream, key) = self.tls.connect(host, stream).await?;
        verify_or_pin(&self.key_file, key.ok_or(ProbeError::Tls)?)?;
        Ok(Box::new(stream))
    }
}

fn behind(report: ProbeReport) -> Result<BackendInfo, BackendError> {
    let features = report.features.unwrap_or_default();
    // Who doesn't say which versions it speaks speaks the one that it chose.
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
