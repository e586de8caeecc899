//! Rules for dialling peers: addresses, ports and transports.
//!
//! They prevent the use of Waypost against third parties.

use std::net::IpAddr;

use rand::Rng;

use super::reached_endpoints::ReachedEndpoints;
use super::source::PortOrigin;
use crate::clock::Time;
use crate::connect::ProbeError;
use crate::netgroup;
use crate::peer::{Host, Port, Ports, Transport, is_blocked_port};
use crate::route::Route;

/// Maximum number of addresses dialled for one name.
const MAX_ADDRESSES: usize = 4;

/// Returns the addresses to dial, or an error if one is not allowed.
///
/// A name with both public and private addresses is considered an attack.
pub(super) fn validate_addresses(mut addresses: Vec<IpAddr>, allow_private: bool) -> Result<Vec<IpAddr>, ProbeError> {
    addresses.iter_mut().for_each(|ip| *ip = ip.to_canonical());
    let is_permitted = |ip: &IpAddr| {
        if allow_private { !ip.is_unspecified() && !ip.is_multicast() } else { netgroup::is_public(*ip) }
    };
    if addresses.is_empty() {
        return Err(ProbeError::NameNotFound);
    }
    if !addresses.iter().all(is_permitted) {
        return Err(ProbeError::NotPublic);
    }
    addresses.truncate(MAX_ADDRESSES);
    Ok(addresses)
}

/// Returns a peer's endpoints in dial order.
///
/// Known endpoints come first: those reached before the others, with TLS before TCP in nine of ten cases. An endpoint
/// whose check is due precedes them. Unverified reports follow.
pub(super) fn ordered_endpoints(
    known: Option<Ports>,
    reached: &ReachedEndpoints,
    claimed: &[Ports],
    now: Time,
    rng: &mut (impl Rng + ?Sized),
) -> Vec<(Transport, Port)> {
    let tls_first = rand::RngExt::random_ratio(rng, 9, 10);
    let mut endpoints: Vec<(Transport, Port)> = known.iter().flat_map(Ports::iter).collect();
    if !tls_first {
        endpoints.reverse();
    }
    for endpoint in reached.ports().iter().flat_map(Ports::iter) {
        if !endpoints.contains(&endpoint) {
            endpoints.push(endpoint);
        }
    }
    reached.sort(&mut endpoints, now, rng);
    for endpoint in claimed.iter().flat_map(|ports| ports.iter()) {
        if !endpoints.contains(&endpoint) {
            endpoints.push(endpoint);
        }
    }
    endpoints
}

/// Returns a host's ports that may be stored, dialled and advertised; `None` if there are none.
///
/// This is the only rule on port numbers. An untrusted source could point a name at any machine and choose the
/// service there. Onion services are exempt: their name is their own key.
pub(super) fn permitted_ports(host: &Host, ports: Ports, origin: PortOrigin) -> Option<Ports> {
    ports.filtered(|port| host.is_onion() || origin == PortOrigin::Operator || !is_blocked_port(port))
}

/// Returns the permitted ports that a host reported itself.
///
/// A report does not permit a blocked port, even for the operator's peers: a DNS name can move to another machine.
/// A blocked port that the operator wrote (it is in `known`) stays.
pub(super) fn first_hand_ports(host: &Host, ports: Ports, known: Option<Ports>) -> Option<Ports> {
    let is_known =
        |port: Port| known.is_some_and(|known| known.iter().chain(known.web_sockets()).any(|(_, known)| known == port));
    ports.filtered(|port| host.is_onion() || is_known(port) || !is_blocked_port(port))
}

/// Returns whether a transport may be used on this route.
///
/// A Tor exit can read and change plain text. The name of an onion service is its key, so either transport is safe.
pub fn is_dialable(host: &Host, via: Route, (transport, _): (Transport, Port)) -> bool {
    host.is_onion() || via == Route::Direct || transport == Transport::Tls
}

/// Returns whether one of these endpoints may be dialled on this route.
pub(super) fn has_dialable_port(host: &Host, via: Route, ports: Ports) -> bool {
    ports.iter().any(|endpoint| is_dialable(host, via, endpoint))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::chain::Chain;

    #[test]
    fn private_address_among_public_ones_is_rejected() {
        let dial = |texts: &[&str]| validate_addresses(texts.iter().map(|text| text.parse().unwrap()).collect(), false);
        assert_eq!(dial(&["5.9.0.1", "::ffff:88.99.0.2"]).unwrap().len(), 2);
        assert_eq!(dial(&["5.9.0.1", "10.0.0.1"]), Err(ProbeError::NotPublic));
        assert_eq!(dial(&["::ffff:127.0.0.1"]), Err(ProbeError::NotPublic));
        assert_eq!(dial(&["64:ff9b::a00:1"]), Err(ProbeError::NotPublic));
        assert_eq!(dial(&[]), Err(ProbeError::NameNotFound));
        assert_eq!(dial(&["5.9.0.1"; 20]).unwrap().len(), MAX_ADDRESSES);
        assert!(validate_addresses(vec!["127.0.0.1".parse().unwrap()], true).is_ok());
        assert_eq!(validate_addresses(vec!["0.0.0.0".parse().unwrap()], true), Err(ProbeError::NotPublic));
    }

    #[test]
    fn tls_endpoint_is_first_in_nine_of_ten_orders() {
        let mut rng = StdRng::seed_from_u64(7);
        let ports = Chain::BITCOIN.default_ports;
        let reached = ReachedEndpoints::default();
        let ordered = |claimed: &[Ports], rng: &mut StdRng| {
            ordered_endpoints(Some(ports), &reached, claimed, Time::from_secs(1_000_000), rng)
        };
        let tls_first = (0..10_000).filter(|_| ordered(&[], &mut rng)[0].0 == Transport::Tls).count();
        assert!((8_800..9_200).contains(&tls_first), "{tls_first}");
        let claimed = [ports, Chain::REGTEST.default_ports];
        assert_eq!(ordered(&claimed, &mut rng).len(), 4);
    }
}
