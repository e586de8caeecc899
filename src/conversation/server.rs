//! The end that answers: what a caller says, and what it gets back.

use std::sync::Arc;

use rand::Rng;
use serde::{Deserialize, Serialize};
use serde_json::json;
use smallvec::{SmallVec, smallvec};

use super::identity::Ourselves;
use crate::book::{Caller, Snapshot};
use crate::clock::Time;
use crate::peer::{Features, Version};
use crate::protocol::{
    Call, Dialect, Id, Incoming, Invalid, MAX_BATCH_ANSWER, Method, OLDEST, Pieces, Request, RpcError, SOFTWARE,
    TOO_MANY, USUAL, VersionRange, respond, response,
};

/// One caller's connection.
#[derive(Debug)]
pub struct Session {
    ourselves: Arc<Ourselves>,
    caller: Caller,
    /// What `server.version` agreed on.
    agreed: Option<(Version, String)>,
    introduced: bool,
    /// Whether this caller gets to the server behind us, and whether it did.
    fronted: bool,
    has_passed: bool,
}

/// What becomes of a line: its calls' answers in order, some of them yet to be found out, and whether the connection
/// is over afterwards.
#[derive(Debug)]
pub struct Turn {
    pub parts: SmallVec<[Part; 1]>,
    /// Which calls there were, and what became of each; but for those that are yet to be found out.
    pub calls: SmallVec<[(Method, Answered); 1]>,
    pub batch: bool,
    /// It was no JSON-RPC at all.
    pub unreadable: bool,
    pub close: bool,
}

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answered {
    /// As the caller wished.
    Answered,
    /// It was understood, and the answer is no.
    Refused,
    /// By the server behind us.
    Passed,
    Error,
}

impl Answered {
    pub const ALL: [Answered; 4] = [Answered::Answered, Answered::Refused, Answered::Passed, Answered::Error];
}

#[derive(Debug)]
pub enum Part {
    /// An answer, ready to be sent.
    Answer(Pieces),
    /// A peer introduces itself; only the book can say whether it is let in.
    AddPeer(Introduction),
    /// The backend answers. A line that is one call is forwarded as it came; of a batch, this call is.
    Pass(Box<Passed>),
}

/// A call that the backend is to answer.
#[derive(Debug)]
pub struct Passed {
    id: Option<String>,
    dialect: Dialect,
    method: String,
    /// Of a call in a batch alone, as only those are written again.
    params: Option<String>,
}

/// A call of `server.add_peer` that waits for its answer.
#[derive(Debug)]
pub struct Introduction {
    pub features: Box<Features>,
    id: Option<String>,
    dialect: Dialect,
}

impl Session {
    pub fn new(ourselves: Arc<Ourselves>, caller: Caller, fronted: bool) -> Session {
        Session { ourselves, caller, agreed: None, introduced: false, fronted, has_passed: false }
    }

    /// A line too long to be read, or no text at all.
    pub fn unreadable(error: &RpcError) -> Turn {
        let answer = response(Id::Absent, Dialect::V2, Err(error));
        Turn {
            parts: smallvec![Part::Answer(answer)],
            calls: SmallVec::new(),
            batch: false,
            unreadable: true,
            close: true,
        }
    }

    /// The last word to a caller who has had enough.
    pub fn farewell(error: &RpcError) -> Pieces {
        response(Id::Absent, Dialect::V2, Err(error)).into_line()
    }

    /// What to say to what a line holds, of whose calls no more than `batch` are answered together.
    pub fn turn(
        &mut self,
        incoming: Result<Incoming<'_>, RpcError>,
        batch: usize,
        snapshot: &Snapshot,
        now: Time,
        rng: &mut impl Rng,
    ) -> Turn {
        let mut turn =
            Turn { parts: SmallVec::new(), calls: SmallVec::new(), batch: false, unreadable: false, close: false };
        match incoming {
            Ok(Incoming::Single(request)) => {
                let (part, close) = self.request(request, false, &mut turn.calls, snapshot, now, rng);
                turn.parts.extend(part);
                turn.close = close;
            }
            Ok(Incoming::Batch(calls)) if calls.len() > batch => {
                return Session::unreadable(&RpcError::InvalidRequest(TOO_MANY));
            }
            Ok(Incoming::Batch(calls)) => {
                turn.batch = true;
                let mut length = 0;
                for request in calls.requests() {
                    let request = if length < MAX_BATCH_ANSWER { request } else { request.and_then(too_much) };
                    let (part, close) = self.request(request, true, &mut turn.calls, snapshot, now, rng);
                    length += part.as_ref().map_or(0, Part::length);
                    turn.parts.extend(part);
                    if close {
                        turn.close = true;
                        break;
                    }
                }
            }
            Err(error) => return Session::unreadable(&error),
        }
        turn
    }

    fn request(
        &mut self,
        request: Result<Request<'_>, Invalid<'_>>,
        of_batch: bool,
        calls: &mut SmallVec<[(Method, Answered); 1]>,
        snapshot: &Snapshot,
        now: Time,
        rng: &mut impl Rng,
    ) -> (Option<Part>, bool) {
        let request = match request {
            Ok(request) => request,
            Err(invalid) => {
                calls.push((Method::Other, Answered::Error));
                let answer = response(invalid.id, invalid.dialect, Err(&invalid.error));
                return (Some(Part::Answer(answer)), false);
            }
        };
        let method = Method::by_name(&request.method);
        let outcome = match Call::parse(&request) {
            Ok(Call::AddPeer(features)) if !self.introduced => {
                // The protocol's text suggests one a connection, and servers have no use for a second.
                self.introduced = true;
                return (Some(Part::AddPeer(Introduction::new(features, &request))), false);
            }
            Ok(call) if !self.passes(&call) => self.answer(call, snapshot, now, rng),
            Err(error) if !self.fronted || !matches!(error, RpcError::UnknownMethod) => Err(error),
            _ => {
                calls.push((method, Answered::Passed));
                return (Some(self.pass(&request, of_batch)), false);
            }
        };
        calls.push((method, answered(method, &outcome)));
        let close = matches!(outcome, Err(RpcError::UnsupportedVersion { .. }));
        if request.is_notification() {
            return (None, close);
        }
        let answer = match outcome {
            Ok(result) => response(request.id, request.dialect, Ok(result)),
            Err(error) => response(request.id, request.dialect, Err(&error)),
        };
        (Some(Part::Answer(answer)), close)
    }

    /// Whether the server behind us has a better answer.
    fn passes(&self, call: &Call) -> bool {
        let words = self.ourselves.words(self.caller);
        match call {
            _ if !self.fronted => false,
            Call::Banner => words.passes_banner,
            Call::DonationAddress => words.passes_donation_address,
            // It would take its silence for ours, and hang up.
            Call::Ping => self.has_passed,
            _ => false,
        }
    }

    fn pass(&mut self, request: &Request<'_>, of_batch: bool) -> Part {
        self.has_passed = true;
        Part::Pass(Box::new(Passed::new(request, of_batch)))
    }

    /// The version, in the caller's spelling, that the server behind us is to be held to.
    pub fn agree(&mut self) -> String {
        let (oldest, newest) = self.ourselves.identity.versions();
        let fits = USUAL.cmp_release(&oldest).is_ge() && USUAL.cmp_release(&newest).is_le();
        let version = if fits { USUAL } else { oldest };
        self.agreed.get_or_insert_with(|| (version, version.to_string())).1.clone()
    }

    fn answer(&mut self, call: Call, snapshot: &Snapshot, now: Time, rng: &mut impl Rng) -> Result<Pieces, RpcError> {
        let words = self.ourselves.words(self.caller);
        Ok(match call {
            Call::Version(range) => self.version(&range)?.into(),
            Call::Features => words.features.clone().into(),
            Call::Peers => snapshot.peers(self.caller, now, rng),
            Call::AddPeer(_) => Pieces::from(&b"false"[..]),
            Call::Ping => Pieces::from(&b"null"[..]),
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
            Some((version, spelled)) if version.cmp_release(&OLDEST).is_gt() => json!([SOFTWARE, spelled]).to_string(),
            // The first protocol answers with the software alone.
            _ => json!(SOFTWARE).to_string(),
        })
    }
}

/// A second introduction is understood, and not taken up.
fn answered(method: Method, outcome: &Result<Pieces, RpcError>) -> Answered {
    match outcome {
        Ok(_) if method == Method::AddPeer => Answered::Refused,
        Ok(_) => Answered::Answered,
        Err(_) => Answered::Error,
    }
}

impl Part {
    fn length(&self) -> usize {
        match self {
            Part::Answer(answer) => answer.len(),
            Part::AddPeer(_) | Part::Pass(_) => 0,
        }
    }
}

/// Instead of a call whose batch has had enough.
fn too_much(request: Request<'_>) -> Result<Request<'_>, Invalid<'_>> {
    Err(Invalid { id: request.id, dialect: request.dialect, error: RpcError::TooMuch })
}

impl Introduction {
    fn new(features: Box<Features>, request: &Request<'_>) -> Introduction {
        let id = match request.id {
            Id::Given(id) => Some(id.get().to_owned()),
            Id::Absent => None,
        };
        Introduction { features, id, dialect: request.dialect }
    }

    /// The answer, once it is known; None if the caller waits for none.
    pub fn answer(&self, accepted: bool) -> Option<Pieces> {
        let result = Pieces::from(if accepted { &b"true"[..] } else { &b"false"[..] });
        match &self.id {
            Some(id) => {
                let id = serde_json::from_str(id).ok()?;
                Some(response(Id::Given(id), self.dialect, Ok(result)))
            }
            None => (self.dialect == Dialect::V1).then(|| response(Id::Absent, self.dialect, Ok(result))),
        }
    }
}

impl Passed {
    fn new(request: &Request<'_>, of_batch: bool) -> Passed {
        let id = match request.id {
            Id::Given(id) => Some(id.get().to_owned()),
            Id::Absent => None,
        };
        let params = request.params.filter(|_| of_batch).map(|params| params.get().to_owned());
        Passed { id, dialect: request.dialect, method: request.method.to_string(), params }
    }

    pub fn method(&self) -> &str {
        &self.method
    }

    /// The client's id as it wrote it; None for a notification.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// The answer to a call that failed on the way to the backend; None if the client waits for no answer.
    pub fn failed(&self, error: &RpcError) -> Option<Pieces> {
        self.answer(Err(error.to_json()))
    }

    /// The call as a line of its own, under an id of ours.
    pub fn line(&self, id: u64) -> Vec<u8> {
        let (method, params) = (json!(self.method), self.params.as_deref().unwrap_or("[]"));
        format!("{{\"jsonrpc\":\"2.0\",\"id\":\"{}\",\"method\":{method},\"params\":{params}}}\n", own_id(id))
            .into_bytes()
    }

    /// What the server behind us said, under the caller's own id; None if the caller waits for no answer.
    pub fn answer(&self, outcome: Result<Pieces, Pieces>) -> Option<Pieces> {
        match &self.id {
            Some(id) => {
                let id = serde_json::from_str(id).ok()?;
                Some(respond(Id::Given(id), self.dialect, outcome))
            }
            None => (self.dialect == Dialect::V1).then(|| respond(Id::Absent, self.dialect, outcome)),
        }
    }
}

/// What an id of ours looks like on the way to the server behind us: no caller's own may be mistaken for it.
pub fn own_id(number: u64) -> String {
    format!("waypost-{number}")
}

/// The answers of one line as they go on the wire, with the line's end; nothing if nobody waits for any.
pub fn assemble(answers: impl IntoIterator<Item = Pieces>, batch: bool) -> Option<Pieces> {
    let mut line = Pieces::default();
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
    Some(line.into_line())
}

#[cfg(test)]
mod tests;
