//! Clients that send `server.add_peer`: new peers, moved peers and attackers.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use rand::RngExt;
use waypost::book::Action;
use waypost::peer::{Port, Ports, Transport};
use waypost::route::{Route, RoutingPolicy};

use super::network_model::features;
use super::run::{Run, SimEvent};

impl Run {
    /// Sends the `server.add_peer` of a peer, about once a day.
    pub(super) fn announce(&mut self, n: usize) -> Vec<Action> {
        let pause = Duration::from_secs(self.world_random(70_000, 100_000));
        self.schedule_in(pause, SimEvent::Announce(n));
        let (peer, now) = (&self.world.peers[n], self.now);
        let via = RoutingPolicy::default().via(&peer.host);
        if self.outages.down(via, now).is_some() {
            return Vec::new();
        }
        let from = if via == Route::Tor { None } else { peer.addresses.first().copied() };
        self.book.add_peer(&peer.features(now), from, now, &mut self.rng).unwrap_or_default()
    }

    /// Sends a hostile `server.add_peer`.
    pub(super) fn attack(&mut self) -> Vec<Action> {
        let pause = Duration::from_secs(self.world_random(1, 2 * self.size.attack));
        self.schedule_in(pause, SimEvent::Attack);
        let now = self.now;
        let client = IpAddr::V4(Ipv4Addr::new(45, 9, self.world_rng.random_range(0..4), self.world_rng.random()));
        let wrong = Ports::single(Transport::Tcp, Port::new(self.world_rng.random_range(1..9999)).unwrap());
        let target = self.world.any(&mut self.world_rng).host.clone();
        let (features, from) = match self.world_rng.random_range(0..6) {
            // Wrong ports of a known peer, from its own address and through Tor.
            0 => {
                let victim = &self.world.peers[self.world_rng.random_range(0..self.world.peers.len().min(3))];
                (features(victim.host.clone(), wrong), victim.addresses.first().copied())
            }
            1 => (features(target, wrong), None),
            // The host of another peer.
            2 => (features(target, wrong), Some(client)),
            // Invented names, through Tor, from the victim's address and from another.
            3 => (features(self.world.invent_host(&mut self.world_rng), wrong), None),
            4 => (features(self.world.invent_host(&mut self.world_rng), wrong), Some(self.world.victim())),
            _ => (features(self.world.invent_host(&mut self.world_rng), wrong), Some(client)),
        };
        self.book.add_peer(&features, from, now, &mut self.rng).unwrap_or_default()
    }
}
