//! Lenient reading of JSON scalars: quoted numbers, nulls and values of other types.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

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
    /// Any other value: a list, a dictionary, a boolean, a fraction, a negative number.
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

impl<'de> Deserialize<'de> for LenientScalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<LenientScalar, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = LenientScalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<LenientScalar, E> {
        Ok(LenientScalar::Null)
    }

    fn visit_u64<E>(self, number: u64) -> Result<LenientScalar, E> {
        Ok(LenientScalar::Number(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<LenientScalar, E> {
        Ok(LenientScalar::Text(text.to_owned()))
    }

    fn visit_bool<E>(self, _: bool) -> Result<LenientScalar, E> {
        Ok(LenientScalar::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<LenientScalar, E> {
        Ok(LenientScalar::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<LenientScalar, E> {
        Ok(LenientScalar::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<LenientScalar, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(LenientScalar::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<LenientScalar, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(LenientScalar::Other)
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
}
