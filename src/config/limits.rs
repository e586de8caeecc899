//! The `[limits]` section: limits for clients.

use std::time::Duration;

use super::human_duration::Maximum;
use super::{InvalidValue, LimitsSection, in_range, networks};
use crate::jsonrpc::{MAX_BATCH_CALLS, MAX_BATCH_RESPONSE_BYTES, MAX_REQUEST_BYTES};
use crate::server::Limits;

/// Longest timeout.
const MAX_TIMEOUT: Maximum = Maximum(Duration::from_hours(24), "24h");

/// Highest rate per second. Computations with it must not overflow.
const MAX_RATE: u32 = 1_000_000_000;

/// Fills in defaults and checks the section.
pub(super) fn resolve(section: &mut LimitsSection) -> Result<Limits, InvalidValue> {
    let default = Limits::default();
    // One second's worth must hold the longest line and the longest response to a batch.
    let min_in = u32::try_from(MAX_REQUEST_BYTES).unwrap_or(MAX_RATE);
    let min_out = u32::try_from(MAX_BATCH_RESPONSE_BYTES).unwrap_or(MAX_RATE);
    Ok(Limits {
        sessions: in_range("limits.max_sessions", &mut section.max_sessions, default.sessions, 1..=1_000_000)?,
        sessions_per_source: in_range(
            "limits.sessions_per_source",
            &mut section.sessions_per_source,
            default.sessions_per_source,
            1..=1_000_000,
        )?,
        requests_per_second: in_range(
            "limits.requests_per_second",
            &mut section.requests_per_second,
            default.requests_per_second,
            1..=MAX_RATE,
        )?,
        source_requests_per_second: in_range(
            "limits.source_requests_per_second",
            &mut section.source_requests_per_second,
            default.source_requests_per_second,
            1..=MAX_RATE,
        )?,
        bytes_in_per_second: in_range(
            "limits.bytes_in_per_second",
            &mut section.bytes_in_per_second,
            default.bytes_in_per_second,
            min_in..=MAX_RATE,
        )?,
        bytes_out_per_second: in_range(
            "limits.bytes_out_per_second",
            &mut section.bytes_out_per_second,
            default.bytes_out_per_second,
            min_out..=MAX_RATE,
        )?,
        forwarded_requests_per_second: in_range(
            "limits.forwarded_requests_per_second",
            &mut section.forwarded_requests_per_second,
            default.forwarded_requests_per_second,
            1..=MAX_RATE,
        )?,
        batch: in_range("limits.max_batch", &mut section.max_batch, default.batch, 1..=MAX_BATCH_CALLS)?,
        handshake: MAX_TIMEOUT.check("limits.handshake_timeout", &mut section.handshake_timeout, default.handshake)?,
        idle: MAX_TIMEOUT.check("limits.idle_timeout", &mut section.idle_timeout, default.idle)?,
        line: MAX_TIMEOUT.check("limits.line_timeout", &mut section.line_timeout, default.line)?,
        exempt: networks::resolve_exempt(&mut section.exempt)?,
    })
}
