//! The keys about what callers may use, and what they come to.

use std::time::Duration;

use super::{HumanDuration, InvalidValue, LimitsSection, in_range, invalid};
use crate::jsonrpc::{MAX_BATCH_CALLS, MAX_BATCH_RESPONSE_BYTES, MAX_REQUEST_BYTES};
use crate::server::Limits;

pub fn resolve(keys: &LimitsSection) -> Result<Limits, InvalidValue> {
    let default = Limits::default();
    let period =
        |key, period: Option<HumanDuration>, default: Duration| match period.map(|HumanDuration(period)| period) {
            Some(period) if period < Duration::from_secs(1) || period > Duration::from_hours(24) => {
                Err(invalid(key, "must lie between 1s and 24h".to_owned()))
            }
            period => Ok(period.unwrap_or(default)),
        };
    const MOST: u32 = 1_000_000_000;
    // What is allowed at once must hold the longest line, or batch of answers, that there is.
    let least_in = u32::try_from(MAX_REQUEST_BYTES).unwrap_or(MOST);
    let least_out = u32::try_from(MAX_BATCH_RESPONSE_BYTES).unwrap_or(MOST);
    Ok(Limits {
        sessions: in_range("limits.max_sessions", keys.max_sessions, default.sessions, 1..=1_000_000)?,
        sessions_per_source: in_range(
            "limits.sessions_per_source",
            keys.sessions_per_source,
            default.sessions_per_source,
            1..=1_000_000,
        )?,
        requests_per_second: in_range(
            "limits.requests_per_second",
            keys.requests_per_second,
            default.requests_per_second,
            1..=MOST,
        )?,
        source_requests_per_second: in_range(
            "limits.source_requests_per_second",
            keys.source_requests_per_second,
            default.source_requests_per_second,
            1..=MOST,
        )?,
        bytes_in_per_second: in_range(
            "limits.bytes_in_per_second",
            keys.bytes_in_per_second,
            default.bytes_in_per_second,
            least_in..=MOST,
        )?,
        bytes_out_per_second: in_range(
            "limits.bytes_out_per_second",
            keys.bytes_out_per_second,
            default.bytes_out_per_second,
            least_out..=MOST,
        )?,
        forwarded_requests_per_second: in_range(
            "limits.forwarded_requests_per_second",
            keys.forwarded_requests_per_second,
            default.forwarded_requests_per_second,
            1..=MOST,
        )?,
        batch: in_range("limits.max_batch", keys.max_batch, default.batch, 1..=MAX_BATCH_CALLS)?,
        handshake: period("limits.handshake_timeout", keys.handshake_timeout, default.handshake)?,
        idle: period("limits.idle_timeout", keys.idle_timeout, default.idle)?,
        line: period("limits.line_timeout", keys.line_timeout, default.line)?,
    })
}

/// The same as keys.
pub fn to_section(limits: &Limits) -> LimitsSection {
    LimitsSection {
        max_sessions: Some(limits.sessions),
        sessions_per_source: Some(limits.sessions_per_source),
        requests_per_second: Some(limits.requests_per_second),
        source_requests_per_second: Some(limits.source_requests_per_second),
        bytes_in_per_second: Some(limits.bytes_in_per_second),
        bytes_out_per_second: Some(limits.bytes_out_per_second),
        forwarded_requests_per_second: Some(limits.forwarded_requests_per_second),
        max_batch: Some(limits.batch),
        handshake_timeout: Some(HumanDuration(limits.handshake)),
        idle_timeout: Some(HumanDuration(limits.idle)),
        line_timeout: Some(HumanDuration(limits.line)),
    }
}
