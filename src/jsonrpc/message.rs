//! Parsing and encoding of requests and responses.
//!
//! Parsed values borrow from their line. A line thus costs no more memory than its own bytes and a
//! small, bounded table.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::ser::Serialize;
use serde_json::value::RawValue;

use super::{OutcomeKey, RpcError, SharedBuf};

/// Maximum number of requests in a batch, whatever the limits of the session.
///
/// The table of a batch has 16 bytes for each.
pub const MAX_BATCH_CALLS: usize = 1000;

/// Content of one line from a client.
#[derive(Debug)]
pub enum Message<'a> {
    /// A request outside of a batch.
    Single(Result<Request<'a>, InvalidRequest<'a>>),
    /// A batch of requests.
    Batch(Batch<'a>),
}

/// JSON that is not a request, with what an error response needs.
#[derive(Debug)]
pub struct InvalidRequest<'a> {
    /// Id of the response.
    pub id: Id<'a>,
    /// Version of the response.
    pub dialect: JsonRpcVersion,
    /// Why this is not a request.
    pub error: RpcError,
}

/// Unparsed requests of a batch, at least one.
#[derive(Debug)]
pub struct Batch<'a>(Vec<&'a RawValue>);

/// Request with unparsed parameters.
#[derive(Debug)]
pub struct Request<'a> {
    /// Id of the response.
    pub id: Id<'a>,
    /// Version of the request and its response.
    pub dialect: JsonRpcVersion,
    /// Name of the method.
    pub method: Cow<'a, str>,
    /// Parameters as JSON. `None` if the key is absent or null.
    pub params: Option<&'a RawValue>,
}

/// Id of a request, repeated verbatim in its response.
#[derive(Debug, Clone, Copy)]
pub enum Id<'a> {
    /// A number, a string or null.
    Present(&'a RawValue),
    /// No id. In version 2.0 the request is a notification, which has no response.
    Absent,
}

/// JSON-RPC version of a request and its response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JsonRpcVersion {
    /// Version 1.0, and every request not marked as 2.0.
    V1,
    /// Version 2.0.
    V2,
}

/// Line from a server that Waypost sent requests to.
#[derive(Debug)]
pub enum Response<'a> {
    /// A successful response.
    Result {
        /// Id of the request.
        id: u64,
        /// Result as JSON.
        result: &'a RawValue,
    },
    /// An error response.
    Error {
        /// Id of the request.
        id: u64,
    },
    /// A line that responds to no request.
    Notification,
}

impl Message<'_> {
    /// Returns the number of requests, valid or not.
    pub fn calls(&self) -> usize {
        match self {
            Message::Single(_) => 1,
            Message::Batch(batch) => batch.len(),
        }
    }
}

/// Parses a request, or a batch of 1 to [`MAX_BATCH_CALLS`] requests.
///
/// # Errors
/// Returns `Parse` or `Encoding` if the line is not JSON, and `InvalidRequest` for a batch of the wrong length.
pub fn parse_line(line: &str) -> Result<Message<'_>, RpcError> {
    if line.trim_ascii_start().starts_with('[') {
        serde_json::from_str(line).map(Message::Batch).map_err(|error| classify_batch_error(line, &error))
    } else {
        match Request::parse(line) {
            Err(_) if serde_json::from_str::<&RawValue>(line).is_err() => Err(not_json(line)),
            request => Ok(Message::Single(request)),
        }
    }
}

/// Deserializes a struct from a JSON object only.
///
/// Serde alone would accept an array of the fields as well.
pub fn from_object<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, serde_json::Error> {
    if json.trim_ascii_start().starts_with('{') {
        serde_json::from_str(json)
    } else {
        Err(de::Error::custom("expected an object"))
    }
}

/// Parses one line from a server.
pub fn parse_response(line: &str) -> Result<Response<'_>, serde_json::Error> {
    let raw: RawResponse = from_object(line)?;
    Ok(match (raw.id.and_then(|id| id.get().parse().ok()), raw.error, raw.result) {
        (Some(id), Some(_), _) => Response::Error { id },
        (Some(id), None, Some(result)) => Response::Result { id, result },
        _ => Response::Notification,
    })
}

/// Encodes a request to a server, with the line feed.
pub fn encode_request(id: u64, method: &str, params: &impl Serialize) -> Vec<u8> {
    let body = serde_json::json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
    let mut line = body.to_string().into_bytes();
    line.push(b'\n');
    line
}

/// Encodes a response without the line feed. The result is JSON already.
pub fn encode_response(id: Id<'_>, dialect: JsonRpcVersion, outcome: Result<SharedBuf, &RpcError>) -> SharedBuf {
    encode_raw_response(id, dialect, outcome.map_err(RpcError::to_json))
}

/// Encodes a response whose result or error is JSON already, without the line feed.
pub fn encode_raw_response(id: Id<'_>, dialect: JsonRpcVersion, outcome: Result<SharedBuf, SharedBuf>) -> SharedBuf {
    let (key, outcome) = match outcome {
        Ok(result) => (OutcomeKey::Result, result),
        Err(error) => (OutcomeKey::Error, error),
    };
    let mut response = SharedBuf::from(response_start(dialect, key));
    response.append(outcome);
    push_response_end(&mut response, id);
    response
}

/// Encodes what precedes the result or error of a response.
pub fn response_start(dialect: JsonRpcVersion, key: OutcomeKey) -> &'static [u8] {
    // Version 1.0 requires both keys, one of them null.
    match (dialect, key) {
        (JsonRpcVersion::V2, OutcomeKey::Result) => b"{\"jsonrpc\":\"2.0\",\"result\":",
        (JsonRpcVersion::V1, OutcomeKey::Result) => b"{\"error\":null,\"result\":",
        (JsonRpcVersion::V2, OutcomeKey::Error) => b"{\"jsonrpc\":\"2.0\",\"error\":",
        (JsonRpcVersion::V1, OutcomeKey::Error) => b"{\"result\":null,\"error\":",
    }
}

/// Writes what follows the result or error of a response.
pub fn push_response_end(response: &mut SharedBuf, id: Id<'_>) {
    let id = match id {
        Id::Present(id) => id.get(),
        Id::Absent => "null",
    };
    response.copy(b",\"id\":");
    response.copy(id.as_bytes());
    response.copy(b"}");
}

impl<'a> Batch<'a> {
    /// Returns the number of requests.
    #[expect(clippy::len_without_is_empty, reason = "a batch is never empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Parses the requests in order.
    pub fn requests(&self) -> impl Iterator<Item = Result<Request<'a>, InvalidRequest<'a>>> {
        self.0.iter().map(|raw| Request::parse(raw.get()))
    }
}

impl<'a> Request<'a> {
    fn parse(json: &'a str) -> Result<Request<'a>, InvalidRequest<'a>> {
        let invalid = |id, dialect, reason| InvalidRequest { id, dialect, error: RpcError::InvalidRequest(reason) };
        let Ok(fields) = from_object::<RawRequest<'a>>(json) else {
            return Err(invalid(Id::Absent, JsonRpcVersion::V2, "a request is a JSON object"));
        };
        let dialect = match fields.jsonrpc.map(RawValue::get) {
            Some("\"2.0\"") => JsonRpcVersion::V2,
            _ => JsonRpcVersion::V1,
        };
        let id = match fields.id {
            Some(id) if id.get().starts_with(['{', '[', 't', 'f']) => {
                return Err(invalid(Id::Absent, dialect, "an id is a number, a string or null"));
            }
            Some(id) => Id::Present(id),
            None => Id::Absent,
        };
        match fields.method.and_then(|method| serde_json::from_str(method.get()).ok()) {
            Some(CowStr(method)) => Ok(Request { id, dialect, method, params: fields.params }),
            None => Err(invalid(id, dialect, "method is missing or not a string")),
        }
    }

    /// Returns whether the client expects no response.
    ///
    /// Only version 2.0 has notifications. A request in version 1.0 always gets a response.
    pub fn is_notification(&self) -> bool {
        self.dialect == JsonRpcVersion::V2 && matches!(self.id, Id::Absent)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Batch<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Batch<'a>, D::Error> {
        deserializer.deserialize_seq(BatchVisitor)
    }
}

/// Reason of the error for a batch with too many requests.
pub const BATCH_TOO_LONG: &str = "too many requests in one batch";

/// Reason of the error for a batch without a request.
const BATCH_EMPTY: &str = "no request in the batch";

struct BatchVisitor;

impl<'de> Visitor<'de> for BatchVisitor {
    type Value = Batch<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of requests")
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

/// Distinguishes a batch of the wrong length from invalid JSON.
///
/// Serde passes custom errors of a visitor on only as text.
fn classify_batch_error(line: &str, error: &serde_json::Error) -> RpcError {
    let text = error.to_string();
    match [BATCH_TOO_LONG, BATCH_EMPTY].into_iter().find(|reason| text.starts_with(reason)) {
        Some(reason) => RpcError::InvalidRequest(reason),
        None => not_json(line),
    }
}

/// Returns the error for a line that is not JSON. Text editors and UTF-16 cause the first two.
fn not_json(line: &str) -> RpcError {
    if line.starts_with('\u{feff}') {
        RpcError::Encoding("the line begins with a byte order mark")
    } else if line.contains('\0') {
        RpcError::Encoding("the line has a NUL byte, as text in UTF-16 does; send UTF-8")
    } else {
        RpcError::Parse
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
    // In version 1.0 a successful response has `error: null`.
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

/// String that borrows from its line unless it has escapes.
#[derive(Deserialize)]
struct CowStr<'a>(#[serde(borrow)] Cow<'a, str>);

/// Deserializes a null as a present value. A plain `Option` would take it for an absent key.
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
        let ping = r#"{"id":1,"method":"server.ping"}"#;
        let utf_16: String = ping.chars().flat_map(|letter| [letter, '\0']).collect();
        for line in [format!("\u{feff}{ping}"), format!("\u{feff}[{ping}]"), format!("{ping}\0"), utf_16] {
            assert!(matches!(parse_line(&line), Err(RpcError::Encoding(_))), "{line:?}");
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
