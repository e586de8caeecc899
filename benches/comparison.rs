//! Servers that are measured in turn under the same loads, and the tables of the results.

use std::time::Duration;

use crate::load_generator::{self, Figures, Load, Target};
use crate::support::cpu_time;
use crate::table::{FigureTable, figure};

const ROUNDS: usize = 9;

/// Server under test.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub name: &'static str,
    pub target: Target,
    /// Process whose processor time is measured. `None`: not measured.
    pub pid: Option<u32>,
}

/// Results of the same servers under several loads. Waypost is the first server.
#[derive(Debug)]
pub(crate) struct Comparison {
    /// Subject of the captions.
    subject: String,
    /// Header of the column with the names of the loads.
    load_header: &'static str,
    rows: Vec<(String, Vec<Results>)>,
}

/// Medians of a server's results in all rounds with one load.
#[derive(Debug)]
struct Results {
    name: &'static str,
    rate: f64,
    p50: f64,
    p99: f64,
    /// Processor time per response in microseconds. `None`: not measured.
    cost: Option<f64>,
    /// Rate of Waypost divided by that of this server in the same round.
    ratio: f64,
}

impl Comparison {
    pub(crate) fn new(subject: &str, load_header: &'static str) -> Comparison {
        Comparison { subject: subject.to_owned(), load_header, rows: Vec::new() }
    }

    /// Measures the servers in turn, so that changes of the machine's speed affect all of them.
    pub(crate) fn measure(&mut self, load_name: &str, servers: &[Server], load: &Load) {
        eprintln!("{}: {load_name}", self.subject);
        let mut rounds: Vec<Vec<Figures>> = vec![Vec::new(); servers.len()];
        let mut costs = vec![Duration::ZERO; servers.len()];
        for _ in 0..ROUNDS {
            for ((server, figures), cost) in servers.iter().zip(&mut rounds).zip(&mut costs) {
                let used = || server.pid.map_or(Duration::ZERO, cpu_time);
                let before = used();
                figures.push(load_generator::run(&server.target, load));
                *cost += used() - before;
            }
        }
        let results = servers.iter().zip(&rounds).zip(costs).map(|((server, figures), cost)| {
            let responses: f64 = figures.iter().map(|round| round.rate * load.time.as_secs_f64()).sum();
            Results {
                name: server.name,
                rate: median(figures.iter().map(|round| round.rate)),
                p50: median(figures.iter().map(|round| round.p50)),
                p99: median(figures.iter().map(|round| round.p99)),
                cost: server.pid.map(|_| cost.as_secs_f64() * 1e6 / responses),
                ratio: median(rounds[0].iter().zip(figures).map(|(waypost, other)| waypost.rate / other.rate)),
            }
        });
        self.rows.push((load_name.to_owned(), results.collect()));
    }

    /// Prints a table of rates, and one of response times and processor time.
    pub(crate) fn print(&self) {
        let servers = &self.rows[0].1;
        let ratios = servers.iter().skip(1).map(|other| format!("Waypost / {}", other.name));
        let rates = servers.iter().map(|server| format!("{}, per second", server.name));
        let mut table = FigureTable::new(
            &format!("{}, responses per second", self.subject),
            std::iter::once(self.load_header.to_owned()).chain(rates).chain(ratios),
        );
        for (load_name, results) in &self.rows {
            let rates = results.iter().map(|server| figure(server.rate));
            let ratios = results.iter().skip(1).map(|other| figure(other.ratio));
            table.add_row(std::iter::once(load_name.clone()).chain(rates).chain(ratios));
        }
        table.print();

        let latencies = servers.iter().map(|server| format!("{} p50 / p99, ms", server.name));
        let measured = || servers.iter().filter(|server| server.cost.is_some());
        let costs = measured().map(|server| format!("{}, µs", server.name));
        let ratios = measured().skip(1).map(|other| format!("µs, Waypost / {}", other.name));
        let and_cost = if measured().count() == 0 { "" } else { ", and processor time per response" };
        let mut table = FigureTable::new(
            &format!("{}, response times{and_cost}", self.subject),
            std::iter::once(self.load_header.to_owned()).chain(latencies).chain(costs).chain(ratios),
        );
        for (load_name, results) in &self.rows {
            let latencies = results.iter().map(|server| format!("{} / {}", figure(server.p50), figure(server.p99)));
            let costs: Vec<f64> = results.iter().filter_map(|server| server.cost).collect();
            let ratios = costs.iter().skip(1).map(|other| figure(costs[0] / other));
            let figures = costs.iter().map(|cost| figure(*cost));
            table.add_row(std::iter::once(load_name.clone()).chain(latencies).chain(figures).chain(ratios));
        }
        table.print();
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
