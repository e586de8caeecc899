//! The end that answers: what a caller says, and what it gets back.

use std::sync::Arc;

use rand::Rng;
use serde::{Deserialize, Serialize};
use serde_json::json;
use smallvec::{SmallVec, smallvec};

use super::identity::LocalIdentity;
use crate::book::{Ingress, Snapshot};
use crate::clock::Time;
use crate::jsonrpc::{
    BATCH_TOO_LONG, Call, DEFAULT_PROTOCOL, Id, InvalidRequest, JsonRpcVersion, MAX_BATCH_RESPONSE_BYTES, MIN_PROTOCOL,
    Message, Method, Request, RpcError, SharedBuf, USER_AGENT, VersionRange, encode_raw_response, encode_response,
};
use crate::peer::{Features, Version};

/// One caller's connection.
#[derive(Debug)]
pub struct Responder {
    ourselves: Arc<LocalIdentity>,
    caller: Ingress,
    /// What `server.version` agreed on.
    agreed: Option<(Version, String)>,
    add_peer_seen: bool,
    /// Whether this caller gets to the server behind us, and whether it did.
    has_backend: bool,
    has_forwarded: bool,
}

/// What becomes of a line: its calls' answers in order, some of them yet to be found out, and whether the connection
/// is over afterwards.
#[derive(Debug)]
pub struct LineResult {
    pub parts: SmallVec<[ReplyPart; 1]>,
    /// Which calls there were, and what became of each; but for those that are yet to be found out.
    pub calls: SmallVec<[(Method, CallOutcome); 1]>,
    pub batch: bool,
    /// It was no JSON-RPC at all.
    pub is_malformed: bool,
    pub close: bool,
}

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CallOutcome {
    /// As the caller wished.
    Ok,
    /// It was understood, and the answer is no.
    Refused,
    /// By the server behind us.
    Forwarded,
    Error,
}

impl CallOutcome {
    pub const ALL: [CallOutcome; 4] =
        [CallOutcome::Ok, CallOutcome::Refused, CallOutcome::Forwarded, CallOutcome::Error];
}

#[derive(Debug)]
pub enum ReplyPart {
    /// An answer, ready to be sent.
    Ready(SharedBuf),
    /// A peer introduces itself; only the book can say whether it is let in.
    AddPeer(PendingAddPeer),
    /// The backend answers. A line that is one call is forwarded as it came; of a batch, this call is.
    Forward(Box<ForwardedCall>),
}

/// A call that the backend is to answer.
#[derive(Debug)]
pub struct ForwardedCall {
    id: Option<String>,
    dialect: JsonRpcVersion,
    method: String,
    /// Of a call in a batch alone, as only those are written again.
    params: Option<String>,
}

/// A call of `server.add_peer` that waits for its answer.
#[derive(Debug)]
pub struct PendingAddPeer {
    pub features: Box<Features>,
    id: Option<String>,
    dialect: JsonRpcVersion,
}

impl Responder {
    pub fn new(ourselves: Arc<LocalIdentity>, caller: Ingress, has_backend: bool) -> Responder {
        Responder { ourselves, caller, agreed: None, add_peer_seen: false, has_backend, has_forwarded: false }
    }

    /// A line too long to be read, or no text at all.
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

    /// The last word to a caller who has had enough.
    pub fn closing_error(error: &RpcError) -> SharedBuf {
        encode_response(Id::Absent, JsonRpcVersion::V2, Err(error)).into_padded_line()
    }

    /// What to say to what a line holds, of whose calls no more than `batch` are answered together.
    pub fn handle_line(
        &mut self,
        incoming: Result<Message<'_>, RpcError>,
        batch: usize,
        snapshot: &Snapshot,
        now: Time,
        rng: &mut impl Rng,
    ) -> LineResult {
        let mut turn = LineResult {
            parts: SmallVec::new(),
            calls: SmallVec::new(),
            batch: false,
            is_malformed: false,
            close: false,
        };
        match incoming {
            Ok(Message::Single(request)) => {
                let (part, close) = self.handle_request(request, false, &mut turn.calls, snapshot, now, rng);
                turn.parts.extend(part);
                turn.close = close;
            }
            Ok(Message::Batch(calls)) if calls.len() > batch => {
                return Responder::malformed(&RpcError::InvalidRequest(BATCH_TOO_LONG));
            }
            Ok(Message::Batch(calls)) => {
                turn.batch = true;
                let mut length = 0;
                for request in calls.requests() {
                    let request =
                        if length < MAX_BATCH_RESPONSE_BYTES { request } else { request.and_then(reject_over_budget) };
                    let (part, close) = self.handle_request(request, true, &mut turn.calls, snapshot, now, rng);
                    length += part.as_ref().map_or(0, ReplyPart::length);
                    turn.parts.extend(part);
                    if close {
                        turn.close = true;
                        break;
                    }
                }
            }
            Err(error) => return Responder::malformed(&error),
        }
        turn
    }

    fn handle_request(
        &mut self,
        request: Result<Request<'_>, InvalidRequest<'_>>,
        of_batch: bool,
        calls: &mut SmallVec<[(Method, CallOutcome); 1]>,
        snapshot: &Snapshot,
        now: Time,
        rng: &mut impl Rng,
    ) -> (Option<ReplyPart>, bool) {
        let request = match request {
            Ok(request) => request,
            Err(invalid) => {
                calls.push((Method::Other, CallOutcome::Error));
                let answer = encode_response(invalid.id, invalid.dialect, Err(&invalid.error));
                return (Some(ReplyPart::Ready(answer)), false);
            }
        };
        let method = Method::from_name(&request.method);
        let outcome = match Call::parse(&request) {
            Ok(Call::AddPeer(features)) if !self.add_peer_seen => {
                // The protocol's text suggests one a connection, and servers have no use for a second.
                self.add_peer_seen = true;
                return (Some(ReplyPart::AddPeer(PendingAddPeer::new(features, &request))), false);
            }
            Ok(call) if !self.is_forwarded(&call) => self.answer(call, snapshot, now, rng),
            Err(error) if !self.has_backend || !matches!(error, RpcError::UnknownMethod) => Err(error),
            _ => {
                calls.push((method, CallOutcome::Forwarded));
                return (Some(self.forward(&request, of_batch)), false);
            }
        };
        calls.push((method, answered(method, &outcome)));
        let close = matches!(outcome, Err(RpcError::UnsupportedVersion { .. }));
        if request.is_notification() {
            return (None, close);
        }
        let answer = match outcome {
            Ok(result) => encode_response(request.id, request.dialect, Ok(result)),
            Err(error) => encode_response(request.id, request.dialect, Err(&error)),
        };
        (Some(ReplyPart::Ready(answer)), close)
    }

    /// Whether the server behind us has a better answer.
    fn is_forwarded(&self, call: &Call) -> bool {
        let words = self.ourselves.static_replies(self.caller);
        match call {
            _ if !self.has_backend => false,
            Call::Banner => words.forwards_banner,
            Call::DonationAddress => words.passes_donation_address,
            // It would take its silence for ours, and hang up.
            Call::Ping => self.has_forwarded,
            _ => false,
        }
    }

    fn forward(&mut self, request: &Request<'_>, of_batch: bool) -> ReplyPart {
        self.has_forwarded = true;
        ReplyPart::Forward(Box::new(ForwardedCall::new(request, of_batch)))
    }

    /// The version, in the caller's spelling, that the server behind us is to be held to.
    pub fn upstream_version(&mut self) -> String {
        let (oldest, newest) = self.ourselves.identity.versions();
        let fits = DEFAULT_PROTOCOL.cmp_semver(&oldest).is_ge() && DEFAULT_PROTOCOL.cmp_semver(&newest).is_le();
        let version = if fits { DEFAULT_PROTOCOL } else { oldest };
        self.agreed.get_or_insert_with(|| (version, version.to_string())).1.clone()
    }

    fn answer(
        &mut self,
        call: Call,
        snapshot: &Snapshot,
        now: Time,
        rng: &mut impl Rng,
    ) -> Result<SharedBuf, RpcError> {
        let words = self.ourselves.static_replies(self.caller);
        Ok(match call {
            Call::Version(range) => self.version(&range)?.into(),
            Call::Features => words.features.clone().into(),
            Call::Peers => snapshot.peers(self.caller, now, rng),
            Call::AddPeer(_) => SharedBuf::from(&b"false"[..]),
            Call::Ping => SharedBuf::from(&b"null"[..]),
            Call::Banner => words.banner.clone().into(),
            Call::DonationAddress => words.donation_address.clone().into(),
        })
    }

    /// Old clients keep a connection alive by asking again; the first agreement stands.
    fn version(&mut self, range: &VersionRange) -> Result<String, RpcError> {
        if self.agreed.is_none() {
            let (version, spelled) = range.negotiate(self.ourselves.identity.versions())?;
            self.agreed = Some((version, spelled.into_owned()));
        }
        Ok(match &self.agreed {
            Some((version, spelled)) if version.cmp_semver(&MIN_PROTOCOL).is_gt() => {
                json!([USER_AGENT, spelled]).to_string()
            }
            // The first protocol answers with the software alone.
            _ => json!(USER_AGENT).to_string(),
        })
    }
}

/// A second introduction is understood, and not taken up.
fn answered(method: Method, outcome: &Result<SharedBuf, RpcError>) -> CallOutcome {
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

/// Instead of a call whose batch has had enough.
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

    /// The answer, once it is known; None if the caller waits for none.
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

impl ForwardedCall {
    fn new(request: &Request<'_>, of_batch: bool) -> ForwardedCall {
        let id = match request.id {
            Id::Present(id) => Some(id.get().to_owned()),
            Id::Absent => None,
        };
        let params = request.params.filter(|_| of_batch).map(|params| params.get().to_owned());
        ForwardedCall { id, dialect: request.dialect, method: request.method.to_string(), params }
    }

    pub fn method(&self) -> &str {
        &self.method
    }

    /// The client's id as it wrote it; None for a notification.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// The answer to a call that failed on the way to the backend; None if the client waits for no answer.
    pub fn failed(&self, error: &RpcError) -> Option<SharedBuf> {
        self.answer(Err(error.to_json()))
    }

    /// Encodes the request as a line of its own, under an id of Waypost's.
    pub fn line(&self, id: u64) -> Vec<u8> {
        let (method, params) = (json!(self.method), self.params.as_deref().unwrap_or("[]"));
        format!("{{\"jsonrpc\":\"2.0\",\"id\":\"{}\",\"method\":{method},\"params\":{params}}}\n", upstream_id(id))
            .into_bytes()
    }

    /// What the server behind us said, under the caller's own id; None if the caller waits for no answer.
    pub fn answer(&self, outcome: Result<SharedBuf, SharedBuf>) -> Option<SharedBuf> {
        match &self.id {
            Some(id) => {
                let id = serde_json::from_str(id).ok()?;
                Some(encode_raw_response(Id::Present(id), self.dialect, outcome))
            }
            None => {
                (self.dialect == JsonRpcVersion::V1).then(|| encode_raw_response(Id::Absent, self.dialect, outcome))
            }
        }
    }
}

/// Builds an id for the upstream that no client's own id can equal.
pub fn upstream_id(number: u64) -> String {
    format!("waypost-{number}")
}

/// The answers of one line as they go on the wire, with the line's end; nothing if nobody waits for any.
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
