//! Forwarded calls without a response.
//!
//! When the upstream fails, each gets an error under its own id. Before the first subscription, the
//! calls can be resent to another peer instead.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::BytesMut;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::memory::{MemoryCharge, Need, SessionMemory};
use super::subscriptions::{Subscription, Subscriptions};
use crate::backend::{MAX_COMPARED_BYTES, ReadRequest, result_of};
use crate::electrum::responder::ForwardedCall;
use crate::jsonrpc::{RpcError, SharedBuf};

/// Maximum memory of pending calls, in bytes. Further calls are not tracked.
const MAX_BYTES: usize = 256 * 1024;

/// Memory of pending calls that is not charged, in bytes.
const FREE_BYTES: usize = 4 * 1024;

/// Memory of a pending call besides its strings, in bytes.
const CALL_OVERHEAD_BYTES: usize = 128;

/// Methods that cost a server nothing, whatever their parameters.
const CHEAP_METHODS: [&str; 5] = [
    "blockchain.headers.subscribe",
    "blockchain.relayfee",
    "mempool.get_fee_histogram",
    "server.banner",
    "server.donation_address",
];

/// Longest line of such a request, in bytes.
const MAX_CHEAP_BYTES: usize = 200;

/// Forwarded calls without a response, in order.
pub(super) struct PendingCalls {
    calls: Vec<PendingCall>,
    /// Memory of the calls, in bytes.
    bytes: usize,
    charge: MemoryCharge,
    resend: Resend,
    /// Subscriptions of the client, which outlast the upstream.
    pub subscriptions: Subscriptions,
    /// Answer that is to be compared with another peer's.
    sampled: Option<Sampled>,
    /// Whether some pending calls are not tracked.
    is_incomplete: bool,
}

/// Answer that is to be compared with another peer's: the request, and the result; `None` for an error.
type Sampled = (ReadRequest, Option<Vec<u8>>);

/// Whether calls can be resent to another upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resend {
    /// They can, and their lines are kept for this.
    Possible,
    /// They can't.
    Impossible,
}

/// One forwarded call.
#[derive(Debug)]
struct PendingCall {
    id: Value,
    forwarded: Box<ForwardedCall>,
    /// The client's line. `None` if it can't be resent.
    line: Option<String>,
    /// The request, if its answer is to be compared.
    sampled: Option<ReadRequest>,
    /// Time at which the upstream was sent the request.
    sent: Instant,
    /// Memory of the call, in bytes.
    bytes: usize,
}

/// Kind of a line from the upstream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ReplyKind {
    /// A notification, or anything else that is no response to a pending call.
    Other,
    /// The response to a pending call, which is now resolved.
    Response,
}

impl PendingCalls {
    /// Creates an empty list.
    ///
    /// `nonce` makes the ids of renewed subscriptions unguessable.
    pub(super) fn new(resend: Resend, memory: &Arc<SessionMemory>, nonce: u64) -> PendingCalls {
        PendingCalls {
            calls: Vec::new(),
            bytes: 0,
            charge: memory.charge(),
            resend,
            subscriptions: Subscriptions::new(memory.charge(), nonce),
            sampled: None,
            is_incomplete: false,
        }
    }

    /// Returns whether no tracked call is pending.
    pub(super) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Returns the time at which the oldest call was sent; `None` if none is pending.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.calls.first().map(|call| call.sent)
    }

    /// Returns whether the only pending call costs a server nothing, whatever its parameters.
    pub(super) fn has_only_cheap_call(&self) -> bool {
        let is_short = |call: &PendingCall| call.line.as_ref().is_some_and(|line| line.len() <= MAX_CHEAP_BYTES);
        match self.calls.as_slice() {
            [call] => CHEAP_METHODS.contains(&call.forwarded.method()) && is_short(call),
            _ => false,
        }
    }

    /// Returns whether some pending calls are not tracked.
    pub(super) fn is_incomplete(&self) -> bool {
        self.is_incomplete
    }

    /// Returns whether another upstream can answer all pending calls.
    pub(super) fn can_fail_over(&self) -> bool {
        self.resend == Resend::Possible && self.subscriptions.can_renew() && !self.is_incomplete
    }

    /// Adds a call, unless it gets no response or its response can't be recognized.
    pub(super) fn push(
        &mut self,
        line: &str,
        forwarded: Box<ForwardedCall>,
        sampled: Option<ReadRequest>,
        now: Instant,
    ) {
        let Ok(id) = forwarded.id().map_or(Ok(Value::Null), serde_json::from_str) else {
            // A number beyond the range of `Value`.
            return self.leave_out(&forwarded, true);
        };
        if id == Value::Null {
            // A notification, or a null id, whose response can't be distinguished from others.
            return self.leave_out(&forwarded, false);
        }
        let texts = forwarded.id().map_or(0, str::len) + forwarded.method().len();
        let line = (self.resend == Resend::Possible).then(|| line.to_owned());
        let bytes = CALL_OVERHEAD_BYTES + texts + line.as_ref().map_or(0, String::len);
        if !self.reserve(bytes) {
            self.drop_lines();
        }
        let bytes = if self.resend == Resend::Possible { bytes } else { CALL_OVERHEAD_BYTES + texts };
        if !self.reserve(bytes) {
            return self.leave_out(&forwarded, true);
        }
        self.bytes += bytes;
        let line = line.filter(|_| self.resend == Resend::Possible);
        self.calls.push(PendingCall { id, forwarded, line, sampled, sent: now, bytes });
    }

    /// Notes a call that is not tracked.
    fn leave_out(&mut self, forwarded: &ForwardedCall, expects_response: bool) {
        self.is_incomplete |= expects_response;
        if is_subscription(forwarded.method()) {
            self.subscriptions.add_unknown();
        }
    }

    /// Charges the memory of one more call. Returns false if there is none.
    fn reserve(&mut self, bytes: usize) -> bool {
        let needed = self.bytes + bytes;
        let charged = if needed > FREE_BYTES { needed.next_multiple_of(FREE_BYTES) } else { 0 };
        needed <= MAX_BYTES && (charged <= self.charge.bytes() || self.charge.resize(charged, Need::Optional).is_ok())
    }

    /// Releases the charge once no call is pending.
    fn release(&mut self) {
        if self.calls.is_empty() {
            self.calls = Vec::new();
            self.charge.release();
        }
    }

    /// Frees the lines of all calls, which can't be resent any more.
    fn drop_lines(&mut self) {
        self.resend = Resend::Impossible;
        for call in &mut self.calls {
            let freed = call.line.take().map_or(0, |line| line.len());
            call.bytes -= freed;
            self.bytes -= freed;
        }
    }

    /// Records the response to a call; `None` if it is an error.
    pub(super) fn note_answered(&mut self, forwarded: &ForwardedCall, result: Option<&[u8]>) {
        let Some((_, action)) = forwarded.method().rsplit_once('.') else { return };
        let subscription = || Subscription::parse(forwarded.method(), forwarded.params().map(RawValue::get));
        match (action, result) {
            ("subscribe", Some(result)) => match subscription() {
                Some(subscription) => self.subscriptions.add(subscription, result),
                None => self.subscriptions.add_unknown(),
            },
            ("unsubscribe", Some(_)) => {
                if let Some(subscription) = subscription() {
                    self.subscriptions.remove(&subscription);
                }
            }
            _ => {}
        }
    }

    /// Removes the call that this line of the upstream responds to, or notes the status that it notifies.
    pub(super) fn resolve(&mut self, line: &[u8]) -> ReplyKind {
        #[derive(Deserialize)]
        struct Envelope<'a> {
            #[serde(default)]
            id: Value,
            #[serde(borrow, default)]
            method: Option<Cow<'a, str>>,
            #[serde(borrow, default)]
            params: Option<&'a RawValue>,
        }
        if self.calls.is_empty() && !self.subscriptions.is_subscribed() {
            return ReplyKind::Other;
        }
        let Ok(Envelope { id, method, params }) = serde_json::from_slice(line) else { return ReplyKind::Other };
        if let (Value::Null, Some(method), Some(params)) = (&id, method, params) {
            self.subscriptions.note(&method, params);
        }
        let Some(call) = self.take(&id) else { return ReplyKind::Other };
        if let Some(request) = call.sampled {
            let answer = result_of(line);
            self.sampled =
                answer.as_ref().is_none_or(|answer| answer.len() <= MAX_COMPARED_BYTES).then_some((request, answer));
        }
        if call.forwarded.method().ends_with("subscribe") {
            self.note_answered(&call.forwarded, result_of(line).as_deref());
        }
        ReplyKind::Response
    }

    /// Removes the call with this id, whose response was too long to be kept.
    pub(super) fn resolve_long(&mut self, id: &Value) -> ReplyKind {
        let Some(call) = self.take(id) else { return ReplyKind::Other };
        self.note_long_answer(&call.forwarded);
        ReplyKind::Response
    }

    /// Records a response that was too long to be kept.
    pub(super) fn note_long_answer(&mut self, forwarded: &ForwardedCall) {
        if is_subscription(forwarded.method()) {
            self.subscriptions.add_unknown();
        }
    }

    fn take(&mut self, id: &Value) -> Option<PendingCall> {
        let index = self.calls.iter().position(|call| ids_equal(&call.id, id))?;
        let call = self.calls.remove(index);
        self.bytes -= call.bytes;
        if self.charge.bytes() > 0 {
            self.release();
        }
        Some(call)
    }

    /// Takes the answer that is to be compared.
    pub(super) fn take_sampled(&mut self) -> Option<Sampled> {
        self.sampled.take()
    }

    /// Writes everything for another upstream: the subscriptions, and the pending calls. Returns the number of calls.
    pub(super) fn resend(&mut self, out: &mut BytesMut, now: Instant) -> usize {
        self.subscriptions.start_renewal(out);
        for call in &mut self.calls {
            call.sent = now;
            out.extend_from_slice(call.line.as_deref().unwrap_or_default().as_bytes());
            out.extend_from_slice(b"\n");
        }
        self.calls.len()
    }

    /// Removes all calls, and returns their error responses.
    pub(super) fn fail(&mut self, error: &RpcError) -> Vec<SharedBuf> {
        self.bytes = 0;
        std::mem::take(&mut self.calls).iter().filter_map(|call| call.forwarded.failed(error)).collect()
    }
}

/// Returns whether notifications may follow the response to this method.
fn is_subscription(method: &str) -> bool {
    method.ends_with(".subscribe")
}

/// Returns whether two ids are equal, regardless of how they are written.
fn ids_equal(one: &Value, other: &Value) -> bool {
    one == other || (one.is_number() && one.as_f64() == other.as_f64())
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::super::memory::SessionMemory;
    use super::*;
    use crate::book::{Ingress, Snapshot};
    use crate::clock::Time;
    use crate::electrum::responder::{ReplyPart, Responder};
    use crate::jsonrpc::parse_line;

    fn push(calls: &mut PendingCalls, line: &str) {
        let mut session = Responder::new(std::sync::Arc::default(), Ingress::Clearnet, true);
        let mut rng = StdRng::seed_from_u64(1);
        let result = session.handle_line(parse_line(line), 10, &Snapshot::default(), Time::default(), &mut rng);
        match result.parts.into_iter().next() {
            Some(ReplyPart::Forward(forwarded)) => calls.push(line, forwarded, None, Instant::now()),
            other => panic!("{line}: {other:?}"),
        }
    }

    fn empty(resend: Resend) -> PendingCalls {
        PendingCalls::new(resend, &SessionMemory::for_tests(), 7)
    }

    fn lines(calls: &PendingCalls) -> Vec<&str> {
        calls.calls.iter().filter_map(|call| call.line.as_deref()).collect()
    }

    #[test]
    fn responses_are_distinguished_from_notifications() {
        let mut calls = empty(Resend::Possible);
        let notification = r#"{"jsonrpc":"2.0","method":"quiet"}"#;
        for call in [r#"{"id":1,"method":"a"}"#, r#"{"id":"1","method":"b"}"#, notification] {
            push(&mut calls, call);
        }
        for line in [r#"{"method":"note","params":[]}"#, r#"{"id":2,"result":0}"#, "{", "[]", r#"{"id":null}"#] {
            assert_eq!(calls.resolve(line.as_bytes()), ReplyKind::Other);
        }
        assert_eq!(lines(&calls).len(), 2);
        assert_eq!(calls.resolve(br#"{"jsonrpc":"2.0","result":[{"id":"1"}],"id":1}"#), ReplyKind::Response);
        assert_eq!(lines(&calls), [r#"{"id":"1","method":"b"}"#]);
    }

    #[test]
    fn equal_ids_match_in_any_spelling() {
        let mut calls = empty(Resend::Impossible);
        for (call, answered) in
            [(r#""\u0041""#, r#""A""#), ("1e0", "1.0"), ("7", "7.0"), (r#""\u00e9""#, r#""\u00E9""#)]
        {
            push(&mut calls, &format!(r#"{{"id":{call},"method":"a"}}"#));
            assert_eq!(
                calls.resolve(format!(r#"{{"id":{answered},"result":0}}"#).as_bytes()),
                ReplyKind::Response,
                "{call}"
            );
        }
    }

    #[test]
    fn answered_subscription_is_renewed_if_it_is_of_a_known_kind() {
        let mut calls = empty(Resend::Possible);
        push(&mut calls, r#"{"id":1,"method":"blockchain.headers.subscribe","params":[]}"#);
        assert_eq!(calls.resolve(br#"{"id":1,"result":{"height":1,"hex":"00"}}"#), ReplyKind::Response);
        assert!(calls.is_empty() && calls.bytes == 0 && calls.subscriptions.is_subscribed() && calls.can_fail_over());
        let mut out = BytesMut::new();
        push(&mut calls, r#"{"id":2,"method":"a"}"#);
        assert_eq!(calls.resend(&mut out, Instant::now()), 1);
        let out = String::from_utf8(out.to_vec()).unwrap();
        assert!(
            out.contains("blockchain.headers.subscribe") && out.ends_with("{\"id\":2,\"method\":\"a\"}\n"),
            "{out}"
        );
        push(&mut calls, r#"{"id":3,"method":"a.subscribe"}"#);
        assert_eq!(calls.resolve(br#"{"id":3,"error":{"code":1}}"#), ReplyKind::Response);
        assert!(calls.can_fail_over(), "it was refused");
        push(&mut calls, r#"{"id":4,"method":"a.subscribe"}"#);
        assert_eq!(calls.resolve(br#"{"id":4,"result":1}"#), ReplyKind::Response);
        assert!(!calls.can_fail_over());
        for line in [r#"{"jsonrpc":"2.0","method":"a.subscribe"}"#, r#"{"id":null,"method":"a.subscribe"}"#] {
            let mut calls = empty(Resend::Possible);
            push(&mut calls, line);
            assert!(calls.is_empty() && calls.subscriptions.is_subscribed() && !calls.can_fail_over(), "{line}");
        }
    }

    #[test]
    fn ended_subscription_is_forgotten() {
        let mut calls = empty(Resend::Possible);
        for (id, action, result) in [(1, "subscribe", "null"), (2, "unsubscribe", "true")] {
            push(&mut calls, &format!(r#"{{"id":{id},"method":"blockchain.scripthash.{action}","params":["ab"]}}"#));
            calls.resolve(format!(r#"{{"id":{id},"result":{result}}}"#).as_bytes());
            assert_eq!(calls.subscriptions.is_subscribed(), action == "subscribe");
        }
    }

    #[test]
    fn lines_beyond_the_limit_are_dropped_and_ids_kept() {
        let mut calls = empty(Resend::Possible);
        let call = format!(r#"{{"id":1,"method":"a","params":["{}"]}}"#, "0".repeat(100_000));
        (0..3).for_each(|_| push(&mut calls, &call));
        assert!(!calls.can_fail_over() && !calls.is_incomplete() && lines(&calls).is_empty());
        assert_eq!((calls.calls.len(), calls.bytes < 1000), (3, true));
        // Ids count towards the same limit.
        let call = format!(r#"{{"id":"{}","method":"a"}}"#, "0".repeat(100_000));
        (0..3).for_each(|_| push(&mut calls, &call));
        assert!(calls.is_incomplete() && calls.bytes <= MAX_BYTES);
    }

    #[test]
    fn failed_calls_get_errors_under_their_ids() {
        let mut calls = empty(Resend::Impossible);
        push(&mut calls, r#"{"id":"a","method":"a","jsonrpc":"2.0"}"#);
        push(&mut calls, r#"{"id":7.0,"method":"b"}"#);
        let errors = calls.fail(&RpcError::Backend("closed the connection"));
        let errors: Vec<Value> = errors.iter().map(|error| serde_json::from_slice(&error.to_vec()).unwrap()).collect();
        assert_eq!(errors.iter().map(|error| &error["id"]).collect::<Vec<_>>(), [&Value::from("a"), &Value::from(7.0)]);
        assert!(errors.iter().all(|error| error["error"]["code"] == -32603));
        assert!(calls.is_empty() && calls.bytes == 0);
    }
}
