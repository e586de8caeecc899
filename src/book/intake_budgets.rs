//! Budgets for names, for extra visits, and for dials to subnets.
//!
//! The party that acts pays: the client's address, or the listing peer's. The domain of a name is limited only for
//! reports that do not prove control of it, and an owner never pays from that limit.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use super::admission::IntakeError;
use super::rate_budget::{BucketConfig, KeyedBuckets};
use super::source::Source;
use super::source_group::{Payer, Provenance, SourceGroup};
use crate::clock::Time;
use crate::netgroup::{self, Netgroup};
use crate::peer::{DnsName, Host};

/// Budgets for names from untrusted sources, for extra visits, and for dials to subnets.
#[derive(Debug, Default)]
pub(super) struct IntakeBudgets {
    names: KeyedBuckets<NameBudget>,
    visits: KeyedBuckets<VisitBudget>,
    per_subnet: KeyedBuckets<Netgroup>,
    /// Time of the last deferred dial to a subnet. Previously verified peers (`true`) have a separate queue.
    queue_tail: HashMap<(Netgroup, bool), Time>,
}

/// Interval between connections to one subnet after its burst is used up.
const SUBNET_REFILL: Duration = Duration::from_mins(2);

/// Connections to one subnet, 720 a day: enough for a full /24 of a hosting company, without flooding others.
const SUBNET_DIALS: BucketConfig = BucketConfig { burst: 8, refill: SUBNET_REFILL };

/// Connections of a subnet's burst that are reserved for previously verified peers.
///
/// Otherwise many new names in the subnet could block probes of these peers.
const VERIFIED_RESERVE: u32 = 4;

/// Budget that a new name is charged to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum NameBudget {
    /// One listing peer.
    Peer(Host),
    /// Party of a provenance.
    Payer(Provenance, Payer),
    /// Wide network of a provenance.
    Allocation(Provenance, Netgroup),
    /// Named domain of a provenance whose reports have no proof of control.
    NamedDomain(Provenance, DnsName),
    /// Clients through Tor, by whether they name an onion host.
    OnionClients(bool),
    /// All names of a provenance.
    Total(Provenance),
}

/// Budget that an extra visit is charged to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum VisitBudget {
    /// One peer, by whether it asked from its own address.
    Peer(Host, bool),
    /// Party of the visited peer.
    Payer(Payer),
}

impl IntakeBudgets {
    /// Charges a new name to the budgets of its source.
    ///
    /// A client that names a DNS host must have one of its addresses, so its address pays and the domain does not.
    /// Other reports prove nothing about the domain. They are limited by domain, as names below it cost nothing; each
    /// provenance has its own limit, so that lies in lists do not keep out an owner that announces itself.
    pub(super) fn charge_name(
        &mut self,
        group: &SourceGroup,
        source: &Source,
        host: &Host,
        now: Time,
    ) -> Result<(), IntakeError> {
        let provenance = group.provenance;
        let mut keys = Vec::new();
        if let Source::Peer(peer) = source {
            keys.push(NameBudget::Peer(peer.clone()));
        }
        match provenance {
            Provenance::OnionClient => keys.push(NameBudget::OnionClients(host.is_onion())),
            _ => keys.push(NameBudget::Payer(provenance, group.payer.clone())),
        }
        keys.extend(group.payer.allocation().map(|allocation| NameBudget::Allocation(provenance, allocation)));
        match host {
            Host::Dns(name) if provenance != Provenance::ClearnetClient => {
                keys.push(NameBudget::NamedDomain(provenance, name.registrable()));
            }
            _ => {}
        }
        keys.push(NameBudget::Total(provenance));
        let buckets = keys.into_iter().map(|key| (key.clone(), key.config())).collect();
        self.names.take_all(buckets, now).map_err(|exhausted| exhausted.error())
    }

    /// Charges a visit that a peer's new ports cause. Returns whether it may take place.
    ///
    /// `is_owner` tells whether the request came from the peer's address, so that others cannot spend its budget.
    pub(super) fn charge_visit(&mut self, host: &Host, payer: Payer, is_owner: bool, now: Time) -> bool {
        let keys = [VisitBudget::Peer(host.clone(), is_owner), VisitBudget::Payer(payer)];
        let buckets = keys.into_iter().map(|key| (key.clone(), key.config())).collect();
        self.visits.take_all(buckets, now).is_ok()
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
            if let Err(when) = self.per_subnet.has(subnet, SUBNET_DIALS, reserve, now) {
                let end = self.queue_tail.entry((*subnet, was_verified)).or_default();
                *end = (*end + SUBNET_REFILL).max(when);
                return Err((*subnet, *end));
            }
        }
        for subnet in subnets {
            self.per_subnet.charge(subnet, SUBNET_REFILL, now);
        }
        Ok(())
    }

    /// Drops the budgets that are full again.
    pub(super) fn prune(&mut self, now: Time) {
        self.names.prune(now);
        self.visits.prune(now);
        self.per_subnet.prune(now);
        self.queue_tail.retain(|_, end| *end > now);
    }
}

impl NameBudget {
    fn config(&self) -> BucketConfig {
        let allowance = |burst, refill| BucketConfig { burst, refill };
        let (mins, hours) = (Duration::from_mins, Duration::from_hours);
        match self {
            // A peer is probed about once a day, and more often while it is unreliable.
            NameBudget::Peer(_) => allowance(4, hours(3)),
            NameBudget::Payer(Provenance::ClearnetClient, _) => allowance(5, hours(1)),
            // A /24 of a hosting company holds a few peers.
            NameBudget::Payer(Provenance::PeerList, Payer::Network { .. } | Payer::Domain(_)) => allowance(8, mins(90)),
            // All onion peers together: as many names as a dozen clearnet networks.
            NameBudget::Payer(Provenance::PeerList, _) => allowance(50, mins(5)),
            // A channel has a few dozen servers; a flood of invented ones is admitted slowly.
            NameBudget::Payer(..) => allowance(50, mins(10)),
            // Four times the budget of one of its subnets.
            NameBudget::Allocation(Provenance::ClearnetClient, _) => allowance(20, mins(15)),
            NameBudget::Allocation(..) => allowance(32, mins(20)),
            NameBudget::NamedDomain(..) => allowance(8, hours(1)),
            // Clients through Tor reveal no origin, so they share one budget.
            NameBudget::OnionClients(_) => allowance(5, mins(2)),
            NameBudget::Total(_) => allowance(200, Duration::from_secs(10)),
        }
    }

    fn error(&self) -> IntakeError {
        match self {
            NameBudget::NamedDomain(..) => IntakeError::DomainBudget,
            NameBudget::OnionClients(_) => IntakeError::OnionBudget,
            NameBudget::Total(_) => IntakeError::OverallBudget,
            NameBudget::Peer(_) | NameBudget::Payer(..) | NameBudget::Allocation(..) => IntakeError::SourceBudget,
        }
    }
}

impl VisitBudget {
    fn config(&self) -> BucketConfig {
        let (burst, refill) = match self {
            // Regular visits take place about every 17 hours; extra ones at most double them in the long run.
            VisitBudget::Peer(..) => (3, Duration::from_hours(12)),
            VisitBudget::Payer(Payer::OperatorsPeer(_)) => (4, Duration::from_hours(1)),
            // All onion peers together.
            VisitBudget::Payer(Payer::Anonymous) => (16, Duration::from_mins(10)),
            VisitBudget::Payer(_) => (6, Duration::from_hours(1)),
        };
        BucketConfig { burst, refill }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
