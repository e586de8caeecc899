//! Those who call `server.add_peer`: newcomers, peers that moved, and strangers who mean no good.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use rand::RngExt;
use waypost::book::Action;
use waypost::peer::{Port, Ports, Transport};
use waypost::route::{Route, RoutingPolicy};

use super::network_model::features;
use super::run::{Coming, Run};

impl Run {
    /// A peer tells us of itself, as it does about once a day.
    pub fn announce(&mut self, n: usize) -> Vec<Action> {
        let pause = Duration::from_secs(self.lots_in(70_000, 100_000));
        self.later(pause, Coming::Announce(n));
        let (peer, now) = (&self.world.peers[n], self.now);
        let via = RoutingPolicy::default().via(&peer.host);
        if self.calendar.down(via, now).is_some() {
            return Vec::new();
        }
        let from = if via == Route::Tor { None } else { peer.addresses.first().copied() };
        self.book.add_peer(&peer.features(now), from, now, &mut self.rng).unwrap_or_default()
    }

    /// One of the things that a stranger may try through `server.add_peer`.
    pub fn attack(&mut self) -> Vec<Action> {
        let pause = Duration::from_secs(self.lots_in(1, 2 * self.size.attack));
        self.later(pause, Coming::Attack);
        let now = self.now;
        let caller = IpAddr::V4(Ipv4Addr::new(45, 9, self.lots.random_range(0..4), self.lots.random()));
        let wrong = Ports::single(Transport::Tcp, Port::new(self.lots.random_range(1..9999)).unwrap());
        let somebody = self.world.any(&mut self.lots).host.clone();
        let (features, from) = match self.lots.random_range(0..6) {
            // Wrong ports of a peer that we know, as itself and as anybody.
            0 => {
                let victim = &self.world.peers[self.lots.random_range(0..self.world.peers.len().min(3))];
                (features(victim.host.clone(), wrong), victim.addresses.first().copied())
            }
            1 => (features(somebody, wrong), None),
            // Somebody else's host.
            2 => (features(somebody, wrong), Some(caller)),
            // Names that don't exist, or exist at somebody else's place.
            3 => (features(self.world.invent(&mut self.lots), wrong), None),
            4 => (features(self.world.invent(&mut self.lots), wrong), Some(self.world.victim())),
            _ => (features(self.world.invent(&mut self.lots), wrong), Some(caller)),
        };
        self.book.add_peer(&features, from, now, &mut self.rng).unwrap_or_default()
    }
}
