//! Driver of a probe: dials endpoints and runs the prober within deadlines.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::time::{Instant, timeout_at};
use tokio_util::bytes::Bytes;
use tokio_util::codec::{BytesCodec, FramedRead, FramedWrite, LinesCodec, LinesCodecError};

use crate::connect::{FailureOrigin, PeerLimits, ProbeError, ProbeReport, ProbeTarget, Verified, WebSocketCheck};
use crate::dial::{Connection, Dialer, Stream};
use crate::electrum::prober::{FeaturesStep, ProbeExpectations, ProbeStep, Prober, ProberAction, RequestOrder};
use crate::jsonrpc::MAX_RESPONSE_BYTES;
use crate::peer::{Fault, Port, Transport};
use crate::route::Route;

/// Bytes of a peer's lines in one conversation, without requested headers: two of the longest responses.
///
/// Otherwise a peer could keep a probe busy with notifications.
const CONVERSATION_BYTES: usize = 2 * MAX_RESPONSE_BYTES;

/// Time limits of a probe.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// Time for each response.
    pub response: Duration,
    /// Time for the whole probe, including all endpoints.
    pub total: Duration,
}

impl Deadlines {
    /// Returns the limits for a route.
    ///
    /// ElectrumX waits 30 seconds for a response, and 120 through Tor. These limits are shorter,
    /// because slower servers are of no use to wallets.
    pub fn for_route(via: Route) -> Deadlines {
        let secs = Duration::from_secs;
        match via {
            Route::Direct => Deadlines { response: secs(15), total: secs(60) },
            Route::Tor => Deadlines { response: secs(30), total: secs(150) },
        }
    }
}

/// Progress of a probe, for observers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// An endpoint is dialled.
    Dialling(Transport, Port),
    /// The endpoint is dialled again, with other requests.
    Retrying(Retry),
    /// A WebSocket is dialled, after the peer was verified.
    DiallingWebSocket(Transport, Port),
    /// The connection is established.
    Connected,
    /// The peer has answered this step.
    Answered(ProbeStep),
    /// The endpoint has failed.
    Failed(ProbeError),
}

/// Tries the endpoints of a peer in order until one of them is verified, and then those of its WebSockets.
///
/// If all fail, only trusted endpoints determine the error.
pub async fn probe(
    dialer: &Dialer,
    target: &ProbeTarget,
    expected: &ProbeExpectations,
    deadlines: Deadlines,
    mut on_progress: impl FnMut(Progress),
) -> Result<Verified, ProbeError> {
    let end = Instant::now() + deadlines.total;
    let attempt = Attempt { dialer, target, expected, deadlines, end };
    let mut worst: Option<ProbeError> = None;
    let mut tls_failed = false;
    for (index, endpoint) in target.endpoints.iter().enumerate() {
        on_progress(Progress::Dialling(endpoint.0, endpoint.1));
        let failure = match attempt.run(*endpoint, &mut on_progress).await {
            Ok(mut verified) => {
                verified.tls_failed = tls_failed;
                let answered_at = Instant::now();
                let answered_at =
                    attempt.check_web_sockets(&mut verified, &mut on_progress).await.unwrap_or(answered_at);
                verified.since_response = answered_at.elapsed();
                return Ok(verified);
            }
            Err(failure) => failure,
        };
        on_progress(Progress::Failed(failure));
        tls_failed |= failure == ProbeError::Tls;
        if index < target.trusted_endpoint_count {
            worst = Some(worst.map_or(failure, |worst| more_conclusive(worst, failure)));
            // The peer violated the protocol, or nothing can be dialled: no other endpoint helps.
            if matches!(failure, ProbeError::ProtocolViolation(_)) || failure.blame() == FailureOrigin::Local {
                break;
            }
        }
        if Instant::now() >= end {
            break;
        }
    }
    Err(worst.unwrap_or(ProbeError::Unreachable))
}

/// What the attempts at the endpoints of a target have in common.
struct Attempt<'a> {
    dialer: &'a Dialer,
    target: &'a ProbeTarget,
    expected: &'a ProbeExpectations,
    deadlines: Deadlines,
    end: Instant,
}

impl Attempt<'_> {
    /// Dials one endpoint and runs the prober, again with other requests if the peer did not respond to all.
    async fn run(
        &self,
        endpoint: (Transport, Port),
        on_progress: &mut impl FnMut(Progress),
    ) -> Result<Verified, ProbeError> {
        let (mut target, mut expected) = (self.target.clone(), self.expected.clone());
        let mut failure: Option<ProbeError> = None;
        loop {
            let failed = match self.run_once(endpoint, &target, &expected, on_progress).await {
                Ok(verified) => return Ok(verified),
                Err(failed) => failed,
            };
            let error = failed.conversation.error;
            let error = failure.map_or(error, |first| more_conclusive(first, error));
            // Each retry is possible once, as it changes what is expected.
            let Some(retry) = failed.conversation.retry else { return Err(error) };
            failure = Some(error);
            // Another address of the name could be a server that does answer, and names another host.
            target = self.target_at(failed.ip);
            match retry {
                Retry::WithoutFeatures => expected.features = FeaturesStep::Skipped,
                Retry::OneByOne => expected.order = RequestOrder::OneByOne,
            }
            on_progress(Progress::Retrying(retry));
        }
    }

    async fn run_once(
        &self,
        (transport, port): (Transport, Port),
        target: &ProbeTarget,
        expected: &ProbeExpectations,
        on_progress: &mut impl FnMut(Progress),
    ) -> Result<Verified, FailedAttempt> {
        let started_at = Instant::now();
        let dialling = timeout_at(self.end, self.dialer.dial(target, (transport, port)));
        let dialled = dialling.await.unwrap_or(Err(ProbeError::Unreachable));
        let Connection { stream, ip, certificate } =
            dialled.map_err(|error| FailedAttempt { conversation: error.into(), ip: None })?;
        on_progress(Progress::Connected);
        let conversation = run_prober(stream, expected, self.deadlines, self.end, on_progress);
        let report = conversation.await.map_err(|conversation| FailedAttempt { conversation, ip })?;
        Ok(Verified {
            ip,
            transport,
            port,
            certificate,
            web_sockets: Vec::new(),
            since_response: Duration::ZERO,
            limits: PeerLimits {
                skips_features: expected.features == FeaturesStep::Skipped,
                one_by_one: expected.order == RequestOrder::OneByOne,
            },
            tls_failed: false,
            duration: started_at.elapsed(),
            report,
        })
    }

    /// Dials the WebSockets of a verified peer, at the address where it was verified.
    ///
    /// Returns the time of the last response; `None` if there was none.
    async fn check_web_sockets(
        &self,
        verified: &mut Verified,
        on_progress: &mut impl FnMut(Progress),
    ) -> Option<Instant> {
        // A message of a WebSocket holds one request.
        let (features, order) = (FeaturesStep::within(verified.limits), RequestOrder::OneByOne);
        // The chain was compared before, and further headers would not count towards the limit of bytes.
        let expected = ProbeExpectations { features, order, announce: None, reference: None, ..self.expected.clone() };
        let target = self.target_at(verified.ip);
        let mut answered_at = None;
        for (transport, port) in self.target.web_sockets.iter().copied().take_while(|_| Instant::now() < self.end) {
            on_progress(Progress::DiallingWebSocket(transport, port));
            let conversation = async {
                let dialling = self.dialer.dial_web_socket(&target, (transport, port), CONVERSATION_BYTES);
                let Connection { stream, .. } = dialling.await?;
                on_progress(Progress::Connected);
                run_prober(stream, &expected, self.deadlines, self.end, on_progress)
                    .await
                    .map_err(|failed| failed.error)
            };
            let failure = timeout_at(self.end, conversation).await.unwrap_or(Err(ProbeError::Timeout)).err();
            match failure {
                None => answered_at = Some(Instant::now()),
                Some(failure) => on_progress(Progress::Failed(failure)),
            }
            verified.web_sockets.push(WebSocketCheck { endpoint: (transport, port), failure });
        }
        answered_at
    }

    /// Returns the target with one of its addresses only. `None`: it has none, or they are unknown.
    fn target_at(&self, ip: Option<IpAddr>) -> ProbeTarget {
        let addresses = ip.map_or_else(|| self.target.addresses.clone(), |ip| vec![ip]);
        ProbeTarget { addresses, ..self.target.clone() }
    }
}

/// Failure of one attempt at an endpoint.
struct FailedAttempt {
    conversation: FailedConversation,
    /// Address that was reached; `None` if none was, and for onion services.
    ip: Option<IpAddr>,
}

/// Failure of a conversation.
#[derive(Debug)]
pub struct FailedConversation {
    /// The failure.
    pub error: ProbeError,
    /// What another attempt changes; `None` if none would help.
    pub retry: Option<Retry>,
}

/// What another attempt changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// `server.features` is left out: the peer closed the connection at it, or fell silent.
    WithoutFeatures,
    /// The requests are sent one by one: the peer did not respond to several at once.
    OneByOne,
}

impl From<ProbeError> for FailedConversation {
    fn from(error: ProbeError) -> FailedConversation {
        FailedConversation { error, retry: None }
    }
}

/// Runs the prober over an established stream.
pub async fn run_prober(
    stream: impl Stream,
    expected: &ProbeExpectations,
    deadlines: Deadlines,
    end: Instant,
    on_progress: &mut impl FnMut(Progress),
) -> Result<ProbeReport, FailedConversation> {
    let (mut prober, request) = Prober::new(expected.clone());
    let outcome = converse(stream, &mut prober, request, deadlines, end, on_progress).await;
    outcome.map_err(|error| FailedConversation { error, retry: retry_after(error, &prober) })
}

/// Returns what another attempt changes after the peer closed the connection or fell silent.
fn retry_after(error: ProbeError, prober: &Prober) -> Option<Retry> {
    let is_closed = match error {
        ProbeError::Closed => true,
        ProbeError::Timeout => false,
        _ => return None,
    };
    let unanswered: Vec<ProbeStep> = prober.unanswered().collect();
    if unanswered == [ProbeStep::Features] {
        return Some(Retry::WithoutFeatures);
    }
    // A peer that answers nothing any more is down, and another attempt would only take time.
    let answered_some = unanswered.len() < prober.sent_together();
    (prober.sent_together() > 1 && (is_closed || answered_some)).then_some(Retry::OneByOne)
}

async fn converse(
    stream: impl Stream,
    prober: &mut Prober,
    mut request: Vec<u8>,
    deadlines: Deadlines,
    end: Instant,
    on_progress: &mut impl FnMut(Progress),
) -> Result<ProbeReport, ProbeError> {
    let (reader, writer) = tokio::io::split(stream);
    let mut lines = FramedRead::new(reader, LinesCodec::new_with_max_length(MAX_RESPONSE_BYTES));
    let mut out = FramedWrite::new(writer, BytesCodec::new());
    let mut budget = CONVERSATION_BYTES;
    loop {
        // Only a response extends the deadline.
        let mut deadline = end.min(Instant::now() + deadlines.response);
        let sent = timeout_at(deadline, out.send(Bytes::from(request))).await;
        sent.map_err(|_| ProbeError::Timeout)?.map_err(|_: io::Error| ProbeError::Closed)?;
        request = loop {
            let line = timeout_at(deadline, lines.next()).await.map_err(|_| ProbeError::Timeout)?;
            let line = line.ok_or(ProbeError::Closed)?.map_err(|error| read_error(&error))?;
            let action = prober.handle_line(&line).map_err(ProbeError::ProtocolViolation)?;
            let answered = prober.answered();
            // The prober requests headers only as long as they prove work.
            if answered != Some(ProbeStep::Chain) {
                let rest = budget.checked_sub(line.len());
                budget = rest.ok_or(ProbeError::ProtocolViolation(Fault::ResponseTooLong))?;
            }
            if let Some(step) = answered {
                on_progress(Progress::Answered(step));
                deadline = end.min(Instant::now() + deadlines.response);
            }
            match action {
                ProberAction::Wait => {}
                ProberAction::Unproven => return Err(ProbeError::Unproven),
                ProberAction::Send(next) => break next,
                ProberAction::Done(report) => return Ok(*report),
            }
        };
    }
}

/// Returns the error whose origin is more certain.
fn more_conclusive(one: ProbeError, other: ProbeError) -> ProbeError {
    let rank = |failure: ProbeError| match failure.blame() {
        FailureOrigin::Local => 3,
        FailureOrigin::Peer => 2,
        FailureOrigin::PeerUnconfirmed => 1,
        FailureOrigin::Ambiguous => 0,
    };
    if rank(other) > rank(one) { other } else { one }
}

/// Maps an error of the line decoder.
fn read_error(error: &LinesCodecError) -> ProbeError {
    match error {
        LinesCodecError::MaxLineLengthExceeded => ProbeError::ProtocolViolation(Fault::ResponseTooLong),
        LinesCodecError::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
            ProbeError::ProtocolViolation(Fault::Malformed)
        }
        LinesCodecError::Io(_) => ProbeError::Closed,
    }
}

#[cfg(test)]
mod tests;
