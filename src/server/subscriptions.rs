//! Subscriptions of a client, which are renewed when another upstream takes over its session.
//!
//! The new upstream is sent the same subscriptions under ids of Waypost's. If a status differs from the last one that the
//! client has seen, the client gets a notification.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::BytesMut;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::memory::{MemoryCharge, Need};

/// Memory of a subscription besides its parameter, in bytes.
const OVERHEAD_BYTES: usize = 96;

/// Memory of subscriptions that is not charged, in bytes. A wallet with ten addresses needs less.
const FREE_BYTES: usize = 4 * 1024;

/// Maximum number of subscriptions that are renewed. Wallets have some thousands at most.
const MAX_SUBSCRIPTIONS: usize = 10_000;

/// Longest parameter in bytes: a script of the longest standard form in hexadecimal.
const MAX_PARAM_BYTES: usize = 256;

/// Number of renewals without a response at a time. An upstream may limit the requests that it queues.
const MAX_AWAITED: usize = 50;

/// Subscriptions of one client.
pub(super) struct Subscriptions {
    /// Last status that the client has seen.
    known: HashMap<Subscription, Status>,
    /// Whether the client has subscriptions that can't be renewed.
    is_incomplete: bool,
    bytes: usize,
    charge: MemoryCharge,
    /// Renewals that are not sent.
    unsent: Vec<Subscription>,
    /// Renewals without a response, with the number in their id.
    awaited: VecDeque<(u64, Subscription)>,
    /// Prefix of the ids of renewals, which neither a client nor an upstream can guess.
    nonce: u64,
    last_id: u64,
}

/// What a client has subscribed to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Subscription {
    topic: Topic,
    /// Script hash, script or address. Empty for headers.
    param: Box<str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Topic {
    Headers,
    ScriptHash,
    ScriptPubKey,
    Address,
}

/// Last status of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Status {
    digest: u64,
    /// Height of the chain tip; 0 for other topics.
    height: u64,
}

/// Result of a line that may respond to a renewal.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Renewal {
    /// The line is something else.
    None,
    /// The subscription is renewed, and the status is the same.
    Unchanged,
    /// The subscription is renewed. The client gets this notification.
    Changed(Vec<u8>),
    /// The upstream refuses the subscription.
    Refused,
}

impl Topic {
    const ALL: [Topic; 4] = [Topic::Headers, Topic::ScriptHash, Topic::ScriptPubKey, Topic::Address];

    fn name(self) -> &'static str {
        match self {
            Topic::Headers => "blockchain.headers",
            Topic::ScriptHash => "blockchain.scripthash",
            Topic::ScriptPubKey => "blockchain.scriptpubkey",
            Topic::Address => "blockchain.address",
        }
    }
}

impl Subscription {
    /// Parses the request of a subscription or its end; `None` if it can't be renewed.
    pub(super) fn parse(method: &str, params: Option<&str>) -> Option<Subscription> {
        let (name, _) = method.rsplit_once('.')?;
        let topic = Topic::ALL.into_iter().find(|topic| topic.name() == name)?;
        let params = params.unwrap_or("[]");
        if params.len() > MAX_PARAM_BYTES {
            return None;
        }
        let param = match (topic, serde_json::from_str::<Vec<String>>(params).ok()?.as_slice()) {
            (Topic::Headers, []) => Box::default(),
            (Topic::Headers, _) => return None,
            (_, [param]) => param.as_str().into(),
            _ => return None,
        };
        Some(Subscription { topic, param })
    }

    fn params(&self) -> Vec<&str> {
        if self.topic == Topic::Headers { Vec::new() } else { vec![&self.param] }
    }

    fn method(&self) -> String {
        format!("{}.subscribe", self.topic.name())
    }

    fn bytes(&self) -> usize {
        OVERHEAD_BYTES + self.param.len()
    }
}

impl Subscriptions {
    /// Starts without subscriptions.
    pub(super) fn new(charge: MemoryCharge, nonce: u64) -> Subscriptions {
        Subscriptions {
            known: HashMap::new(),
            is_incomplete: false,
            bytes: 0,
            charge,
            unsent: Vec::new(),
            awaited: VecDeque::new(),
            nonce,
            last_id: 0,
        }
    }

    /// Returns whether the client may get notifications.
    pub(super) fn is_subscribed(&self) -> bool {
        self.is_incomplete || !self.known.is_empty()
    }

    /// Returns whether another upstream can renew all subscriptions.
    pub(super) fn can_renew(&self) -> bool {
        !self.is_incomplete
    }

    /// Returns whether a renewal has no response.
    pub(super) fn is_renewing(&self) -> bool {
        !self.awaited.is_empty() || !self.unsent.is_empty()
    }

    /// Records a subscription that can't be renewed.
    pub(super) fn add_unknown(&mut self) {
        self.is_incomplete = true;
    }

    /// Records the result that a client gets for a subscription.
    pub(super) fn add(&mut self, subscription: Subscription, result: &[u8]) {
        let Some(status) = Status::parse(subscription.topic, result) else { return self.add_unknown() };
        if !self.known.contains_key(&subscription) {
            let bytes = self.bytes + subscription.bytes();
            let charged = if bytes > FREE_BYTES { bytes.next_multiple_of(FREE_BYTES) } else { 0 };
            let is_charged = charged <= self.charge.bytes() || self.charge.resize(charged, Need::Optional).is_ok();
            if self.known.len() >= MAX_SUBSCRIPTIONS || !is_charged {
                return self.add_unknown();
            }
            self.bytes = bytes;
        }
        self.known.insert(subscription, status);
    }

    /// Forgets a subscription that the client has ended.
    pub(super) fn remove(&mut self, subscription: &Subscription) {
        if self.known.remove(subscription).is_some() {
            self.bytes -= subscription.bytes();
        }
    }

    /// Records the status in a notification to the client.
    pub(super) fn note(&mut self, method: &str, params: &RawValue) {
        let Some((name, "subscribe")) = method.rsplit_once('.') else { return };
        let Some(topic) = Topic::ALL.into_iter().find(|topic| topic.name() == name) else { return };
        let Ok(params) = serde_json::from_str::<Vec<&RawValue>>(params.get()) else { return };
        let (param, status) = match (topic, params.as_slice()) {
            (Topic::Headers, [status]) => (String::new(), status),
            (_, [param, status]) => match serde_json::from_str(param.get()) {
                Ok(param) => (param, status),
                Err(_) => return,
            },
            _ => return,
        };
        let subscription = Subscription { topic, param: param.into() };
        if let (Some(known), Some(status)) =
            (self.known.get_mut(&subscription), Status::parse(topic, status.get().as_bytes()))
        {
            *known = status;
        }
    }

    /// Starts to renew all subscriptions on another upstream.
    pub(super) fn start_renewal(&mut self, out: &mut BytesMut) {
        self.awaited.clear();
        self.unsent = self.known.keys().cloned().collect();
        self.write_renewals(out);
    }

    fn write_renewals(&mut self, out: &mut BytesMut) {
        while self.awaited.len() < MAX_AWAITED
            && let Some(subscription) = self.unsent.pop()
        {
            self.last_id += 1;
            let id = format!("{:016x}-s{}", self.nonce, self.last_id);
            let (method, params) = (subscription.method(), subscription.params());
            let request = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
            out.extend_from_slice(request.to_string().as_bytes());
            out.extend_from_slice(b"\n");
            self.awaited.push_back((self.last_id, subscription));
        }
        if self.unsent.is_empty() {
            self.unsent = Vec::new();
        }
    }

    /// Handles a line that may respond to a renewal. Further renewals are written to `out`.
    pub(super) fn on_line(&mut self, line: &[u8], out: &mut BytesMut) -> Renewal {
        #[derive(Deserialize)]
        struct Envelope<'a> {
            id: &'a str,
            #[serde(borrow, default)]
            result: Option<&'a RawValue>,
        }
        if self.awaited.is_empty() {
            return Renewal::None;
        }
        let Ok(Envelope { id, result }) = serde_json::from_slice::<Envelope<'_>>(line) else { return Renewal::None };
        let number = id.strip_prefix(&format!("{:016x}-s", self.nonce)).and_then(|number| number.parse::<u64>().ok());
        let position = number.and_then(|number| self.awaited.iter().position(|(awaited, _)| *awaited == number));
        let Some((_, subscription)) = position.and_then(|position| self.awaited.remove(position)) else {
            return Renewal::None;
        };
        self.write_renewals(out);
        // The status of an unused script hash is null, which serde takes for a missing result.
        let result = result.map_or("null", RawValue::get);
        let is_error = serde_json::from_slice::<Value>(line)
            .is_ok_and(|line| line.get("error").is_some_and(|error| !error.is_null()));
        let Some(status) = Status::parse(subscription.topic, result.as_bytes()).filter(|_| !is_error) else {
            return Renewal::Refused;
        };
        let Some(known) = self.known.get_mut(&subscription) else { return Renewal::Unchanged };
        // An upstream that is some blocks behind notifies the client itself when it has caught up.
        if *known == status || status.height < known.height {
            return Renewal::Unchanged;
        }
        *known = status;
        let param = if subscription.topic == Topic::Headers {
            String::new()
        } else {
            format!("{},", json!(subscription.param))
        };
        let method = json!(subscription.method());
        Renewal::Changed(
            format!("{{\"jsonrpc\":\"2.0\",\"method\":{method},\"params\":[{param}{result}]}}\n").into_bytes(),
        )
    }
}

impl Status {
    /// Parses the status of a subscription; `None` if it has another form.
    fn parse(topic: Topic, result: &[u8]) -> Option<Status> {
        #[derive(Deserialize)]
        struct Tip {
            height: u64,
            hex: String,
        }
        let mut hasher = DefaultHasher::new();
        let height = if topic == Topic::Headers {
            let tip: Tip = serde_json::from_slice(result).ok()?;
            tip.hex.hash(&mut hasher);
            tip.height
        } else {
            serde_json::from_slice::<Option<String>>(result).ok()?.hash(&mut hasher);
            0
        };
        Some(Status { digest: hasher.finish(), height })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::memory::SessionMemory;
    use super::*;

    const HEADERS: &str = "blockchain.headers.subscribe";
    const SCRIPT_HASH: &str = "blockchain.scripthash.subscribe";

    fn empty() -> Subscriptions {
        Subscriptions::new(SessionMemory::for_tests().charge(), 7)
    }

    fn tip(height: u64) -> String {
        format!("{{\"height\":{height},\"hex\":\"{height:0160}\"}}")
    }

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    /// Starts a renewal, and returns the ids with the parameters.
    fn renew(subscriptions: &mut Subscriptions) -> Vec<(String, Value)> {
        let mut out = BytesMut::new();
        subscriptions.start_renewal(&mut out);
        parse(&out)
    }

    fn parse(out: &[u8]) -> Vec<(String, Value)> {
        let lines = std::str::from_utf8(out).unwrap().lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.map(|line| (line["id"].as_str().unwrap().to_owned(), line["params"].clone())).collect()
    }

    fn answer(subscriptions: &mut Subscriptions, id: &str, result: &str) -> Renewal {
        subscriptions.on_line(format!("{{\"id\":\"{id}\",\"result\":{result}}}").as_bytes(), &mut BytesMut::new())
    }

    #[test]
    fn changes_during_the_gap_are_notified() {
        let mut subscriptions = empty();
        subscriptions.add(Subscription::parse(HEADERS, None).unwrap(), tip(5).as_bytes());
        subscriptions.add(Subscription::parse(SCRIPT_HASH, Some("[\"aa\"]")).unwrap(), b"null");
        subscriptions.add(Subscription::parse(SCRIPT_HASH, Some("[\"bb\"]")).unwrap(), b"\"1\"");
        subscriptions.note(SCRIPT_HASH, &raw("[\"bb\", \"2\"]"));
        let requests = renew(&mut subscriptions);
        assert_eq!(requests.len(), 3);
        for (id, params) in requests {
            let (result, expected) = match params.to_string().as_str() {
                "[]" => (
                    tip(6),
                    Some(
                        json!({"method": HEADERS, "params": [{"height": 6, "hex": format!("{:0160}", 6)}], "jsonrpc": "2.0"}),
                    ),
                ),
                "[\"aa\"]" => {
                    ("\"9\"".to_owned(), Some(json!({"method": SCRIPT_HASH, "params": ["aa", "9"], "jsonrpc": "2.0"})))
                }
                _ => ("\"2\"".to_owned(), None),
            };
            match (answer(&mut subscriptions, &id, &result), expected) {
                (Renewal::Changed(line), Some(expected)) => {
                    assert_eq!(serde_json::from_slice::<Value>(&line).unwrap(), expected)
                }
                (renewal, None) => assert_eq!(renewal, Renewal::Unchanged),
                other => panic!("{other:?}"),
            }
        }
        assert!(!subscriptions.is_renewing());
        let (id, _) = renew(&mut subscriptions).into_iter().find(|(_, params)| *params == json!([])).unwrap();
        assert_eq!(answer(&mut subscriptions, &id, &tip(5)), Renewal::Unchanged, "an upstream one block behind");
    }

    #[test]
    fn renewals_are_sent_in_portions_and_refusals_are_seen() {
        let mut subscriptions = empty();
        for number in 0..2 * MAX_AWAITED {
            subscriptions.add(Subscription::parse(SCRIPT_HASH, Some(&format!("[\"{number}\"]"))).unwrap(), b"null");
        }
        let requests = renew(&mut subscriptions);
        assert_eq!(requests.len(), MAX_AWAITED);
        let mut out = BytesMut::new();
        let line = format!("{{\"id\":\"{}\",\"result\":null}}", requests[3].0);
        assert_eq!(subscriptions.on_line(line.as_bytes(), &mut out), Renewal::Unchanged);
        assert_eq!(parse(&out).len(), 1);
        let line = format!("{{\"id\":\"{}\",\"error\":{{\"code\":1}},\"result\":null}}", requests[4].0);
        assert_eq!(subscriptions.on_line(line.as_bytes(), &mut out), Renewal::Refused);
        for other in [line.as_str(), "{\"id\":7,\"result\":null}", "{\"id\":\"0000000000000007-s999\"}", "{}"] {
            assert_eq!(subscriptions.on_line(other.as_bytes(), &mut out), Renewal::None, "{other}");
        }
    }

    #[test]
    fn other_subscriptions_can_not_be_renewed() {
        for (method, params) in [
            (SCRIPT_HASH, "[]"),
            (HEADERS, "[1]"),
            ("a.subscribe", "[]"),
            ("blockchain.outpoint.subscribe", "[\"a\",1]"),
        ] {
            assert_eq!(Subscription::parse(method, Some(params)), None, "{method} {params}");
        }
        let mut subscriptions = empty();
        subscriptions.add(Subscription::parse(HEADERS, Some("[]")).unwrap(), b"5");
        assert!(subscriptions.is_subscribed() && !subscriptions.can_renew());
        let mut subscriptions = empty();
        let subscription = || Subscription::parse(SCRIPT_HASH, Some("[\"aa\"]")).unwrap();
        subscriptions.add(subscription(), b"null");
        subscriptions.remove(&subscription());
        assert!(!subscriptions.is_subscribed() && subscriptions.bytes == 0);
        for number in 0..=MAX_SUBSCRIPTIONS {
            subscriptions.add(Subscription::parse(SCRIPT_HASH, Some(&format!("[\"{number}\"]"))).unwrap(), b"null");
        }
        assert!(!subscriptions.can_renew());
    }

    proptest! {
        #[test]
        fn arbitrary_lines_never_panic(line in ".{0,60}", params in "\\[.{0,20}\\]") {
            let mut subscriptions = empty();
            subscriptions.add(Subscription::parse(HEADERS, None).unwrap(), tip(5).as_bytes());
            renew(&mut subscriptions);
            let _ = subscriptions.on_line(line.as_bytes(), &mut BytesMut::new());
            if let Ok(params) = RawValue::from_string(params) {
                subscriptions.note(SCRIPT_HASH, &params);
            }
        }
    }
}
