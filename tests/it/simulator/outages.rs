//! Outages of the local network and of Tor, and what the book learns about them.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, RngExt};
use waypost::clock::Time;
use waypost::route::Route;
use waypost::tor_state::TorProbe;

/// How an outage looks from inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// What is sent vanishes.
    BlackHole,
    /// Every attempt fails at once.
    NoRoute,
    /// Tor alone: its watcher sees it go and come back.
    Said,
    /// Tor alone: it takes connections and reaches nothing.
    Unsaid,
    /// Tor alone: it says that it starts, and when it is ready.
    Restarting,
}

#[derive(Debug, Clone, Copy)]
pub struct Outage {
    pub via: Route,
    pub from: Time,
    pub until: Time,
    pub manner: Manner,
}

#[derive(Debug)]
pub struct Calendar {
    pub outages: Vec<Outage>,
    /// No two of one way overlap.
    direct: Vec<(Time, Time)>,
    tor: Vec<(Time, Time)>,
}

impl Calendar {
    /// Outages of minutes, hours and days, and one of more than fourteen days on one of the ways.
    pub fn new(start: Time, days: u64, rng: &mut StdRng) -> Calendar {
        let hours = |hours: u64| Duration::from_hours(hours);
        let mut outages = Vec::new();
        let mut add = |via, day: u64, long: Duration, rng: &mut StdRng| {
            let manner = match (via, rng.random_range(0..3)) {
                (Route::Direct, 0) => Manner::NoRoute,
                (Route::Direct, _) => Manner::BlackHole,
                (Route::Tor, 0) => Manner::Said,
                (Route::Tor, 1) => Manner::Unsaid,
                (Route::Tor, _) => Manner::Restarting,
            };
            let from = start + hours(day * 24) + Duration::from_secs(rng.random_range(0..20 * 3600));
            if from + long < start + hours(days * 24) {
                outages.push(Outage { via, from, until: from + long, manner });
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
        let spans = |ways: &[Route]| {
            let mut spans: Vec<(Time, Time)> =
                outages.iter().filter(|o| ways.contains(&o.via)).map(|o| (o.from, o.until)).collect();
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
        // Tor needs our network.
        let (direct, tor) = (spans(&[Route::Direct]), spans(&Route::ALL));
        Calendar { outages, direct, tor }
    }

    /// The outage on this way now.
    pub fn down(&self, via: Route, at: Time) -> Option<Manner> {
        let now = |outage: &&Outage| outage.from <= at && at < outage.until;
        let direct = self.outages.iter().filter(|outage| outage.via == Route::Direct).find(now);
        let own = self.outages.iter().filter(|outage| outage.via == via).find(now);
        own.or(direct).map(|outage| outage.manner)
    }

    /// When an outage begins in this time.
    pub fn breaks(&self, via: Route, from: Time, until: Time) -> Option<Time> {
        self.spans(via).iter().map(|span| span.0).find(|begin| *begin > from && *begin <= until)
    }

    /// The outage that holds this moment, if there is one.
    pub fn span(&self, via: Route, at: Time) -> Option<(Time, Time)> {
        self.spans(via).iter().copied().find(|(from, until)| *from <= at && at < *until)
    }

    /// Whether the way worked throughout.
    pub fn worked(&self, via: Route, from: Time, until: Time) -> bool {
        !self.spans(via).iter().any(|span| span.0 <= until && span.1 >= from)
    }

    /// For how long of this time the way worked.
    pub fn uptime(&self, via: Route, from: Time, until: Time) -> Duration {
        let down: Duration = self.spans(via).iter().map(|span| span.1.min(until).since(span.0.max(from))).sum();
        until.since(from).saturating_sub(down)
    }

    /// What the watcher of Tor sees, and when.
    pub fn signs(&self, start: Time, rng: &mut impl Rng) -> Vec<(Time, TorProbe)> {
        let mut signs = vec![(start, TorProbe::Reachable)];
        for outage in self.outages.iter().filter(|outage| outage.via == Route::Tor) {
            let Outage { from, until, manner, .. } = *outage;
            let soon = Duration::from_secs(rng.random_range(1..30));
            match manner {
                Manner::Said => {
                    signs.push((from + soon, TorProbe::Unavailable { reason: "nothing answers".to_owned() }));
                    signs.push((until + soon, TorProbe::Reachable));
                }
                Manner::Restarting => {
                    let starting = |percent| TorProbe::Starting { percent, waits_for: "a bridge".to_owned() };
                    signs.push((from + soon, starting(10)));
                    signs.push((from + soon * 2, starting(45)));
                    // It can't be ready while our own network is down.
                    let until = self.span(Route::Tor, until).map_or(until, |span| span.1);
                    signs.push((until + soon, TorProbe::Reachable));
                }
                Manner::Unsaid | Manner::BlackHole | Manner::NoRoute => {}
            }
        }
        signs
    }

    fn spans(&self, via: Route) -> &[(Time, Time)] {
        match via {
            Route::Direct => &self.direct,
            Route::Tor => &self.tor,
        }
    }
}
