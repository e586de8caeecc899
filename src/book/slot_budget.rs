//! Probe slots: how many each class of peers may hold, and what peers pay for the time.
//!
//! A peer that drips bytes or never answers holds a slot until the deadline. It pays for each second, and so does its
//! group. A group in debt waits, and the slots go to others.

use std::net::IpAddr;
use std::time::Duration;

use super::entry::Entry;
use super::rate_budget::KeyedBuckets;
use crate::clock::Time;
use crate::netgroup::{self, Netgroup};
use crate::peer::{DnsName, Host};

/// Class of peers with a queue of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ProbeClass {
    /// Peers that were verified once.
    Known,
    /// Clearnet peers that were never verified.
    ClearnetNewcomer,
    /// Onion peers that were never verified.
    OnionNewcomer,
}

impl ProbeClass {
    /// All classes.
    pub(super) const ALL: [ProbeClass; 3] =
        [ProbeClass::Known, ProbeClass::ClearnetNewcomer, ProbeClass::OnionNewcomer];

    /// Returns the class of a peer.
    pub(super) fn of(entry: &Entry) -> ProbeClass {
        match entry.last_success {
            Some(_) => ProbeClass::Known,
            None if entry.host.is_onion() => ProbeClass::OnionNewcomer,
            None => ProbeClass::ClearnetNewcomer,
        }
    }

    /// Returns whether peers of this class were never verified. Known peers and newcomers have reserved slots.
    pub(super) fn is_newcomer(self) -> bool {
        self != ProbeClass::Known
    }

    /// Returns the maximum number of slots for known peers, or for newcomers.
    ///
    /// A quarter stays for the others.
    pub(super) fn max_slots(all: usize) -> usize {
        all - all / 4
    }
}

/// Party that pays for the time of a probe.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum SlotPayer {
    /// Peer that was verified or that the operator named.
    Peer(Host),
    /// All onion peers that were never verified.
    UnverifiedOnions,
    /// Registrable domain of a name without known addresses.
    Domain(DnsName),
    /// IPv4 /24 or IPv6 /48.
    Subnet(Netgroup),
    /// IPv4 /16 or IPv6 /32.
    Allocation(Netgroup),
}

impl SlotPayer {
    /// Returns the parties that pay for a probe on these addresses.
    ///
    /// `addresses` is empty before the lookup.
    pub(super) fn of(entry: &Entry, addresses: &[IpAddr]) -> Vec<SlotPayer> {
        if entry.last_success.is_some() || entry.source.is_operator() {
            return vec![SlotPayer::Peer(entry.host.clone())];
        }
        match &entry.host {
            Host::Onion(_) => vec![SlotPayer::UnverifiedOnions],
            Host::Dns(name) if addresses.is_empty() => vec![SlotPayer::Domain(name.registrable())],
            Host::Dns(_) => networks(addresses),
            Host::Ip(ip) => networks(&[*ip]),
        }
    }

    /// Returns the subnet whose debt this is; `None` for other parties.
    pub(super) fn subnet(&self) -> Option<Netgroup> {
        match self {
            SlotPayer::Subnet(group) | SlotPayer::Allocation(group) => Some(*group),
            _ => None,
        }
    }

    /// Returns the time in which this party pays for one second of a slot.
    ///
    /// The inverse is the share of a slot that it may hold in the long run.
    fn price(&self) -> f64 {
        match self {
            // A regular visit of the maximum duration is a four-hundredth of the time between two visits.
            SlotPayer::Peer(_) => 32.0,
            SlotPayer::Domain(_) | SlotPayer::Subnet(_) => 8.0,
            SlotPayer::Allocation(_) => 2.0,
            // Half of the default number of slots on the Tor route.
            SlotPayer::UnverifiedOnions => 0.25,
        }
    }

    /// Returns the maximum debt with which a probe may start, in payment time.
    fn credit(&self) -> Duration {
        match self {
            // About six probes of the maximum duration in a row.
            SlotPayer::Peer(_) => Duration::from_hours(8),
            // Five minutes of slot time.
            SlotPayer::Domain(_) | SlotPayer::Subnet(_) => Duration::from_mins(40),
            // Ten minutes.
            SlotPayer::Allocation(_) => Duration::from_mins(20),
            // Forty minutes: two rounds of timeouts in all slots.
            SlotPayer::UnverifiedOnions => Duration::from_mins(10),
        }
    }
}

/// Debts of all parties.
#[derive(Debug, Default)]
pub(super) struct SlotBudget(KeyedBuckets<SlotPayer>);

impl SlotBudget {
    /// Returns the first party in debt, and when its probes may go on; `None` if all have paid.
    pub(super) fn debtor(&self, payers: &[SlotPayer], now: Time) -> Option<(SlotPayer, Time)> {
        payers.iter().find_map(|payer| {
            let may_start_at = self.0.empty_at(payer)? - payer.credit();
            (may_start_at > now).then(|| (payer.clone(), may_start_at))
        })
    }

    /// Returns when a peer of a class that is due may start.
    pub(super) fn may_start_at(&self, class: ProbeClass, due: Time) -> Time {
        let onions = SlotPayer::UnverifiedOnions;
        match (class, self.0.empty_at(&onions)) {
            (ProbeClass::OnionNewcomer, Some(empty_at)) => due.max(empty_at - onions.credit()),
            _ => due,
        }
    }

    /// Charges the time for which a slot was held.
    pub(super) fn charge(&mut self, payers: Vec<SlotPayer>, held: Duration, now: Time) {
        for payer in payers {
            let payment = held.mul_f64(payer.price());
            self.0.charge(payer, payment, now);
        }
    }

    /// Drops the paid debts.
    pub(super) fn prune(&mut self, now: Time) {
        self.0.prune(now);
    }
}

fn networks(addresses: &[IpAddr]) -> Vec<SlotPayer> {
    // Private addresses are peers only in the operator's own network.
    let public = || addresses.iter().copied().filter(|ip| netgroup::is_public(*ip));
    let mut payers: Vec<SlotPayer> = Vec::new();
    for payer in public()
        .map(|ip| SlotPayer::Subnet(Netgroup::rate_limit_subnet(ip)))
        .chain(public().map(|ip| SlotPayer::Allocation(Netgroup::allocation(ip))))
    {
        if !payers.contains(&payer) {
            payers.push(payer);
        }
    }
    payers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_that_holds_slots_waits_until_it_has_paid() {
        let mut budget = SlotBudget::default();
        let now = Time::from_secs(1_000_000);
        let payers = networks(&["5.9.0.1".parse().unwrap(), "5.9.0.2".parse().unwrap()]);
        assert_eq!(payers.len(), 2);
        for _ in 0..5 {
            assert_eq!(budget.debtor(&payers, now), None);
            budget.charge(payers.clone(), Duration::from_secs(61), now);
        }
        let (debtor, until) = budget.debtor(&payers, now).unwrap();
        assert_eq!((debtor.subnet().unwrap().to_string().as_str(), until.since(now).as_secs()), ("5.9.0.0/24", 40));
        assert_eq!(budget.debtor(&payers, until), None);
        assert_eq!(budget.debtor(&networks(&["5.9.1.1".parse().unwrap()]), now), None, "another subnet");
    }

    #[test]
    fn known_peers_and_newcomers_leave_a_quarter_of_the_slots() {
        assert_eq!([1, 4, 8, 32].map(ProbeClass::max_slots), [1, 3, 6, 24]);
    }
}
