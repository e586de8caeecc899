//! Our onion service, run by our own Tor: from a rendezvous circuit to a caller's stream.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arti_client::config::onion_service::{OnionServiceConfig, OnionServiceConfigBuilder};
use futures_util::{Stream, StreamExt};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tor_cell::relaycell::msg::{Connected, End, EndReason};
use tor_hsservice::config::TokenBucketConfig;
use tor_hsservice::{RendRequest, RunningOnionService, StreamRequest};
use tor_proto::stream::IncomingStreamRequest;

use super::client_config::error_chain;
use super::keys::NICKNAME;
use crate::dial::Client;
use crate::peer::{OnionAddress, Port};
use crate::tor::{OnionStream, Service};

/// What introduction points let through to us, a second and at once. C tor's values where the same is switched on
/// (HiddenServiceEnableIntroDoSRatePerSec and …BurstPerSec).
const INTRO_RATE: (u32, u32) = (25, 200);

/// How long the way to a caller's rendezvous point may take to build.
const RENDEZVOUS: Duration = Duration::from_secs(60);

/// A service that runs until this is dropped.
pub struct Running {
    _service: Arc<RunningOnionService>,
    taking_in: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.taking_in.abort();
    }
}

/// Puts the service on the network. Its name is known at once; that it can be reached takes some seconds.
pub fn launch(
    client: &Client,
    settings: Service,
    callers: mpsc::Sender<OnionStream>,
) -> Result<(Running, OnionAddress), String> {
    let config = config(settings.streams).map_err(|error| error_chain(&error))?;
    let launched = client.launch_onion_service(config).map_err(|error| error_chain(&error))?;
    let (service, requests) = launched.ok_or("Arti says that it is switched off")?;
    let name = service.onion_address().ok_or("its key can't be read")?;
    let name = OnionAddress::from_public_key(*name.as_ref());
    let taking_in = tokio::spawn(accept_rendezvous(requests, settings, callers)).abort_handle();
    Ok((Running { _service: service, taking_in }, name))
}

fn config(streams: u32) -> Result<OnionServiceConfig, tor_config::ConfigBuildError> {
    let nickname = NICKNAME.to_owned().try_into().map_err(|_| tor_config::ConfigBuildError::Invalid {
        field: "nickname".to_owned(),
        problem: NICKNAME.to_owned(),
    })?;
    OnionServiceConfigBuilder::default()
        .nickname(nickname)
        .rate_limit_at_intro(Some(TokenBucketConfig::new(INTRO_RATE.0, INTRO_RATE.1)))
        .max_concurrent_streams_per_circuit(streams)
        .build()
}

/// One task for each circuit, which ends with it. Those beyond the limit find nobody at their rendezvous point.
async fn accept_rendezvous(
    requests: impl Stream<Item = RendRequest>,
    settings: Service,
    callers: mpsc::Sender<OnionStream>,
) {
    let mut requests = pin!(requests);
    let mut circuits = JoinSet::new();
    let room = Arc::new(Semaphore::new(settings.circuits));
    let mut number = 0;
    while let Some(request) = requests.next().await {
        while circuits.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&room).try_acquire_owned() else { continue };
        let callers = callers.clone();
        number += 1;
        circuits.spawn(async move {
            match timeout(RENDEZVOUS, request.accept()).await {
                Ok(Ok(streams)) => circuit(streams, number, settings.port, callers).await,
                Ok(Err(error)) => tracing::debug!(error = error_chain(&error), "a caller's rendezvous failed"),
                Err(_) => tracing::debug!("a caller's rendezvous took too long"),
            }
            drop(place);
        });
    }
}

async fn circuit(
    mut streams: impl Stream<Item = StreamRequest> + Unpin,
    number: u64,
    port: Port,
    callers: mpsc::Sender<OnionStream>,
) {
    while let Some(request) = streams.next().await {
        let ours = matches!(request.request(), IncomingStreamRequest::Begin(begin) if begin.port() == port.get());
        let place = if ours { callers.try_reserve().ok() } else { None };
        let Some(place) = place else {
            // As C tor does where no port of the service is meant.
            let _ = request.reject(End::new_with_reason(EndReason::DONE)).await;
            continue;
        };
        if let Ok(stream) = request.accept(Connected::new_empty()).await {
            place.send((Box::new(stream), number));
        }
    }
}
