//! What a server answers on a visit, in the types of the book.
//!
//! A change of [`ProbeReport`] or [`Verified`] concerns this file only.

use std::net::IpAddr;
use std::time::Duration;

use waypost::book::height_to_compare;
use waypost::chain::Chain;
use waypost::connect::{PeerLimits, ProbeReport, ProbeTarget, TlsCertificate, Verified};
use waypost::peer::{Features, Host, PeerList, PeerListEntry, Port, Ports, RealName, Transport, Version};
use waypost::route::RoutingPolicy;

use super::world::Server;

/// Height of the real chain at the start of a run, and the time between two blocks.
const START_HEIGHT: u64 = 900_000;
const BLOCK_INTERVAL_SECS: u64 = 600;

/// Chain that a server shows.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ShownChain {
    /// Blocks by which the reported tip is ahead of the real one.
    pub lead: u32,
    /// Whether old blocks differ from the real ones.
    pub is_forked: bool,
}

/// Successful visit to a server.
#[derive(Debug)]
pub(super) struct Visit<'a> {
    pub server: &'a Server,
    pub target: &'a ProbeTarget,
    pub endpoint: (Transport, Port),
    /// Ports that the server reports.
    pub ports: Ports,
    pub key: [u8; 32],
    pub peer_list: PeerList,
    pub chain: ShownChain,
    /// Time since the start of the run, which determines the tip.
    pub elapsed: Duration,
    pub duration: Duration,
}

impl Visit<'_> {
    pub(super) fn into_verified(self) -> Verified {
        let (transport, port) = self.endpoint;
        let ip: Option<IpAddr> = self.target.addresses.first().copied();
        let report = ProbeReport {
            software: Some("ElectrumX 1.16.0".to_owned()),
            negotiated_version: Version::new(1, 4),
            features: Some(features(&self.server.host, self.ports)),
            peer_list: self.peer_list,
            tip_height: Some(real_tip(self.elapsed) + self.chain.lead),
            checkpoint: self.target.checkpoint_height.map(|height| (height, block(height, self.chain))),
            standing: None,
            add_peer_result: None,
        };
        let certificate = (transport == Transport::Tls)
            .then(|| TlsCertificate { key: self.key, batch: self.key[..8].try_into().unwrap() });
        let (web_sockets, since_response, duration) = (Vec::new(), Duration::ZERO, self.duration);
        let (limits, tls_failed) = (PeerLimits::default(), false);
        Verified { ip, transport, port, certificate, web_sockets, since_response, limits, tls_failed, duration, report }
    }
}

pub(super) fn real_tip(elapsed: Duration) -> u32 {
    u32::try_from(START_HEIGHT + elapsed.as_secs() / BLOCK_INTERVAL_SECS).unwrap()
}

/// Returns whether the book compares blocks where the real chain says that it should.
pub(super) fn is_real_view(target: &ProbeTarget, elapsed: Duration) -> bool {
    let real = height_to_compare(real_tip(elapsed));
    target.checkpoint_height.is_none_or(|height| height.abs_diff(real) <= 100)
}

pub(super) fn features(host: &Host, ports: Ports) -> Features {
    Features {
        hosts: Some(vec![(host.clone(), Some(ports))]),
        genesis_hash: Some(Chain::BITCOIN.genesis_hash.to_string()),
        protocol_max: Some(Version::new(1, 4)),
        ..Features::default()
    }
}

pub(super) fn listed(server: &Server, ports: Ports) -> PeerListEntry {
    let name = RealName { host: server.host.clone(), version: Some(Version::new(1, 4)), pruning: None, ports };
    PeerListEntry { ip: server.ip, name }
}

/// Returns the result of an ordinary visit before the start of a run.
pub(super) fn past_visit(server: &Server) -> Verified {
    let via = RoutingPolicy::default().via(&server.host);
    let endpoint = server.ports.iter().next().unwrap();
    let addresses = server.ip.into_iter().collect();
    let target = ProbeTarget::without_extras(server.host.clone(), via, addresses, vec![endpoint]);
    let visit = Visit {
        server,
        target: &target,
        endpoint,
        ports: server.ports,
        key: server.key,
        peer_list: PeerList::default(),
        chain: ShownChain::default(),
        elapsed: Duration::ZERO,
        duration: Duration::from_secs(1),
    };
    visit.into_verified()
}

/// Returns the hash of a block. Chains differ everywhere below the tip.
fn block(height: u32, chain: ShownChain) -> [u8; 32] {
    let mut hash = [u8::from(chain.is_forked); 32];
    hash[..4].copy_from_slice(&height.to_be_bytes());
    hash
}
