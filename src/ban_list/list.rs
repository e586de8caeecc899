//! Parsing of one ban list: Waypost's text format, or the JSON blacklist of ElectrumX.

use std::fmt;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer as _, Serialize};
use serde_json::value::RawValue;

use super::pattern::{Pattern, strip_comment};
use crate::peer::{Host, HostError, foreign_text};

/// Maximum number of patterns of one list. They take some 30 MB of memory.
pub const MAX_PATTERNS: usize = 200_000;

/// Maximum number of characters of a list that are quoted in a message.
const MAX_QUOTED_CHARS: usize = 100;

/// Format of a ban list, recognized by its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ListFormat {
    /// One pattern on each line.
    #[default]
    Text,
    /// Array of texts, as `BLACKLIST_URL` of ElectrumX returns it.
    Json,
}

/// Content of one ban list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BanList {
    /// Format of the file.
    pub format: ListFormat,
    /// Patterns in the order of the file.
    pub patterns: Vec<Pattern>,
    /// Number of entries of a JSON list that have no effect.
    pub skipped: usize,
    /// First of the entries without effect; `None` if there is none.
    pub first_skipped: Option<SkippedEntry>,
}

/// Entry of a JSON list that has no effect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("entry {number} ({text}): {reason}")]
pub struct SkippedEntry {
    /// Position in the array, starting at 1.
    pub number: usize,
    /// Beginning of the entry in JSON.
    pub text: String,
    /// Why the entry has no effect.
    pub reason: SkipReason,
}

/// Reason why an entry of a JSON list has no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SkipReason {
    /// The entry is a number, an object or another value.
    #[error("no text")]
    NotText,
    /// The entry is a range of addresses.
    #[error("a range of addresses, which ElectrumX never matches; use a list in the text format")]
    Range,
    /// The entry has another number of labels after `*.` than two.
    #[error("ElectrumX compares `*.` with the last two labels of a name only")]
    Labels,
    /// The entry names no host.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// Reason why a file is not a ban list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BanError {
    /// The file is not text.
    #[error("not a text in UTF-8")]
    NotText,
    /// A line of the text format is invalid.
    #[error("line {line}: {text:?} is no host, *.domain, address or range of addresses like 192.0.2.0/24: {error}")]
    Line {
        /// Line number, starting at 1.
        line: usize,
        /// Beginning of the line without its comment.
        text: String,
        /// Reason why the line is not a host.
        error: HostError,
    },
    /// The file begins like a JSON array and is none.
    #[error("not a JSON array: {0}")]
    Json(String),
    /// The list is too long.
    #[error("more than {MAX_PATTERNS} patterns")]
    TooManyPatterns,
}

impl BanList {
    /// Parses a ban list. A file that begins with `[` is a JSON list, unless its first line is a pattern.
    pub fn parse(bytes: &[u8]) -> Result<BanList, BanError> {
        let text = std::str::from_utf8(bytes).map_err(|_| BanError::NotText)?;
        if is_json(text) { parse_json(text) } else { parse_text(text) }
    }

    /// Parses an entry as ElectrumX applies it, or counts it as skipped.
    fn add_entry(&mut self, number: usize, json: &str) {
        let parsed = serde_json::from_str::<String>(json).map_err(|_| SkipReason::NotText);
        match parsed.and_then(|entry| electrumx_pattern(&entry)) {
            Ok(pattern) => self.patterns.push(pattern),
            Err(reason) => {
                self.skipped += 1;
                self.first_skipped.get_or_insert_with(|| {
                    let text = foreign_text(json, MAX_QUOTED_CHARS);
                    SkippedEntry { number, text, reason }
                });
            }
        }
    }
}

/// Returns whether a file is meant as a JSON array. An IPv6 address of the text format may begin with `[`.
fn is_json(text: &str) -> bool {
    let is_pattern = |line| strip_comment(line).parse::<Pattern>().is_ok();
    let start = text.trim_start();
    start.starts_with('[') && !start.lines().next().is_some_and(is_pattern)
}

/// Parses the text format. `#` starts a comment.
fn parse_text(text: &str) -> Result<BanList, BanError> {
    let mut list = BanList::default();
    for (line_index, line) in text.lines().enumerate() {
        let line = strip_comment(line);
        if line.is_empty() {
            continue;
        }
        let pattern = line.parse().map_err(|error| {
            let text = line.chars().take(MAX_QUOTED_CHARS).collect();
            BanError::Line { line: line_index + 1, text, error }
        })?;
        if list.patterns.len() == MAX_PATTERNS {
            return Err(BanError::TooManyPatterns);
        }
        list.patterns.push(pattern);
    }
    Ok(list)
}

fn parse_json(text: &str) -> Result<BanList, BanError> {
    let mut list = BanList { format: ListFormat::Json, ..BanList::default() };
    let mut json = serde_json::Deserializer::from_str(text);
    let parsed = json.deserialize_seq(Entries(&mut list)).and_then(|()| json.end());
    match parsed {
        Ok(()) => Ok(list),
        Err(_) if list.patterns.len() > MAX_PATTERNS => Err(BanError::TooManyPatterns),
        Err(error) => Err(BanError::Json(error.to_string())),
    }
}

/// Reader of the entries of an array, which are never in memory together.
struct Entries<'a>(&'a mut BanList);

impl<'de> Visitor<'de> for Entries<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of texts")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let mut number = 0;
        while let Some(entry) = entries.next_element::<&RawValue>()? {
            number += 1;
            self.0.add_entry(number, entry.get());
            if self.0.patterns.len() > MAX_PATTERNS {
                return Err(A::Error::custom(BanError::TooManyPatterns));
            }
        }
        Ok(())
    }
}

/// Returns the pattern with the meaning that ElectrumX gives to an entry.
///
/// ElectrumX looks up three texts of a peer: its host, its address, and `*.` with the last two labels of its host.
fn electrumx_pattern(entry: &str) -> Result<Pattern, SkipReason> {
    if entry.contains('/') {
        return Err(SkipReason::Range);
    }
    let Some(domain) = entry.strip_prefix("*.") else { return Ok(entry.parse::<Host>()?.into()) };
    match domain.parse()? {
        Host::Dns(domain) if domain.as_str().matches('.').count() == 1 => Ok(Pattern::Domain(domain)),
        // An onion address has two labels, so the entry names that address.
        Host::Onion(onion) => Ok(Pattern::Host(Host::Onion(onion))),
        Host::Dns(_) | Host::Ip(_) => Err(SkipReason::Labels),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ONION: &str = "explorerzydxu5ecjrkwceayqybizmpjjznk5izmitf2modhcusuqlid.onion";

    fn patterns(text: &str) -> Vec<String> {
        BanList::parse(text.as_bytes()).unwrap().patterns.iter().map(Pattern::to_string).collect()
    }

    #[test]
    fn invalid_line_is_reported_with_its_number() {
        let Err(BanError::Line { line, text, .. }) = BanList::parse(b"a.example\n*.onion!\n") else { panic!() };
        assert_eq!((line, text.as_str()), (2, "*.onion!"));
        for line in ["192.0.2.0/33", "*.192.0.2.1", "a b", "*", "1.2.3", "{}", "\"a.example\""] {
            assert!(matches!(BanList::parse(line.as_bytes()), Err(BanError::Line { .. })), "{line}");
        }
        let long = BanList::parse("x y".repeat(10_000).as_bytes()).unwrap_err().to_string();
        assert!(long.len() < 300, "{long}");
        assert_eq!(BanList::parse(b"\xff"), Err(BanError::NotText));
    }

    #[test]
    fn format_is_recognized_by_content() {
        assert_eq!(patterns(" \n[\"a.example\"]\n"), ["a.example"]);
        assert_eq!(patterns("[2001:db8::1]  # an address\nb.example\n"), ["2001:db8::1", "b.example"]);
        let format = |text: &str| BanList::parse(text.as_bytes()).unwrap().format;
        assert_eq!(
            [format(""), format("a.example"), format("[]")],
            [ListFormat::Text, ListFormat::Text, ListFormat::Json]
        );
        for text in ["[\"a.example\"", "[\"a.example\"] x", "[\"a\" \"b\"]", "[a.example]"] {
            let error = BanList::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with("not a JSON array: ") && error.contains("line 1"), "{text}: {error}");
        }
    }

    #[test]
    fn json_entries_mean_what_electrumx_matches() {
        let onion_wildcard = format!("*.{ONION}");
        let list = format!(
            r#"["Spy.Example.com", "*.evil.example", "*.CO.uk", "192.0.2.7", "2001:DB8::1", "{ONION}", "{onion_wildcard}"]"#
        );
        assert_eq!(
            patterns(&list),
            ["spy.example.com", "*.evil.example", "*.co.uk", "192.0.2.7", "2001:db8::1", ONION, ONION]
        );
    }

    #[test]
    fn json_entry_without_effect_is_counted_with_an_example() {
        let list = r#"["a.example", "*.a.b.example", "192.0.2.0/24", 7, ["x"], {"a": 1}, null, "*.com", "*.3.4", "a b", "\u001b[31m"]"#;
        let list = BanList::parse(list.as_bytes()).unwrap();
        assert_eq!((list.patterns.len(), list.skipped), (1, 10));
        let first = list.first_skipped.unwrap();
        assert_eq!((first.number, first.reason), (2, SkipReason::Labels));
        assert!(first.to_string().starts_with("entry 2 (\"*.a.b.example\"): ElectrumX compares"), "{first}");
        let long = format!("[\"{}\"]", "x".repeat(5000));
        assert!(BanList::parse(long.as_bytes()).unwrap().first_skipped.unwrap().to_string().len() < 200);
    }

    #[test]
    fn too_long_list_is_rejected() {
        let name = |index: usize| format!("h{index}.example");
        let lines = |count: usize| (0..count).map(|index| name(index) + "\n").collect::<String>();
        assert_eq!(BanList::parse(lines(MAX_PATTERNS).as_bytes()).unwrap().patterns.len(), MAX_PATTERNS);
        assert_eq!(BanList::parse(lines(MAX_PATTERNS + 1).as_bytes()), Err(BanError::TooManyPatterns));
        let json: Vec<String> = (0..=MAX_PATTERNS).map(name).collect();
        assert_eq!(BanList::parse(serde_json::to_string(&json).unwrap().as_bytes()), Err(BanError::TooManyPatterns));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "\\PC{0,100}") {
            let _ = BanList::parse(&bytes);
            let _ = BanList::parse(format!("[{text}").as_bytes());
            let entries = serde_json::to_string(&[text]).unwrap();
            let list = BanList::parse(entries.as_bytes()).unwrap();
            prop_assert_eq!(list.patterns.len() + list.skipped, 1);
        }
    }
}
