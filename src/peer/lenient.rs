//! Lenient reading of JSON scalars: quoted numbers, nulls and values of other types.

use serde::de::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// JSON value of which only a number or a string is used.
///
/// Other values are skipped without being stored, so the memory is bounded by the input.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum LenientScalar {
    /// Null, or a missing key.
    #[default]
    Null,
    /// Non-negative integer.
    Number(u64),
    /// String.
    Text(String),
    /// Any other value: a list, a dictionary, a boolean, a fraction, a negative or large number, text that is not Unicode.
    Other,
}

impl LenientScalar {
    /// Returns the string; `None` for other values.
    pub fn text(self) -> Option<String> {
        match self {
            LenientScalar::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Returns the number, in quotes or not; `None` if it does not fit `N`.
    pub fn number<N: TryFrom<u64>>(&self) -> Option<N> {
        let number = match self {
            LenientScalar::Number(number) => *number,
            LenientScalar::Text(text) if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok()?,
            _ => return None,
        };
        N::try_from(number).ok()
    }
}

/// Reads the text of the value first, so that a value that is valid JSON is never an error.
///
/// A half of a surrogate pair and a number beyond the range of a float are valid, but can't be parsed.
impl<'de> Deserialize<'de> for LenientScalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<LenientScalar, D::Error> {
        let value = <&RawValue>::deserialize(deserializer)?.get();
        Ok(match value.as_bytes().first() {
            Some(b'n') => LenientScalar::Null,
            Some(b'"') => serde_json::from_str(value).map_or(LenientScalar::Other, LenientScalar::Text),
            Some(b'0'..=b'9') => serde_json::from_str(value).map_or(LenientScalar::Other, LenientScalar::Number),
            _ => LenientScalar::Other,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_with_and_without_quotes() {
        let number = |json: &str| serde_json::from_str::<LenientScalar>(json).unwrap().number::<u16>();
        assert_eq!(number("50001"), Some(50001));
        assert_eq!(number("\"50001\""), Some(50001));
        for json in ["null", "-1", "1.5", "\"+1\"", "\"\"", "\"x\"", "65536", "[1]", "{\"a\":1}", "true"] {
            assert_eq!(number(json), None, "{json}");
        }
    }

    #[test]
    fn unusable_value_is_no_error() {
        let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
        for json in ["1e999", "-1e999", r#""\ud800""#, r#""\udc00x""#, "18446744073709551616", &deep] {
            assert_eq!(serde_json::from_str::<LenientScalar>(json).unwrap(), LenientScalar::Other, "{json:.20}");
        }
        for json in ["", "nul", "1x", "\"", "[1", r#""\x""#] {
            assert!(serde_json::from_str::<LenientScalar>(json).is_err(), "{json}");
        }
    }
}
