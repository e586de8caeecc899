//! Endpoints at which a peer was verified.
//!
//! A peer claims its ports, and a claim is free. Only endpoints that Waypost reached are advertised. Regular visits dial
//! one endpoint, so the others get their turn within [`MAX_AGE`].

use std::time::Duration;

use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use crate::clock::Time;
use crate::peer::{Port, Ports, Transport};

/// Maximum age of a success for which an endpoint is advertised. The peer itself is verified more recently.
///
/// Four regular visits take place in that time, so checks of a second endpoint add no visits.
const MAX_AGE: Duration = Duration::from_hours(72);

/// Age at which an endpoint is dialled first. It leaves time for a second try at the next regular visit.
const RECHECK_AGE: Duration = Duration::from_hours(36);

/// Age of a success after which a visit is no longer the extra one for the other endpoint.
const EXTRA_VISIT_WITHIN: Duration = Duration::from_hours(1);

/// One in so many regular visits dials a never-reached endpoint first.
const UNREACHED_FIRST_IN: u32 = 4;

/// Last success at an endpoint of each transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ReachedEndpoints {
    tcp: Option<(Port, Time)>,
    tls: Option<(Port, Time)>,
}

impl ReachedEndpoints {
    /// Records a success, and drops endpoints that were not reached for long.
    pub fn record(&mut self, (transport, port): (Transport, Port), now: Time) {
        *self.slot(transport) = Some((port, now));
        self.retain(|_| true, now);
    }

    /// Drops an endpoint that failed while another endpoint of the peer answered.
    pub fn remove(&mut self, (transport, port): (Transport, Port)) {
        self.slot(transport).take_if(|(reached, _)| *reached == port);
    }

    /// Drops endpoints that are not kept, and those that were not reached for long.
    pub(super) fn retain(&mut self, keep: impl Fn((Transport, Port)) -> bool, now: Time) {
        for (transport, slot) in [(Transport::Tcp, &mut self.tcp), (Transport::Tls, &mut self.tls)] {
            slot.take_if(|(port, at)| !keep((transport, *port)) || now.since(*at) > MAX_AGE);
        }
    }

    /// Returns the reached ports; `None` if there are none.
    pub fn ports(&self) -> Option<Ports> {
        Ports::new(self.port(Transport::Tcp), self.port(Transport::Tls))
    }

    /// Returns the reached port of a transport; `None` if there is none.
    pub fn port(&self, transport: Transport) -> Option<Port> {
        match transport {
            Transport::Tcp => self.tcp.map(|(port, _)| port),
            Transport::Tls => self.tls.map(|(port, _)| port),
        }
    }

    /// Returns the reached endpoints with the times of their last success, TLS first.
    pub fn iter(&self) -> impl Iterator<Item = ((Transport, Port), Time)> + use<> {
        let slots = [(Transport::Tls, self.tls), (Transport::Tcp, self.tcp)];
        slots.into_iter().filter_map(|(transport, slot)| slot.map(|(port, at)| ((transport, port), at)))
    }

    /// Returns whether an endpoint was not reached, or so long ago that it should be dialled again.
    pub(super) fn needs_check(&self, endpoint: (Transport, Port), now: Time) -> bool {
        self.reached_at(endpoint).is_none_or(|at| now.since(at) > RECHECK_AGE)
    }

    /// Returns whether the peer was verified at this endpoint.
    pub fn contains(&self, endpoint: (Transport, Port)) -> bool {
        self.reached_at(endpoint).is_some()
    }

    /// Corrects times in the future.
    pub(super) fn correct_times(&mut self, now: Time) {
        for (_, at) in [&mut self.tcp, &mut self.tls].into_iter().flatten() {
            *at = (*at).min(now);
        }
    }

    /// Sorts the endpoints of a peer into dial order, from an order by preference.
    pub(super) fn sort(&self, endpoints: &mut [(Transport, Port)], now: Time, rng: &mut (impl Rng + ?Sized)) {
        endpoints.sort_by_key(|endpoint| !self.contains(*endpoint));
        let Some(first) = self.next_to_check(endpoints, now, rng) else { return };
        endpoints.sort_by_key(|endpoint| *endpoint != first);
    }

    /// Returns the endpoint whose state should be found out; `None` if the preferred one is dialled.
    fn next_to_check(
        &self,
        endpoints: &[(Transport, Port)],
        now: Time,
        rng: &mut (impl Rng + ?Sized),
    ) -> Option<(Transport, Port)> {
        let reached = || endpoints.iter().filter_map(|endpoint| Some((self.reached_at(*endpoint)?, *endpoint)));
        let (oldest, endpoint) = reached().min()?;
        let (newest, _) = reached().max()?;
        if now.since(oldest) > RECHECK_AGE {
            return Some(endpoint);
        }
        let unreached = endpoints.iter().copied().find(|endpoint| !self.contains(*endpoint))?;
        let is_extra_visit = now.since(newest) <= EXTRA_VISIT_WITHIN;
        (is_extra_visit || rng.random_ratio(1, UNREACHED_FIRST_IN)).then_some(unreached)
    }

    fn reached_at(&self, (transport, port): (Transport, Port)) -> Option<Time> {
        let slot = match transport {
            Transport::Tcp => self.tcp,
            Transport::Tls => self.tls,
        };
        slot.filter(|(reached, _)| *reached == port).map(|(_, at)| at)
    }

    fn slot(&mut self, transport: Transport) -> &mut Option<(Port, Time)> {
        match transport {
            Transport::Tcp => &mut self.tcp,
            Transport::Tls => &mut self.tls,
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    const START: Time = Time::from_secs(1_700_000_000);

    fn endpoint(transport: Transport, port: u16) -> (Transport, Port) {
        (transport, Port::new(port).unwrap())
    }

    #[test]
    fn second_endpoint_stays_reached_over_regular_visits() {
        let both = [endpoint(Transport::Tls, 50002), endpoint(Transport::Tcp, 50001)];
        let (mut reached, mut rng, mut now) = (ReachedEndpoints::default(), StdRng::seed_from_u64(7), START);
        let mut visits = [0, 0];
        for visit in 0..400 {
            let mut order = both;
            reached.sort(&mut order, now, &mut rng);
            reached.record(order[0], now);
            visits[usize::from(order[0] == both[1])] += 1;
            assert!(visit == 0 || reached.ports().unwrap().iter().count() == 2, "{visit}");
            now = now + if visit == 0 { Duration::from_mins(5) } else { Duration::from_hours(17) };
        }
        assert!(visits[1] > 100 && visits[1] < 220, "{visits:?}");
    }

    #[test]
    fn failed_endpoint_is_dropped_and_seldom_dialled_first() {
        let (open, closed) = (endpoint(Transport::Tls, 50002), endpoint(Transport::Tcp, 50001));
        let (mut reached, mut rng) = (ReachedEndpoints::default(), StdRng::seed_from_u64(7));
        reached.record(closed, START);
        reached.record(open, START);
        reached.remove(endpoint(Transport::Tcp, 7));
        assert_eq!(reached.ports().unwrap().iter().count(), 2, "another port failed");
        reached.remove(closed);
        assert_eq!(reached.ports(), Some(Ports::single(open.0, open.1)));
        let now = START + Duration::from_hours(17);
        let is_first = |rng: &mut StdRng| {
            let mut order = [closed, open];
            reached.sort(&mut order, now, rng);
            order[0] == closed
        };
        assert!((200..300).contains(&(0..1000).filter(|_| is_first(&mut rng)).count()));
    }
}
