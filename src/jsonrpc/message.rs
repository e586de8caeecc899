//! Requests and answers. What is read borrows from its line, so that no line costs more memory than its own bytes and
//! a small, bounded table.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::ser::Serialize;
use serde_json::value::RawValue;

use super::{RpcError, SharedBuf};

/// Calls that one batch may hold at all.
pub const MAX_BATCH_CALLS: usize = 256;

/// What one line from a caller holds.
#[derive(Debug)]
pub enum Message<'a> {
    Single(Result<Request<'a>, InvalidRequest<'a>>),
    Batch(Batch<'a>),
}

/// JSON, but no call; to be answered under whatever id it has.
#[derive(Debug)]
pub struct InvalidRequest<'a> {
    pub id: Id<'a>,
    pub dialect: JsonRpcVersion,
    pub error: RpcError,
}

/// The calls of a batch, each still to be parsed.
#[derive(Debug)]
pub struct Batch<'a>(Vec<&'a RawValue>);

#[derive(Debug)]
pub struct Request<'a> {
    pub id: Id<'a>,
    pub dialect: JsonRpcVersion,
    pub method: Cow<'a, str>,
    pub params: Option<&'a RawValue>,
}

/// A request's `id`, to be given back as it was written.
#[derive(Debug, Clone, Copy)]
pub enum Id<'a> {
    /// A number, a text or null.
    Present(&'a RawValue),
    /// A notification, which isn't answered.
    Absent,
}

/// Which JSON-RPC a request was written in, and so its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JsonRpcVersion {
    V1,
    V2,
}

/// A line from a server that we called.
#[derive(Debug)]
pub enum Response<'a> {
    Result {
        id: u64,
        result: &'a RawValue,
    },
    Error {
        id: u64,
    },
    /// Something that answers no own request: a notification.
    Notification,
}

impl Message<'_> {
    /// How many calls it makes.
    pub fn calls(&self) -> usize {
        match self {
            Message::Single(_) => 1,
            Message::Batch(batch) => batch.len(),
        }
    }
}

/// A request, or a batch of at least one and at most [`MAX_BATCH_CALLS`].
pub fn parse_line(line: &str) -> Result<Message<'_>, RpcError> {
    if line.trim_ascii_start().starts_with('[') {
        serde_json::from_str(line).map(Message::Batch).map_err(classify_batch_error)
    } else {
        match Request::parse(line) {
            Err(_) if serde_json::from_str::<&RawValue>(line).is_err() => Err(RpcError::Parse),
            request => Ok(Message::Single(request)),
        }
    }
}

/// Reads a struct from a dictionary alone: serde would take a list of its fields as well.
pub fn from_object<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, serde_json::Error> {
    if json.trim_ascii_start().starts_with('{') {
        serde_json::from_str(json)
    } else {
        Err(de::Error::custom("expected a dictionary"))
    }
}

/// One line from a server.
pub fn parse_response(line: &str) -> Result<Response<'_>, serde_json::Error> {
    let raw: RawResponse = from_object(line)?;
    Ok(match (raw.id.and_then(|id| id.get().parse().ok()), raw.error, raw.result) {
        (Some(id), Some(_), _) => Response::Error { id },
        (Some(id), None, Some(result)) => Response::Result { id, result },
        _ => Response::Notification,
    })
}

/// Encodes a request of Waypost's, with the line's end.
pub fn encode_request(id: u64, method: &str, params: &impl Serialize) -> Vec<u8> {
    let body = serde_json::json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
    let mut line = body.to_string().into_bytes();
    line.push(b'\n');
    line
}

/// An answer without the line's end. The result is JSON already.
pub fn encode_response(id: Id<'_>, dialect: JsonRpcVersion, outcome: Result<SharedBuf, &RpcError>) -> SharedBuf {
    encode_raw_response(id, dialect, outcome.map_err(RpcError::to_json))
}

/// The same where the error is JSON as well.
pub fn encode_raw_response(id: Id<'_>, dialect: JsonRpcVersion, outcome: Result<SharedBuf, SharedBuf>) -> SharedBuf {
    let id = match id {
        Id::Present(id) => id.get(),
        Id::Absent => "null",
    };
    // In 1.0 both keys are there, one of them null.
    let (head, mut answer): (&'static [u8], SharedBuf) = match (dialect, outcome) {
        (JsonRpcVersion::V2, Ok(result)) => (b"{\"jsonrpc\":\"2.0\",\"result\":", result),
        (JsonRpcVersion::V1, Ok(result)) => (b"{\"error\":null,\"result\":", result),
        (JsonRpcVersion::V2, Err(error)) => (b"{\"jsonrpc\":\"2.0\",\"error\":", error),
        (JsonRpcVersion::V1, Err(error)) => (b"{\"result\":null,\"error\":", error),
    };
    answer.prepend(head);
    answer.push([b",\"id\":", id.as_bytes()].concat());
    // By itself, as the line is filled up before it.
    answer.push(&b"}"[..]);
    answer
}

impl<'a> Batch<'a> {
    #[expect(clippy::len_without_is_empty, reason = "a batch is never empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn requests(&self) -> impl Iterator<Item = Result<Request<'a>, InvalidRequest<'a>>> {
        self.0.iter().map(|raw| Request::parse(raw.get()))
    }
}

impl<'a> Request<'a> {
    fn parse(json: &'a str) -> Result<Request<'a>, InvalidRequest<'a>> {
        let invalid = |id, dialect, reason| InvalidRequest { id, dialect, error: RpcError::InvalidRequest(reason) };
        let Ok(fields) = from_object::<RawRequest<'a>>(json) else {
            return Err(invalid(Id::Absent, JsonRpcVersion::V2, "it is no dictionary of a call"));
        };
        let dialect = match fields.jsonrpc.map(RawValue::get) {
            Some("\"2.0\"") => JsonRpcVersion::V2,
            _ => JsonRpcVersion::V1,
        };
        let id = match fields.id {
            Some(id) if id.get().starts_with(['{', '[', 't', 'f']) => {
                return Err(invalid(Id::Absent, dialect, "its id is neither number nor text"));
            }
            Some(id) => Id::Present(id),
            None => Id::Absent,
        };
        match fields.method.and_then(|method| serde_json::from_str(method.get()).ok()) {
            Some(CowStr(method)) => Ok(Request { id, dialect, method, params: fields.params }),
            None => Err(invalid(id, dialect, "it names no method")),
        }
    }

    /// Whether the caller waits for no answer. Only 2.0 has that; a call in 1.0's form is always answered.
    pub fn is_notification(&self) -> bool {
        self.dialect == JsonRpcVersion::V2 && matches!(self.id, Id::Absent)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Batch<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Batch<'a>, D::Error> {
        deserializer.deserialize_seq(BatchVisitor)
    }
}

pub const BATCH_TOO_LONG: &str = "too many calls in one batch";
const BATCH_EMPTY: &str = "no call in the batch";

struct BatchVisitor;

impl<'de> Visitor<'de> for BatchVisitor {
    type Value = Batch<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a batch of calls")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Batch<'de>, A::Error> {
        let mut calls = Vec::new();
        while let Some(call) = seq.next_element::<&RawValue>()? {
            if calls.len() == MAX_BATCH_CALLS {
                return Err(de::Error::custom(BATCH_TOO_LONG));
            }
            calls.push(call);
        }
        if calls.is_empty() { Err(de::Error::custom(BATCH_EMPTY)) } else { Ok(Batch(calls)) }
    }
}

/// Tells a batch of the wrong length from broken JSON.
fn classify_batch_error(error: serde_json::Error) -> RpcError {
    let text = error.to_string();
    match [BATCH_TOO_LONG, BATCH_EMPTY].into_iter().find(|reason| text.starts_with(reason)) {
        Some(reason) => RpcError::InvalidRequest(reason),
        None => RpcError::Parse,
    }
}

#[derive(Deserialize)]
struct RawRequest<'a> {
    #[serde(borrow, default)]
    jsonrpc: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "deserialize_present")]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    method: Option<&'a RawValue>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct RawResponse<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "deserialize_present")]
    result: Option<&'a RawValue>,
    // A null here is no error, which is how 1.0 says so.
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

/// A text that borrows where it has no escapes.
#[derive(Deserialize)]
struct CowStr<'a>(#[serde(borrow)] Cow<'a, str>);

/// A key that is there with the value null is still there, which `Option` alone would not see.
fn deserialize_present<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn single(line: &str) -> Result<(String, JsonRpcVersion), RpcError> {
        match parse_line(line)? {
            Message::Single(request) => request.map(|r| (r.method.into_owned(), r.dialect)).map_err(|i| i.error),
            Message::Batch(_) => panic!("a batch"),
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "\\PC{0,100}|[\\[\\]{}\",:a-z0-9. ]{0,200}") {
            let _ = parse_line(&text);
            let _ = parse_response(&text);
        }
    }

    #[test]
    fn both_versions_are_parsed() {
        assert_eq!(single(r#"{"id":0,"method":"server.ping"}"#), Ok(("server.ping".into(), JsonRpcVersion::V1)));
        assert_eq!(single(r#" {"jsonrpc":"2.0","id":"x","method":"a\u0062"}"#), Ok(("ab".into(), JsonRpcVersion::V2)));
    }

    #[test]
    fn invalid_requests_are_refused() {
        for line in ["", "x", "{", "{\"id\":1,\"method\":\"a\"} x", "[1,2", "[,]"] {
            assert!(matches!(parse_line(line), Err(RpcError::Parse)), "{line}");
        }
        for line in [
            "1",
            "null",
            "{}",
            "{\"method\":5}",
            "{\"id\":[1],\"method\":\"a\"}",
            "{\"id\":1,\"id\":2,\"method\":\"a\"}",
        ] {
            assert!(matches!(single(line), Err(RpcError::InvalidRequest(_))), "{line}");
        }
        assert!(matches!(parse_line("[]"), Err(RpcError::InvalidRequest(_))));
        let long = format!("[{}]", vec!["1"; MAX_BATCH_CALLS + 1].join(","));
        assert!(matches!(parse_line(&long), Err(RpcError::InvalidRequest(_))));
    }

    #[test]
    fn deep_nesting_is_parsed_or_refused() {
        let deep = format!("{{\"id\":1,\"method\":\"a\",\"params\":{}{}}}", "[".repeat(30_000), "]".repeat(30_000));
        assert!(single(&deep).is_ok());
        assert!(matches!(parse_line(&"[".repeat(60_000)), Err(RpcError::Parse)));
    }

    #[test]
    fn absent_id_differs_from_null_id() {
        let ids = [r#"{"jsonrpc":"2.0","method":"a"}"#, r#"{"jsonrpc":"2.0","id":null,"method":"a"}"#].map(|line| {
            match parse_line(line) {
                Ok(Message::Single(Ok(request))) => request.is_notification(),
                other => panic!("{other:?}"),
            }
        });
        assert_eq!(ids, [true, false]);
    }

    #[test]
    fn responses_use_version_of_request() {
        let raw = |json: &'static str| Id::Present(serde_json::from_str(json).unwrap());
        let text = |answer: SharedBuf| String::from_utf8(answer.to_vec()).unwrap();
        let none = || Ok(SharedBuf::from(&b"[]"[..]));
        assert_eq!(text(encode_response(raw("7"), JsonRpcVersion::V1, none())), r#"{"error":null,"result":[],"id":7}"#);
        assert_eq!(
            text(encode_response(raw("\"x\""), JsonRpcVersion::V2, none())),
            r#"{"jsonrpc":"2.0","result":[],"id":"x"}"#
        );
        assert_eq!(
            text(encode_response(Id::Absent, JsonRpcVersion::V2, Err(&RpcError::Parse))),
            r#"{"jsonrpc":"2.0","error":{"code":-32700,"message":"invalid JSON"},"id":null}"#
        );
    }

    #[test]
    fn responses_are_distinguished_from_notifications() {
        assert!(matches!(parse_response(r#"{"id":3,"result":null}"#), Ok(Response::Result { id: 3, .. })));
        assert!(matches!(parse_response(r#"{"id":3,"result":1,"error":null}"#), Ok(Response::Result { id: 3, .. })));
        assert!(matches!(parse_response(r#"{"id":3,"error":{"code":1}}"#), Ok(Response::Error { id: 3 })));
        assert!(matches!(parse_response(r#"{"method":"x","params":[]}"#), Ok(Response::Notification)));
        assert!(matches!(parse_response(r#"{"id":-3,"result":1}"#), Ok(Response::Notification)));
    }
}
