//! What a session still waits for at a server that could be exchanged for another: as long as no subscription was made,
//! one peer is as good as the next.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;

/// More than this of calls without an answer is not remembered; whoever has as many stays where he is.
const MOST: usize = 256 * 1024;

/// Calls that were passed on and not answered, in order.
#[derive(Debug, Default)]
pub struct Unanswered {
    calls: Vec<Asked>,
    bytes: usize,
}

#[derive(Debug)]
struct Asked {
    id: Value,
    line: String,
    subscribes: bool,
}

/// A call that can't be asked again: the caller stays with the server that it goes to.
pub struct Stays;

/// What a line of the server's is.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// None of the answers.
    Other,
    Answer,
    /// It will be followed by more, from this server alone.
    Subscription,
}

impl Unanswered {
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Remembers a call, if an answer to it will come.
    pub fn ask(&mut self, line: &str) -> Result<(), Stays> {
        #[derive(Deserialize)]
        struct Call<'a> {
            #[serde(default)]
            id: Value,
            #[serde(borrow)]
            method: Cow<'a, str>,
        }
        let Call { id, method } = serde_json::from_str(line).map_err(|_| Stays)?;
        let subscribes = is_subscription(&method);
        match id {
            Value::Null if !subscribes => return Ok(()),
            Value::Number(_) | Value::String(_) => {}
            _ => return Err(Stays),
        }
        self.bytes += line.len();
        self.calls.push(Asked { id, line: line.to_owned(), subscribes });
        if self.bytes > MOST { Err(Stays) } else { Ok(()) }
    }

    pub fn hear(&mut self, line: &[u8]) -> Heard {
        #[derive(Deserialize)]
        struct Answer {
            id: Value,
        }
        let Ok(Answer { id }) = serde_json::from_slice(line) else { return Heard::Other };
        let Some(place) = self.calls.iter().position(|asked| is_same(&asked.id, &id)) else { return Heard::Other };
        let asked = self.calls.remove(place);
        self.bytes -= asked.line.len();
        if asked.subscribes { Heard::Subscription } else { Heard::Answer }
    }

    /// The calls as they came.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.calls.iter().map(|asked| asked.line.as_str())
    }
}

/// Whether more than one answer will come to it.
pub fn is_subscription(method: &str) -> bool {
    method.ends_with(".subscribe")
}

/// Whether two ids mean the same, however they are written.
fn is_same(one: &Value, other: &Value) -> bool {
    one == other || (one.is_number() && one.as_f64() == other.as_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_from_what_nobody_asked_for() {
        let mut calls = Unanswered::default();
        for call in [r#"{"id":1,"method":"a"}"#, r#"{"id":"1","method":"b"}"#, r#"{"method":"quiet"}"#] {
            assert!(calls.ask(call).is_ok());
        }
        for line in [r#"{"method":"news","params":[]}"#, r#"{"id":2,"result":0}"#, "{", "[]", r#"{"id":null}"#] {
            assert_eq!(calls.hear(line.as_bytes()), Heard::Other);
        }
        assert_eq!(calls.lines().count(), 2);
        assert_eq!(calls.hear(br#"{"jsonrpc":"2.0","result":[{"id":"1"}],"id":1}"#), Heard::Answer);
        assert_eq!(calls.lines().collect::<Vec<_>>(), [r#"{"id":"1","method":"b"}"#]);
    }

    #[test]
    fn an_id_is_the_same_however_it_is_written() {
        let mut calls = Unanswered::default();
        for (asked, answered) in
            [(r#""\u0041""#, r#""A""#), ("1e0", "1.0"), ("7", "7.0"), (r#""\u00e9""#, r#""\u00E9""#)]
        {
            assert!(calls.ask(&format!(r#"{{"id":{asked},"method":"a"}}"#)).is_ok());
            assert_eq!(calls.hear(format!(r#"{{"id":{answered},"result":0}}"#).as_bytes()), Heard::Answer, "{asked}");
        }
    }

    #[test]
    fn a_subscription_ties_once_it_is_answered() {
        let mut calls = Unanswered::default();
        assert!(calls.ask(r#"{"id":1,"method":"blockchain.headers.subscribe","params":[]}"#).is_ok());
        assert_eq!(calls.hear(br#"{"id":1,"result":{"height":1}}"#), Heard::Subscription);
        assert!(calls.is_empty() && calls.bytes == 0);
        for unanswerable in
            [r#"{"method":"a.subscribe"}"#, r#"{"id":null,"method":"a.subscribe"}"#, r#"{"id":[],"method":"a"}"#]
        {
            assert!(calls.ask(unanswerable).is_err(), "{unanswerable}");
        }
    }

    #[test]
    fn no_more_is_remembered_than_is_sound() {
        let mut calls = Unanswered::default();
        let call = format!(r#"{{"id":1,"method":"a","params":["{}"]}}"#, "0".repeat(100_000));
        assert!(calls.ask(&call).is_ok() && calls.ask(&call).is_ok());
        assert!(calls.ask(&call).is_err());
    }
}
