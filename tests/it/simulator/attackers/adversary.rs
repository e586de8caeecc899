//! Behaviour of the attacker's servers, and the names that they spread.

use std::net::IpAddr;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use waypost::clock::Time;
use waypost::peer::{Features, PeerList, Port, Ports, Transport};

use super::replies::{ShownChain, features, listed};
use super::strategy::{Plan, Trick};
use super::world::{Owner, Scale, Server, World};

/// Number of requests to the book in the first minute, and in each later one.
///
/// Both exceed the budgets of the book.
const FIRST_BURST: usize = 200;
const ADDRESSES_PER_MINUTE: usize = 6;

/// Number of names in the list of an attacker. Waypost takes two of them.
const LIST_LENGTH: usize = 16;

/// Every eighth attacker changes its ports, as each change causes many probes.
const PORT_CHANGERS: usize = 8;

/// Number of wrong ports of honest servers among them.
const WRONG_PORTS: usize = 4;

#[derive(Debug)]
pub(super) struct Adversary {
    plan: Plan,
    start: Time,
    arrival: Time,
    turn: Time,
    tip_lead: u32,
    /// Names in the order in which they are announced.
    onions: Vec<usize>,
    hosts: Vec<usize>,
    next_onion: usize,
    next_host: usize,
    has_begun: bool,
}

/// Request `server.add_peer` with the address of the client.
pub(super) type Announcement = (Features, Option<IpAddr>);

impl Adversary {
    pub(super) fn new(world: &World, plan: Plan, scale: Scale, start: Time, rng: &mut StdRng) -> Adversary {
        let all = world.honest..world.servers.len();
        let (mut onions, mut hosts): (Vec<usize>, Vec<usize>) = all.partition(|at| world.servers[*at].host.is_onion());
        onions.shuffle(rng);
        hosts.shuffle(rng);
        Adversary {
            plan,
            start,
            arrival: start + plan.arrival(scale),
            turn: start + plan.turn(scale),
            tip_lead: plan.tip_lead(),
            onions,
            hosts,
            next_onion: 0,
            next_host: 0,
            has_begun: false,
        }
    }

    pub(super) fn is_up(&self, server: &Server, now: Time) -> bool {
        let since_turn = now.since(self.turn);
        let is_absent = now > self.turn
            && (self.plan.has(Trick::Vanish)
                || (self.plan.has(Trick::Flap) && (since_turn.as_secs() / (6 * 3600)).is_multiple_of(2)));
        server.owner == Owner::Attacker && now >= server.online_from && !is_absent
    }

    /// Returns the address to which a name resolves.
    pub(super) fn address(&self, at: usize, world: &World, now: Time) -> Option<IpAddr> {
        let ip = world.servers[at].ip?;
        if !self.plan.has(Trick::Relocate) {
            return Some(ip);
        }
        // Another address each day.
        let day = usize::try_from(now.since(self.start).as_secs() / 86_400).unwrap();
        Some(world.rented[(at + day * 7) % world.rented.len()])
    }

    /// Returns the key of a server, which `draw` replaces by another on each visit.
    pub(super) fn key(&self, server: &Server, draw: &mut StdRng) -> [u8; 32] {
        if self.plan.has(Trick::Relocate) { draw.random() } else { server.key }
    }

    /// Returns the ports that a server reports. It answers on all.
    pub(super) fn ports(&self, server: &Server, rng: &mut StdRng) -> Ports {
        let changes = self.plan.has(Trick::Ports) && usize::from(server.key[0]) % PORT_CHANGERS == 0;
        if changes { random_ports(rng) } else { server.ports }
    }

    pub(super) fn chain(&self, now: Time) -> ShownChain {
        if now <= self.turn {
            return ShownChain::default();
        }
        ShownChain { lead: self.tip_lead, is_forked: self.plan.has(Trick::OtherBlock) }
    }

    /// Returns the list of an attacker: other attackers, and wrong ports of honest servers.
    pub(super) fn peer_list(&self, world: &World, rng: &mut StdRng) -> PeerList {
        let mut list = Vec::new();
        let names = [&self.onions, &self.hosts];
        for _ in 0..LIST_LENGTH {
            if let Some(at) = names.choose(rng).and_then(|names| names.choose(rng)) {
                let server = &world.servers[*at];
                list.push(listed(server, self.ports(server, rng)));
            }
        }
        if self.plan.has(Trick::Ports) {
            for _ in 0..WRONG_PORTS {
                let server = &world.servers[rng.random_range(0..world.honest)];
                list.push(listed(server, random_ports(rng)));
            }
        }
        PeerList(list)
    }

    /// Returns the requests of the next minute.
    pub(super) fn announcements(&mut self, world: &World, now: Time, rng: &mut StdRng) -> Vec<Announcement> {
        let has_vanished = self.plan.has(Trick::Vanish) && now > self.turn;
        if now < self.arrival || has_vanished {
            return Vec::new();
        }
        let count = if self.has_begun { ADDRESSES_PER_MINUTE } else { FIRST_BURST };
        self.has_begun = true;
        let mut all = Vec::new();
        if let Some(at) = next(&self.onions, &mut self.next_onion) {
            let server = &world.servers[at];
            all.push((features(&server.host, self.ports(server, rng)), None));
        }
        for _ in 0..count.min(self.hosts.len()) {
            if let Some(at) = next(&self.hosts, &mut self.next_host) {
                let server = &world.servers[at];
                all.push((features(&server.host, self.ports(server, rng)), self.address(at, world, now)));
            }
        }
        if self.plan.has(Trick::Ports) {
            let server = &world.servers[rng.random_range(0..world.honest)];
            let from = if server.host.is_onion() { None } else { world.rented.choose(rng).copied() };
            all.push((features(&server.host, random_ports(rng)), from));
        }
        all
    }

    /// Returns attackers that honest servers list, as they verified them.
    pub(super) fn sample(&self, count: usize, world: &World, now: Time, rng: &mut StdRng) -> Vec<usize> {
        let mut found = Vec::new();
        if now < self.arrival + Duration::from_hours(24) {
            return found;
        }
        for names in [&self.onions, &self.hosts] {
            let picked = (0..count / 2).filter_map(|_| names.choose(rng).copied());
            found.extend(picked.filter(|at| self.is_up(&world.servers[*at], now)));
        }
        found
    }
}

fn next(names: &[usize], cursor: &mut usize) -> Option<usize> {
    let at = names.get(*cursor % names.len().max(1)).copied();
    *cursor += 1;
    at
}

fn random_ports(rng: &mut StdRng) -> Ports {
    let mut port = || Port::new(rng.random_range(51_000..60_000)).unwrap();
    let tcp = port();
    Ports::new(Some(tcp), Some(port())).unwrap_or(Ports::single(Transport::Tcp, tcp))
}
