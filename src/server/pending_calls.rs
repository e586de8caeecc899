//! Forwarded calls without a response.
//!
//! When the upstream fails, each gets an error under its own id. Before the first subscription, the
//! calls can be resent to another peer instead.

use serde::Deserialize;
use serde_json::Value;

use super::memory::{MemoryCharge, Need};
use crate::electrum::responder::ForwardedCall;
use crate::jsonrpc::{RpcError, SharedBuf};

/// Maximum memory of pending calls, in bytes. Further calls are not tracked.
const MAX_BYTES: usize = 256 * 1024;

/// Memory of pending calls that is not charged, in bytes.
const FREE_BYTES: usize = 4 * 1024;

/// Memory of a pending call besides its strings, in bytes.
const CALL_OVERHEAD_BYTES: usize = 128;

/// Forwarded calls without a response, in order.
pub(super) struct PendingCalls {
    calls: Vec<PendingCall>,
    /// Memory of the calls, in bytes.
    bytes: usize,
    charge: MemoryCharge,
    resend: Resend,
    /// Whether the client may get notifications from this upstream.
    is_subscribed: bool,
    /// Whether some pending calls are not tracked.
    is_incomplete: bool,
}

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
    pub(super) fn new(resend: Resend, charge: MemoryCharge) -> PendingCalls {
        PendingCalls { calls: Vec::new(), bytes: 0, charge, resend, is_subscribed: false, is_incomplete: false }
    }

    /// Returns whether no tracked call is pending.
    pub(super) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Returns whether the client may wait for notifications of this upstream.
    pub(super) fn is_subscribed(&self) -> bool {
        self.is_subscribed
    }

    /// Returns whether some pending calls are not tracked.
    pub(super) fn is_incomplete(&self) -> bool {
        self.is_incomplete
    }

    /// Returns whether another upstream can answer all pending calls.
    pub(super) fn can_fail_over(&self) -> bool {
        self.resend == Resend::Possible && !self.is_subscribed && !self.is_incomplete
    }

    /// Adds a call, unless it gets no response or its response can't be recognized.
    pub(super) fn push(&mut self, line: &str, forwarded: Box<ForwardedCall>) {
        let subscribes = is_subscription(forwarded.method());
        let Ok(id) = forwarded.id().map_or(Ok(Value::Null), serde_json::from_str) else {
            // A number beyond the range of `Value`.
            self.is_incomplete = true;
            self.is_subscribed |= subscribes;
            return;
        };
        if id == Value::Null {
            // A notification, or a null id, whose response can't be distinguished from others.
            self.is_subscribed |= subscribes;
            return;
        }
        let texts = forwarded.id().map_or(0, str::len) + forwarded.method().len();
        let line = (self.resend == Resend::Possible).then(|| line.to_owned());
        let bytes = CALL_OVERHEAD_BYTES + texts + line.as_ref().map_or(0, String::len);
        if !self.reserve(bytes) {
            self.drop_lines();
        }
        let bytes = if self.resend == Resend::Possible { bytes } else { CALL_OVERHEAD_BYTES + texts };
        if !self.reserve(bytes) {
            self.is_incomplete = true;
            self.is_subscribed |= subscribes;
            return;
        }
        self.bytes += bytes;
        let line = line.filter(|_| self.resend == Resend::Possible);
        self.calls.push(PendingCall { id, forwarded, line, bytes });
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

    /// Records the response to a call that is not in this list.
    pub(super) fn note_answered(&mut self, forwarded: &ForwardedCall) {
        self.is_subscribed |= is_subscription(forwarded.method());
    }

    /// Removes the call that this line of the upstream responds to.
    pub(super) fn resolve(&mut self, line: &[u8]) -> ReplyKind {
        #[derive(Deserialize)]
        struct Envelope {
            id: Value,
        }
        if self.calls.is_empty() {
            return ReplyKind::Other;
        }
        serde_json::from_slice(line).map_or(ReplyKind::Other, |Envelope { id }| self.resolve_id(&id))
    }

    /// Removes the call with this id.
    pub(super) fn resolve_id(&mut self, id: &Value) -> ReplyKind {
        let Some(index) = self.calls.iter().position(|call| ids_equal(&call.id, id)) else { return ReplyKind::Other };
        let call = self.calls.remove(index);
        self.bytes -= call.bytes;
        self.is_subscribed |= is_subscription(call.forwarded.method());
        if self.charge.bytes() > 0 {
            self.release();
        }
        ReplyKind::Response
    }

    /// Returns the lines of the calls that can be resent.
    pub(super) fn lines(&self) -> impl Iterator<Item = &str> {
        self.calls.iter().filter_map(|call| call.line.as_deref())
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
            Some(ReplyPart::Forward(forwarded)) => calls.push(line, forwarded),
            other => panic!("{line}: {other:?}"),
        }
    }

    fn lines(calls: &PendingCalls) -> Vec<&str> {
        calls.lines().collect()
    }

    #[test]
    fn responses_are_distinguished_from_notifications() {
        let mut calls = PendingCalls::new(Resend::Possible, SessionMemory::for_tests().charge());
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
        let mut calls = PendingCalls::new(Resend::Impossible, SessionMemory::for_tests().charge());
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
    fn answered_subscription_prevents_failover() {
        let mut calls = PendingCalls::new(Resend::Possible, SessionMemory::for_tests().charge());
        push(&mut calls, r#"{"id":1,"method":"blockchain.headers.subscribe","params":[]}"#);
        assert!(calls.can_fail_over());
        assert_eq!(calls.resolve(br#"{"id":1,"result":{"height":1}}"#), ReplyKind::Response);
        assert!(calls.is_empty() && calls.bytes == 0 && calls.is_subscribed() && !calls.can_fail_over());
        for line in [r#"{"jsonrpc":"2.0","method":"a.subscribe"}"#, r#"{"id":null,"method":"a.subscribe"}"#] {
            let mut calls = PendingCalls::new(Resend::Possible, SessionMemory::for_tests().charge());
            push(&mut calls, line);
            assert!(calls.is_empty() && calls.is_subscribed(), "{line}");
        }
    }

    #[test]
    fn lines_beyond_the_limit_are_dropped_and_ids_kept() {
        let mut calls = PendingCalls::new(Resend::Possible, SessionMemory::for_tests().charge());
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
        let mut calls = PendingCalls::new(Resend::Impossible, SessionMemory::for_tests().charge());
        push(&mut calls, r#"{"id":"a","method":"a","jsonrpc":"2.0"}"#);
        push(&mut calls, r#"{"id":7.0,"method":"b"}"#);
        let errors = calls.fail(&RpcError::Backend("closed the connection"));
        let errors: Vec<Value> = errors.iter().map(|error| serde_json::from_slice(&error.to_vec()).unwrap()).collect();
        assert_eq!(errors.iter().map(|error| &error["id"]).collect::<Vec<_>>(), [&Value::from("a"), &Value::from(7.0)]);
        assert!(errors.iter().all(|error| error["error"]["code"] == -32603));
        assert!(calls.is_empty() && calls.bytes == 0);
    }
}
