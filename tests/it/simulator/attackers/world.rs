//! Networks, honest servers and the resources of the attacker.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use waypost::as_map::AsMap;
use waypost::chain::Chain;
use waypost::clock::Time;
use waypost::peer::{Host, OnionAddress, Ports};

use super::strategy::{Plan, Trick};
use crate::as_map_encoder::encode;

/// Number of honest servers of one ASN with several; all others have an ASN each.
const SHARED_ASNS: [usize; 15] = [10, 7, 5, 4, 4, 3, 3, 3, 2, 2, 2, 2, 2, 2, 2];

/// Number of honest servers with a clearnet address, and how many of them have an IPv6 address only.
const HONEST_CLEARNET: usize = 80;
const HONEST_IPV6: usize = 8;
const HONEST_ONIONS: usize = 40;
/// Number of honest onion services with [`Trick::FewOnions`].
const FEW_ONIONS: usize = 10;

/// Every fourth honest server arrives during the run. The others are known at the start.
const LATE_ARRIVALS: usize = 4;

/// Number of honest servers of each kind that the configuration names.
const SEEDS: usize = 6;

/// Resources of the attacker.
const ATTACKER_ASNS: u32 = 20;
const RANGES_PER_ASN: usize = 5;
const ADDRESSES_PER_RANGE: usize = 2;
/// Number of names on each address of a crowd.
const CROWD: usize = 60;
/// Number of honest servers in the neighbourhood of which the attacker rents an address.
const NEIGHBOURS: usize = 20;
/// First ASN of the attacker; smaller ones belong to honest servers.
pub(super) const FIRST_ATTACKER_ASN: u32 = 60_000;

/// Sizes of one run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    /// Duration of the run in days.
    pub days: u32,
    /// Number of onion keys of the attacker.
    pub onions: usize,
    /// Number of hosts in the attacker's IPv6 range.
    pub ipv6_hosts: usize,
    /// Whether the book has a map of autonomous systems.
    pub has_map: bool,
}

/// Party that runs a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    Honest,
    Attacker,
    /// Name of the attacker without a server.
    Junk,
}

#[derive(Debug, Clone)]
pub(super) struct Server {
    pub host: Host,
    /// Address to which the name resolves; `None` for an onion service.
    pub ip: Option<IpAddr>,
    pub ports: Ports,
    pub owner: Owner,
    /// Start of the service.
    pub online_from: Time,
    pub key: [u8; 32],
}

/// Assignment of address ranges to ASNs, from which a map can be written.
#[derive(Debug, Default)]
pub(super) struct Networks {
    v4: HashMap<[u8; 2], u32>,
    v6: HashMap<[u16; 2], u32>,
}

#[derive(Debug)]
pub(super) struct World {
    pub networks: Networks,
    /// Honest servers, followed by those of the attacker.
    pub servers: Vec<Server>,
    /// Number of honest servers.
    pub honest: usize,
    by_host: HashMap<Host, usize>,
    /// IPv4 addresses of the attacker.
    pub rented: Vec<IpAddr>,
}

impl Networks {
    /// Returns the ASN of an address; `None` if no range contains it.
    pub(super) fn asn(&self, ip: IpAddr) -> Option<u32> {
        match ip.to_canonical() {
            IpAddr::V4(ip) => self.v4.get(&[ip.octets()[0], ip.octets()[1]]).copied(),
            IpAddr::V6(ip) => self.v6.get(&[ip.segments()[0], ip.segments()[1]]).copied(),
        }
    }

    /// Adds an unused public IPv4 /16.
    /// Returns the map of all autonomous systems.
    pub(super) fn as_map(&self) -> Arc<AsMap> {
        let v4 = self.v4.iter().map(|([a, b], asn)| (IpAddr::from([*a, *b, 0, 0]), 16, *asn));
        let v6 = self.v6.iter().map(|([a, b], asn)| (IpAddr::from([*a, *b, 0, 0, 0, 0, 0, 0]), 32, *asn));
        Arc::new(AsMap::parse(encode(&v4.chain(v6).collect::<Vec<_>>())).unwrap())
    }

    fn add_v4(&mut self, asn: u32, rng: &mut StdRng) -> [u8; 2] {
        loop {
            let range = [rng.random_range(1..224), rng.random()];
            let probe = IpAddr::V4(Ipv4Addr::new(range[0], range[1], 77, 1));
            if waypost::netgroup::is_public(probe) && !self.v4.contains_key(&range) {
                self.v4.insert(range, asn);
                return range;
            }
        }
    }

    /// Adds an unused IPv6 /32.
    fn add_v6(&mut self, asn: u32, rng: &mut StdRng) -> [u16; 2] {
        let range = [0x2a00 + rng.random_range(0..16), rng.random()];
        self.v6.insert(range, asn);
        range
    }
}

impl World {
    pub(super) fn new(scale: Scale, plan: Plan, start: Time, rng: &mut StdRng) -> World {
        let mut world = World {
            networks: Networks::default(),
            servers: Vec::new(),
            honest: 0,
            by_host: HashMap::new(),
            rented: Vec::new(),
        };
        let onions = if plan.has(Trick::FewOnions) { FEW_ONIONS } else { HONEST_ONIONS };
        world.add_honest(onions, scale, start, rng);
        world.honest = world.servers.len();
        world.rent_addresses(rng);
        world.add_attackers(scale, plan, start + plan.arrival(scale), rng);
        world
    }

    pub(super) fn find(&self, host: &Host) -> Option<usize> {
        self.by_host.get(host).copied()
    }

    /// Returns whether a host is a working honest server.
    pub(super) fn is_honest(&self, host: &Host) -> bool {
        self.find(host).is_some_and(|at| self.servers[at].owner == Owner::Honest)
    }

    /// Returns the honest servers that run at a time.
    pub(super) fn honest_at(&self, at: Time) -> impl Iterator<Item = &Server> {
        self.servers[..self.honest].iter().filter(move |server| server.online_from <= at)
    }

    /// Returns the honest servers that the configuration names.
    pub(super) fn seeds(&self) -> impl Iterator<Item = &Server> {
        let early = || self.servers[..self.honest].iter().enumerate().filter(|(n, _)| n % LATE_ARRIVALS != 0);
        let of_kind =
            move |onion| early().map(|(_, server)| server).filter(move |server| server.host.is_onion() == onion);
        of_kind(false).step_by(7).take(SEEDS).chain(of_kind(true).step_by(5).take(SEEDS))
    }

    fn add_honest(&mut self, onions: usize, scale: Scale, start: Time, rng: &mut StdRng) {
        let singles = HONEST_CLEARNET - SHARED_ASNS.iter().sum::<usize>();
        let sizes = SHARED_ASNS.into_iter().chain(std::iter::repeat_n(1, singles));
        let mut addresses = Vec::new();
        for (asn, size) in (1..).zip(sizes) {
            let mut range = [0; 2];
            for n in 0..size {
                // Two servers of an ASN share a /16.
                if n % 2 == 0 {
                    range = self.networks.add_v4(asn, rng);
                }
                let address = if addresses.len() >= HONEST_CLEARNET - HONEST_IPV6 {
                    let [a, b] = self.networks.add_v6(asn, rng);
                    IpAddr::V6(Ipv6Addr::new(a, b, rng.random(), 0, 0, 0, 0, 1))
                } else {
                    IpAddr::V4(Ipv4Addr::new(range[0], range[1], rng.random(), rng.random_range(1..255)))
                };
                addresses.push(address);
            }
        }
        let day = Duration::from_hours(24);
        for n in 0..HONEST_CLEARNET + onions {
            let online_from = match n % LATE_ARRIVALS {
                0 => start + day.mul_f64(rng.random_range(0.0..0.5) * f64::from(scale.days)),
                _ => start - day * 60,
            };
            match addresses.get(n) {
                Some(ip) => {
                    let host = format!("electrum.operator{n}.example").parse().unwrap();
                    self.add(host, Some(*ip), Owner::Honest, online_from, rng);
                }
                None => {
                    let host = onion(rng);
                    self.add(host, None, Owner::Honest, online_from, rng);
                }
            }
        }
    }

    fn rent_addresses(&mut self, rng: &mut StdRng) {
        for asn in FIRST_ATTACKER_ASN..FIRST_ATTACKER_ASN + ATTACKER_ASNS {
            for _ in 0..RANGES_PER_ASN {
                let [a, b] = self.networks.add_v4(asn, rng);
                for _ in 0..ADDRESSES_PER_RANGE {
                    self.rented.push(IpAddr::V4(Ipv4Addr::new(a, b, rng.random(), rng.random_range(1..255))));
                }
            }
        }
    }

    fn add_attackers(&mut self, scale: Scale, plan: Plan, online_from: Time, rng: &mut StdRng) {
        let mut addresses: Vec<(IpAddr, usize)> = Vec::new();
        if plan.has(Trick::Addresses) {
            addresses.extend(self.rented.iter().map(|ip| (*ip, 1)));
        }
        if plan.has(Trick::Names) {
            addresses.extend(self.rented.iter().map(|ip| (*ip, 10)));
        }
        if plan.has(Trick::Neighbours) {
            let ranges: HashSet<[u8; 2]> =
                self.servers.iter().filter_map(|server| server.ip).filter_map(range_v4).collect();
            let mut ranges: Vec<_> = ranges.into_iter().collect();
            ranges.sort_unstable();
            let near = ranges.into_iter().take(NEIGHBOURS);
            addresses.extend(near.map(|[a, b]| (IpAddr::V4(Ipv4Addr::new(a, b, 200, 9)), CROWD)));
        }
        let [a, b] = self.networks.add_v6(FIRST_ATTACKER_ASN, rng);
        for n in 0..u32::try_from(scale.ipv6_hosts).unwrap() {
            let [high, low] = [u16::try_from(n >> 16).unwrap(), u16::try_from(n & 0xffff).unwrap()];
            if plan.has(Trick::Prefix) {
                addresses.push((IpAddr::V6(Ipv6Addr::new(a, b, low, high, 0, 0, 0, 1)), 1));
            }
            if plan.has(Trick::Site) {
                // One /48 has 256 subnets of /56.
                addresses.push((IpAddr::V6(Ipv6Addr::new(a, b, 7, low << 8, 0, 0, low >> 8, 1)), 1));
            }
        }
        let mut minted = 0;
        for (ip, names) in addresses {
            for _ in 0..names {
                minted += 1;
                let host = format!("e.attacker{minted}.example").parse().unwrap();
                self.add(host, Some(ip), Owner::Attacker, online_from, rng);
            }
        }
        for n in 0..scale.onions {
            let owner = match (plan.has(Trick::Onions), plan.has(Trick::JunkOnions)) {
                (true, false) => Owner::Attacker,
                (true, true) if n % 2 == 0 => Owner::Attacker,
                // A few servers list the invented names.
                (false, true) if n < 20 => Owner::Attacker,
                (_, true) => Owner::Junk,
                (false, false) => break,
            };
            let host = onion(rng);
            self.add(host, None, owner, online_from, rng);
        }
    }

    fn add(&mut self, host: Host, ip: Option<IpAddr>, owner: Owner, online_from: Time, rng: &mut StdRng) {
        self.by_host.insert(host.clone(), self.servers.len());
        let ports = Chain::BITCOIN.default_ports;
        self.servers.push(Server { host, ip, ports, owner, online_from, key: rng.random() });
    }
}

fn range_v4(ip: IpAddr) -> Option<[u8; 2]> {
    match ip {
        IpAddr::V4(ip) => Some([ip.octets()[0], ip.octets()[1]]),
        IpAddr::V6(_) => None,
    }
}

fn onion(rng: &mut StdRng) -> Host {
    Host::Onion(OnionAddress::from_public_key(rng.random()))
}
