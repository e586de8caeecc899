//! What a session still waits for at a server that could be exchanged for another: as long as no subscription was made,
//! one peer is as good as the next.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

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
    /// As JSON.
    id: String,
    line: String,
    subscribes: bool,
}

/// It is too much to be remembered.
pub struct TooMuch;

impl Unanswered {
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Remembers a call, if an answer to it will come.
    pub fn ask(&mut self, line: &str) -> Result<(), TooMuch> {
        #[derive(Deserialize)]
        struct Call<'a> {
            #[serde(borrow, default)]
            id: Option<&'a RawValue>,
            #[serde(borrow)]
            method: Cow<'a, str>,
        }
        let Ok(Call { id: Some(id), method }) = serde_json::from_str(line) else { return Ok(()) };
        self.bytes += line.len();
        self.calls.push(Asked { id: id.get().to_owned(), line: line.to_owned(), subscribes: is_subscription(&method) });
        if self.bytes > MOST { Err(TooMuch) } else { Ok(()) }
    }

    /// Whether a line of the server's, which may answer one of the calls, ties the session to that server.
    pub fn hear(&mut self, line: &[u8]) -> bool {
        #[derive(Deserialize)]
        struct Answer<'a> {
            #[serde(borrow)]
            id: &'a RawValue,
        }
        let Ok(Answer { id }) = serde_json::from_slice(line) else { return false };
        let Some(place) = self.calls.iter().position(|asked| asked.id == id.get()) else { return false };
        let asked = self.calls.remove(place);
        self.bytes -= asked.line.len();
        asked.subscribes
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_from_what_nobody_asked_for() {
        let mut calls = Unanswered::default();
        for call in [r#"{"id":1,"method":"a"}"#, r#"{"id":"1","method":"b"}"#, r#"{"method":"quiet"}"#] {
            assert!(calls.ask(call).is_ok());
        }
        for line in [r#"{"method":"news","params":[]}"#, r#"{"id":2,"result":0}"#, "{", "[]"] {
            assert!(!calls.hear(line.as_bytes()));
        }
        assert_eq!(calls.lines().count(), 2);
        assert!(!calls.hear(br#"{"jsonrpc":"2.0","result":[{"id":"1"}],"id":1}"#));
        assert_eq!(calls.lines().collect::<Vec<_>>(), [r#"{"id":"1","method":"b"}"#]);
    }

    #[test]
    fn a_subscription_ties_once_it_is_answered() {
        let mut calls = Unanswered::default();
        assert!(calls.ask(r#"{"id":1,"method":"blockchain.headers.subscribe","params":[]}"#).is_ok());
        assert!(calls.hear(br#"{"id":1,"result":{"height":1}}"#));
        assert!(calls.is_empty() && calls.bytes == 0);
    }

    #[test]
    fn no_more_is_remembered_than_is_sound() {
        let mut calls = Unanswered::default();
        let call = format!(r#"{{"id":1,"method":"a","params":["{}"]}}"#, "0".repeat(100_000));
        assert!(calls.ask(&call).is_ok() && calls.ask(&call).is_ok());
        assert!(calls.ask(&call).is_err());
    }
}
