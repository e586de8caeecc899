//! Limits of what an attack may achieve, and the tables of results.

use std::time::Duration;

use waypost::peer::Host;

use super::engine::Engine;
use super::measures::Shares;
use super::strategy::{Strategy, Trick};
use super::world::Scale;
use crate::table::{FigureTable, figure};

pub(super) const HEADER: &str = "\
    strategy     | clearnet % | ASN % | onion clients % | of onions % | fallback % | backend % | by week %            \
    | bad drop laps lost | least listed % | Tor ready % | false views | probes/day honest other | first 3 | known | s";

/// Limits, as shares.
#[derive(Debug, Clone, Copy)]
pub(super) struct Targets {
    /// Attackers in a list for clearnet clients, with a map of ASNs.
    clearnet: f64,
    /// One ASN of the attacker in a list.
    asn: f64,
    /// Attackers in a list for onion clients.
    onion: f64,
    /// Attackers among fallback onions, on average.
    fallback: f64,
    /// Attackers among backend candidates.
    backend: f64,
}

/// A book with long-standing peers.
const KNOWN_NETWORK: Targets = Targets { clearnet: 0.33, asn: 0.031, onion: 0.2, fallback: 0.2, backend: 0.05 };

/// A book that only knows its seeds when the attack begins. Each network gets one newcomer at first.
const EMPTY_BOOK: Targets = Targets { clearnet: 0.33, asn: 0.031, onion: 0.33, fallback: 0.2, backend: 0.2 };

impl Targets {
    /// Returns the limits for a strategy.
    pub(super) fn of(strategy: Strategy) -> Targets {
        if strategy.plan().has(Trick::EmptyBook) { EMPTY_BOOK } else { KNOWN_NETWORK }
    }

    /// Panics if an attack achieves more than the limits.
    pub(super) fn check(self, strategy: Strategy, engine: &Engine) {
        let found = &engine.measures;
        let shares = [
            ("clearnet lists", found.clearnet.max, self.clearnet),
            ("one ASN", found.asn.max, self.asn),
            ("lists of onion clients", found.onion.max, self.onion),
            ("fallback onions", found.fallback.mean(), self.fallback),
            ("backend candidates", found.backend.max, self.backend),
        ];
        for (what, share, limit) in shares {
            assert!(share <= limit, "{strategy:?}: {what}: {share:.3}, limit {limit}");
        }
        let state = |host: &Host| engine.book.entries().find(|entry| entry.host == *host).map(|entry| entry.violation);
        let bad: Vec<_> = found.bad.iter().map(|host| (host.to_string(), state(host))).collect();
        assert!(bad.is_empty(), "{strategy:?}: honest peers are marked bad: {bad:?}");
        assert!(found.dropped.is_empty(), "{strategy:?}: honest peers are dropped: {:?}", found.dropped);
        let tor_ready = found.tor_ready_on_worst_day();
        assert!(tor_ready >= 0.98, "{strategy:?}: Tor was ready in {tor_ready:.3} of the checks on the worst day");
        assert_eq!(found.false_views, 0, "{strategy:?}: the view of the chain moved");
    }
}

/// Returns the empty table of the figures that `docs/figures.md` has.
pub(super) fn table(has_map: bool) -> FigureTable {
    let map = if has_map { "with an AS map" } else { "without an AS map" };
    FigureTable::new(
        &format!("Share of the attacker {map}, mean / maximum in percent"),
        [
            "attack",
            "clearnet lists",
            "onion clients' lists",
            "fallback onions",
            "candidates for sessions",
            "honest peers marked bad",
            "honest peers dropped",
            "time, s",
        ],
    )
}

/// Returns the row of a run for that table.
pub(super) fn figures(strategy: Strategy, engine: &Engine, took: Duration) -> Vec<String> {
    let found = &engine.measures;
    let shares = [&found.clearnet, &found.onion, &found.fallback, &found.backend];
    let shares = shares.map(|shares| format!("{} / {}", percent(shares.mean()), percent(shares.max)));
    let counts = [&found.bad, &found.dropped].map(|hosts| hosts.len().to_string());
    let name = strategy.description().to_owned();
    std::iter::once(name).chain(shares).chain(counts).chain([figure(took.as_secs_f64())]).collect()
}

fn percent(share: f64) -> String {
    format!("{:.0}", share * 100.0)
}

/// Returns all results of a run as a row below `HEADER`.
pub(super) fn row(strategy: Strategy, scale: Scale, engine: &Engine, took: Duration) -> String {
    let found = &engine.measures;
    let both = |shares: &Shares| format!("{}/{}", percent(shares.mean()), percent(shares.max));
    let weekly: Vec<String> = found.weekly.iter().map(|week| percent(week.mean())).collect();
    let days = u64::from(scale.days);
    format!(
        "{:12} | {:>10} | {:>5.1} | {:>15} | {:>11} | {:>10} | {:>9} | {:20} | {:>3} {:>4} {:>4} {:>4} | {:>14} | {:>11.1} \
         | {:>11} | {:>17} {:>5} | {:>7} | {:>5} | {:.1}",
        format!("{strategy:?}"),
        both(&found.clearnet),
        found.asn.max * 100.0,
        both(&found.onion),
        both(&found.onion_names),
        both(&found.fallback),
        both(&found.backend),
        weekly.join(" "),
        found.bad.len(),
        found.dropped.len(),
        found.lapses,
        found.lost_newcomers(&engine.book, &engine.world, engine.now),
        percent(found.worst_presence()),
        found.tor_ready_on_worst_day() * 100.0,
        found.false_views,
        found.probes.0 / days,
        found.probes.1 / days,
        found.first_three.map_or_else(|| "never".to_owned(), |time| format!("{} s", time.as_secs())),
        found.known,
        took.as_secs_f64(),
    )
}
