//! Requests and answers. What is read borrows from its line, so that no line costs more memory than its own bytes and
//! a small, bounded table.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::ser::Serialize;
use serde_json::value::RawValue;

use super::{Pieces, RpcError};

/// Calls that one batch may hold at all.
pub const MAX_BATCH: usize = 256;

/// What one line from a caller holds.
#[derive(Debug)]
pub enum Incoming<'a> {
    Single(Result<Request<'a>, Invalid<'a>>),
    Batch(Batch<'a>),
}

/// JSON, but no call; to be answered under whatever id it has.
#[derive(Debug)]
pub struct Invalid<'a> {
    pub id: Id<'a>,
    pub dialect: Dialect,
    pub error: RpcError,
}

/// The calls of a batch, each still to be parsed.
#[derive(Debug)]
pub struct Batch<'a>(Vec<&'a RawValue>);

#[derive(Debug)]
pub struct Request<'a> {
    pub id: Id<'a>,
    pub dialect: Dialect,
    pub method: Cow<'a, str>,
    pub params: Option<&'a RawValue>,
}

/// A request's `id`, to be given back as it was written.
#[derive(Debug, Clone, Copy)]
pub enum Id<'a> {
    /// A number, a text or null.
    Given(&'a RawValue),
    /// A notification, which isn't answered.
    Absent,
}

/// Which JSON-RPC a request was written in, and so its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    V1,
    V2,
}

/// A line from a server that we called.
#[derive(Debug)]
pub enum Answer<'a> {
    Result {
        id: u64,
        result: &'a RawValue,
    },
    Error {
        id: u64,
    },
    /// Something that answers no question of ours: a notification.
    Other,
}

impl Incoming<'_> {
    /// How many calls it makes.
    pub fn calls(&self) -> usize {
        match self {
            Incoming::Single(_) => 1,
            Incoming::Batch(batch) => batch.len(),
        }
    }
}

/// A request, or a batch of at least one and at most [`MAX_BATCH`].
pub fn parse_line(line: &str) -> Result<Incoming<'_>, RpcError> {
    if line.trim_ascii_start().starts_with('[') {
        serde_json::from_str(line).map(Incoming::Batch).map_err(shape)
    } else {
        match Request::parse(line) {
            Err(_) if serde_json::from_str::<&RawValue>(line).is_err() => Err(RpcError::Parse),
            request => Ok(Incoming::Single(request)),
        }
    }
}

/// Reads a struct from a dictionary alone: serde would take a list of its fields as well.
pub fn dictionary<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, serde_json::Error> {
    if json.trim_ascii_start().starts_with('{') {
        serde_json::from_str(json)
    } else {
        Err(de::Error::custom("expected a dictionary"))
    }
}

/// One line from a server.
pub fn parse_answer(line: &str) -> Result<Answer<'_>, serde_json::Error> {
    let raw: RawAnswer = dictionary(line)?;
    Ok(match (raw.id.and_then(|id| id.get().parse().ok()), raw.error, raw.result) {
        (Some(id), Some(_), _) => Answer::Error { id },
        (Some(id), None, Some(result)) => Answer::Result { id, result },
        _ => Answer::Other,
    })
}

/// A call of ours, with the line's end.
pub fn request(id: u64, method: &str, params: &impl Serialize) -> Vec<u8> {
    let body = serde_json::json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
    let mut line = body.to_string().into_bytes();
    line.push(b'\n');
    line
}

/// An answer without the line's end. The result is JSON already.
pub fn response(id: Id<'_>, dialect: Dialect, outcome: Result<Pieces, &RpcError>) -> Pieces {
    respond(id, dialect, outcome.map_err(RpcError::to_json))
}

/// The same where the error is JSON as well.
pub fn respond(id: Id<'_>, dialect: Dialect, outcome: Result<Pieces, Pieces>) -> Pieces {
    let id = match id {
        Id::Given(id) => id.get(),
        Id::Absent => "null",
    };
    // In 1.0 both keys are there, one of them null.
    let (head, mut answer): (&'static [u8], Pieces) = match (dialect, outcome) {
        (Dialect::V2, Ok(result)) => (b"{\"jsonrpc\":\"2.0\",\"result\":", result),
        (Dialect::V1, Ok(result)) => (b"{\"error\":null,\"result\":", result),
        (Dialect::V2, Err(error)) => (b"{\"jsonrpc\":\"2.0\",\"error\":", error),
        (Dialect::V1, Err(error)) => (b"{\"result\":null,\"error\":", error),
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

    pub fn requests(&self) -> impl Iterator<Item = Result<Request<'a>, Invalid<'a>>> {
        self.0.iter().map(|raw| Request::parse(raw.get()))
    }
}

impl<'a> Request<'a> {
    fn parse(json: &'a str) -> Result<Request<'a>, Invalid<'a>> {
        let invalid = |id, dialect, why| Invalid { id, dialect, error: RpcError::InvalidRequest(why) };
        let Ok(fields) = dictionary::<RawRequest<'a>>(json) else {
            return Err(invalid(Id::Absent, Dialect::V2, "it is no dictionary of a call"));
        };
        let dialect = match fields.jsonrpc.map(RawValue::get) {
            Some("\"2.0\"") => Dialect::V2,
            _ => Dialect::V1,
        };
        let id = match fields.id {
            Some(id) if id.get().starts_with(['{', '[', 't', 'f']) => {
                return Err(invalid(Id::Absent, dialect, "its id is neither number nor text"));
            }
            Some(id) => Id::Given(id),
            None => Id::Absent,
        };
        match fields.method.and_then(|method| serde_json::from_str(method.get()).ok()) {
            Some(Text(method)) => Ok(Request { id, dialect, method, params: fields.params }),
            None => Err(invalid(id, dialect, "it names no method")),
        }
    }

    /// Whether the caller waits for no answer. Only 2.0 has that; a call in 1.0's form is always answered.
    pub fn is_notification(&self) -> bool {
        self.dialect == Dialect::V2 && matches!(self.id, Id::Absent)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Batch<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Batch<'a>, D::Error> {
        deserializer.deserialize_seq(BatchVisitor)
    }
}

pub const TOO_MANY: &str = "too many calls in one batch";
const NONE_AT_ALL: &str = "no call in the batch";

struct BatchVisitor;

impl<'de> Visitor<'de> for BatchVisitor {
    type Value = Batch<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a batch of calls")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Batch<'de>, A::Error> {
        let mut calls = Vec::new();
        while let Some(call) = seq.next_element::<&RawValue>()? {
            if calls.len() == MAX_BATCH {
                return Err(de::Error::custom(TOO_MANY));
            }
            calls.push(call);
        }
        if calls.is_empty() { Err(de::Error::custom(NONE_AT_ALL)) } else { Ok(Batch(calls)) }
    }
}

/// Tells a batch of the wrong length from broken JSON.
fn shape(error: serde_json::Error) -> RpcError {
    let text = error.to_string();
    match [TOO_MANY, NONE_AT_ALL].into_iter().find(|why| text.starts_with(why)) {
        Some(why) => RpcError::InvalidRequest(why),
        None => RpcError::Parse,
    }
}

#[derive(Deserialize)]
struct RawRequest<'a> {
    #[serde(borrow, default)]
    jsonrpc: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    method: Option<&'a RawValue>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct RawAnswer<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    result: Option<&'a RawValue>,
    // A null here is no error, which is how 1.0 says so.
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

/// A text that borrows where it has no escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// A key that is there with the value null is still there, which `Option` alone would not see.
fn present<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn single(line: &str) -> Result<(String, Dialect), RpcError> {
        match parse_line(line)? {
            Incoming::Single(request) => request.map(|r| (r.method.into_owned(), r.dialect)).map_err(|i| i.error),
            Incoming::Batch(_) => panic!("a batch"),
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "\\PC{0,100}|[\\[\\]{}\",:a-z0-9. ]{0,200}") {
            let _ = parse_line(&text);
            let _ = parse_answer(&text);
        }
    }

    #[test]
    fn both_dialects_are_read() {
        assert_eq!(single(r#"{"id":0,"method":"server.ping"}"#), Ok(("server.ping".into(), Dialect::V1)));
        assert_eq!(single(r#" {"jsonrpc":"2.0","id":"x","method":"a\u0062"}"#), Ok(("ab".into(), Dialect::V2)));
    }

    #[test]
    fn what_is_no_call_is_refused() {
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
        let long = format!("[{}]", vec!["1"; MAX_BATCH + 1].join(","));
        assert!(matches!(parse_line(&long), Err(RpcError::InvalidRequest(_))));
    }

    #[test]
    fn deep_nesting_is_no_trouble() {
        let deep = format!("{{\"id\":1,\"method\":\"a\",\"params\":{}{}}}", "[".repeat(30_000), "]".repeat(30_000));
        assert!(single(&deep).is_ok());
        assert!(matches!(parse_line(&"[".repeat(60_000)), Err(RpcError::Parse)));
    }

    #[test]
    fn an_absent_id_is_not_a_null_one() {
        let ids = [r#"{"jsonrpc":"2.0","method":"a"}"#, r#"{"jsonrpc":"2.0","id":null,"method":"a"}"#].map(|line| {
            match parse_line(line) {
                Ok(Incoming::Single(Ok(request))) => request.is_notification(),
                other => panic!("{other:?}"),
            }
        });
        assert_eq!(ids, [true, false]);
    }

    #[test]
    fn responses_are_in_the_callers_dialect() {
        let raw = |json: &'static str| Id::Given(serde_json::from_str(json).unwrap());
        let text = |answer: Pieces| String::from_utf8(answer.to_vec()).unwrap();
        let none = || Ok(Pieces::from(&b"[]"[..]));
        assert_eq!(text(response(raw("7"), Dialect::V1, none())), r#"{"error":null,"result":[],"id":7}"#);
        assert_eq!(text(response(raw("\"x\""), Dialect::V2, none())), r#"{"jsonrpc":"2.0","result":[],"id":"x"}"#);
        assert_eq!(
            text(response(Id::Absent, Dialect::V2, Err(&RpcError::Parse))),
            r#"{"jsonrpc":"2.0","error":{"code":-32700,"message":"invalid JSON"},"id":null}"#
        );
    }

    #[test]
    fn answers_are_told_from_notifications() {
        assert!(matches!(parse_answer(r#"{"id":3,"result":null}"#), Ok(Answer::Result { id: 3, .. })));
        assert!(matches!(parse_answer(r#"{"id":3,"result":1,"error":null}"#), Ok(Answer::Result { id: 3, .. })));
        assert!(matches!(parse_answer(r#"{"id":3,"error":{"code":1}}"#), Ok(Answer::Error { id: 3 })));
        assert!(matches!(parse_answer(r#"{"method":"x","params":[]}"#), Ok(Answer::Other)));
        assert!(matches!(parse_answer(r#"{"id":-3,"result":1}"#), Ok(Answer::Other)));
    }
}
