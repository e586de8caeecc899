//! Simulated peers and their behaviour.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use waypost::chain::Chain;
use waypost::clock::Time;
use waypost::connect::ProbeError;
use waypost::peer::{Features, Host, OnionAddress, PeerList, PeerListEntry, Port, Ports, RealName, Transport, Version};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    /// Always up.
    Good,
    /// Always there, and lists wrong ports and invented names.
    Liar,
    /// Comes up at `turn`, and announces itself.
    Newcomer,
    Flaky,
    /// Up until `turn`.
    Dying,
    Dead,
    /// Changes its ports every `period`.
    Mover,
    WrongChain,
    Malformed,
    Silent,
    /// Its name resolves to a private address.
    Private,
    /// On another chain from `turn` on.
    Turncoat,
}

#[derive(Debug)]
pub(super) struct Peer {
    pub host: Host,
    pub kind: Kind,
    /// Addresses to which the name resolves.
    pub addresses: Vec<IpAddr>,
    base: Ports,
    /// Time of the change of its behaviour.
    pub turn: Time,
    /// Period of changes of flaky peers and movers, in seconds.
    period: u64,
    phase: u64,
    /// Error while the peer is down.
    absent: ProbeError,
    pub has_features: bool,
}

#[derive(Debug)]
pub(super) struct World {
    pub peers: Vec<Peer>,
    by_host: HashMap<Host, usize>,
    invented_names: u64,
}

impl World {
    pub(super) fn new(peers: usize, start: Time, days: u64, rng: &mut StdRng) -> World {
        let mut world = World { peers: Vec::with_capacity(peers), by_host: HashMap::new(), invented_names: 0 };
        // A third of the clearnet peers share a few subnets of hosting providers.
        let hosting_subnets: Vec<[u8; 3]> = (0..peers / 100 + 1).map(|_| public_subnet(rng)).collect();
        for n in 0..peers {
            let kind = draw_kind(rng);
            let onion = rng.random_ratio(1, 4) && kind != Kind::Private;
            let mut addresses = vec![address(&hosting_subnets, rng)];
            if rng.random_ratio(1, 15) {
                addresses.push(address(&hosting_subnets, rng));
            }
            if kind == Kind::Private {
                addresses = vec![IpAddr::V4(Ipv4Addr::new(192, 168, 1, rng.random()))];
            }
            let host = match addresses.first() {
                _ if onion => Host::Onion(OnionAddress::from_public_key(rng.random())),
                Some(ip) if rng.random_ratio(1, 20) && kind != Kind::Private => Host::Ip(*ip),
                _ => format!("p{n}.example").parse().unwrap(),
            };
            if let Host::Ip(ip) = host {
                addresses = vec![ip];
            }
            let absent = match (&host, rng.random_range(0..3)) {
                (Host::Onion(_), 0 | 1) => ProbeError::OnionDescriptorNotFound,
                (Host::Dns(_), 0) => ProbeError::NameNotFound,
                (_, 1) => ProbeError::Refused,
                _ => ProbeError::Unreachable,
            };
            let usual = Chain::BITCOIN.default_ports;
            let base = match rng.random_range(0..10) {
                0..6 => usual,
                6 | 7 => Ports::new(None, usual.tls()).unwrap(),
                8 => Ports::new(Port::new(rng.random_range(CUSTOM_PORTS)), None).unwrap(),
                _ => Ports::new(usual.tcp(), Port::new(rng.random_range(CUSTOM_PORTS))).unwrap(),
            };
            let hour = 3600;
            let period = match kind {
                Kind::Mover => 24 * hour * rng.random_range(9..25),
                _ => hour * rng.random_range(2..60),
            };
            let peer = Peer {
                host: host.clone(),
                kind,
                addresses,
                base,
                turn: start + Duration::from_secs(rng.random_range(0..(days * 24 - 20 * 24).max(1) * hour)),
                period,
                phase: rng.random_range(0..period),
                absent,
                has_features: rng.random_ratio(9, 10),
            };
            // An address that occurs twice is one peer.
            if !world.by_host.contains_key(&host) {
                world.by_host.insert(host, world.peers.len());
                world.peers.push(peer);
            }
        }
        world
    }

    pub(super) fn get(&self, host: &Host) -> Option<&Peer> {
        self.by_host.get(host).map(|at| &self.peers[*at])
    }

    pub(super) fn any(&self, rng: &mut StdRng) -> &Peer {
        &self.peers[rng.random_range(0..self.peers.len())]
    }

    pub(super) fn resolve(&self, host: &Host, at: Time) -> Result<Vec<IpAddr>, ProbeError> {
        if let Some(peer) = self.get(host) {
            let is_missing = !peer.is_up(at) && peer.absent == ProbeError::NameNotFound;
            return if is_missing { Err(ProbeError::NameNotFound) } else { Ok(peer.addresses.clone()) };
        }
        // Invented names: many do not resolve, some resolve to private addresses, some to the victim.
        let name = host.to_string();
        match name.as_bytes().first() {
            Some(b'h') => Ok(vec![IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1))]),
            Some(b'm') => Ok(vec![IpAddr::V4(Ipv4Addr::new(5, 9, 0, 1)), "::ffff:127.0.0.1".parse().unwrap()]),
            Some(b'v') => Ok(vec![self.victim()]),
            _ => Err(ProbeError::NameNotFound),
        }
    }

    /// Returns the address of a good peer to which many invented names resolve.
    pub(super) fn victim(&self) -> IpAddr {
        let good = |peer: &&Peer| peer.kind == Kind::Good && matches!(peer.host, Host::Dns(_));
        self.peers.iter().find(good).map_or(IpAddr::V4(Ipv4Addr::new(5, 9, 0, 1)), |peer| peer.addresses[0])
    }

    pub(super) fn peer_list(&mut self, of: &Host, at: Time, rng: &mut StdRng) -> PeerList {
        let lies = self.get(of).is_some_and(|peer| peer.kind == Kind::Liar);
        let mut list = Vec::new();
        for _ in 0..rng.random_range(10..40) {
            // An honest peer lists peers that it verified recently.
            let recently = at - Duration::from_hours(rng.random_range(0..20));
            let peer = self.any(rng);
            let wrong = Ports::single(Transport::Tcp, Port::new(rng.random_range(1..9999)).unwrap());
            if lies || peer.is_fine(recently) {
                let ports = if lies { wrong } else { peer.ports(recently) };
                list.push(listed(peer.host.clone(), ports));
            }
        }
        for _ in 0..if lies { 10 } else { 0 } {
            let host = self.invent_host(rng);
            list.push(listed(host, Chain::BITCOIN.default_ports));
        }
        PeerList(list)
    }

    /// Returns a host without a peer.
    pub(super) fn invent_host(&mut self, rng: &mut StdRng) -> Host {
        self.invented_names += 1;
        let n = self.invented_names;
        match rng.random_range(0..10) {
            0..3 => Host::Onion(OnionAddress::from_public_key(rng.random())),
            3 => format!("h{n}.invented.example").parse().unwrap(),
            4 => format!("m{n}.invented.example").parse().unwrap(),
            5 | 6 => format!("v{n}.invented.example").parse().unwrap(),
            _ => format!("x{n}.invented.example").parse().unwrap(),
        }
    }
}

impl Peer {
    pub(super) fn is_up(&self, at: Time) -> bool {
        match self.kind {
            Kind::Newcomer => at >= self.turn,
            // Up for two thirds of the time.
            Kind::Flaky => (at.as_secs() + self.phase) % self.period < self.period * 2 / 3,
            Kind::Dying => at < self.turn,
            Kind::Dead => false,
            _ => true,
        }
    }

    /// Tells whether an honest peer would list the peer.
    pub(super) fn is_fine(&self, at: Time) -> bool {
        match self.kind {
            Kind::WrongChain | Kind::Malformed | Kind::Silent | Kind::Private => false,
            Kind::Turncoat => at < self.turn,
            _ => self.is_up(at),
        }
    }

    pub(super) fn ports(&self, at: Time) -> Ports {
        let moved = match self.kind {
            Kind::Mover => u16::try_from((at.as_secs() + self.phase) / self.period % 1000).unwrap(),
            _ => 0,
        };
        let shift = |port: Port| Port::new(port.get() + moved).unwrap();
        Ports::new(self.base.tcp().map(shift), self.base.tls().map(shift)).unwrap()
    }

    /// Time of the last change of ports.
    pub(super) fn moved_at(&self, at: Time) -> Time {
        at - Duration::from_secs((at.as_secs() + self.phase) % self.period)
    }

    pub(super) fn absence(&self) -> ProbeError {
        self.absent
    }

    pub(super) fn name(&self, at: Time) -> RealName {
        RealName { host: self.host.clone(), version: Some(Version::new(1, 4)), pruning: None, ports: self.ports(at) }
    }

    pub(super) fn features(&self, at: Time) -> Features {
        features(self.host.clone(), self.ports(at))
    }
}

/// Ports of servers with non-default ports. None is blocked, even after the changes of a mover.
const CUSTOM_PORTS: std::ops::Range<u16> = 51_000..60_000;

pub(super) fn features(host: Host, ports: Ports) -> Features {
    Features {
        hosts: Some(vec![(host, Some(ports))]),
        genesis_hash: Some(Chain::BITCOIN.genesis_hash.to_string()),
        protocol_max: Some(Version::new(1, 4)),
        ..Features::default()
    }
}

fn listed(host: Host, ports: Ports) -> PeerListEntry {
    PeerListEntry { ip: None, name: RealName { host, version: None, pruning: None, ports } }
}

fn draw_kind(rng: &mut StdRng) -> Kind {
    match rng.random_range(0..100) {
        0..50 => Kind::Good,
        50..62 => Kind::Flaky,
        62..70 => Kind::Dying,
        70..78 => Kind::Dead,
        78..83 => Kind::Mover,
        83..88 => Kind::Newcomer,
        88..91 => Kind::Liar,
        91..93 => Kind::WrongChain,
        93..95 => Kind::Malformed,
        95..97 => Kind::Silent,
        97 => Kind::Private,
        _ => Kind::Turncoat,
    }
}

fn address(hosting_subnets: &[[u8; 3]], rng: &mut StdRng) -> IpAddr {
    if rng.random_ratio(1, 12) {
        let segment = |rng: &mut StdRng| rng.random::<u16>();
        return IpAddr::V6(Ipv6Addr::new(0x2a01, 0x4f8, segment(rng) % 400, segment(rng), 0, 0, 0, 1));
    }
    let [a, b, c] = if rng.random_ratio(1, 3) {
        hosting_subnets[rng.random_range(0..hosting_subnets.len())]
    } else {
        public_subnet(rng)
    };
    IpAddr::V4(Ipv4Addr::new(a, b, c, rng.random()))
}

fn public_subnet(rng: &mut StdRng) -> [u8; 3] {
    loop {
        let subnet: [u8; 3] = [rng.random_range(1..224), rng.random(), rng.random()];
        if waypost::netgroup::is_public(IpAddr::V4(Ipv4Addr::new(subnet[0], subnet[1], subnet[2], 1))) {
            return subnet;
        }
    }
}
