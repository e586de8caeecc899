//! Queue of peers by the time of their next probe.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::{Rng, RngExt};

use crate::backoff::Backoff;
use crate::clock::Time;
use crate::peer::Host;
use crate::route::Route;

/// Peers by due time on each route.
///
/// Previously verified peers go first, so that names from untrusted sources can't displace them.
#[derive(Debug, Default)]
pub struct ProbeQueue {
    ways: [PathQueue; 2],
}

#[derive(Debug, Default)]
struct PathQueue {
    previously_verified: BTreeSet<(Time, Host)>,
    unproven: BTreeSet<(Time, Host)>,
}

impl ProbeQueue {
    pub fn insert(&mut self, via: Route, at: Time, host: Host, proven: bool) {
        let way = self.way_mut(via);
        let line = if proven { &mut way.previously_verified } else { &mut way.unproven };
        line.insert((at, host));
    }

    pub fn remove(&mut self, via: Route, at: Time, host: &Host) {
        let way = self.way_mut(via);
        let place = (at, host.clone());
        if !way.unproven.remove(&place) {
            way.previously_verified.remove(&place);
        }
    }

    /// Returns when the next peer is due.
    pub fn next(&self, via: Route) -> Option<Time> {
        let PathQueue { previously_verified: proven, unproven } = self.way(via);
        [proven, unproven].into_iter().filter_map(|line| line.first().map(|(at, _)| *at)).min()
    }

    /// Takes out the one that goes first of those that are due.
    pub fn pop_due(&mut self, via: Route, now: Time) -> Option<Host> {
        let PathQueue { previously_verified: proven, unproven } = self.way_mut(via);
        let due = |line: &BTreeSet<(Time, Host)>| line.first().is_some_and(|(at, _)| *at <= now);
        let line = [proven, unproven].into_iter().find(|line| due(line))?;
        line.pop_first().map(|(_, host)| host)
    }

    /// Those on one way that were verified before, the next in turn first.
    pub fn previously_verified(&self, via: Route) -> impl Iterator<Item = &Host> {
        self.way(via).previously_verified.iter().map(|(_, host)| host)
    }

    pub fn all(&self, via: Route) -> impl Iterator<Item = &Host> {
        let PathQueue { previously_verified: proven, unproven } = self.way(via);
        proven.iter().chain(unproven).map(|(_, host)| host)
    }

    pub fn len(&self, via: Route) -> usize {
        let PathQueue { previously_verified: proven, unproven } = self.way(via);
        proven.len() + unproven.len()
    }

    fn way(&self, via: Route) -> &PathQueue {
        let [direct, tor] = &self.ways;
        match via {
            Route::Direct => direct,
            Route::Tor => tor,
        }
    }

    fn way_mut(&mut self, via: Route) -> &mut PathQueue {
        let [direct, tor] = &mut self.ways;
        match via {
            Route::Direct => direct,
            Route::Tor => tor,
        }
    }
}

/// From one success to the next verification: early enough that a few retries fit in before the peer is no longer
/// recent, and spread out, so that nobody can tell from the time of one connection when the next will be.
pub fn after_success(recheck: Duration, recent: Duration, rng: &mut impl Rng) -> Duration {
    recheck.min(recent).mul_f64(rng.random_range(0.6..0.8))
}

/// From the `failures`th failure in a row to the next try: doubling from `retry` up to `recheck`.
pub fn after_failure(failures: u32, retry: Duration, recheck: Duration, rng: &mut impl Rng) -> Duration {
    jittered(Backoff::new(retry, recheck).after(failures), rng)
}

/// About this long.
pub fn jittered(pause: Duration, rng: &mut impl Rng) -> Duration {
    pause.mul_f64(rng.random_range(0.8..1.2))
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
    fn a_good_peer_is_tried_again_while_it_is_recent() {
        let mut rng = StdRng::seed_from_u64(1);
        for _ in 0..1000 {
            let pause = after_success(DAY, DAY, &mut rng);
            // A first retry and four doublings of it fit into what is left of the day.
            assert!(pause + RETRY.mul_f64(1.2) * 31 < DAY, "{pause:?}");
        }
    }

    #[test]
    fn the_queue_gives_out_the_longest_due() {
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
    fn those_verified_before_go_first() {
        let host = |text: &str| text.parse::<Host>().unwrap();
        let mut queue = ProbeQueue::default();
        queue.insert(Route::Direct, Time::from_secs(3), host("a.example"), false);
        queue.insert(Route::Direct, Time::from_secs(5), host("b.example"), true);
        assert_eq!(queue.next(Route::Direct), Some(Time::from_secs(3)));
        assert_eq!(queue.pop_due(Route::Direct, Time::from_secs(6)), Some(host("b.example")));
        assert_eq!(queue.pop_due(Route::Direct, Time::from_secs(6)), Some(host("a.example")));
    }
}
