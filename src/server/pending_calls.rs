//! Calls that were forwarded and not answered yet.
//!
//! When the server fails, each is answered with an error under its own id. Before the first subscription, another peer
//! can also be call instead.

use serde::Deserialize;
use serde_json::Value;

use crate::electrum::responder::ForwardedCall;
use crate::jsonrpc::{RpcError, SharedBuf};

/// Bytes of calls without an answer that are remembered. Of a session with more, not every call is known.
const MAX_BYTES: usize = 256 * 1024;

/// Bytes that a remembered call takes besides its texts.
const CALL_OVERHEAD_BYTES: usize = 128;

/// Calls without an answer, in the order in which they came.
#[derive(Debug)]
pub struct PendingCalls {
    calls: Vec<PendingCall>,
    bytes: usize,
    resend: Resend,
    /// Whether the client gets notifications from this server.
    is_subscribed: bool,
    /// Whether there may be calls that are not among these.
    is_incomplete: bool,
}

/// Whether calls could be sent again, to another server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resend {
    /// Their lines are kept for it.
    Possible,
    Impossible,
}

#[derive(Debug)]
struct PendingCall {
    id: Value,
    forwarded: Box<ForwardedCall>,
    /// Where it could be sent again.
    line: Option<String>,
    bytes: usize,
}

/// What a line of the server's is.
#[derive(Debug, PartialEq, Eq)]
pub enum ReplyKind {
    /// None of the answers.
    Other,
    Response,
}

impl PendingCalls {
    pub fn new(resend: Resend) -> PendingCalls {
        PendingCalls { calls: Vec::new(), bytes: 0, resend, is_subscribed: false, is_incomplete: false }
    }

    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Whether the loss of this server would go unnoticed by a client that waits for notifications.
    pub fn is_subscribed(&self) -> bool {
        self.is_subscribed
    }

    /// Whether there may be calls without an answer that are not known.
    pub fn is_incomplete(&self) -> bool {
        self.is_incomplete
    }

    /// Whether another server could take over.
    pub fn can_fail_over(&self) -> bool {
        self.resend == Resend::Possible && !self.is_subscribed && !self.is_incomplete
    }

    /// Remembers a call, if an answer to it will come.
    pub fn push(&mut self, line: &str, forwarded: Box<ForwardedCall>) {
        let subscribes = is_subscription(forwarded.method());
        let Ok(id) = forwarded.id().map_or(Ok(Value::Null), serde_json::from_str) else {
            // A number beyond all limits.
            self.is_incomplete = true;
            self.is_subscribed |= subscribes;
            return;
        };
        if id == Value::Null {
            // Its answer couldn't be told from others, and would not be waited for.
            self.is_subscribed |= subscribes;
            return;
        }
        let texts = forwarded.id().map_or(0, str::len) + forwarded.method().len();
        let line = (self.resend == Resend::Possible).then(|| line.to_owned());
        let bytes = CALL_OVERHEAD_BYTES + texts + line.as_ref().map_or(0, String::len);
        if self.bytes + bytes > MAX_BYTES {
            self.drop_lines();
        }
        let bytes = if self.resend == Resend::Possible { bytes } else { CALL_OVERHEAD_BYTES + texts };
        if self.bytes + bytes > MAX_BYTES {
            self.is_incomplete = true;
            self.is_subscribed |= subscribes;
            return;
        }
        self.bytes += bytes;
        let line = line.filter(|_| self.resend == Resend::Possible);
        self.calls.push(PendingCall { id, forwarded, line, bytes });
    }

    /// Frees the lines of all calls.
    fn drop_lines(&mut self) {
        self.resend = Resend::Impossible;
        for call in &mut self.calls {
            let freed = call.line.take().map_or(0, |line| line.len());
            call.bytes -= freed;
            self.bytes -= freed;
        }
    }

    /// Notes that a call outside of this list was answered.
    pub fn note_answered(&mut self, forwarded: &ForwardedCall) {
        self.is_subscribed |= is_subscription(forwarded.method());
    }

    /// Takes a line of the server's.
    pub fn resolve(&mut self, line: &[u8]) -> ReplyKind {
        #[derive(Deserialize)]
        struct Answer {
            id: Value,
        }
        if self.calls.is_empty() {
            return ReplyKind::Other;
        }
        serde_json::from_slice(line).map_or(ReplyKind::Other, |Answer { id }| self.resolve_id(&id))
    }

    /// Takes the id of a line of the server's.
    pub fn resolve_id(&mut self, id: &Value) -> ReplyKind {
        let Some(index) = self.calls.iter().position(|call| ids_equal(&call.id, id)) else { return ReplyKind::Other };
        let call = self.calls.remove(index);
        self.bytes -= call.bytes;
        self.is_subscribed |= is_subscription(call.forwarded.method());
        ReplyKind::Response
    }

    /// The lines of the calls, where they can be sent again.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.calls.iter().filter_map(|call| call.line.as_deref())
    }

    /// Answers all calls with an error, and forgets them.
    pub fn fail(&mut self, error: &RpcError) -> Vec<SharedBuf> {
        self.bytes = 0;
        std::mem::take(&mut self.calls).iter().filter_map(|call| call.forwarded.failed(error)).collect()
    }
}

/// Whether notifications may follow its answer.
fn is_subscription(method: &str) -> bool {
    method.ends_with(".subscribe")
}

/// Whether two ids mean the same, however they are written.
fn ids_equal(one: &Value, other: &Value) -> bool {
    one == other || (one.is_number() && one.as_f64() == other.as_f64())
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

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
        let mut calls = PendingCalls::new(Resend::Possible);
        let notification = r#"{"jsonrpc":"2.0","method":"quiet"}"#;
        for call in [r#"{"id":1,"method":"a"}"#, r#"{"id":"1","method":"b"}"#, notification] {
            push(&mut calls, call);
        }
        for line in [r#"{"method":"news","params":[]}"#, r#"{"id":2,"result":0}"#, "{", "[]", r#"{"id":null}"#] {
            assert_eq!(calls.resolve(line.as_bytes()), ReplyKind::Other);
        }
        assert_eq!(lines(&calls).len(), 2);
        assert_eq!(calls.resolve(br#"{"jsonrpc":"2.0","result":[{"id":"1"}],"id":1}"#), ReplyKind::Response);
        assert_eq!(lines(&calls), [r#"{"id":"1","method":"b"}"#]);
    }

    #[test]
    fn equal_ids_match_in_any_spelling() {
        let mut calls = PendingCalls::new(Resend::Impossible);
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
        let mut calls = PendingCalls::new(Resend::Possible);
        push(&mut calls, r#"{"id":1,"method":"blockchain.headers.subscribe","params":[]}"#);
        assert!(calls.can_fail_over());
        assert_eq!(calls.resolve(br#"{"id":1,"result":{"height":1}}"#), ReplyKind::Response);
        assert!(calls.is_empty() && calls.bytes == 0 && calls.is_subscribed() && !calls.can_fail_over());
        for line in [r#"{"jsonrpc":"2.0","method":"a.subscribe"}"#, r#"{"id":null,"method":"a.subscribe"}"#] {
            let mut calls = PendingCalls::new(Resend::Possible);
            push(&mut calls, line);
            assert!(calls.is_empty() && calls.is_subscribed(), "{line}");
        }
    }

    #[test]
    fn lines_beyond_the_limit_are_dropped_and_ids_kept() {
        let mut calls = PendingCalls::new(Resend::Possible);
        let call = format!(r#"{{"id":1,"method":"a","params":["{}"]}}"#, "0".repeat(100_000));
        (0..3).for_each(|_| push(&mut calls, &call));
        assert!(!calls.can_fail_over() && !calls.is_incomplete() && lines(&calls).is_empty());
        assert_eq!((calls.calls.len(), calls.bytes < 1000), (3, true));
        // Ids have the same limit.
        let call = format!(r#"{{"id":"{}","method":"a"}}"#, "0".repeat(100_000));
        (0..3).for_each(|_| push(&mut calls, &call));
        assert!(calls.is_incomplete() && calls.bytes <= MAX_BYTES);
    }

    #[test]
    fn failed_calls_get_errors_under_their_ids() {
        let mut calls = PendingCalls::new(Resend::Impossible);
        push(&mut calls, r#"{"id":"a","method":"a","jsonrpc":"2.0"}"#);
        push(&mut calls, r#"{"id":7.0,"method":"b"}"#);
        let answers = calls.fail(&RpcError::Backend("went away"));
        let answers: Vec<Value> =
            answers.iter().map(|answer| serde_json::from_slice(&answer.to_vec()).unwrap()).collect();
        assert_eq!(
            answers.iter().map(|answer| &answer["id"]).collect::<Vec<_>>(),
            [&Value::from("a"), &Value::from(7.0)]
        );
        assert!(answers.iter().all(|answer| answer["error"]["code"] == -32603));
        assert!(calls.is_empty() && calls.bytes == 0);
    }
}
