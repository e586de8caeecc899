//! Versions of the Electrum protocol.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Protocol version, `1.4` or `1.4.2`.
///
/// A missing patch number is kept, because peers are advertised with the version as they sent it.
/// [`Version::cmp_semver`] ignores the difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Version {
    major: u16,
    minor: u16,
    patch: Option<u16>,
}

/// Text that is not a protocol version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a protocol version like 1.4 or 1.4.2")]
pub struct VersionError;

impl Version {
    /// Creates a version without a patch number.
    pub const fn new(major: u16, minor: u16) -> Version {
        Version { major, minor, patch: None }
    }

    /// Compares two versions by number; 1.4 equals 1.4.0.
    pub fn cmp_semver(&self, other: &Version) -> Ordering {
        self.semver().cmp(&other.semver())
    }

    fn semver(&self) -> (u16, u16, u16) {
        (self.major, self.minor, self.patch.unwrap_or(0))
    }
}

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Version, VersionError> {
        let mut parts = text.split('.').map(parse_unsigned);
        let major = parts.next().ok_or(VersionError)??;
        let minor = parts.next().transpose()?.unwrap_or(0);
        let patch = parts.next().transpose()?;
        if parts.next().is_some() { Err(VersionError) } else { Ok(Version { major, minor, patch }) }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)?;
        self.patch.map_or(Ok(()), |patch| write!(f, ".{patch}"))
    }
}

/// Parses digits only; `u16`'s `FromStr` would accept a sign.
fn parse_unsigned(part: &str) -> Result<u16, VersionError> {
    if part.bytes().all(|b| b.is_ascii_digit()) { part.parse().map_err(|_| VersionError) } else { Err(VersionError) }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn any_version() -> impl Strategy<Value = Version> {
        any::<(u16, u16, Option<u16>)>().prop_map(|(major, minor, patch)| Version { major, minor, patch })
    }

    proptest! {
        #[test]
        fn parse_undoes_print(version in any_version()) {
            prop_assert_eq!(version.to_string().parse(), Ok(version));
        }

        #[test]
        fn arbitrary_text_never_panics(text in "\\PC*") {
            let _ = text.parse::<Version>();
        }
    }

    #[test]
    fn versions_are_compared_by_number() {
        let parse = |text: &str| text.parse::<Version>().unwrap();
        assert_eq!(parse("1.4").cmp_semver(&parse("1.4.0")), Ordering::Equal);
        assert_eq!(parse("1.10").cmp_semver(&parse("1.4.5")), Ordering::Greater);
        assert_eq!(parse("1"), parse("1.0"));
        for text in ["", ".", "1.", "1.4.2.1", "+1.4", "-1", "1.4b", "99999.1"] {
            assert_eq!(text.parse::<Version>(), Err(VersionError), "{text:?}");
        }
    }
}
