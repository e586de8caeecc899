//! The `[limits]` section: limits for clients.

use std::time::Duration;

use super::{HumanDuration, InvalidValue, LimitsSection, in_range, invalid};
use crate::jsonrpc::{MAX_BATCH_CALLS, MAX_BATCH_RESPONSE_BYTES, MAX_REQUEST_BYTES};
use crate::server::Limits;

/// Checks the section and fills in defaults.
pub(super) fn resolve(keys: &LimitsSection) -> Result<Limits, InvalidValue> {
    let default = Limits::default();
    let period =
        |key, period: Option<HumanDuration>, default: Duration| match period.map(|HumanDuration(period)| period) {
            Some(period) if period < Duration::from_secs(1) || period > Duration::from_hours(24) => {
                Err(invalid(key, "must be between 1s and 24h".to_owned()))
            }
            period => Ok(period.unwrap_or(default)),
        };
    const MAX_RATE: u32 = 1_000_000_000;
    // One second's worth must hold the longest line and the longest response to a batch.
    let min_in = u32::try_from(MAX_REQUEST_BYTES).unwrap_or(MAX_RATE);
    let min_out = u32::try_from(MAX_BATCH_RESPONSE_BYTES).unwrap_or(MAX_RATE);
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
            1..=MAX_RATE,
        )?,
        source_requests_per_second: in_range(
            "limits.source_requests_per_second",
            keys.source_requests_per_second,
            default.source_requests_per_second,
            1..=MAX_RATE,
        )?,
        bytes_in_per_second: in_range(
            "limits.bytes_in_per_second",
            keys.bytes_in_per_second,
            default.bytes_in_per_second,
            min_in..=MAX_RATE,
        )?,
        bytes_out_per_second: in_range(
            "limits.bytes_out_per_second",
            keys.bytes_out_per_second,
            default.bytes_out_per_second,
            min_out..=MAX_RATE,
        )?,
        forwarded_requests_per_second: in_range(
            "limits.forwarded_requests_per_second",
            keys.forwarded_requests_per_second,
            default.forwarded_requests_per_second,
            1..=MAX_RATE,
        )?,
        batch: in_range("limits.max_batch", keys.max_batch, default.batch, 1..=MAX_BATCH_CALLS)?,
        handshake: period("limits.handshake_timeout", keys.handshake_timeout, default.handshake)?,
        idle: period("limits.idle_timeout", keys.idle_timeout, default.idle)?,
        line: period("limits.line_timeout", keys.line_timeout, default.line)?,
    })
}

/// Converts the resolved section back to keys.
pub(super) fn to_section(limits: &Limits) -> LimitsSection {
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
