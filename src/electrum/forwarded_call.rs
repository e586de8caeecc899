//! A request that the backend answers, and the responses to it.

use serde_json::json;
use serde_json::value::RawValue;

use crate::jsonrpc::{
    Id, JsonRpcVersion, OutcomeKey, Request, RpcError, SharedBuf, encode_raw_response, push_response_end,
    response_start,
};

/// Longest parameters of a single request that are kept, in bytes: a script of the longest standard form.
const MAX_KEPT_PARAMS_BYTES: usize = 256;

/// A request that the backend answers.
#[derive(Debug)]
pub struct ForwardedCall {
    id: Option<String>,
    dialect: JsonRpcVersion,
    method: String,
    /// Only for a request of a batch, which is encoded again, and for subscriptions and reads, which may be repeated.
    params: Option<Box<RawValue>>,
}

/// Whether a request came alone or in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    Single,
    Batch,
}

impl ForwardedCall {
    /// Keeps what is needed of a request.
    pub(super) fn new(request: &Request<'_>, framing: Framing) -> ForwardedCall {
        let id = match request.id {
            Id::Present(id) => Some(id.get().to_owned()),
            Id::Absent => None,
        };
        let is_kept = |params: &&RawValue| {
            framing == Framing::Batch || (params.get().len() <= MAX_KEPT_PARAMS_BYTES && is_repeated(&request.method))
        };
        let params = request.params.filter(is_kept).map(ToOwned::to_owned);
        ForwardedCall { id, dialect: request.dialect, method: request.method.to_string(), params }
    }

    /// Returns the method.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// Returns the parameters; `None` if there are none, or if they were not kept.
    pub fn params(&self) -> Option<&RawValue> {
        self.params.as_deref()
    }

    /// Returns the client's id as it was written. `None` for a notification.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Encodes the response to a request that failed upstream. `None`: the client expects none.
    pub fn failed(&self, error: &RpcError) -> Option<SharedBuf> {
        self.answer(Err(error.to_json()))
    }

    /// Encodes the request as a line of its own, under an id of Waypost's.
    pub fn line(&self, id: &str) -> Vec<u8> {
        let (method, params) = (json!(self.method), self.params.as_deref().map_or("[]", RawValue::get));
        format!("{{\"jsonrpc\":\"2.0\",\"id\":\"{id}\",\"method\":{method},\"params\":{params}}}\n").into_bytes()
    }

    /// Returns whether the client expects a response.
    pub fn expects_response(&self) -> bool {
        self.id.is_some() || self.dialect == JsonRpcVersion::V1
    }

    /// Encodes the backend's response under the client's id. `None`: the client expects none.
    pub fn answer(&self, outcome: Result<SharedBuf, SharedBuf>) -> Option<SharedBuf> {
        self.expects_response().then(|| encode_raw_response(self.response_id(), self.dialect, outcome))
    }

    /// Encodes what precedes the result or error in the response.
    pub fn answer_start(&self, key: OutcomeKey) -> &'static [u8] {
        response_start(self.dialect, key)
    }

    /// Writes what follows the result or error in the response.
    pub fn push_answer_end(&self, response: &mut SharedBuf) {
        push_response_end(response, self.response_id());
    }

    fn response_id(&self) -> Id<'_> {
        self.id.as_deref().and_then(|id| serde_json::from_str(id).ok()).map_or(Id::Absent, Id::Present)
    }
}

/// Returns whether Waypost may repeat requests of this method.
fn is_repeated(method: &str) -> bool {
    method.ends_with("subscribe") || method.starts_with("blockchain.scripthash.get_")
}
