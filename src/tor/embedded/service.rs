//! The onion service of the embedded Tor: from rendezvous circuits to client streams.

use std::io;
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arti_client::config::onion_service::{OnionServiceConfig, OnionServiceConfigBuilder};
use futures_util::{Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, timeout, timeout_at};
use tor_cell::relaycell::msg::{Connected, End, EndReason};
use tor_hsservice::config::TokenBucketConfig;
use tor_hsservice::config::restricted_discovery::HsClientNickname;
use tor_hsservice::{RendRequest, RunningOnionService, StreamRequest};
use tor_proto::stream::IncomingStreamRequest;

use super::client_config::error_chain;
use super::key_files::{OwnKey, public_key};
use super::keys::NICKNAME;
use super::status_text::explain_permissions;
use crate::dial::Client;
use crate::peer::OnionAddress;
use crate::tor::{OnionServiceOptions, OnionStream};

/// Introductions per second, and burst, that introduction points let through.
///
/// These are C tor's defaults of HiddenServiceEnableIntroDoSRatePerSec and …BurstPerSec.
const INTRO_RATE: (u32, u32) = (25, 200);

/// Time to build a circuit to a client's rendezvous point.
const RENDEZVOUS_TIMEOUT: Duration = Duration::from_secs(60);

/// Time without a stream after which a circuit is closed: the default of the time limit for handshakes.
///
/// Circuits cost nothing, and their number is limited.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// A service that runs until this value is dropped.
pub(super) struct Running {
    _service: Arc<RunningOnionService>,
    acceptor: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

/// Launches the service and returns its name. It is reachable some seconds later.
pub(super) fn launch(
    client: &Client,
    options: &OnionServiceOptions,
    tor_dir: &Path,
    onion_streams: mpsc::Sender<OnionStream>,
) -> Result<(Running, OnionAddress), String> {
    let own_key = options.clients.as_ref().map(|_| OwnKey::generate()).transpose()?;
    let config = config(options, own_key.as_ref()).map_err(|error| error_chain(&error))?;
    let launched = client.launch_onion_service(config).map_err(|error| explain_permissions(&error))?;
    let (service, requests) = launched.ok_or("the service is disabled in Arti's configuration")?;
    let name = service.onion_address().ok_or("the service's key can't be read")?;
    let name = OnionAddress::from_public_key(*name.as_ref());
    if let Some(key) = own_key {
        key.store(tor_dir, &name)?;
    }
    let acceptor = tokio::spawn(accept_rendezvous(requests, Arc::new(options.clone()), onion_streams)).abort_handle();
    Ok((Running { _service: service, acceptor }, name))
}

fn config(
    options: &OnionServiceOptions,
    own_key: Option<&OwnKey>,
) -> Result<OnionServiceConfig, tor_config::ConfigBuildError> {
    let invalid = |problem: String| tor_config::ConfigBuildError::Invalid { field: "nickname".to_owned(), problem };
    let nickname = NICKNAME.to_owned().try_into().map_err(|_| invalid(NICKNAME.to_owned()))?;
    let mut builder = OnionServiceConfigBuilder::default();
    if let Some(number) = options.introduction_points {
        builder.num_intro_points(number);
    }
    if let Some(clients) = &options.clients {
        let restricted = builder.restricted_discovery();
        restricted.enabled(true);
        for (number, key) in clients.iter().copied().chain(own_key.map(OwnKey::public)).enumerate() {
            let client = format!("client-{number}");
            let name: HsClientNickname = client.parse().map_err(|_| invalid(client))?;
            restricted.static_keys().access().push((name, public_key(key)));
        }
    }
    builder
        .nickname(nickname)
        .rate_limit_at_intro(Some(TokenBucketConfig::new(INTRO_RATE.0, INTRO_RATE.1)))
        .max_concurrent_streams_per_circuit(options.streams)
        .build()
}

/// Serves each circuit with a task of its own. Circuits beyond the limit are not accepted.
async fn accept_rendezvous(
    requests: impl Stream<Item = RendRequest>,
    options: Arc<OnionServiceOptions>,
    onion_streams: mpsc::Sender<OnionStream>,
) {
    let mut requests = pin!(requests);
    let mut circuits = JoinSet::new();
    let permits = Arc::new(Semaphore::new(options.circuits));
    let mut number = 0;
    while let Some(request) = requests.next().await {
        while circuits.try_join_next().is_some() {}
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else { continue };
        let (onion_streams, options) = (onion_streams.clone(), Arc::clone(&options));
        number += 1;
        circuits.spawn(async move {
            match timeout(RENDEZVOUS_TIMEOUT, request.accept()).await {
                Ok(Ok(streams)) => serve_circuit(streams, number, &options, onion_streams).await,
                Ok(Err(error)) => tracing::debug!(error = error_chain(&error), "a client's rendezvous failed"),
                Err(_) => tracing::debug!("a client's rendezvous took too long"),
            }
            drop(permit);
        });
    }
}

/// Accepts streams to the service's ports until the circuit closes, or has no stream for [`IDLE_TIMEOUT`].
async fn serve_circuit(
    mut streams: impl Stream<Item = StreamRequest> + Unpin,
    number: u64,
    options: &OnionServiceOptions,
    onion_streams: mpsc::Sender<OnionStream>,
) {
    let mut circuit = CircuitUse::new();
    while let Some(request) = circuit.next(&mut streams).await {
        let transport = match request.request() {
            IncomingStreamRequest::Begin(begin) => options.transport(begin.port()),
            _ => None,
        };
        let permit = transport.and_then(|transport| Some((onion_streams.try_reserve().ok()?, transport)));
        let Some((permit, transport)) = permit else {
            // As C tor does for a port that the service does not have.
            let _ = request.reject(End::new_with_reason(EndReason::DONE)).await;
            continue;
        };
        if let Ok(stream) = request.accept(Connected::new_empty()).await {
            let stream = Box::new(CircuitStream { stream, _open: circuit.open_stream() });
            permit.send(OnionStream { stream, circuit: number, transport });
        }
    }
}

/// Use of a circuit by accepted streams. Requests that are rejected do not keep it open.
struct CircuitUse {
    /// A clone of it for each open stream.
    open: Arc<()>,
    idle_ends: Instant,
}

impl CircuitUse {
    fn new() -> CircuitUse {
        CircuitUse { open: Arc::new(()), idle_ends: Instant::now() + IDLE_TIMEOUT }
    }

    /// Returns the next request; `None` if the circuit is closed, or unused for [`IDLE_TIMEOUT`].
    async fn next<T>(&mut self, requests: &mut (impl Stream<Item = T> + Unpin)) -> Option<T> {
        loop {
            match timeout_at(self.idle_ends, requests.next()).await {
                Ok(request) => return request,
                Err(_) if Arc::strong_count(&self.open) > 1 => self.idle_ends = Instant::now() + IDLE_TIMEOUT,
                Err(_) => return None,
            }
        }
    }

    /// Counts a stream as open until the returned value is dropped.
    fn open_stream(&mut self) -> Arc<()> {
        self.idle_ends = Instant::now() + IDLE_TIMEOUT;
        Arc::clone(&self.open)
    }
}

/// Stream of a client, which counts as open on its circuit until it is dropped.
struct CircuitStream<S> {
    stream: S,
    _open: Arc<()>,
}

impl<S: AsyncRead + Unpin> AsyncRead for CircuitStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for CircuitStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn rejected_requests_keep_no_circuit_open() {
        let mut rejected = Box::pin(stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Some(((), ()))
        }));
        let (start, mut circuit, mut count) = (Instant::now(), CircuitUse::new(), 0);
        while count < 60 && circuit.next(&mut rejected).await.is_some() {
            count += 1;
        }
        assert!(count < 11, "{count}");
        assert_eq!(start.elapsed(), IDLE_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn open_stream_keeps_its_circuit_open() {
        let (start, mut circuit) = (Instant::now(), CircuitUse::new());
        let stream = circuit.open_stream();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(65)).await;
            drop(stream);
        });
        assert_eq!(circuit.next(&mut stream::pending::<()>()).await, None);
        assert_eq!(start.elapsed(), Duration::from_secs(70));
    }
}
