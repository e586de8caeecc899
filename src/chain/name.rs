//! Name of a chain.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Maximum length of a name in bytes: it is the name of a directory, and part of a metric.
const MAX_BYTES: usize = 32;

/// Name of a chain: lower-case letters, digits and hyphens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct ChainName(Cow<'static, str>);

/// Text that can't be the name of a chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected the name of a chain, such as bitcoin: at most 32 lower-case letters, digits and hyphens")]
pub struct InvalidChainName;

impl ChainName {
    /// Creates the name of a built-in chain. Tests check that they are valid.
    pub(super) const fn built_in(name: &'static str) -> ChainName {
        ChainName(Cow::Borrowed(name))
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ChainName {
    type Err = InvalidChainName;

    fn from_str(text: &str) -> Result<ChainName, InvalidChainName> {
        let is_valid = text.len() <= MAX_BYTES
            && text.starts_with(|first: char| first.is_ascii_lowercase())
            && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if is_valid { Ok(ChainName(Cow::Owned(text.to_owned()))) } else { Err(InvalidChainName) }
    }
}

impl TryFrom<String> for ChainName {
    type Error = InvalidChainName;

    fn try_from(text: String) -> Result<ChainName, InvalidChainName> {
        text.parse()
    }
}

impl fmt::Display for ChainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}
