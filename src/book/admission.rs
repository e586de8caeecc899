//! Budgets for new names and for dials, and the reasons for rejecting a name.
//!
//! They prevent the exhaustion of Waypost's tables, and floods of connections to one network.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use rand::Rng;
use rand::seq::IteratorRandom;

use super::rate_budget::{BucketConfig, KeyedBucket};
use super::source::Source;
use crate::clock::Time;
use crate::netgroup::{self, Netgroup};
use crate::peer::{DnsName, Host, PeerList, RealName};

/// Maximum number of new names taken from one peer list.
pub const MAX_NAMES_PER_PEER_LIST: usize = 2;

/// Reason for rejecting a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IntakeError {
    /// No host with a port is named.
    #[error("no host with a port is named")]
    NoHost,
    /// The server follows another chain.
    #[error("the server follows another chain")]
    WrongGenesis,
    /// The address is not public.
    #[error("the host isn't public")]
    NotPublic,
    /// An address may only be named by a client that connects from it.
    #[error("the host has another address than the client")]
    NotTheClient,
    /// The name belongs to this node.
    #[error("the host is this node")]
    LocalHost,
    /// The host is on the ban list.
    #[error("the host is banned")]
    Banned,
    /// All ports are blocked for untrusted names.
    #[error("its ports belong to other services, and are not dialled on a host that the operator did not name")]
    NoDialablePort,
    /// The configuration names the host twice.
    #[error("an earlier seed names the same host")]
    Duplicate,
    /// The peer is marked bad.
    #[error("the peer misbehaved when last probed")]
    KnownMisbehaving,
    /// The source has used up its budget.
    #[error("too many names from the same source")]
    SourceBudget,
    /// The registrable domain has used up its budget.
    #[error("too many names of the same domain")]
    DomainBudget,
    /// Names without a traceable origin have used up their budget.
    #[error("too many new onion names, or names through Tor")]
    OnionBudget,
    /// All sources together have used up their budget.
    #[error("too many new names")]
    OverallBudget,
    /// The table of candidates is full.
    #[error("the book holds too many names that were never verified")]
    CandidateTableFull,
    /// The route requires TLS.
    #[error("no TLS port is named, and clearnet hosts are dialled with TLS only through Tor")]
    TlsRequired,
}

/// Budgets for names from untrusted sources and for dials to subnets.
#[derive(Debug)]
pub(super) struct IntakeBudgets {
    peers: KeyedBucket<Host>,
    clients: KeyedBucket<Netgroup>,
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
const SUBNET_REFILL: Duration = Duration::from_mins(2);

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
            clients: KeyedBucket::new(allowance(5, Duration::from_hours(1))),
            domains: KeyedBucket::new(allowance(8, Duration::from_hours(1))),
            // Neither onion names nor clients through Tor reveal their origin, so they share one budget.
            onions: KeyedBucket::new(allowance(5, Duration::from_mins(2))),
            // A channel has a few dozen servers; a flood of invented ones is admitted slowly.
            irc: KeyedBucket::new(allowance(50, Duration::from_mins(10))),
            overall: KeyedBucket::new(allowance(200, Duration::from_secs(10))),
            // 720 connections a day: enough for a full /24 of a hosting company, without flooding others.
            per_subnet: KeyedBucket::new(allowance(8, SUBNET_REFILL)),
            queue_tail: HashMap::new(),
        }
    }
}

impl IntakeBudgets {
    /// Charges a new name to the budgets of its source and domain.
    pub(super) fn charge(&mut self, source: &Source, host: &Host, now: Time) -> Result<(), IntakeError> {
        match source {
            Source::Seed | Source::Operator => return Ok(()),
            Source::Peer(peer) => self.peers.take(peer.clone(), now).map_err(|_| IntakeError::SourceBudget)?,
            Source::AddPeer(from) if host.is_onion() || from.is_none() => {
                self.onions.take((), now).map_err(|_| IntakeError::OnionBudget)?
            }
            Source::AddPeer(Some(ip)) => {
                self.clients.take(Netgroup::rate_limit_subnet(*ip), now).map_err(|_| IntakeError::SourceBudget)?;
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
    pub(super) fn dial(&mut self, addresses: &[IpAddr], was_verified: bool, now: Time) -> Result<(), (Netgroup, Time)> {
        let public = addresses.iter().filter(|ip| netgroup::is_public(**ip));
        let mut subnets: Vec<Netgroup> = public.map(|ip| Netgroup::rate_limit_subnet(*ip)).collect();
        subnets.sort_unstable();
        subnets.dedup();
        let reserve = if was_verified { 0 } else { VERIFIED_RESERVE };
        for subnet in &subnets {
            if let Err(when) = self.per_subnet.has(subnet, reserve, now) {
                let end = self.queue_tail.entry((*subnet, was_verified)).or_default();
                *end = (*end + SUBNET_REFILL).max(when);
                return Err((*subnet, *end));
            }
        }
        subnets.into_iter().try_for_each(|subnet| self.per_subnet.take(subnet, now).map_err(|when| (subnet, when)))
    }

    /// Drops the budgets that are full again.
    pub(super) fn prune(&mut self, now: Time) {
        self.peers.prune(now);
        self.clients.prune(now);
        self.domains.prune(now);
        self.onions.prune(now);
        self.irc.prune(now);
        self.overall.prune(now);
        self.per_subnet.prune(now);
        self.queue_tail.retain(|_, end| *end > now);
    }
}

/// Samples unknown names of a peer list.
///
/// The choice is random, so that a peer cannot influence it by order.
pub(super) fn sample_new_names(
    listing: PeerList,
    unknown: impl Fn(&Host) -> bool,
    rng: &mut (impl Rng + ?Sized),
) -> Vec<RealName> {
    let mut names: Vec<RealName> =
        listing.0.into_iter().map(|listed| listed.name).filter(|name| unknown(&name.host)).collect();
    names.sort_by(|a, b| a.host.cmp(&b.host));
    names.dedup_by(|a, b| a.host == b.host);
    names.into_iter().sample(rng, MAX_NAMES_PER_PEER_LIST)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::network::Network;

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
        assert!(turns.iter().zip(&turns[1..]).all(|(one, next)| next.since(*one) >= SUBNET_REFILL));
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
