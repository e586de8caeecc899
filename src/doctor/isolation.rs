//! Whether an external Tor keeps streams of different isolation groups on different circuits.
//!
//! A port with `NoIsolateSOCKSAuth` puts all streams to one onion service on one circuit. The SOCKS port does not say
//! so, but the time shows it: a stream on an existing circuit needs one round trip, and a new circuit to an onion
//! service needs at least four, as it must be built, and the service must be asked to build its half.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{Finding, Subject};
use crate::connect::{ProbeError, ProbeTarget};
use crate::dial::{Dialer, Isolation};
use crate::peer::Transport;

/// Streams of each kind. The fastest one counts, since delays of others prove nothing.
const STREAMS: u8 = 5;

/// A new circuit takes longer than a stream on an existing one, by at least this factor.
const MIN_RATIO: f64 = 2.0;

/// A new circuit takes longer by at least this time: more than a delayed acknowledgement of TCP, which takes 40 ms.
const MIN_DIFFERENCE: Duration = Duration::from_millis(60);

/// Time for one stream.
const STREAM_TIMEOUT: Duration = Duration::from_secs(60);

/// Compares streams of one group with streams of groups of their own, all to this onion peer.
pub(super) async fn check(dialer: &Dialer, target: &ProbeTarget) -> Option<Finding> {
    let Ok((shared, separate)) = fastest(dialer, target).await else {
        let text = "the isolation of streams is not known, as the onion peer no longer answers";
        return Some(Finding::warning(Subject::Tor, text, "run this again"));
    };
    let times = format!("{} ms on a shared circuit, {} ms on a new one", shared.as_millis(), separate.as_millis());
    Some(if is_isolated(shared, separate) {
        Finding::ok(Subject::Tor, format!("streams of different peers use different circuits ({times})"))
    } else {
        let advice =
            "remove NoIsolateSOCKSAuth from SocksPort in torrc: with it, peers can link the visits of this node";
        Finding::failure(Subject::Tor, format!("streams of different peers share circuits ({times})"), advice)
    })
}

/// Returns whether the time of a stream shows that it built a circuit.
fn is_isolated(shared: Duration, separate: Duration) -> bool {
    separate.as_secs_f64() >= MIN_RATIO * shared.as_secs_f64() && separate.saturating_sub(shared) >= MIN_DIFFERENCE
}

/// Returns the shortest times of streams of one group, and of streams of groups of their own.
///
/// Both kinds alternate, so that other load delays them equally.
async fn fastest(dialer: &Dialer, target: &ProbeTarget) -> Result<(Duration, Duration), ProbeError> {
    // The first stream of a group builds its circuit.
    stream_time(dialer, target, 0).await?;
    let (mut shared, mut separate) = (Duration::MAX, Duration::MAX);
    for group in 1..=STREAMS {
        shared = shared.min(stream_time(dialer, target, 0).await?);
        separate = separate.min(stream_time(dialer, target, group).await?);
    }
    Ok((shared, separate))
}

async fn stream_time(dialer: &Dialer, target: &ProbeTarget, group: u8) -> Result<Duration, ProbeError> {
    let [(_, port)] = *target.endpoints.as_slice() else { return Err(ProbeError::Internal) };
    let dialer = Dialer { isolation: Isolation::SelfCheck(group), ..dialer.clone() };
    let started_at = Instant::now();
    let dialled = timeout(STREAM_TIMEOUT, dialer.dial(target, (Transport::Tcp, port))).await;
    dialled.unwrap_or(Err(ProbeError::Timeout))?;
    Ok(started_at.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_circuits_are_told_from_shared_ones_by_their_time() {
        let is_isolated =
            |shared, separate| is_isolated(Duration::from_millis(shared), Duration::from_millis(separate));
        assert!(is_isolated(300, 1500) && is_isolated(13, 300));
        assert!(!is_isolated(300, 280) && !is_isolated(300, 500));
        assert!(!is_isolated(15, 58), "a delayed acknowledgement");
    }
}
