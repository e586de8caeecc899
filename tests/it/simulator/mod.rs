//! Simulation of the book for months of virtual time among thousands of peers, honest and hostile.
//!
//! `SIM_SEED=1` repeats a run. `SIM_FULL=1` runs ten thousand peers for sixty days, best with `--release`.
mod attackers;
mod checks;
mod clients;
mod invariants;
mod linking;
mod network_model;
mod outages;
mod run;

use std::hash::{BuildHasher, RandomState};
use std::time::Instant;

use run::{Run, Size};

use crate::support::memory_bytes;
use crate::table::{FigureTable, count, figure};

#[test]
fn filled_book_keeps_invariants_for_months() {
    let full = std::env::var_os("SIM_FULL").is_some_and(|full| full == "1");
    let size = match full {
        true => Size { peers: 10_000, days: 60, filled: true, attack: 65 },
        false => Size { peers: 1_500, days: 40, filled: true, attack: 600 },
    };
    simulate(size, seed());
}

#[test]
fn book_grows_from_seeds() {
    simulate(Size { peers: 300, days: 40, filled: false, attack: 600 }, seed());
}

#[test]
fn fixed_seeds_keep_passing() {
    for seed in [1, 2] {
        simulate(Size { peers: 120, days: 40, filled: seed == 1, attack: 600 }, seed);
    }
}

fn simulate(size: Size, seed: u64) {
    println!("{size:?}, SIM_SEED={seed}");
    let start = wall_clock();
    let mut run = Run::new(size, seed);
    run.run();
    run.check_final_state();
    let duration = start.elapsed();
    let final_state = run.final_state();
    let counts = run.book.counts(run.now);
    println!("  {counts:?}");
    println!(
        "  {final_state:?}, false alarms: {}, failures counted at the start of outages: {}",
        run.false_alarms, run.invariants.counted_at_outage_start
    );
    println!("  {:?}", run.invariants.peaks);
    let mut table = FigureTable::new(
        "Simulated days, and the memory of the test program",
        ["peers", "days", "events", "verifications", "time, s", "maximum memory, MB"],
    );
    #[expect(clippy::cast_precision_loss, reason = "printed only")]
    let memory = memory_bytes(std::process::id(), "VmHWM:") as f64 / 1e6;
    table.add_row([
        count(size.peers as u64),
        count(size.days),
        count(run.events),
        count(run.invariants.probes),
        figure(duration.as_secs_f64()),
        figure(memory),
    ]);
    table.print();
}

/// Returns `SIM_SEED`, or a random seed.
fn seed() -> u64 {
    match std::env::var("SIM_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => RandomState::new().hash_one(0) % 1_000_000_000,
    }
}

#[expect(clippy::disallowed_methods, reason = "the duration of the run is printed")]
fn wall_clock() -> Instant {
    Instant::now()
}
