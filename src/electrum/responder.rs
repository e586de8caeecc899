//! Responses to a client's requests.

use std::sync::Arc;

use rand::Rng;
use serde::{Deserialize, Serialize};
use serde_json::json;
use smallvec::{SmallVec, smallvec};

pub use super::forwarded_call::ForwardedCall;
use super::forwarded_call::Framing;
use super::identity::LocalIdentity;
use crate::book::{Ingress, Snapshot};
use crate::clock::Time;
use crate::jsonrpc::{
    BATCH_TOO_LONG, Call, DEFAULT_PROTOCOL, Id, InvalidRequest, JsonRpcVersion, MAX_BATCH_RESPONSE_BYTES, MIN_PROTOCOL,
    Message, Method, OutcomeKey, Request, RpcError, SharedBuf, VersionRange, encode_response, push_response_end,
    response_start,
};
use crate::peer::{Features, Version};

/// Oldest protocol version in which a ping requests the length of its response.
const SIZED_PONG: Version = Version::new(1, 7);

/// Oldest protocol version in which `server.version` is accepted once.
const SINGLE_VERSION: Version = Version::new(1, 4);

/// State of one client's connection.
#[derive(Debug)]
pub struct Responder {
    local_identity: Arc<LocalIdentity>,
    ingress: Ingress,
    /// Version from `server.version`, or the one that was negotiated with the upstream before. `None` until then.
    negotiated: Option<NegotiatedVersion>,
    version_seen: bool,
    add_peer_seen: bool,
    /// Whether this client's requests may be forwarded, and whether one was.
    has_backend: bool,
    has_forwarded: bool,
}

/// Version that a client negotiated.
#[derive(Debug)]
struct NegotiatedVersion {
    version: Version,
    /// The version as the client wrote it.
    as_requested: String,
}

/// What responses depend on besides the request.
struct Context<'a, R> {
    snapshot: &'a Snapshot,
    now: Time,
    rng: &'a mut R,
}

/// Response to one request.
struct Reply {
    part: Option<ReplyPart>,
    /// Whether the connection is closed after the response.
    close: bool,
}

impl Reply {
    fn open(part: ReplyPart) -> Reply {
        Reply { part: Some(part), close: false }
    }
}

/// Result of a line: the parts of the response in order, and whether the connection ends.
#[derive(Debug)]
pub struct LineResult {
    /// Responses, and requests whose response is pending.
    pub parts: SmallVec<[ReplyPart; 1]>,
    /// Method and outcome of each request that is not pending.
    pub calls: SmallVec<[(Method, CallOutcome); 1]>,
    /// Whether the line was a batch.
    pub batch: bool,
    /// Whether the line was no JSON-RPC.
    pub is_malformed: bool,
    /// Whether the connection is closed after the response.
    pub close: bool,
}

/// Outcome of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CallOutcome {
    /// It succeeded.
    Ok,
    /// It was valid, and refused.
    Refused,
    /// It was forwarded to the backend.
    Forwarded,
    /// It failed.
    Error,
}

impl CallOutcome {
    /// All outcomes.
    pub const ALL: [CallOutcome; 4] =
        [CallOutcome::Ok, CallOutcome::Refused, CallOutcome::Forwarded, CallOutcome::Error];
}

/// Part of the response to a line.
#[derive(Debug)]
pub enum ReplyPart {
    /// A response that is ready to be sent.
    Ready(SharedBuf),
    /// A `server.add_peer` that the book decides.
    AddPeer(PendingAddPeer),
    /// A request for the backend. A single request is forwarded unchanged, batches are split.
    Forward(Box<ForwardedCall>),
}

/// A request of `server.add_peer` that waits for its response.
#[derive(Debug)]
pub struct PendingAddPeer {
    /// The announced features.
    pub features: Box<Features>,
    id: Option<String>,
    dialect: JsonRpcVersion,
}

impl Responder {
    /// Starts a connection. `has_backend`: whether its requests may be forwarded.
    pub fn new(local_identity: Arc<LocalIdentity>, ingress: Ingress, has_backend: bool) -> Responder {
        Responder {
            local_identity,
            ingress,
            negotiated: None,
            version_seen: false,
            add_peer_seen: false,
            has_backend,
            has_forwarded: false,
        }
    }

    /// Returns the result of a line that is too long, no text or no JSON-RPC.
    pub fn malformed(error: &RpcError) -> LineResult {
        let answer = encode_response(Id::Absent, JsonRpcVersion::V2, Err(error));
        LineResult {
            parts: smallvec![ReplyPart::Ready(answer)],
            calls: SmallVec::new(),
            batch: false,
            is_malformed: true,
            close: true,
        }
    }

    /// Encodes the error that is sent before a client is disconnected.
    pub fn closing_error(error: &RpcError) -> SharedBuf {
        encode_response(Id::Absent, JsonRpcVersion::V2, Err(error)).into_padded_line()
    }

    /// Handles a line. A batch of more than `batch` requests is malformed.
    pub fn handle_line(
        &mut self,
        message: Result<Message<'_>, RpcError>,
        batch: usize,
        snapshot: &Snapshot,
        now: Time,
        rng: &mut impl Rng,
    ) -> LineResult {
        let mut result = LineResult {
            parts: SmallVec::new(),
            calls: SmallVec::new(),
            batch: false,
            is_malformed: false,
            close: false,
        };
        let mut context = Context { snapshot, now, rng };
        match message {
            Ok(Message::Single(request)) => {
                let reply = self.handle_request(request, Framing::Single, &mut result.calls, &mut context);
                result.parts.extend(reply.part);
                result.close = reply.close;
            }
            Ok(Message::Batch(calls)) if calls.len() > batch => {
                return Responder::malformed(&RpcError::InvalidRequest(BATCH_TOO_LONG));
            }
            Ok(Message::Batch(calls)) => {
                result.batch = true;
                let mut length = 0;
                for request in calls.requests() {
                    let request =
                        if length < MAX_BATCH_RESPONSE_BYTES { request } else { request.and_then(reject_over_budget) };
                    let reply = self.handle_request(request, Framing::Batch, &mut result.calls, &mut context);
                    length += reply.part.as_ref().map_or(0, ReplyPart::length);
                    result.parts.extend(reply.part);
                    if reply.close {
                        result.close = true;
                        break;
                    }
                }
            }
            Err(error) => return Responder::malformed(&error),
        }
        result
    }

    fn handle_request(
        &mut self,
        request: Result<Request<'_>, InvalidRequest<'_>>,
        framing: Framing,
        calls: &mut SmallVec<[(Method, CallOutcome); 1]>,
        context: &mut Context<'_, impl Rng>,
    ) -> Reply {
        let request = match request {
            Ok(request) => request,
            Err(invalid) => {
                calls.push((Method::Other, CallOutcome::Error));
                let answer = encode_response(invalid.id, invalid.dialect, Err(&invalid.error));
                return Reply::open(ReplyPart::Ready(answer));
            }
        };
        let method = Method::from_name(&request.method);
        let mut response = SharedBuf::from(response_start(request.dialect, OutcomeKey::Result));
        let outcome = match Call::parse(&request) {
            Ok(Call::AddPeer(features)) if !self.add_peer_seen => {
                // The protocol suggests one per connection, so a second is refused.
                self.add_peer_seen = true;
                return Reply::open(ReplyPart::AddPeer(PendingAddPeer::new(features, &request)));
            }
            Ok(call) if !self.is_forwarded(&call) => self.push_answer(call, context, &mut response),
            Err(error) if !self.has_backend || !matches!(error, RpcError::UnknownMethod) => Err(error),
            _ => {
                calls.push((method, CallOutcome::Forwarded));
                return Reply::open(self.forward(&request, framing));
            }
        };
        calls.push((method, call_outcome(method, &outcome)));
        let close = matches!(outcome, Err(RpcError::UnsupportedVersion { .. }));
        if request.is_notification() {
            return Reply { part: None, close };
        }
        match outcome {
            Ok(()) => push_response_end(&mut response, request.id),
            Err(error) => response = encode_response(request.id, request.dialect, Err(&error)),
        }
        Reply { part: Some(ReplyPart::Ready(response)), close }
    }

    /// Whether the backend answers this request.
    fn is_forwarded(&self, call: &Call) -> bool {
        let replies = self.local_identity.static_replies(self.ingress);
        match call {
            _ if !self.has_backend => false,
            Call::Banner => replies.forwards_banner,
            Call::DonationAddress => replies.forwards_donation_address,
            // The backend would otherwise close the upstream connection as idle.
            Call::Ping(_) => self.has_forwarded,
            _ => false,
        }
    }

    fn forward(&mut self, request: &Request<'_>, framing: Framing) -> ReplyPart {
        self.has_forwarded = true;
        ReplyPart::Forward(Box::new(ForwardedCall::new(request, framing)))
    }

    /// Returns the version to negotiate with the upstream, as the client wrote it.
    pub fn upstream_version(&mut self) -> String {
        let (oldest, newest) = self.local_identity.identity.versions(self.ingress);
        let fits = DEFAULT_PROTOCOL.cmp_semver(&oldest).is_ge() && DEFAULT_PROTOCOL.cmp_semver(&newest).is_le();
        let version = if fits { DEFAULT_PROTOCOL } else { oldest };
        let default = || NegotiatedVersion { version, as_requested: version.to_string() };
        self.negotiated.get_or_insert_with(default).as_requested.clone()
    }

    /// Writes the result of a call as JSON.
    fn push_answer(
        &mut self,
        call: Call,
        context: &mut Context<'_, impl Rng>,
        response: &mut SharedBuf,
    ) -> Result<(), RpcError> {
        let replies = self.local_identity.static_replies(self.ingress);
        match call {
            Call::Version(range) => response.push(self.version(&range)?),
            Call::Features => response.push(replies.features.clone()),
            Call::Peers => response.append(context.snapshot.peers(self.ingress, context.now, context.rng)),
            Call::AddPeer(_) => response.push(&b"false"[..]),
            Call::Ping(length) => self.push_pong(length, response)?,
            Call::Banner => response.push(replies.banner.clone()),
            Call::DonationAddress => response.push(replies.donation_address.clone()),
        }
        Ok(())
    }

    /// Writes the result of a ping: since protocol 1.7 with as much data as the client requests, before it null.
    fn push_pong(&self, length: Result<u32, RpcError>, response: &mut SharedBuf) -> Result<(), RpcError> {
        if self.negotiated.as_ref().is_none_or(|negotiated| negotiated.version.cmp_semver(&SIZED_PONG).is_lt()) {
            response.push(&b"null"[..]);
            return Ok(());
        }
        response.push(&b"{\"data\":\""[..]);
        response.push_zeros(usize::try_from(length?).unwrap_or_default());
        response.push(&b"\"}"[..]);
        Ok(())
    }

    /// Negotiates the version once. Since protocol 1.4 only the first request is accepted; before it, clients repeat the
    /// request to keep a connection open.
    fn version(&mut self, range: &VersionRange) -> Result<String, RpcError> {
        let is_final = |negotiated: &NegotiatedVersion| negotiated.version.cmp_semver(&SINGLE_VERSION).is_ge();
        if self.version_seen && self.negotiated.as_ref().is_some_and(is_final) {
            return Err(RpcError::VersionRepeated);
        }
        self.version_seen = true;
        if self.negotiated.is_none() {
            let (version, as_requested) = range.negotiate(self.local_identity.identity.versions(self.ingress))?;
            self.negotiated = Some(NegotiatedVersion { version, as_requested: as_requested.into_owned() });
        }
        let software = &self.local_identity.static_replies(self.ingress).software;
        Ok(match &self.negotiated {
            Some(NegotiatedVersion { version, as_requested }) if version.cmp_semver(&MIN_PROTOCOL).is_gt() => {
                json!([software, as_requested]).to_string()
            }
            // The first protocol answers with the software alone.
            _ => json!(software).to_string(),
        })
    }
}

/// Returns the outcome of a request. A second `server.add_peer` is refused.
fn call_outcome(method: Method, outcome: &Result<(), RpcError>) -> CallOutcome {
    match outcome {
        Ok(_) if method == Method::AddPeer => CallOutcome::Refused,
        Ok(_) => CallOutcome::Ok,
        Err(_) => CallOutcome::Error,
    }
}

impl ReplyPart {
    fn length(&self) -> usize {
        match self {
            ReplyPart::Ready(answer) => answer.len(),
            ReplyPart::AddPeer(_) | ReplyPart::Forward(_) => 0,
        }
    }
}

/// Replaces a request of a batch whose responses exceed the limit.
fn reject_over_budget(request: Request<'_>) -> Result<Request<'_>, InvalidRequest<'_>> {
    Err(InvalidRequest { id: request.id, dialect: request.dialect, error: RpcError::BatchResponseTooLong })
}

impl PendingAddPeer {
    fn new(features: Box<Features>, request: &Request<'_>) -> PendingAddPeer {
        let id = match request.id {
            Id::Present(id) => Some(id.get().to_owned()),
            Id::Absent => None,
        };
        PendingAddPeer { features, id, dialect: request.dialect }
    }

    /// Encodes the response. `None`: the client expects none.
    pub fn answer(&self, accepted: bool) -> Option<SharedBuf> {
        let result = SharedBuf::from(if accepted { &b"true"[..] } else { &b"false"[..] });
        match &self.id {
            Some(id) => {
                let id = serde_json::from_str(id).ok()?;
                Some(encode_response(Id::Present(id), self.dialect, Ok(result)))
            }
            None => (self.dialect == JsonRpcVersion::V1).then(|| encode_response(Id::Absent, self.dialect, Ok(result))),
        }
    }
}

/// Encodes the responses to a line, with the line's end. `None`: the client expects none.
pub fn encode_line(answers: impl IntoIterator<Item = SharedBuf>, batch: bool) -> Option<SharedBuf> {
    let mut line = SharedBuf::default();
    for answer in answers {
        if batch {
            line.push(if line.is_empty() { &b"["[..] } else { &b","[..] });
        }
        line.append(answer);
    }
    if line.is_empty() {
        return None;
    }
    if batch {
        line.push(&b"]"[..]);
    }
    Some(line.into_padded_line())
}

#[cfg(test)]
mod tests;
