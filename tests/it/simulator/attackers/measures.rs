//! What an attack achieves, measured as clients see it.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use rand::rngs::StdRng;
use waypost::book::{Entry, Ingress, PeerBook, Snapshot};
use waypost::chain::Chain;
use waypost::clock::Time;
use waypost::peer::{Host, PeerList};

use super::engine::Engine;
use super::world::{FIRST_ATTACKER_ASN, Owner, Scale, World};

/// Number of clients that get fallback onions in an outage.
const FALLBACK_CLIENTS: usize = 50;

/// Length of a list from which the share of an ASN is limited.
const LONG_LIST: usize = 65;

/// Shares of one quantity over a run.
#[derive(Debug, Clone, Default)]
pub(super) struct Shares {
    sum: f64,
    count: u32,
    pub max: f64,
}

#[derive(Debug)]
pub(super) struct Measures {
    /// End of the warm-up, before which nothing is measured.
    measured_from: Time,
    /// Shares of the attacker in the lists of clearnet clients, and their means by week.
    pub clearnet: Shares,
    pub weekly: Vec<Shares>,
    /// Share of the largest ASN in long lists.
    pub asn: Shares,
    /// Shares of the attacker in the lists of onion clients, and among the onions in them.
    pub onion: Shares,
    pub onion_names: Shares,
    pub fallback: Shares,
    pub backend: Shares,
    /// Lists in which each long-standing honest clearnet server appears, and lists in which it could.
    presence: HashMap<usize, (u32, u32)>,
    /// Honest servers that were marked bad, and verified ones that were dropped.
    pub bad: HashSet<Host>,
    pub dropped: HashSet<Host>,
    /// Honest servers that were long-standing.
    long_standing: HashSet<usize>,
    /// Samples in which one of these was not verified.
    pub lapses: u32,
    /// Checks of each day in which Tor counted as ready, and all checks.
    tor: Vec<(u32, u32)>,
    /// Probes of honest servers and of the attacker's names.
    pub probes: (u64, u64),
    /// Probes that compared another height than the real chain gives.
    pub false_views: u64,
    /// Time to the first three advertised peers; `None` before.
    pub first_three: Option<Duration>,
    /// Greatest number of known peers.
    pub known: usize,
}

impl Shares {
    fn add(&mut self, share: f64) {
        self.sum += share;
        self.count += 1;
        self.max = self.max.max(share);
    }

    pub(super) fn mean(&self) -> f64 {
        self.sum / f64::from(self.count.max(1))
    }
}

impl Measures {
    pub(super) fn new(scale: Scale) -> Measures {
        let day = Duration::from_hours(24);
        Measures {
            measured_from: Engine::START + (day * 3).min(day * scale.days / 3),
            clearnet: Shares::default(),
            weekly: Vec::new(),
            asn: Shares::default(),
            onion: Shares::default(),
            onion_names: Shares::default(),
            fallback: Shares::default(),
            backend: Shares::default(),
            presence: HashMap::new(),
            bad: HashSet::new(),
            dropped: HashSet::new(),
            long_standing: HashSet::new(),
            lapses: 0,
            tor: Vec::new(),
            probes: (0, 0),
            false_views: 0,
            first_three: None,
            known: 0,
        }
    }

    pub(super) fn on_tor_check(&mut self, is_ready: bool, now: Time) {
        let day = usize::try_from(now.since(Engine::START).as_secs() / 86_400).unwrap();
        self.tor.resize(self.tor.len().max(day + 1), (0, 0));
        self.tor[day].0 += u32::from(is_ready);
        self.tor[day].1 += 1;
    }

    pub(super) fn on_probe(&mut self, is_honest: bool, is_real_view: bool) {
        let count = if is_honest { &mut self.probes.0 } else { &mut self.probes.1 };
        *count += 1;
        self.false_views += u64::from(!is_real_view);
    }

    pub(super) fn on_bad(&mut self, host: &Host, world: &World) {
        if world.is_honest(host) {
            self.bad.insert(host.clone());
        }
    }

    pub(super) fn on_removed(&mut self, host: &Host, world: &World) {
        if world.find(host).is_some_and(|at| self.long_standing.contains(&at)) {
            self.dropped.insert(host.clone());
        }
    }

    /// Returns whether three peers were advertised.
    pub(super) fn has_started(&self) -> bool {
        self.first_three.is_some()
    }

    pub(super) fn check_start(&mut self, book: &PeerBook, now: Time, rng: &mut StdRng) {
        if read(&book.snapshot(now, rng), Ingress::Clearnet, now, rng).0.len() >= 3 {
            self.first_three = Some(now.since(Engine::START));
        }
    }

    pub(super) fn sample(&mut self, book: &PeerBook, world: &World, now: Time, rng: &mut StdRng) {
        let entries: HashMap<&Host, &Entry> = book.entries().map(|entry| (&entry.host, entry)).collect();
        self.known = self.known.max(entries.len());
        let honest = &world.servers[..world.honest];
        for (at, server) in honest.iter().enumerate() {
            let entry = entries.get(&server.host);
            if entry.is_some_and(|entry| entry.is_long_standing(now)) {
                self.long_standing.insert(at);
            }
            let max_age = book.config().max_advertised_age;
            let is_verified = entry.is_some_and(|entry| entry.is_healthy(now, max_age));
            self.lapses += u32::from(self.long_standing.contains(&at) && !is_verified);
        }
        if now < self.measured_from {
            return;
        }
        let snapshot = book.snapshot(now, rng);
        let is_attacker = |host: &Host| !world.is_honest(host);
        let clearnet = read(&snapshot, Ingress::Clearnet, now, rng);
        self.sample_clearnet(&clearnet, world, now);
        let onion = read(&snapshot, Ingress::Onion, now, rng);
        let hosts = || onion.0.iter().map(|listed| &listed.name.host);
        self.onion.add(share(hosts(), is_attacker));
        self.onion_names.add(share(hosts().filter(|host| host.is_onion()), is_attacker));
        let backends = snapshot.upstream_candidates.iter().map(|candidate| &candidate.target.host);
        self.backend.add(share(backends, is_attacker));
    }

    fn sample_clearnet(&mut self, list: &PeerList, world: &World, now: Time) {
        let hosts = || list.0.iter().map(|listed| &listed.name.host);
        let attackers = share(hosts(), |host| !world.is_honest(host));
        self.clearnet.add(attackers);
        let week = usize::try_from(now.since(Engine::START).as_secs() / (7 * 86_400)).unwrap();
        self.weekly.resize(self.weekly.len().max(week + 1), Shares::default());
        self.weekly[week].add(attackers);
        if list.0.len() >= LONG_LIST {
            let mut asns: HashMap<u32, u32> = HashMap::new();
            let asns_of_attackers = list.0.iter().filter_map(|listed| world.networks.asn(listed.ip?));
            for asn in asns_of_attackers.filter(|asn| *asn >= FIRST_ATTACKER_ASN) {
                *asns.entry(asn).or_default() += 1;
            }
            let largest = asns.into_values().max().unwrap_or(0);
            self.asn.add(f64::from(largest) / f64::from(u32::try_from(list.0.len()).unwrap()));
        }
        let present: HashSet<&Host> = hosts().collect();
        for at in &self.long_standing {
            let server = &world.servers[*at];
            if server.ip.is_some() {
                let (listed, all) = self.presence.entry(*at).or_default();
                *listed += u32::from(present.contains(&server.host));
                *all += 1;
            }
        }
    }

    /// Samples the onions that clients get while Tor does not work.
    pub(super) fn sample_fallback(&mut self, book: &PeerBook, world: &World, now: Time, rng: &mut StdRng) {
        if now < self.measured_from {
            return;
        }
        let snapshot = book.snapshot(now, rng);
        let mut hosts = Vec::new();
        for _ in 0..FALLBACK_CLIENTS {
            let list = read(&snapshot, Ingress::Onion, now, rng);
            hosts.extend(list.0.into_iter().map(|listed| listed.name.host).filter(Host::is_onion));
        }
        self.fallback.add(share(hosts.iter(), |host| !world.is_honest(host)));
    }

    /// Returns the share of checks in which Tor counted as ready on the worst day, except during outages.
    pub(super) fn tor_ready_on_worst_day(&self) -> f64 {
        self.tor.iter().map(|(ready, all)| f64::from(*ready) / f64::from(*all)).fold(1.0, f64::min)
    }

    /// Returns the smallest share of lists in which a long-standing honest server appears.
    pub(super) fn worst_presence(&self) -> f64 {
        self.presence.values().map(|(listed, all)| f64::from(*listed) / f64::from(*all)).fold(1.0, f64::min)
    }

    /// Returns the number of honest servers that arrived during the run and were never found.
    pub(super) fn lost_newcomers(&self, book: &PeerBook, world: &World, now: Time) -> usize {
        let day = Duration::from_hours(24);
        let verified: HashSet<&Host> =
            book.entries().filter(|entry| entry.last_success.is_some()).map(|entry| &entry.host).collect();
        let due = world.servers[..world.honest].iter().filter(|server| server.online_from + day * 3 <= now);
        due.filter(|server| server.owner == Owner::Honest && !verified.contains(&server.host)).count()
    }
}

fn read(snapshot: &Snapshot, ingress: Ingress, now: Time, rng: &mut StdRng) -> PeerList {
    let json = String::from_utf8(snapshot.peers(ingress, now, rng).to_vec()).unwrap();
    PeerList::parse(&json, Chain::BITCOIN.default_ports).unwrap()
}

/// Returns the share of hosts with a property; zero if there are no hosts.
fn share<'a>(hosts: impl Iterator<Item = &'a Host>, has: impl Fn(&Host) -> bool) -> f64 {
    let (mut count, mut all) = (0_u32, 0_u32);
    for host in hosts {
        all += 1;
        count += u32::from(has(host));
    }
    f64::from(count) / f64::from(all.max(1))
}
