//! Queue of peers by the time of their next probe.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::{Rng, RngExt};

use super::slot_budget::ProbeClass;
use crate::backoff::Backoff;
use crate::clock::Time;
use crate::peer::{Host, OnionAddress};
use crate::route::{PerRoute, Route};

/// Peers by due time on each route.
///
/// Each class has a queue of its own, so that neither can displace the other.
#[derive(Debug, Default)]
pub(super) struct ProbeQueue(PerRoute<PathQueue>);

#[derive(Debug, Default)]
struct PathQueue {
    previously_verified: BTreeSet<(Time, Host)>,
    clearnet_candidates: BTreeSet<(Time, Host)>,
    onion_candidates: BTreeSet<(Time, Host)>,
}

impl ProbeQueue {
    /// Adds a peer.
    pub(super) fn insert(&mut self, route: Route, at: Time, host: Host, class: ProbeClass) {
        self.0[route].of_mut(class).insert((at, host));
    }

    /// Removes a peer that was queued for this time, if it is queued.
    pub(super) fn remove(&mut self, route: Route, at: Time, host: &Host) {
        let key = (at, host.clone());
        for class in ProbeClass::ALL {
            self.0[route].of_mut(class).remove(&key);
        }
    }

    /// Returns when the next peer of a class is due; `None` if none is queued.
    pub(super) fn next(&self, route: Route, class: ProbeClass) -> Option<Time> {
        self.0[route].of(class).first().map(|(at, _)| *at)
    }

    /// Removes and returns the first due peer of a class.
    pub(super) fn pop_due(&mut self, route: Route, class: ProbeClass, now: Time) -> Option<Host> {
        let queue = self.0[route].of_mut(class);
        queue.first().is_some_and(|(at, _)| *at <= now).then(|| queue.pop_first().map(|(_, host)| host)).flatten()
    }

    /// Returns the previously verified peers of a route, the next due one first.
    pub(super) fn previously_verified(&self, route: Route) -> impl Iterator<Item = &Host> {
        self.0[route].previously_verified.iter().map(|(_, host)| host)
    }

    /// Returns whether a previously verified peer is queued for this time.
    pub(super) fn has_verified(&self, route: Route, at: Time, host: &Host) -> bool {
        self.0[route].previously_verified.contains(&(at, host.clone()))
    }

    /// Returns the previously verified peers of a route, beginning with one that is due at a random time.
    ///
    /// The time of a peer's next probe is random too, so its owner can't choose its place relative to the start.
    pub(super) fn previously_verified_from_random(
        &self,
        route: Route,
        now: Time,
        rng: &mut (impl Rng + ?Sized),
    ) -> impl Iterator<Item = &Host> {
        let queue = &self.0[route].previously_verified;
        let last = queue.last().map_or(now, |(at, _)| *at);
        let start = now + Duration::from_secs(rng.random_range(0..=last.since(now).as_secs()));
        // No host precedes this one.
        let start = (start, Host::Onion(OnionAddress::from_public_key([0; 32])));
        queue.range(&start..).chain(queue.range(..&start)).map(|(_, host)| host)
    }

    /// Returns all peers of a route, previously verified ones first.
    pub(super) fn all(&self, route: Route) -> impl Iterator<Item = &Host> {
        ProbeClass::ALL.into_iter().flat_map(move |class| self.0[route].of(class)).map(|(_, host)| host)
    }

    /// Returns the number of peers on a route.
    pub(super) fn len(&self, route: Route) -> usize {
        ProbeClass::ALL.into_iter().map(|class| self.0[route].of(class).len()).sum()
    }
}

impl PathQueue {
    fn of(&self, class: ProbeClass) -> &BTreeSet<(Time, Host)> {
        match class {
            ProbeClass::Known => &self.previously_verified,
            ProbeClass::ClearnetNewcomer => &self.clearnet_candidates,
            ProbeClass::OnionNewcomer => &self.onion_candidates,
        }
    }

    fn of_mut(&mut self, class: ProbeClass) -> &mut BTreeSet<(Time, Host)> {
        match class {
            ProbeClass::Known => &mut self.previously_verified,
            ProbeClass::ClearnetNewcomer => &mut self.clearnet_candidates,
            ProbeClass::OnionNewcomer => &mut self.onion_candidates,
        }
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
    fn longest_due_peer_of_a_class_is_popped_first() {
        let host = |text: &str| text.parse::<Host>().unwrap();
        let (mut queue, class) = (ProbeQueue::default(), ProbeClass::ClearnetNewcomer);
        queue.insert(Route::Direct, Time::from_secs(5), host("b.example"), class);
        queue.insert(Route::Direct, Time::from_secs(3), host("a.example"), class);
        queue.insert(Route::Direct, Time::from_secs(1), host("known.example"), ProbeClass::Known);
        queue.insert(Route::Direct, Time::from_secs(4), host("c.example"), class);
        queue.remove(Route::Direct, Time::from_secs(4), &host("c.example"));
        assert_eq!(queue.next(Route::Direct, class), Some(Time::from_secs(3)));
        assert_eq!(queue.pop_due(Route::Direct, class, Time::from_secs(4)), Some(host("a.example")));
        assert_eq!(queue.pop_due(Route::Direct, class, Time::from_secs(4)), None);
        assert_eq!(queue.next(Route::Tor, class), None);
        assert_eq!(queue.pop_due(Route::Direct, ProbeClass::Known, Time::from_secs(4)), Some(host("known.example")));
    }
}
