//! An Electrum server of the operator as upstream.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proxy_header::{ProxiedAddress, ProxyHeader};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use super::key_pinning::verify_or_pin;
use super::{BackendError, GREETING_TIMEOUT, UpstreamAddr, negotiate};
use crate::book::{Checkpoint, Event, height_to_compare};
use crate::book_handle::{BookMessage, Inbox};
use crate::chain::Chain;
use crate::clock;
use crate::connect::{ProbeError, ProbeReport};
use crate::dial::{Direct, Stream, Tls};
use crate::electrum::identity::BackendInfo;
use crate::electrum::prober::{ChainProof, FeaturesStep, ProbeExpectations, RequestOrder};
use crate::header_chain::{CatchUp, ChainReference, ChainStanding, HeaderChain};
use crate::jsonrpc::{DEFAULT_PROTOCOL, MAX_PROTOCOL, MIN_PROTOCOL};
use crate::peer::{Endpoint, Host, Version};
use crate::probe::{Deadlines, FailedConversation, Retry, run_prober};
use crate::route::Route;

/// Interval between two polls after a success, unless the known chain changes.
const POLL_OK: Duration = Duration::from_secs(60);
/// Interval between two polls after a failure.
const POLL_FAILED: Duration = Duration::from_secs(5);

/// Interval between two polls while the server has more headers than one visit downloads.
const POLL_CATCHING_UP: Duration = Duration::from_secs(1);

/// Time for which `server.features` is not requested from a server that failed at it.
///
/// A server that is replaced by another version is asked again after a failed poll, or after this time.
const FEATURES_RETRY: Duration = Duration::from_hours(1);

/// Result of a poll.
#[derive(Debug)]
pub struct BackendReport {
    /// Properties of the server.
    pub info: BackendInfo,
    /// Block at the compared height; `None` if the server did not return it.
    pub checkpoint: Option<Checkpoint>,
    /// Position relative to the known chain; `None` if it was not compared.
    pub standing: Option<ChainStanding>,
}

/// State of a server at the last poll.
#[derive(Debug, Clone)]
pub struct ServerStatus {
    /// Why the server is unusable; `None` if it is usable.
    pub error: Option<String>,
    /// Properties at the last successful poll; `None` before the first.
    pub info: Option<BackendInfo>,
}

/// An Electrum server of the operator.
#[derive(Debug)]
pub struct Server {
    /// Where the server listens.
    pub address: UpstreamAddr,
    /// The chain that the server must serve.
    pub chain: Chain,
    /// TLS client.
    pub tls: Tls,
    /// File of the pinned TLS key.
    pub key_file: PathBuf,
    /// Known chain with the most work; `None` if work is not followed.
    pub known_chain: watch::Receiver<Option<Arc<HeaderChain>>>,
    /// State at the last poll.
    status: watch::Sender<ServerStatus>,
    /// Number of sessions that the server serves.
    sessions: AtomicUsize,
    /// Signals that a session has lost its connection, so that the server is polled at once.
    doubted: Notify,
    /// Time until which `server.features` is left out. `None`: it is requested.
    skip_features_until: Mutex<Option<Instant>>,
    /// Whether connections begin with a PROXY header.
    sends_proxy_headers: bool,
}

/// Failed attempt to probe the server.
struct FailedProbe {
    error: BackendError,
    /// Whether the server closed the connection or fell silent at `server.features`.
    is_at_features: bool,
}

impl From<BackendError> for FailedProbe {
    fn from(error: BackendError) -> FailedProbe {
        FailedProbe { error, is_at_features: false }
    }
}

impl From<FailedConversation> for FailedProbe {
    fn from(failed: FailedConversation) -> FailedProbe {
        FailedProbe { error: failed.error.into(), is_at_features: failed.retry == Some(Retry::WithoutFeatures) }
    }
}

impl Server {
    /// Creates the upstream. Its error says that it was not polled yet.
    pub fn new(
        address: UpstreamAddr,
        chain: &Chain,
        tls: Tls,
        key_file: PathBuf,
        known_chain: watch::Receiver<Option<Arc<HeaderChain>>>,
    ) -> Server {
        let status = watch::Sender::new(ServerStatus { error: Some("not polled yet".to_owned()), info: None });
        let (sessions, doubted, skip_features_until) = (AtomicUsize::new(0), Notify::new(), Mutex::new(None));
        Server {
            address,
            chain: chain.clone(),
            tls,
            key_file,
            known_chain,
            status,
            sessions,
            doubted,
            skip_features_until,
            sends_proxy_headers: false,
        }
    }

    /// Sends the addresses of clients to the server, by the PROXY protocol.
    pub fn with_proxy_headers(self, sends_proxy_headers: bool) -> Server {
        Server { sends_proxy_headers, ..self }
    }

    /// Opens a connection with this protocol version. `client` is `None` for onion clients.
    pub async fn open(&self, version: &str, client: Option<IpAddr>) -> Result<Box<dyn Stream>, BackendError> {
        let stream = timeout(GREETING_TIMEOUT, async { negotiate(self.connect(client).await?, version).await });
        stream.await.unwrap_or(Err(BackendError::Failed(ProbeError::Timeout)))
    }

    /// Probes the server, and requests its block at `checkpoint_height`.
    ///
    /// A server that closes the connection or falls silent at `server.features` is probed again without that request.
    /// A server on a branch with less work is an error.
    pub async fn query_info(&self, checkpoint_height: Option<u32>) -> Result<BackendReport, BackendError> {
        self.query_within(checkpoint_height, Deadlines::for_route(Route::Direct)).await
    }

    async fn query_within(
        &self,
        checkpoint_height: Option<u32>,
        deadlines: Deadlines,
    ) -> Result<BackendReport, BackendError> {
        let chain = self.known_chain.borrow().clone();
        let skip_until = self.skip_features_until();
        let report = if skip_until.is_some_and(|until| Instant::now() < until) {
            let report = self.probe(checkpoint_height, chain.clone(), FeaturesStep::Skipped, deadlines).await;
            report.map_err(|failed| {
                self.set_skip_features_until(None);
                failed.error
            })?
        } else {
            match self.probe(checkpoint_height, chain.clone(), FeaturesStep::Included, deadlines).await {
                Ok(report) => {
                    self.set_skip_features_until(None);
                    report
                }
                Err(FailedProbe { is_at_features: true, .. }) => {
                    let report = self.probe(checkpoint_height, chain.clone(), FeaturesStep::Skipped, deadlines).await;
                    let report = report.map_err(|failed| failed.error)?;
                    if skip_until.is_none() {
                        tracing::info!(backend = %self.address, "the backend server does not answer server.features");
                    }
                    self.set_skip_features_until(Some(Instant::now() + FEATURES_RETRY));
                    report
                }
                Err(FailedProbe { error, .. }) => return Err(error),
            }
        };
        if let (Some(standing), Some(tip), Some(chain)) = (&report.standing, report.tip_height, chain)
            && let ChainStanding::LessWork { fork_height, .. } = standing
            && standing.has_less_work(tip, &chain)
        {
            return Err(BackendError::LessWork(*fork_height));
        }
        let (checkpoint, standing) = (report.checkpoint, report.standing.clone());
        Ok(BackendReport { info: backend_info(report)?, checkpoint, standing })
    }

    /// Probes the server on a connection of its own.
    async fn probe(
        &self,
        checkpoint_height: Option<u32>,
        chain: Option<Arc<HeaderChain>>,
        features: FeaturesStep,
        deadlines: Deadlines,
    ) -> Result<ProbeReport, FailedProbe> {
        let stream = timeout(GREETING_TIMEOUT, self.connect(None)).await.unwrap_or(Err(ProbeError::Timeout.into()))?;
        let expected = ProbeExpectations {
            host: None,
            chain: self.chain.clone(),
            proof: ChainProof::Required,
            features,
            // Some servers can't handle several requests at once, and a backend is near.
            order: RequestOrder::OneByOne,
            announce: None,
            checkpoint_height,
            reference: chain.map(|chain| ChainReference {
                chain,
                catch_up: CatchUp::Required,
                now: clock::now().wall_secs(),
            }),
        };
        let end = Instant::now() + deadlines.total;
        Ok(run_prober(stream, &expected, deadlines, end, &mut |_| {}).await?)
    }

    /// Sends a PROXY header if the server expects one, before TLS.
    async fn send_proxy_header(
        &self,
        stream: &mut (impl AsyncWrite + Unpin),
        client: Option<IpAddr>,
    ) -> Result<(), ProbeError> {
        if !self.sends_proxy_headers {
            return Ok(());
        }
        stream.write_all(&encode_proxy_header(client)?).await.map_err(|_| ProbeError::Closed)
    }

    fn skip_features_until(&self) -> Option<Instant> {
        *self.skip_features_until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_skip_features_until(&self, until: Option<Instant>) {
        *self.skip_features_until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    /// Returns the state at the last poll.
    pub fn status(&self) -> ServerStatus {
        self.status.borrow().clone()
    }

    /// Returns the number of sessions that the server serves.
    pub fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Counts one session more.
    pub(super) fn add_session(&self) {
        self.sessions.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one session less.
    pub(super) fn remove_session(&self) {
        self.sessions.fetch_sub(1, Ordering::Relaxed);
    }

    /// Polls the server at once, as a session has lost its connection.
    pub(super) fn doubt(&self) {
        self.doubted.notify_one();
    }

    /// Polls the server until shutdown. `changed` is called after each poll, and `leads` tells whether the book hears of
    /// this server's tip.
    pub(super) async fn monitor(&self, inbox: Inbox, changed: impl Fn(), leads: impl Fn() -> bool) {
        let (mut was_ok, mut checkpoint_height) = (None, None);
        let mut chain = self.known_chain.clone();
        while !inbox.is_closed() {
            chain.mark_unchanged();
            let result = self.query_info(checkpoint_height).await;
            match &result {
                Ok(_) if was_ok != Some(true) => tracing::info!(backend = %self.address, "the backend server works"),
                Err(error) if was_ok != Some(false) => {
                    tracing::warn!(
                        backend = %self.address, %error,
                        "the backend server failed and serves no sessions until it works again; `waypost doctor` looks for the cause"
                    );
                }
                _ => {}
            }
            was_ok = Some(result.is_ok());
            self.status.send_modify(|status| {
                status.error = result.as_ref().err().map(BackendError::to_string);
                if let Ok(report) = &result {
                    status.info = Some(report.info.clone());
                }
            });
            changed();
            let mut is_catching_up = false;
            if let Ok(BackendReport { info, checkpoint, standing }) = result {
                let (tip, previous) = (info.tip, checkpoint_height);
                if let Some(ChainStanding::MoreWork(chain)) = &standing {
                    is_catching_up = Some(chain.height()) < tip;
                }
                checkpoint_height = tip.map(height_to_compare);
                // Without a known chain, the tip must come with the block at the height at which peers are compared.
                if checkpoint_height != previous && standing.is_none() {
                    continue;
                }
                if let Some(tip) = tip.filter(|_| leads()) {
                    let _ =
                        inbox.send(BookMessage::Event(Event::BackendTip { tip, block: checkpoint, standing })).await;
                }
            }
            if is_catching_up {
                sleep(POLL_CATCHING_UP).await;
                continue;
            }
            sleep(POLL_FAILED).await;
            if was_ok == Some(true) {
                tokio::select! {
                    () = sleep(POLL_OK.saturating_sub(POLL_FAILED)) => {}
                    // A new block of the peers shows whether the server follows the same chain.
                    _ = chain.changed() => {}
                    () = self.doubted.notified() => {}
                }
            }
        }
    }

    /// Connects, with a TLS handshake if configured.
    async fn connect(&self, client: Option<IpAddr>) -> Result<Box<dyn Stream>, BackendError> {
        let Endpoint { host, port } = match &self.address {
            UpstreamAddr::Unix(path) => {
                let mut stream = Direct.connect_unix(path).await?;
                self.send_proxy_header(&mut stream, client).await?;
                return Ok(Box::new(stream));
            }
            UpstreamAddr::Tcp(endpoint) | UpstreamAddr::Tls(endpoint) => endpoint,
        };
        let addresses = match host {
            Host::Ip(ip) => vec![*ip],
            Host::Dns(name) => Direct.resolve(name).await?,
            Host::Onion(_) => return Err(ProbeError::NameNotFound.into()),
        };
        let (mut stream, _) = Direct.connect(&addresses, *port).await?;
        self.send_proxy_header(&mut stream, client).await?;
        if matches!(self.address, UpstreamAddr::Tcp(..)) {
            return Ok(Box::new(stream));
        }
        let (stream, certificate) = self.tls.connect(host, stream).await?;
        verify_or_pin(&self.key_file, certificate.ok_or(ProbeError::Tls)?.key)?;
        Ok(Box::new(stream))
    }
}

/// Encodes a PROXY header of version 2. Without a client's address it says that the connection is Waypost's own.
fn encode_proxy_header(client: Option<IpAddr>) -> Result<Vec<u8>, ProbeError> {
    let header = match client.map(|ip| ip.to_canonical()) {
        // The port and the address of the listener are not known, and no server needs them.
        Some(ip @ IpAddr::V4(_)) => {
            let address = ProxiedAddress::stream((ip, 0).into(), (Ipv4Addr::UNSPECIFIED, 0).into());
            ProxyHeader::with_address(address)
        }
        Some(ip @ IpAddr::V6(_)) => {
            let address = ProxiedAddress::stream((ip, 0).into(), (Ipv6Addr::UNSPECIFIED, 0).into());
            ProxyHeader::with_address(address)
        }
        None => ProxyHeader::with_local(),
    };
    let mut bytes = Vec::new();
    header.encode_v2(&mut bytes).map_err(|_| ProbeError::Internal)?;
    Ok(bytes)
}

/// Extracts the properties of the server from a report.
///
/// The newest version is at most the negotiated one, since clients must not be told more than the server then speaks.
fn backend_info(report: ProbeReport) -> Result<BackendInfo, BackendError> {
    let features = report.features.unwrap_or_default();
    let negotiated = report.negotiated_version;
    let newest = match features.protocol_max {
        // A server that refuses ranges of versions negotiated only the first protocol.
        Some(newest) if negotiated.cmp_semver(&MIN_PROTOCOL).is_le() => newest,
        Some(newest) => older(newest, negotiated),
        None => negotiated,
    };
    let newest = older(newest, MAX_PROTOCOL);
    // Without the server's oldest version, every current server supports the default, which some clients insist on.
    let oldest = features.protocol_min.unwrap_or(older(DEFAULT_PROTOCOL, newest));
    let oldest = if oldest.cmp_semver(&MIN_PROTOCOL).is_lt() { MIN_PROTOCOL } else { oldest };
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

/// Returns the older of two versions; the first if they are equal.
fn older(one: Version, other: Version) -> Version {
    if one.cmp_semver(&other).is_gt() { other } else { one }
}

#[cfg(test)]
mod tests;
