//! Outages of the local network and of Tor, and the Tor probes that report them.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, RngExt};
use waypost::clock::Time;
use waypost::route::Route;
use waypost::tor_state::TorProbe;

/// Symptoms of an outage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OutageKind {
    /// Packets are lost.
    BlackHole,
    /// Every attempt fails at once.
    NoRoute,
    /// Tor only: the SOCKS monitor reports begin and end.
    Reported,
    /// Tor only: Tor accepts connections and reaches no peer.
    Unreported,
    /// Tor only: Tor reports that it is starting, and later ready.
    Restarting,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Outage {
    pub via: Route,
    pub from: Time,
    pub until: Time,
    pub kind: OutageKind,
}

#[derive(Debug)]
pub(super) struct OutageSchedule {
    pub outages: Vec<Outage>,
    /// Disjoint spans per route.
    direct: Vec<(Time, Time)>,
    tor: Vec<(Time, Time)>,
}

impl OutageSchedule {
    /// Draws outages of minutes to days, and one of more than fourteen days on one route.
    pub(super) fn new(start: Time, days: u64, rng: &mut StdRng) -> OutageSchedule {
        let hours = |hours: u64| Duration::from_hours(hours);
        let mut outages = Vec::new();
        let mut add = |via, day: u64, long: Duration, rng: &mut StdRng| {
            let kind = match (via, rng.random_range(0..3)) {
                (Route::Direct, 0) => OutageKind::NoRoute,
                (Route::Direct, _) => OutageKind::BlackHole,
                (Route::Tor, 0) => OutageKind::Reported,
                (Route::Tor, 1) => OutageKind::Unreported,
                (Route::Tor, _) => OutageKind::Restarting,
            };
            let from = start + hours(day * 24) + Duration::from_secs(rng.random_range(0..20 * 3600));
            if from + long < start + hours(days * 24) {
                outages.push(Outage { via, from, until: from + long, kind });
            }
        };
        let long = hours(24 * 14 + rng.random_range(6..24));
        let via = if rng.random() { Route::Direct } else { Route::Tor };
        add(via, 4, long, rng);
        add(Route::Direct, 1, hours(rng.random_range(1..5)), rng);
        add(Route::Tor, 2, hours(rng.random_range(1..12)), rng);
        let mut day = 20;
        while day + 4 < days {
            let short = Duration::from_mins(rng.random_range(10..180));
            add(Route::Direct, day, short, rng);
            add(Route::Tor, day, Duration::from_mins(rng.random_range(10..600)), rng);
            let some = hours(rng.random_range(5..60));
            add(if rng.random() { Route::Direct } else { Route::Tor }, day + 1, some, rng);
            day += 9;
        }
        let spans = |routes: &[Route]| {
            let mut spans: Vec<(Time, Time)> =
                outages.iter().filter(|o| routes.contains(&o.via)).map(|o| (o.from, o.until)).collect();
            spans.sort_unstable();
            let mut merged: Vec<(Time, Time)> = Vec::new();
            for (from, until) in spans {
                match merged.last_mut() {
                    Some(last) if last.1 >= from => last.1 = last.1.max(until),
                    _ => merged.push((from, until)),
                }
            }
            merged
        };
        // Tor needs the local network.
        let (direct, tor) = (spans(&[Route::Direct]), spans(&Route::ALL));
        OutageSchedule { outages, direct, tor }
    }

    /// Returns the kind of the current outage on a route.
    pub(super) fn down(&self, via: Route, at: Time) -> Option<OutageKind> {
        let now = |outage: &&Outage| outage.from <= at && at < outage.until;
        let direct = self.outages.iter().filter(|outage| outage.via == Route::Direct).find(now);
        let own = self.outages.iter().filter(|outage| outage.via == via).find(now);
        own.or(direct).map(|outage| outage.kind)
    }

    /// Returns the start of the first outage within a period.
    pub(super) fn first_outage_in(&self, via: Route, from: Time, until: Time) -> Option<Time> {
        self.spans(via).iter().map(|span| span.0).find(|begin| *begin > from && *begin <= until)
    }

    /// Returns the span of the outage at a time.
    pub(super) fn span(&self, via: Route, at: Time) -> Option<(Time, Time)> {
        self.spans(via).iter().copied().find(|(from, until)| *from <= at && at < *until)
    }

    /// Tells whether the route worked throughout a period.
    pub(super) fn worked(&self, via: Route, from: Time, until: Time) -> bool {
        !self.spans(via).iter().any(|span| span.0 <= until && span.1 >= from)
    }

    /// Returns the time within a period during which the route worked.
    pub(super) fn uptime(&self, via: Route, from: Time, until: Time) -> Duration {
        let down: Duration = self.spans(via).iter().map(|span| span.1.min(until).since(span.0.max(from))).sum();
        until.since(from).saturating_sub(down)
    }

    /// Returns the results of the SOCKS monitor with their times.
    pub(super) fn tor_probes(&self, start: Time, rng: &mut impl Rng) -> Vec<(Time, TorProbe)> {
        let mut tor_probes = vec![(start, TorProbe::Reachable)];
        for outage in self.outages.iter().filter(|outage| outage.via == Route::Tor) {
            let Outage { from, until, kind, .. } = *outage;
            let soon = Duration::from_secs(rng.random_range(1..30));
            match kind {
                OutageKind::Reported => {
                    tor_probes.push((from + soon, TorProbe::Unavailable { reason: "nothing answers".to_owned() }));
                    tor_probes.push((until + soon, TorProbe::Reachable));
                }
                OutageKind::Restarting => {
                    let starting = |percent| TorProbe::Starting { percent, waiting_for: "a bridge".to_owned() };
                    tor_probes.push((from + soon, starting(10)));
                    tor_probes.push((from + soon * 2, starting(45)));
                    // Tor cannot be ready while the local network is down.
                    let until = self.span(Route::Tor, until).map_or(until, |span| span.1);
                    tor_probes.push((until + soon, TorProbe::Reachable));
                }
                OutageKind::Unreported | OutageKind::BlackHole | OutageKind::NoRoute => {}
            }
        }
        tor_probes
    }

    fn spans(&self, via: Route) -> &[(Time, Time)] {
        match via {
            Route::Direct => &self.direct,
            Route::Tor => &self.tor,
        }
    }
}
