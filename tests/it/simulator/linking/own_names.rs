//! Tricks with the own names of the nodes: which list omits a name, and when a name is first announced.

use std::time::Duration;

use rand::seq::IteratorRandom;
use waypost::book::{Event, Ingress};
use waypost::connect::{ProbeError, ProbeTarget};
use waypost::peer::{Host, PeerListEntry};

use super::{MINUTE, START, Scores, Simulation, address, name};

/// Number of servers that list the name of a node soon after it became reachable.
const LISTING_SERVERS: usize = 15;

/// Interval between two samples of the lists, in minutes.
const SAMPLE_INTERVAL: usize = 60;

/// How often each list contains each name of the other kind.
pub(super) struct OwnNames {
    samples: f64,
    /// Samples in which the list of an onion side has the clearnet name of a node.
    clearnet_names: Vec<Vec<f64>>,
    /// Samples in which the list of a clearnet side has the onion name of a node.
    onion_names: Vec<Vec<f64>>,
}

impl OwnNames {
    pub(super) fn new(nodes: usize) -> OwnNames {
        let zero = vec![vec![0.0; nodes]; nodes];
        OwnNames { samples: 0.0, clearnet_names: zero.clone(), onion_names: zero }
    }

    /// Counts the names in the lists, once they had a day to spread.
    pub(super) fn sample(&mut self, simulation: &Simulation, minute: usize) {
        if minute < 2 * 1440 || !minute.is_multiple_of(SAMPLE_INTERVAL) {
            return;
        }
        self.samples += 1.0;
        for (number, node) in simulation.nodes.iter().enumerate() {
            for (other, named) in simulation.nodes.iter().enumerate() {
                let [clearnet, onion] = &named.names;
                let lists =
                    |ingress, host| node.side(ingress).lists.get(&ingress).is_some_and(|list| list.contains(host));
                self.clearnet_names[number][other] += f64::from(u8::from(lists(Ingress::Onion, clearnet)));
                self.onion_names[other][number] += f64::from(u8::from(lists(Ingress::Clearnet, onion)));
            }
        }
    }

    /// Compares how often a list has a name with how often the other lists have it.
    pub(super) fn score(&self, scores: &mut Scores) {
        let nodes = self.clearnet_names.len();
        let share = |counts: &[Vec<f64>], onion: usize, clearnet: usize| counts[onion][clearnet] / self.samples;
        let listed = (0..nodes).flat_map(|a| (0..nodes).map(move |b| (a, b))).filter(|(a, b)| a != b);
        let mean = |counts: &[Vec<f64>]| {
            listed.clone().map(|(a, b)| share(counts, a, b)).sum::<f64>() / (nodes * (nodes - 1)) as f64
        };
        println!(
            "a clearnet name of another node is in {:.2} of the onion lists, an onion name in {:.2} of the clearnet lists",
            mean(&self.clearnet_names),
            mean(&self.onion_names)
        );
        let own = |counts: &[Vec<f64>]| (0..nodes).map(|node| share(counts, node, node)).sum::<f64>() / nodes as f64;
        println!(
            "the own clearnet name is in {:.2} of the onion lists, the own onion name in {:.2} of the clearnet lists",
            own(&self.clearnet_names),
            own(&self.onion_names)
        );
        for onion in 0..nodes {
            for clearnet in 0..nodes {
                let others = |at: &dyn Fn(usize) -> f64, own: usize| {
                    (0..nodes).filter(|node| *node != own).map(at).sum::<f64>() / (nodes - 1) as f64
                };
                let here = share(&self.clearnet_names, onion, clearnet);
                let elsewhere = others(&|other| share(&self.clearnet_names, other, clearnet), onion);
                let reverse_here = share(&self.onion_names, onion, clearnet);
                let reverse_elsewhere = others(&|other| share(&self.onion_names, onion, other), clearnet);
                let missing = elsewhere - here + reverse_elsewhere - reverse_here;
                scores.add("own name missing", onion, clearnet, missing);
                scores.add("own name ever present", onion, clearnet, -missing);
            }
        }
    }
}

impl Simulation {
    /// Reports the own names to the books as reachable, and spreads them among the servers.
    pub(super) fn report_own_names(&mut self, minute: usize) {
        for node in 0..self.nodes.len() {
            let first = self.nodes[node].reachable_from.since(START).as_secs() / 60;
            let Some(age) = minute.checked_sub(usize::try_from(first).unwrap() + 1) else { continue };
            if age % 60 == 0 {
                for host in self.nodes[node].names.clone() {
                    if host.is_onion() && !self.nodes[node].is_tor_up {
                        continue;
                    }
                    let ingress = Ingress::of(&host);
                    let side = self.nodes[node].sides.iter().position(|(of, _)| of.contains(&ingress)).unwrap();
                    let ip = (!host.is_onion()).then(|| address(&host));
                    let listed = Box::new(PeerListEntry { ip, name: name(&host) });
                    self.handle(node, side, Event::SelfReachable(listed));
                }
            }
            if age == 60 {
                for host in self.nodes[node].names.clone() {
                    let mut servers: Vec<_> = self.servers.iter_mut().collect();
                    servers.sort_by(|a, b| a.0.cmp(b.0));
                    for (_, server) in servers.into_iter().sample(&mut self.rng, LISTING_SERVERS) {
                        server.lists.push(host.clone());
                    }
                }
            }
        }
    }

    /// Returns the list that a node serves under this name, or its failure; `None` if the host is no node.
    pub(super) fn list_of_own_name(&self, host: &Host) -> Option<Result<Vec<Host>, ProbeError>> {
        let node = self.nodes.iter().find(|node| node.names.contains(host))?;
        if self.now < node.reachable_from || (host.is_onion() && !node.is_tor_up) {
            return Some(Err(ProbeError::Timeout));
        }
        let ingress = Ingress::of(host);
        Some(Ok(node.side(ingress).lists.get(&ingress).into_iter().flatten().cloned().collect()))
    }

    /// Records the first announcement of each name to a server of the observer's.
    pub(super) fn observe_announcement(&mut self, node: usize, target: &ProbeTarget) {
        if target.announce.is_some() && self.servers.get(&target.host).is_some_and(|server| server.is_observers) {
            self.announced.entry((node, Ingress::of(&target.host))).or_insert(self.now);
        }
    }

    /// Pairs the onion side with the clearnet side that was first announced shortly before.
    pub(super) fn score_announcements(&mut self) {
        let never = START + MINUTE * u32::try_from(self.extent.minutes()).unwrap();
        let first = |node, ingress| self.announced.get(&(node, ingress)).copied().unwrap_or(never);
        for onion in 0..self.extent.nodes {
            let at = first(onion, Ingress::Onion);
            for clearnet in 0..self.extent.nodes {
                let before = first(clearnet, Ingress::Clearnet);
                // Within a burst either side may come first.
                let gap = if before > at + Duration::from_mins(10) {
                    never.since(START)
                } else {
                    at.since(before).max(before.since(at))
                };
                self.scores.add("first announcements", onion, clearnet, -gap.as_secs_f64());
            }
        }
    }
}
