//! Attacks on the book, and the shares of peer lists that they gain.
//!
//! `SIM_SEED=1` repeats a run. `SIM_FULL=1` runs 10,000 onion names for sixty days, best with `--release`.
//! `SIM_ATTACK=Vanish` runs one strategy. `SIM_MAP=0` runs without a map of autonomous systems.

mod adversary;
mod engine;
mod measures;
mod replies;
mod strategy;
mod targets;
mod world;

use engine::Engine;
use strategy::Strategy;
use targets::Targets;
use world::Scale;

use super::wall_clock;

/// Sizes of an ordinary run of the tests.
const SMALL: Scale = Scale { days: 10, onions: 600, ipv6_hosts: 600, has_map: true };
const FULL: Scale = Scale { days: 60, onions: 10_000, ipv6_hosts: 3_000, has_map: true };

#[test]
fn attackers_gain_limited_shares() {
    let full = std::env::var_os("SIM_FULL").is_some_and(|full| full == "1");
    let has_map = std::env::var_os("SIM_MAP").is_none_or(|map| map != "0");
    let scale = Scale { has_map, ..if full { FULL } else { SMALL } };
    // The limits are for the worst sample of a run, so an ordinary run always has the same seed.
    let seed = std::env::var("SIM_SEED").map_or(1, |seed| seed.parse().unwrap());
    println!("{scale:?}, SIM_SEED={seed}");
    println!("{}", targets::HEADER);
    let mut table = targets::table(has_map);
    let chosen = std::env::var("SIM_ATTACK").ok();
    let is_chosen = |strategy: &Strategy| chosen.as_deref().is_none_or(|name| format!("{strategy:?}") == name);
    for strategy in Strategy::ALL.into_iter().filter(is_chosen) {
        let start = wall_clock();
        let mut engine = Engine::new(strategy, scale, seed);
        engine.run();
        let duration = start.elapsed();
        println!("{}", targets::row(strategy, scale, &engine, duration));
        table.add_row(targets::figures(strategy, &engine, duration));
        if has_map {
            Targets::of(strategy).check(strategy, &engine);
        }
    }
    table.print();
}
