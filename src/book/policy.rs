//! What is let into the book, and what is dialled: nobody may use us as a weapon, and nobody may fill our tables.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use rand::Rng;
use rand::seq::{IndexedRandom, IteratorRandom};

use super::entry::Source;
use super::rate_budget::{BucketConfig, KeyedBucket};
use crate::clock::Time;
use crate::connect::ProbeError;
use crate::netgroup::{self, Netgroup};
use crate::peer::{DnsName, Host, PeerList, Port, Ports, RealName, Transport, is_blocked_port};
use crate::route::Route;

/// New names that are taken from one peer's list.
pub const MAX_NAMES_PER_PEER_LIST: usize = 2;

/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 4;

/// Why a name was not taken in.
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

/// What strangers may still introduce, and where we may still dial.
#[derive(Debug)]
pub struct IntakeBudgets {
    peers: KeyedBucket<Host>,
    callers: KeyedBucket<Netgroup>,
    /// By what somebody had to register: the names below it cost nothing.
    domains: KeyedBucket<DnsName>,
    onions: KeyedBucket<()>,
    irc: KeyedBucket<()>,
    overall: KeyedBucket<()>,
    per_subnet: KeyedBucket<Netgroup>,
    /// When the line of those who wait for a crowded site ends; the proven have one of their own.
    queue_tail: HashMap<(Netgroup, bool), Time>,
}

/// Between two connections to one site, once its burst is used up.
const SITE_REFILL: Duration = Duration::from_mins(2);

/// Of a site's burst, what is kept for peers that were verified before: who points a crowd of names at their neighbourhood
/// must not keep us from them.
const VERIFIED_RESERVE: u32 = 4;

impl Default for IntakeBudgets {
    fn default() -> IntakeBudgets {
        let allowance = |burst, refill| BucketConfig { burst, refill };
        IntakeBudgets {
            // A peer is asked about once a day, and now and then more often while it is flaky.
            peers: KeyedBucket::new(allowance(4, Duration::from_hours(3))),
            callers: KeyedBucket::new(allowance(5, Duration::from_hours(1))),
            domains: KeyedBucket::new(allowance(8, Duration::from_hours(1))),
            // Onion names prove nothing of where they come from, nor do callers through Tor, so they share one budget.
            onions: KeyedBucket::new(allowance(5, Duration::from_mins(2))),
            // A channel has a few dozen servers; a crowd of made-up ones is let in slowly.
            irc: KeyedBucket::new(allowance(50, Duration::from_mins(10))),
            overall: KeyedBucket::new(allowance(200, Duration::from_secs(10))),
            // 720 connections a day: enough for a hosting company's full /24, and no flood for anybody else.
            per_subnet: KeyedBucket::new(allowance(8, SITE_REFILL)),
            queue_tail: HashMap::new(),
        }
    }
}

impl IntakeBudgets {
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

    /// Takes one connection to each subnet from the budgets, or names the subnet to wait for and the time of the next try.
    ///
    /// Peers that wait for one subnet get times one after the other. Else each of them would look its name up again
    /// whenever there is budget for one. Private subnets, which are dialled only in a network of the operator's own, have
    /// no budget.
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

/// The addresses to dial: all of them fit for it, or none is. A name that means a public address beside a private one
/// is a trick.
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

/// The doors of a peer in the order in which to try them: what it is believed to have, TLS before TCP nine times of
/// ten, then what others claim of it.
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

/// Origin of a port number, which decides whether a blocked port may be dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortOrigin {
    /// The operator wrote it, for a seed or in a command.
    Operator,
    /// A peer, a client or an IRC channel named it.
    Untrusted,
}

/// The ports of a host that may be stored, dialled and advertised; `None` where there are none.
///
/// This is the only rule on port numbers. Names are free, so an untrusted source could point them at any machine, and
/// choose the service there. An onion service is not reached by accident: its name is its own key.
pub fn permitted_ports(host: &Host, ports: Ports, origin: PortOrigin) -> Option<Ports> {
    ports.filtered(|port| host.is_onion() || origin == PortOrigin::Operator || !is_blocked_port(port))
}

/// The ports that a host may have by its own word.
///
/// Its word does not open a blocked port, even for the operator's own peers, as a DNS name can move to another machine
/// afterwards. A blocked port that the operator wrote (it is in `known`) stays.
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

/// Of a peer's list, the few names that are taken up: unknown ones, at random, so that no peer can steer us by order.
pub fn sample_new_names(listing: PeerList, unknown: impl Fn(&Host) -> bool, rng: &mut impl Rng) -> Vec<RealName> {
    let mut names: Vec<RealName> =
        listing.0.into_iter().map(|listed| listed.name).filter(|name| unknown(&name.host)).collect();
    names.sort_by(|a, b| a.host.cmp(&b.host));
    names.dedup_by(|a, b| a.host == b.host);
    names.into_iter().sample(rng, MAX_NAMES_PER_PEER_LIST)
}

/// One of several, if there are any.
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
    fn one_private_address_spoils_all() {
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
    fn tls_goes_first_nine_times_of_ten() {
        let mut rng = StdRng::seed_from_u64(7);
        let ports = Network::Bitcoin.default_ports();
        let tls_first =
            (0..10_000).filter(|_| ordered_endpoints(Some(ports), &[], &mut rng)[0].0 == Transport::Tls).count();
        assert!((8_800..9_200).contains(&tls_first), "{tls_first}");
        let claimed = [ports, Network::Regtest.default_ports()];
        assert_eq!(ordered_endpoints(Some(ports), &claimed, &mut rng).len(), 4);
    }

    #[test]
    fn a_site_is_not_dialled_without_end() {
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
    fn a_crowd_at_one_site_stands_in_line_and_leaves_room_for_the_proven() {
        let mut budgets = IntakeBudgets::default();
        let (addresses, now) = (["5.9.0.1".parse().unwrap()], Time::from_secs(1_000_000));
        let turns: Vec<Time> =
            (0..100).filter_map(|_| budgets.dial(&addresses, false, now).err()).map(|(_, when)| when).collect();
        assert_eq!(turns.len(), 96);
        assert!(turns.iter().zip(&turns[1..]).all(|(one, next)| next.since(*one) >= SITE_REFILL));
        assert_eq!(budgets.dial(&addresses, true, now), Ok(()));
        // A neighbourhood that may not be dialled costs the others nothing.
        let both = ["88.99.0.1".parse().unwrap(), addresses[0]];
        assert!((0..20).all(|_| budgets.dial(&both, false, now).is_err()));
        assert_eq!(budgets.dial(&both[..1], false, now), Ok(()));
    }

    #[test]
    fn two_names_at_most_from_one_list() {
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
