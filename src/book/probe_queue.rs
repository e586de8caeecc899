//! Queue of peers by the time of their next probe.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::{Rng, RngExt};

use crate::backoff::Backoff;
use crate::clock::Time;
use crate::peer::Host;
use crate::route::{PerRoute, Route};

/// Peers by due time on each route.
///
/// Previously verified peers go first, so that names from untrusted sources can't displace them.
#[derive(Debug, Default)]
pub(super) struct ProbeQueue(PerRoute<PathQueue>);

#[derive(Debug, Default)]
struct PathQueue {
    previously_verified: BTreeSet<(Time, Host)>,
    candidates: BTreeSet<(Time, Host)>,
}

impl ProbeQueue {
    /// Adds a peer.
    pub(super) fn insert(&mut self, route: Route, at: Time, host: Host, was_verified: bool) {
        let PathQueue { previously_verified, candidates } = &mut self.0[route];
        let queue = if was_verified { previously_verified } else { candidates };
        queue.insert((at, host));
    }

    /// Removes a peer that was queued for this time, if it is queued.
    pub(super) fn remove(&mut self, route: Route, at: Time, host: &Host) {
        let PathQueue { previously_verified, candidates } = &mut self.0[route];
        let key = (at, host.clone());
        if !candidates.remove(&key) {
            previously_verified.remove(&key);
        }
    }

    /// Returns when the next peer is due; `None` if the queue is empty.
    pub(super) fn next(&self, route: Route) -> Option<Time> {
        let PathQueue { previously_verified, candidates } = &self.0[route];
        [previously_verified, candidates].into_iter().filter_map(|queue| queue.first().map(|(at, _)| *at)).min()
    }

    /// Removes and returns the first due peer.
    pub(super) fn pop_due(&mut self, route: Route, now: Time) -> Option<Host> {
        let PathQueue { previously_verified, candidates } = &mut self.0[route];
        let is_due = |queue: &BTreeSet<(Time, Host)>| queue.first().is_some_and(|(at, _)| *at <= now);
        let queue = [previously_verified, candidates].into_iter().find(|queue| is_due(queue))?;
        queue.pop_first().map(|(_, host)| host)
    }

    /// Returns the previously verified peers of a route, the next due one first.
    pub(super) fn previously_verified(&self, route: Route) -> impl Iterator<Item = &Host> {
        self.0[route].previously_verified.iter().map(|(_, host)| host)
    }

    /// Returns all peers of a route, previously verified ones first.
    pub(super) fn all(&self, route: Route) -> impl Iterator<Item = &Host> {
        let PathQueue { previously_verified, candidates } = &self.0[route];
        previously_verified.iter().chain(candidates).map(|(_, host)| host)
    }

    /// Returns the number of peers on a route.
    pub(super) fn len(&self, route: Route) -> usize {
        let PathQueue { previously_verified, candidates } = &self.0[route];
        previously_verified.len() + candidates.len()
    }
}

/// Returns the delay from a success to the next verification.
///
/// It leaves time for several retries while the peer is still recent. It is random, so that the time of one connection
/// does not reveal the time of the next.
pub(super) fn after_success(recheck: Duration, max_age: Duration, rng: &mut (impl Rng + ?Sized)) -> Duration {
    recheck.min(max_age).mul_f64(rng.random_range(0.6..0.8))
}

/// Returns the delay after consecutive failures, which doubles from `initial` up to `max`.
pub(super) fn after_failure(
    failures: u32,
    initial: Duration,
    max: Duration,
    rng: &mut (impl Rng + ?Sized),
) -> Duration {
    jittered(Backoff::new(initial, max).after(failures), rng)
}

/// Returns a random delay within 20 % of this one.
pub(super) fn jittered(delay: Duration, rng: &mut (impl Rng + ?Sized)) -> Duration {
    delay.mul_f64(rng.random_range(0.8..1.2))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    const RETRY: Duration = Duration::from_mins(5);
    const DAY: Duration = Duration::from_hours(24);

    #[test]
    fn failures_back_off_to_a_day() {
        let mut rng = StdRng::seed_from_u64(1);
        for (failures, expected) in
            [(1, RETRY), (2, RETRY * 2), (5, RETRY * 16), (9, RETRY * 256), (10, DAY), (u32::MAX, DAY)]
        {
            let pause = after_failure(failures, RETRY, DAY, &mut rng);
            assert!(pause >= expected.mul_f64(0.8) && pause <= expected.mul_f64(1.2), "{failures}: {pause:?}");
        }
    }

    #[test]
    fn success_leaves_time_for_retries_while_recent() {
        let mut rng = StdRng::seed_from_u64(1);
        for _ in 0..1000 {
            let pause = after_success(DAY, DAY, &mut rng);
            // A first retry and four doublings of it fit into what is left of the day.
            assert!(pause + RETRY.mul_f64(1.2) * 31 < DAY, "{pause:?}");
        }
    }

    #[test]
    fn longest_due_peer_is_popped_first() {
        let host = |text: &str| text.parse::<Host>().unwrap();
        let mut queue = ProbeQueue::default();
        queue.insert(Route::Direct, Time::from_secs(5), host("b.example"), false);
        queue.insert(Route::Direct, Time::from_secs(3), host("a.example"), false);
        queue.insert(Route::Direct, Time::from_secs(4), host("c.example"), true);
        queue.remove(Route::Direct, Time::from_secs(4), &host("c.example"));
        assert_eq!(queue.next(Route::Direct), Some(Time::from_secs(3)));
        assert_eq!(queue.pop_due(Route::Direct, Time::from_secs(4)), Some(host("a.example")));
        assert_eq!(queue.pop_due(Route::Direct, Time::from_secs(4)), None);
        assert_eq!(queue.next(Route::Tor), None);
    }

    #[test]
    fn previously_verified_peer_is_popped_first() {
        let host = |text: &str| text.parse::<Host>().unwrap();
        let mut queue = ProbeQueue::default();
        queue.insert(Route::Direct, Time::from_secs(3), host("a.example"), false);
        queue.insert(Route::Direct, Time::from_secs(5), host("b.example"), true);
        assert_eq!(queue.next(Route::Direct), Some(Time::from_secs(3)));
        assert_eq!(queue.pop_due(Route::Direct, Time::from_secs(6)), Some(host("b.example")));
        assert_eq!(queue.pop_due(Route::Direct, Time::from_secs(6)), Some(host("a.example")));
    }
}
