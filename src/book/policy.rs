//! Rules for admitting and dialling peers.
//!
//! They prevent abuse of Waypost against third parties and exhaustion of its tables.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use rand::Rng;
use rand::seq::{IndexedRandom, IteratorRandom};

use super::rate_budget::{BucketConfig, KeyedBucket};
use super::source::{PortOrigin, Source};
use crate::clock::Time;
use crate::connect::ProbeError;
use crate::netgroup::{self, Netgroup};
use crate::peer::{DnsName, Host, PeerList, Port, Ports, RealName, Transport, is_blocked_port};
use crate::route::Route;

/// Maximum number of new names taken from one peer list.
pub const MAX_NAMES_PER_PEER_LIST: usize = 2;

/// Maximum number of addresses dialled for one name.
const MAX_ADDRESSES: usize = 4;

/// Reason for rejecting a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IntakeError {
    #[error("it names no host with a port")]
    NoHost,
    #[error("it serves another chain")]
    WrongGenesis,
    #[error("the host isn't public")]
    NotPublic,
    #[error("the host is another address than the caller's")]
    NotTheCaller,
    #[error("the host is our own")]
    LocalHost,
    #[error("the host is banned")]
    Banned,
    #[error("its ports belong to other services, and are not dialled on a host that the operator did not name")]
    NoDialablePort,
    #[error("an earlier seed names the same host")]
    Duplicate,
    #[error("it misbehaved when last tried")]
    KnownMisbehaving,
    #[error("too many names from the same source")]
    SourceBudget,
    #[error("too many names of the same domain")]
    DomainBudget,
    #[error("too many new onion names, or names through Tor")]
    OnionBudget,
    #[error("too many new names")]
    OverallBudget,
    #[error("the book holds too many names that were never verified")]
    CandidateTableFull,
    #[error("it names no TLS port, and through Tor a clearnet host is called over TLS only")]
    TlsRequired,
}

/// Budgets for names from untrusted sources and for dials to subnets.
#[derive(Debug)]
pub struct IntakeBudgets {
    peers: KeyedBucket<Host>,
    callers: KeyedBucket<Netgroup>,
    /// By registrable domain, as names below it cost nothing.
    domains: KeyedBucket<DnsName>,
    onions: KeyedBucket<()>,
    irc: KeyedBucket<()>,
    overall: KeyedBucket<()>,
    per_subnet: KeyedBucket<Netgroup>,
    /// Time of the last deferred dial to a subnet. Previously verified peers (`true`) have a separate queue.
    queue_tail: HashMap<(Netgroup, bool), Time>,
}

/// Interval between connections to one subnet after its burst is used up.
const SITE_REFILL: Duration = Duration::from_mins(2);

/// Connections of a subnet's burst that are reserved for previously verified peers.
///
/// Otherwise many new names in the subnet could block probes of these peers.
const VERIFIED_RESERVE: u32 = 4;

impl Default for IntakeBudgets {
    fn default() -> IntakeBudgets {
        let allowance = |burst, refill| BucketConfig { burst, refill };
        IntakeBudgets {
            // A peer is probed about once a day, and more often while it is unreliable.
            peers: KeyedBucket::new(allowance(4, Duration::from_hours(3))),
            callers: KeyedBucket::new(allowance(5, Duration::from_hours(1))),
            domains: KeyedBucket::new(allowance(8, Duration::from_hours(1))),
            // Neither onion names nor clients through Tor reveal their origin, so they share one budget.
            onions: KeyedBucket::new(allowance(5, Duration::from_mins(2))),
            // A channel has a few dozen servers; a flood of invented ones is admitted slowly.
            irc: KeyedBucket::new(allowance(50, Duration::from_mins(10))),
            overall: KeyedBucket::new(allowance(200, Duration::from_secs(10))),
            // 720 connections a day: enough for a full /24 of a hosting company, without flooding others.
            per_subnet: KeyedBucket::new(allowance(8, SITE_REFILL)),
            queue_tail: HashMap::new(),
        }
    }
}

impl IntakeBudgets {
    /// Charges a new name to the budgets of its source and domain.
    pub fn introduce(&mut self, source: &Source, host: &Host, now: Time) -> Result<(), IntakeError> {
        match source {
            Source::Seed | Source::Operator => return Ok(()),
            Source::Peer(peer) => self.peers.take(peer.clone(), now).map_err(|_| IntakeError::SourceBudget)?,
            Source::AddPeer(from) if host.is_onion() || from.is_none() => {
                self.onions.take((), now).map_err(|_| IntakeError::OnionBudget)?
            }
            Source::AddPeer(Some(ip)) => {
                self.callers.take(Netgroup::rate_limit_subnet(*ip), now).map_err(|_| IntakeError::SourceBudget)?;
            }
            Source::Irc => self.irc.take((), now).map_err(|_| IntakeError::SourceBudget)?,
            Source::AddPeer(None) => {}
        }
        if let Host::Dns(name) = host {
            self.domains.take(name.registrable(), now).map_err(|_| IntakeError::DomainBudget)?;
        }
        self.overall.take((), now).map_err(|_| IntakeError::OverallBudget)
    }

    /// Charges one connection to each subnet.
    ///
    /// The error names the exhausted subnet and the time of the next try. Peers that wait for one subnet get
    /// successive times, so that they do not all repeat their name lookups at once. Private subnets have no budget,
    /// as they are dialled only in the operator's own network.
    pub fn dial(&mut self, addresses: &[IpAddr], proven: bool, now: Time) -> Result<(), (Netgroup, Time)> {
        let public = addresses.iter().filter(|ip| netgroup::is_public(**ip));
        let mut sites: Vec<Netgroup> = public.map(|ip| Netgroup::rate_limit_subnet(*ip)).collect();
        sites.sort_unstable();
        sites.dedup();
        let spared = if proven { 0 } else { VERIFIED_RESERVE };
        for site in &sites {
            if let Err(when) = self.per_subnet.has(site, spared, now) {
                let end = self.queue_tail.entry((*site, proven)).or_default();
                *end = (*end + SITE_REFILL).max(when);
                return Err((*site, *end));
            }
        }
        sites.into_iter().try_for_each(|site| self.per_subnet.take(site, now).map_err(|when| (site, when)))
    }

    /// Drops the budgets that are full again.
    pub fn prune(&mut self, now: Time) {
        self.peers.prune(now);
        self.callers.prune(now);
        self.domains.prune(now);
        self.onions.prune(now);
        self.irc.prune(now);
        self.overall.prune(now);
        self.per_subnet.prune(now);
        self.queue_tail.retain(|_, end| *end > now);
    }
}

/// Returns the addresses to dial, or an error if one is not allowed.
///
/// A name with both public and private addresses is considered an attack.
pub fn validate_addresses(mut addresses: Vec<IpAddr>, allow_private: bool) -> Result<Vec<IpAddr>, ProbeError> {
    addresses.iter_mut().for_each(|ip| *ip = ip.to_canonical());
    let fit = |ip: &IpAddr| {
        if allow_private { !ip.is_unspecified() && !ip.is_multicast() } else { netgroup::is_public(*ip) }
    };
    if addresses.is_empty() {
        return Err(ProbeError::NameNotFound);
    }
    if !addresses.iter().all(fit) {
        return Err(ProbeError::NotPublic);
    }
    addresses.truncate(MAX_ADDRESSES);
    Ok(addresses)
}

/// Returns a peer's endpoints in dial order.
///
/// Known endpoints come first, with TLS before TCP in nine of ten cases. Unverified reports follow.
pub fn ordered_endpoints(believed: Option<Ports>, claimed: &[Ports], rng: &mut impl Rng) -> Vec<(Transport, Port)> {
    let tls_first = rand::RngExt::random_ratio(rng, 9, 10);
    let mut doors: Vec<(Transport, Port)> = believed.iter().flat_map(Ports::iter).collect();
    if !tls_first {
        doors.reverse();
    }
    for door in claimed.iter().flat_map(|ports| ports.iter()) {
        if !doors.contains(&door) {
            doors.push(door);
        }
    }
    doors
}

/// Returns a host's ports that may be stored, dialled and advertised; `None` if there are none.
///
/// This is the only rule on port numbers. An untrusted source could point a name at any machine and choose the
/// service there. Onion services are exempt: their name is their own key.
pub fn permitted_ports(host: &Host, ports: Ports, origin: PortOrigin) -> Option<Ports> {
    ports.filtered(|port| host.is_onion() || origin == PortOrigin::Operator || !is_blocked_port(port))
}

/// Returns the permitted ports that a host reported itself.
///
/// A report does not permit a blocked port, even for the operator's peers: a DNS name can move to another machine.
/// A blocked port that the operator wrote (it is in `known`) stays.
pub fn first_hand_ports(host: &Host, ports: Ports, known: Option<Ports>) -> Option<Ports> {
    let is_known = |port: Port| known.is_some_and(|known| known.iter().any(|(_, known)| known == port));
    ports.filtered(|port| host.is_onion() || is_known(port) || !is_blocked_port(port))
}

/// Whether a transport may be used on this route.
///
/// A Tor exit can read and alter what is not encrypted. An onion service's own name is its key, so either transport is
/// safe.
pub fn is_dialable(host: &Host, via: Route, (transport, _): (Transport, Port)) -> bool {
    host.is_onion() || via == Route::Direct || transport == Transport::Tls
}

/// Whether one of these endpoints may be dialled on this route.
pub fn has_dialable_port(host: &Host, via: Route, ports: Ports) -> bool {
    ports.iter().any(|door| is_dialable(host, via, door))
}

/// Samples unknown names of a peer list.
///
/// The choice is random, so that a peer cannot influence it by order.
pub fn sample_new_names(listing: PeerList, unknown: impl Fn(&Host) -> bool, rng: &mut impl Rng) -> Vec<RealName> {
    let mut names: Vec<RealName> =
        listing.0.into_iter().map(|listed| listed.name).filter(|name| unknown(&name.host)).collect();
    names.sort_by(|a, b| a.host.cmp(&b.host));
    names.dedup_by(|a, b| a.host == b.host);
    names.into_iter().sample(rng, MAX_NAMES_PER_PEER_LIST)
}

/// Chooses a random item; `None` if there are none.
pub fn choose<'a, T>(of: &'a [T], rng: &mut impl Rng) -> Option<&'a T> {
    of.choose(rng)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::network::Network;

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
        let ports = Network::Bitcoin.default_ports();
        let tls_first =
            (0..10_000).filter(|_| ordered_endpoints(Some(ports), &[], &mut rng)[0].0 == Transport::Tls).count();
        assert!((8_800..9_200).contains(&tls_first), "{tls_first}");
        let claimed = [ports, Network::Regtest.default_ports()];
        assert_eq!(ordered_endpoints(Some(ports), &claimed, &mut rng).len(), 4);
    }

    #[test]
    fn subnet_dials_are_limited_per_day() {
        let mut budgets = IntakeBudgets::default();
        let addresses = ["5.9.0.1".parse().unwrap(), "5.9.0.2".parse().unwrap()];
        let mut now = Time::from_secs(1_000_000);
        let mut dialled = 0;
        for _ in 0..24 * 60 {
            dialled += u32::from(budgets.dial(&addresses, true, now).is_ok());
            now = now + Duration::from_mins(1);
        }
        assert!((700..740).contains(&dialled), "{dialled}");
    }

    #[test]
    fn crowded_subnet_defers_new_peers_and_reserves_verified_ones() {
        let mut budgets = IntakeBudgets::default();
        let (addresses, now) = (["5.9.0.1".parse().unwrap()], Time::from_secs(1_000_000));
        let turns: Vec<Time> =
            (0..100).filter_map(|_| budgets.dial(&addresses, false, now).err()).map(|(_, when)| when).collect();
        assert_eq!(turns.len(), 96);
        assert!(turns.iter().zip(&turns[1..]).all(|(one, next)| next.since(*one) >= SITE_REFILL));
        assert_eq!(budgets.dial(&addresses, true, now), Ok(()));
        // A rejected dial charges no other subnet.
        let both = ["88.99.0.1".parse().unwrap(), addresses[0]];
        assert!((0..20).all(|_| budgets.dial(&both, false, now).is_err()));
        assert_eq!(budgets.dial(&both[..1], false, now), Ok(()));
    }

    #[test]
    fn peer_list_yields_at_most_two_names() {
        let mut rng = StdRng::seed_from_u64(7);
        let entry = |n: u32| format!("[\"5.9.0.1\",\"h{n}.example\",[\"t\"]]");
        let list = (0..100).map(|n| entry(n / 2)).collect::<Vec<_>>().join(",");
        let listing = PeerList::parse(&format!("[{list}]"), Network::Bitcoin.default_ports()).unwrap();
        let known: Host = "h1.example".parse().unwrap();
        let picked = sample_new_names(listing, |host| *host != known, &mut rng);
        assert_eq!(picked.len(), MAX_NAMES_PER_PEER_LIST);
        assert_ne!(picked[0].host, picked[1].host);
    }
}
