//! Extraction of the id and of the result from a response that is read in pieces.
//!
//! Long responses are forwarded without being buffered as a whole.

use std::ops::Range;

use serde_json::Value;

/// Longest id in bytes. A response with a longer id counts as one without an id.
const MAX_ID_BYTES: usize = 4096;

/// Key of a response that contains its outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutcomeKey {
    /// `result`.
    Result,
    /// `error`.
    Error,
}

/// Scanner for the top-level keys `id`, `result` and `error` of one JSON object.
///
/// The syntax is not checked: for invalid JSON the result is arbitrary.
#[derive(Debug, Default)]
pub struct ResponseScanner {
    /// Number of open objects and arrays.
    depth: u32,
    string: StringState,
    /// Whether the current token of the top-level object is a value, not a key.
    in_value: bool,
    /// Whether the last key is `id`.
    is_id: bool,
    /// Last key if it contains the outcome, up to the end of the value.
    outcome: Option<OutcomeKey>,
    /// Bytes of the current key, or of the value of `id`.
    token: Vec<u8>,
    id: Option<Value>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum StringState {
    #[default]
    Outside,
    Inside,
    /// After a backslash.
    Escaped,
}

impl ResponseScanner {
    /// Scans the next piece.
    pub fn feed(&mut self, piece: &[u8]) {
        self.feed_with(piece, |_, _| {});
    }

    /// Scans the next piece, and passes on which ranges of it belong to the values of `result` and `error`.
    pub fn feed_with(&mut self, piece: &[u8], mut on_value: impl FnMut(OutcomeKey, Range<usize>)) {
        let (mut at, mut value_start) = (0, 0);
        loop {
            let rest = piece.get(at..).unwrap_or_default();
            at += self.skippable(rest);
            let Some(byte) = piece.get(at) else { break };
            let before = self.outcome;
            self.on_byte(*byte);
            match (before, self.outcome) {
                (Some(key), None) => on_value(key, value_start..at),
                (None, Some(_)) => value_start = at + 1,
                _ => {}
            }
            at += 1;
        }
        if let Some(key) = self.outcome {
            on_value(key, value_start..piece.len());
        }
    }

    /// Returns the id once its end has been scanned.
    pub fn id(&self) -> Option<&Value> {
        self.id.as_ref()
    }

    /// Returns how many of the next bytes can be skipped.
    ///
    /// In a long response these are nearly all, so they are searched in blocks.
    fn skippable(&self, bytes: &[u8]) -> usize {
        if self.is_token_kept() {
            return 0;
        }
        match self.string {
            StringState::Inside => memchr::memchr2(b'"', b'\\', bytes).unwrap_or(bytes.len()),
            StringState::Outside => plain_prefix_len(bytes),
            StringState::Escaped => 0,
        }
    }

    /// Returns whether the current token may be a top-level key or the value of `id`.
    fn is_token_kept(&self) -> bool {
        self.depth == 1 && (!self.in_value || self.is_id)
    }

    fn on_byte(&mut self, byte: u8) {
        match (self.string, byte) {
            (StringState::Inside, b'\\') => self.string = StringState::Escaped,
            (StringState::Inside, b'"') => self.string = StringState::Outside,
            (StringState::Inside, _) => {}
            (StringState::Escaped, _) => self.string = StringState::Inside,
            (StringState::Outside, b'"') => self.string = StringState::Inside,
            (StringState::Outside, b'{' | b'[') => {
                self.depth += 1;
                if self.depth == 1 {
                    return;
                }
            }
            (StringState::Outside, b'}' | b']') => {
                if self.depth == 1 {
                    self.finish_value();
                }
                self.depth = self.depth.saturating_sub(1);
            }
            (StringState::Outside, b':') if self.depth == 1 => {
                let key = self.parse_token();
                let key = key.as_ref().and_then(Value::as_str);
                self.is_id = key == Some("id");
                self.outcome = match key {
                    Some("result") => Some(OutcomeKey::Result),
                    Some("error") => Some(OutcomeKey::Error),
                    _ => None,
                };
                self.in_value = true;
                self.token.clear();
                return;
            }
            (StringState::Outside, b',') if self.depth == 1 => {
                self.finish_value();
                return;
            }
            (StringState::Outside, _) => {}
        }
        if self.is_token_kept() && self.token.len() <= MAX_ID_BYTES {
            self.token.push(byte);
        }
    }

    fn finish_value(&mut self) {
        if self.in_value && self.is_id {
            self.id = self.parse_token();
        }
        (self.in_value, self.is_id, self.outcome) = (false, false, None);
        self.token.clear();
    }

    fn parse_token(&self) -> Option<Value> {
        serde_json::from_slice(&self.token).ok()
    }
}

/// Returns the number of bytes before the first structural byte of JSON.
fn plain_prefix_len(bytes: &[u8]) -> usize {
    const BLOCK: usize = 64;
    let is_structure = |byte: &u8| matches!(byte, b'"' | b'{' | b'}' | b'[' | b']' | b',' | b':');
    // No branch per byte, so that the compiler emits vector instructions for a block.
    let is_plain = |block: &&[u8]| !block.iter().fold(false, |found, byte| found | is_structure(byte));
    let plain = bytes.chunks_exact(BLOCK).take_while(is_plain).count() * BLOCK;
    let rest = bytes.get(plain..).unwrap_or_default();
    plain + rest.iter().position(is_structure).unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id_of(text: &str, piece: usize) -> Option<Value> {
        let mut reader = ResponseScanner::default();
        text.as_bytes().chunks(piece).for_each(|piece| reader.feed(piece));
        reader.id().cloned()
    }

    #[test]
    fn id_is_found_at_any_position() {
        for (text, id) in [
            (r#"{"id":7,"result":{"id":8}}"#, Value::from(7)),
            (r#"{"jsonrpc": "2.0", "result": ["id", {"id": 9}], "id" : "a\"b" }"#, Value::from("a\"b")),
            (r#"{"\u0069d":-1.5,"error":"\\"}"#, Value::from(-1.5)),
            (r#"{"result":"{\"id\":3}","id":null}"#, Value::Null),
        ] {
            for piece in [1, 3, 1000] {
                assert_eq!(id_of(text, piece), Some(id.clone()), "{text}");
            }
        }
        for without in [r#"{"method":"id","params":["id",{"id":1}]}"#, r#"["id",5]"#, "", r#"{"id":"#, "}}]]"] {
            assert_eq!(id_of(without, 2), None, "{without}");
        }
        assert_eq!(id_of(&format!(r#"{{"id":"{}"}}"#, "x".repeat(MAX_ID_BYTES)), 100), None);
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![any::<i64>().prop_map(Value::from), ".{0,8}".prop_map(Value::from)];
        leaf.prop_recursive(3, 24, 4, |inner| {
            let key = prop_oneof![Just("id".to_owned()), "[\"\\\\a-z:,{}]{0,4}"];
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(key, inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn scanner_agrees_with_full_parser(result in json(), id in any::<i64>(), piece in 1_usize..300, gap in 0_usize..200, first: bool) {
            let gap = " ".repeat(gap);
            let (id, result) = (format!("\"id\":{id}"), format!("\"result\":{result}{gap}"));
            let text = if first { format!("{{{id},{result}}}") } else { format!("{{{result} , {id}}}") };
            let whole: Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(id_of(&text, piece), Some(whole["id"].clone()));
        }

        #[test]
        fn outcome_is_found_in_pieces(result in json(), error in json(), piece in 1_usize..50) {
            let text = format!("{{\"result\":{result},\"id\":1,\"error\": {error}}}");
            let (mut scanner, mut found) = (ResponseScanner::default(), [Vec::new(), Vec::new()]);
            for piece in text.as_bytes().chunks(piece) {
                scanner.feed_with(piece, |key, range| found[key as usize].extend_from_slice(&piece[range]));
            }
            let [found_result, found_error] = found.map(|value| serde_json::from_slice::<Value>(&value).unwrap());
            prop_assert_eq!((found_result, found_error), (result, error));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            ResponseScanner::default().feed(&bytes);
        }
    }
}
