//! The end that answers: what a caller says, and what it gets back.

use std::sync::Arc;

use bytes::Bytes;
use rand::Rng;
use serde_json::json;
use smallvec::{SmallVec, smallvec};

use crate::book::{Caller, Snapshot};
use crate::clock::Time;
use crate::network::Network;
use crate::peer::{Features, HASH_FUNCTION, Host, Ports, Version};
use crate::protocol::{
    Call, Dialect, Id, Incoming, Invalid, MAX_BATCH_ANSWER, NEWEST, OLDEST, Pieces, Request, RpcError, SOFTWARE,
    TOO_MANY, VersionRange, response,
};

/// What we say of ourselves.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    pub network: Network,
    /// Our name and ports on clearnet, if we have one.
    pub clearnet: Option<(Host, Ports)>,
    /// Our onion service, once it was reached through Tor.
    pub onion: Option<(Host, Ports)>,
    /// Whether who knows one of our names may learn of the other.
    pub link: bool,
    pub banner: String,
    pub donation_address: String,
}

/// What we say of ourselves, put into words once for all who ask.
#[derive(Debug, Default)]
pub struct Ourselves {
    pub identity: Identity,
    for_clearnet: Words,
    for_onion: Words,
}

/// As JSON, for callers of one of our names.
#[derive(Debug, Default)]
struct Words {
    features: Bytes,
    banner: Bytes,
    donation_address: Bytes,
}

/// What wallets show of a server that says nothing else.
pub const BANNER: &str = "This node serves Electrum peer discovery: it tells which servers are alive.";

/// One caller's connection.
#[derive(Debug)]
pub struct Session {
    ourselves: Arc<Ourselves>,
    caller: Caller,
    /// What `server.version` agreed on.
    agreed: Option<(Version, String)>,
    introduced: bool,
}

/// What becomes of a line: its calls' answers in order, some of them yet to be found out, and whether the connection
/// is over afterwards.
#[derive(Debug)]
pub struct Turn {
    pub parts: SmallVec<[Part; 1]>,
    pub batch: bool,
    /// It was no JSON-RPC at all.
    pub unreadable: bool,
    pub close: bool,
}

#[derive(Debug)]
pub enum Part {
    /// An answer, ready to be sent.
    Answer(Pieces),
    /// A peer introduces itself; only the book can say whether it is let in.
    AddPeer(Introduction),
}

/// A call of `server.add_peer` that waits for its answer.
#[derive(Debug)]
pub struct Introduction {
    pub features: Box<Features>,
    id: Option<String>,
    dialect: Dialect,
}

impl Session {
    pub fn new(ourselves: Arc<Ourselves>, caller: Caller) -> Session {
        Session { ourselves, caller, agreed: None, introduced: false }
    }

    /// A line too long to be read, or no text at all.
    pub fn unreadable(error: &RpcError) -> Turn {
        let answer = response(Id::Absent, Dialect::V2, Err(error));
        Turn { parts: smallvec![Part::Answer(answer)], batch: false, unreadable: true, close: true }
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
        let mut turn = Turn { parts: SmallVec::new(), batch: false, unreadable: false, close: false };
        match incoming {
            Ok(Incoming::Single(request)) => {
                let (part, close) = self.request(request, snapshot, now, rng);
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
                    let (part, close) = self.request(request, snapshot, now, rng);
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
        snapshot: &Snapshot,
        now: Time,
        rng: &mut impl Rng,
    ) -> (Option<Part>, bool) {
        let request = match request {
            Ok(request) => request,
            Err(invalid) => {
                let answer = response(invalid.id, invalid.dialect, Err(&invalid.error));
                return (Some(Part::Answer(answer)), false);
            }
        };
        let outcome = match Call::parse(&request) {
            Ok(Call::AddPeer(features)) if !self.introduced => {
                // The protocol's text suggests one a connection, and servers have no use for a second.
                self.introduced = true;
                return (Some(Part::AddPeer(Introduction::new(features, &request))), false);
            }
            Ok(call) => self.answer(call, snapshot, now, rng),
            Err(error) => Err(error),
        };
        let close = matches!(outcome, Err(RpcError::UnsupportedVersion));
        if request.is_notification() {
            return (None, close);
        }
        let answer = match outcome {
            Ok(result) => response(request.id, request.dialect, Ok(result)),
            Err(error) => response(request.id, request.dialect, Err(&error)),
        };
        (Some(Part::Answer(answer)), close)
    }

    fn answer(&mut self, call: Call, snapshot: &Snapshot, now: Time, rng: &mut impl Rng) -> Result<Pieces, RpcError> {
        let words = match self.caller {
            Caller::Clearnet => &self.ourselves.for_clearnet,
            Caller::Onion => &self.ourselves.for_onion,
        };
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
            let (version, spelled) = range.negotiate()?;
            self.agreed = Some((version, spelled.into_owned()));
        }
        Ok(match &self.agreed {
            Some((version, spelled)) if version.cmp_release(&OLDEST).is_gt() => json!([SOFTWARE, spelled]).to_string(),
            // The first protocol answers with the software alone.
            _ => json!(SOFTWARE).to_string(),
        })
    }
}

impl Ourselves {
    pub fn new(identity: Identity) -> Ourselves {
        let words = |caller| {
            let json = |value: serde_json::Value| Bytes::from(value.to_string());
            let hides = identity.hides_from(caller);
            let (banner, address) = if hides { (BANNER, "") } else { (&*identity.banner, &*identity.donation_address) };
            Words {
                features: json(json!(identity.features(caller))),
                banner: json(json!(banner)),
                donation_address: json(json!(address)),
            }
        };
        Ourselves { for_clearnet: words(Caller::Clearnet), for_onion: words(Caller::Onion), identity }
    }
}

impl Identity {
    /// Who came by one of our names hears nothing of the other.
    fn features(&self, caller: Caller) -> Features {
        let Identity { clearnet, onion, link, .. } = self;
        let names = match caller {
            _ if *link => [clearnet, onion],
            Caller::Clearnet => [clearnet, &None],
            Caller::Onion => [onion, &None],
        };
        Features {
            hosts: Some(names.into_iter().flatten().map(|(host, ports)| (host.clone(), Some(*ports))).collect()),
            genesis_hash: Some(self.network.genesis_hash().to_owned()),
            hash_function: Some(HASH_FUNCTION.to_owned()),
            server_version: Some(SOFTWARE.to_owned()),
            protocol_min: Some(OLDEST),
            protocol_max: Some(NEWEST),
            pruning: None,
        }
    }

    /// Words that are ours alone would tie our two names together, so they are for callers on clearnet where there is a
    /// name to be told of.
    fn hides_from(&self, caller: Caller) -> bool {
        caller == Caller::Onion && self.clearnet.is_some() && !self.link
    }
}

impl Part {
    fn length(&self) -> usize {
        match self {
            Part::Answer(answer) => answer.len(),
            Part::AddPeer(_) => 0,
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
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;
    use serde_json::Value;

    use super::*;
    use crate::protocol::{MAX_BATCH, parse_line};

    fn session(caller: Caller) -> Session {
        let name = |host: &str| Some((host.parse().unwrap(), Network::Bitcoin.default_ports()));
        let onion = "explorerzydxu5ecjrkwceayqybizmpjjznk5izmitf2modhcusuqlid.onion";
        let identity = Identity { clearnet: name("wp.example"), onion: name(onion), ..Identity::default() };
        Session::new(Arc::new(Ourselves::new(identity)), caller)
    }

    /// The answer to a line, and whether the connection is over.
    fn say(session: &mut Session, line: &str) -> (Value, bool) {
        let mut rng = StdRng::seed_from_u64(1);
        let turn = session.turn(parse_line(line), MAX_BATCH, &Snapshot::default(), Time::default(), &mut rng);
        let answers = turn.parts.iter().filter_map(|part| match part {
            Part::Answer(answer) => Some(answer.clone()),
            Part::AddPeer(introduction) => introduction.answer(true),
        });
        let value = match assemble(answers, turn.batch) {
            Some(line) => {
                assert!(line.len().is_power_of_two(), "{}", line.len());
                serde_json::from_slice(&line.to_vec()).unwrap()
            }
            None => Value::Null,
        };
        (value, turn.close)
    }

    fn result(line: &str) -> Value {
        say(&mut session(Caller::Clearnet), line).0["result"].take()
    }

    #[test]
    fn versions_are_answered_in_their_protocols_way() {
        let ask = |params: &str| result(&format!(r#"{{"id":1,"method":"server.version","params":{params}}}"#));
        assert_eq!(ask(r#"["x","1.0"]"#), json!(SOFTWARE));
        assert_eq!(ask(r#"["x","1.1"]"#), json!([SOFTWARE, "1.1"]));
        assert_eq!(ask(r#"["x",["1.4","1.6"]]"#), json!([SOFTWARE, "1.6"]));
    }

    #[test]
    fn without_a_common_version_the_connection_ends() {
        let line = r#"{"id":1,"method":"server.version","params":["x","2.0"]}"#;
        let (answer, close) = say(&mut session(Caller::Clearnet), line);
        assert_eq!((answer["error"]["code"].as_i64(), close), (Some(1), true));
    }

    #[test]
    fn the_first_agreement_stands() {
        let mut session = session(Caller::Clearnet);
        let ask = |version: &str| format!(r#"{{"id":1,"method":"server.version","params":["x","{version}"]}}"#);
        assert_eq!(say(&mut session, &ask("1.4")).0["result"][1], "1.4");
        assert_eq!(say(&mut session, &ask("1.2")).0["result"][1], "1.4");
    }

    #[test]
    fn each_identity_is_told_to_its_own_callers() {
        let line = r#"{"jsonrpc":"2.0","id":"a","method":"server.features"}"#;
        let (clearnet, _) = say(&mut session(Caller::Clearnet), line);
        let (onion, _) = say(&mut session(Caller::Onion), line);
        assert_eq!(clearnet["result"]["hosts"]["wp.example"], json!({"tcp_port": 50001, "ssl_port": 50002}));
        assert!(!clearnet.to_string().contains(".onion"));
        assert!(!onion.to_string().contains("wp.example"));
        assert_eq!(clearnet["result"]["hash_function"], "sha256");
        assert_eq!(clearnet["result"]["pruning"], Value::Null);
    }

    #[test]
    fn words_of_our_own_are_not_said_under_both_names() {
        let named = session(Caller::Onion).ourselves.identity.clone();
        let identity = Identity { banner: "mine".to_owned(), donation_address: "bc1q".to_owned(), ..named };
        let ask = |identity: Identity, caller, method: &str| {
            let mut session = Session::new(Arc::new(Ourselves::new(identity)), caller);
            say(&mut session, &format!(r#"{{"id":1,"method":"{method}"}}"#)).0["result"].take()
        };
        assert_eq!(ask(identity.clone(), Caller::Clearnet, "server.banner"), "mine");
        assert_eq!(ask(identity.clone(), Caller::Onion, "server.banner"), BANNER);
        assert_eq!(ask(identity.clone(), Caller::Onion, "server.donation_address"), "");
        let onion_only = Identity { clearnet: None, ..identity.clone() };
        assert_eq!(ask(onion_only, Caller::Onion, "server.donation_address"), "bc1q");
        let linked = Identity { link: true, ..identity };
        assert_eq!(ask(linked.clone(), Caller::Onion, "server.banner"), "mine");
        assert_eq!(ask(linked, Caller::Onion, "server.features")["hosts"].as_object().unwrap().len(), 2);
    }

    #[test]
    fn batches_are_answered_in_order() {
        let line = r#"[{"id":1,"method":"server.ping"},{"jsonrpc":"2.0","method":"server.ping"},7,
            {"jsonrpc":"2.0","id":2,"method":"nope"},{"id":3,"method":"server.add_peer","params":[{}]}]"#;
        let (answer, close) = say(&mut session(Caller::Clearnet), &line.replace('\n', ""));
        assert!(!close);
        let list = answer.as_array().unwrap();
        let codes: Vec<Option<i64>> = list.iter().map(|answer| answer["error"]["code"].as_i64()).collect();
        assert_eq!(codes, [None, Some(-32600), Some(-32601), None]);
        assert_eq!(list[3], json!({"error": null, "result": true, "id": 3}));
    }

    #[test]
    fn a_batch_is_answered_up_to_a_length() {
        let mut session = session(Caller::Clearnet);
        let identity = Identity { banner: "x".repeat(MAX_BATCH_ANSWER / 4), ..Identity::default() };
        session.ourselves = Arc::new(Ourselves::new(identity));
        let line = format!("[{}]", [r#"{"id":1,"method":"server.banner"}"#; 9].join(","));
        let (answer, _) = say(&mut session, &line);
        let codes = answer.as_array().unwrap().iter().map(|answer| answer["error"]["code"].as_i64());
        assert_eq!(codes.flatten().collect::<Vec<_>>(), [-32600; 5]);
    }

    #[test]
    fn a_second_introduction_is_turned_down() {
        let mut session = session(Caller::Clearnet);
        let line = r#"{"id":1,"method":"server.add_peer","params":[{}]}"#;
        assert_eq!(say(&mut session, line).0["result"], true);
        assert_eq!(say(&mut session, line).0["result"], false);
    }

    #[test]
    fn broken_lines_end_the_connection() {
        for line in ["", "{", "[]", "nonsense"] {
            let (answer, close) = say(&mut session(Caller::Clearnet), line);
            assert!(close && answer["error"]["code"].is_i64(), "{line}");
        }
        let notification = r#"{"jsonrpc":"2.0","method":"server.ping"}"#;
        assert_eq!(say(&mut session(Caller::Clearnet), notification), (Value::Null, false));
    }

    proptest! {
        #[test]
        fn any_line_is_answered_or_ends_the_connection(line in "\\PC{0,80}|[\\[\\]{}\",:a-z0-9. ]{0,120}") {
            let _ = say(&mut session(Caller::Onion), &line);
        }
    }
}
