//! Growth of the lists: what two books cost the clients of a new node.

use waypost::book::Ingress;

use super::{START, Simulation};

/// Minutes after the start at which the lists are counted.
const SAMPLES: [usize; 5] = [10, 60, 360, 1440, 3 * 1440 - 1];

/// Mean length of the lists of each ingress over time.
#[derive(Default)]
pub(super) struct Growth(Vec<(usize, [f64; 2])>);

impl Growth {
    pub(super) fn sample(&mut self, simulation: &Simulation, minute: usize) {
        if !SAMPLES.contains(&minute) {
            return;
        }
        let mean = |ingress: Ingress| {
            let lengths =
                simulation.nodes.iter().map(|node| node.side(ingress).lists.get(&ingress).map_or(0, |list| list.len()));
            lengths.sum::<usize>() as f64 / simulation.nodes.len() as f64
        };
        self.0.push((minute, Ingress::ALL.map(mean)));
    }

    pub(super) fn print(&self, simulation: &Simulation, books: &str) {
        for ingress in Ingress::ALL {
            let times = simulation.nodes.iter().filter_map(|node| node.side(ingress).third_verified);
            let mut seconds: Vec<f64> = times.map(|time| time.since(START).as_secs_f64()).collect();
            seconds.sort_by(f64::total_cmp);
            let lengths = self.0.iter().map(|(minute, lengths)| {
                let length = lengths[usize::from(ingress == Ingress::Onion)];
                format!("{length:.0} after {minute} min")
            });
            println!(
                "{books}, {ingress:?} list: three peers verified after {:.1} s (median), {:.1} s (slowest); mean length {}",
                seconds[seconds.len() / 2],
                seconds[seconds.len() - 1],
                lengths.collect::<Vec<_>>().join(", ")
            );
        }
    }
}
