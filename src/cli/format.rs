//! Short notation of durations and ports.

use std::time::Duration;

use crate::clock::{self, Time};

/// Returns a past duration in a single unit: `3m ago`, `17h ago`, `4d ago`.
pub(super) fn ago(time: Duration) -> String {
    match time.as_secs() {
        secs @ 0..60 => format!("{secs}s ago"),
        secs @ 60..3600 => format!("{}m ago", secs / 60),
        secs @ 3600..172_800 => format!("{}h ago", secs / 3600),
        secs => format!("{}d ago", secs / 86_400),
    }
}

/// Returns the time until a point in time: `in 1m 1s`, or `due now`.
pub(super) fn until(time: Time) -> String {
    match time.since(clock::now()).as_secs() {
        0 => "due now".to_owned(),
        secs => format!("in {}", humantime::format_duration(Duration::from_secs(secs))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_short_notation() {
        let ago_secs = |secs| ago(Duration::from_secs(secs));
        assert_eq!(
            [ago_secs(0), ago_secs(3599), ago_secs(172_799), ago_secs(172_800)],
            ["0s ago", "59m ago", "47h ago", "2d ago"]
        );
        assert_eq!(until(Time::default()), "due now");
        assert_eq!(until(clock::now() + Duration::from_millis(61_900)), "in 1m 1s");
    }
}
