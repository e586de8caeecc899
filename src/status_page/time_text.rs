//! Texts of times and durations.

use std::time::Duration;

use crate::clock::Time;

/// Formats a duration in its largest unit.
pub(crate) fn span(time: Duration) -> String {
    match time.as_secs() {
        secs @ 0..60 => format!("{secs} s"),
        secs @ 60..3600 => format!("{} min", secs / 60),
        secs @ 3600..172_800 => format!("{} h", secs / 3600),
        secs => format!("{} days", secs / 86_400),
    }
}

/// Formats the day of a time, in UTC.
pub(crate) fn date(at: Time) -> String {
    at.to_string().chars().take_while(|c| *c != 'T').collect()
}

/// Formats a time in the past, with its date in UTC.
pub(crate) fn ago(at: Time, now: Time) -> String {
    let minutes: String = at.to_string().replace('T', " ").chars().take(16).collect();
    format!("{} ago ({minutes} UTC)", span(now.since(at)))
}
