//! The keys about what callers may use, and what they come to.

use std::time::Duration;

use super::{LimitKeys, Period, Wrong, within, wrong};
use crate::protocol::{MAX_BATCH, MAX_BATCH_ANSWER, MAX_CALL};
use crate::serve::Limits;

pub fn resolve(keys: &LimitKeys) -> Result<Limits, Wrong> {
    let default = Limits::default();
    let period = |key, period: Option<Period>, default: Duration| match period.map(|Period(period)| period) {
        Some(period) if period < Duration::from_secs(1) || period > Duration::from_hours(24) => {
            Err(wrong(key, "must lie between 1s and 24h".to_owned()))
        }
        period => Ok(period.unwrap_or(default)),
    };
    const MOST: u32 = 1_000_000_000;
    // What is allowed at once must hold the longest line, or batch of answers, that there is.
    let least_in = u32::try_from(MAX_CALL).unwrap_or(MOST);
    let least_out = u32::try_from(MAX_BATCH_ANSWER).unwrap_or(MOST);
    Ok(Limits {
        sessions: within("limits.sessions", keys.sessions, default.sessions, 1..=1_000_000)?,
        sessions_per_source: within(
            "limits.sessions_per_source",
            keys.sessions_per_source,
            default.sessions_per_source,
            1..=1_000_000,
        )?,
        requests_per_second: within(
            "limits.requests_per_second",
            keys.requests_per_second,
            default.requests_per_second,
            1..=MOST,
        )?,
        source_requests_per_second: within(
            "limits.source_requests_per_second",
            keys.source_requests_per_second,
            default.source_requests_per_second,
            1..=MOST,
        )?,
        bytes_in_per_second: within(
            "limits.bytes_in_per_second",
            keys.bytes_in_per_second,
            default.bytes_in_per_second,
            least_in..=MOST,
        )?,
        bytes_out_per_second: within(
            "limits.bytes_out_per_second",
            keys.bytes_out_per_second,
            default.bytes_out_per_second,
            least_out..=MOST,
        )?,
        passed_requests_per_second: within(
            "limits.passed_requests_per_second",
            keys.passed_requests_per_second,
            default.passed_requests_per_second,
            1..=MOST,
        )?,
        batch: within("limits.batch", keys.batch, default.batch, 1..=MAX_BATCH)?,
        handshake: period("limits.handshake", keys.handshake, default.handshake)?,
        idle: period("limits.idle", keys.idle, default.idle)?,
        line: period("limits.line", keys.line, default.line)?,
    })
}

/// The same as keys.
pub fn effective(limits: &Limits) -> LimitKeys {
    LimitKeys {
        sessions: Some(limits.sessions),
        sessions_per_source: Some(limits.sessions_per_source),
        requests_per_second: Some(limits.requests_per_second),
        source_requests_per_second: Some(limits.source_requests_per_second),
        bytes_in_per_second: Some(limits.bytes_in_per_second),
        bytes_out_per_second: Some(limits.bytes_out_per_second),
        passed_requests_per_second: Some(limits.passed_requests_per_second),
        batch: Some(limits.batch),
        handshake: Some(Period(limits.handshake)),
        idle: Some(Period(limits.idle)),
        line: Some(Period(limits.line)),
    }
}
