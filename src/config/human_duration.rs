//! Durations in the notation `24h`, `5m` or `14d`.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{InvalidValue, invalid};

/// Duration that is read and written as text such as `24h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HumanDuration(pub Duration);

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

impl Serialize for HumanDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HumanDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<HumanDuration, D::Error> {
        let text = String::deserialize(deserializer)?;
        let invalid = |_| de::Error::custom(format!("{text:?} is not a duration such as 24h or 5m"));
        humantime::parse_duration(&text).map(HumanDuration).map_err(invalid)
    }
}

/// Maximum of a duration, with its notation in error messages. The minimum is one second.
pub(super) struct Maximum(pub Duration, pub &'static str);

impl Maximum {
    /// Fills in the default if the key is not set, and checks the range.
    pub(super) fn check(
        &self,
        key: &'static str,
        value: &mut Option<HumanDuration>,
        default: Duration,
    ) -> Result<Duration, InvalidValue> {
        let Maximum(maximum, text) = self;
        let HumanDuration(duration) = *value.get_or_insert(HumanDuration(default));
        if (Duration::from_secs(1)..=*maximum).contains(&duration) {
            Ok(duration)
        } else {
            Err(invalid(key, format!("must be between 1s and {text}")))
        }
    }
}
