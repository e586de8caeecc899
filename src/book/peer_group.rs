//! Groups of peers that one operator probably runs, and the number of newcomers that each may bring into a list.
//!
//! Names are free, and so are names below a domain, keys and certificates. Addresses in many networks are not. So a
//! peer belongs to nested groups, and each group is limited.

use std::collections::{HashMap, HashSet};

use super::entry::Entry;
use crate::as_map::{AsMap, Asn};
use crate::connect::{CertificateBatch, KeyHash};
use crate::netgroup::{self, Netgroup};
use crate::peer::{DnsName, Host};

/// Maximum number of peers of one autonomous system: 3.1 % of 65 peers.
///
/// Bitcoin Core stores one network group in at most 8 of 256 buckets, which is the same share.
const MAX_PER_ASN: usize = 2;

/// Maximum number of peers of an IPv4 /24 or /16, or of an IPv6 /32.
///
/// ElectrumX lists as many of a /16. Of the narrower IPv6 ranges, which customers get, one peer is enough.
const MAX_PER_WIDE_RANGE: usize = 2;

/// Maximum number of peers below one registrable domain.
const MAX_PER_DOMAIN: usize = 3;

/// Maximum number of certificates that one issuer minted in one minute. A public authority may do so by chance.
const MAX_PER_CERTIFICATE_BATCH: usize = 2;

/// Number of groups of a usual peer: three ranges, a domain, a key and a batch.
const GROUPS_PER_PEER: usize = 6;

/// Group of peers that one operator probably runs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum PeerGroup {
    /// Autonomous system, according to the AS map.
    Asn(Asn),
    /// Range of addresses, or a single address.
    Range(Netgroup),
    /// Registrable domain.
    Domain(DnsName),
    /// TLS key.
    Key(KeyHash),
    /// Certificates that one issuer minted in the same minute.
    Batch(CertificateBatch),
}

impl PeerGroup {
    /// Returns the groups of a peer, and none for onion services, which form one group that lists limit as a whole.
    ///
    /// Private addresses are peers only in the operator's own network, so they belong to no group either.
    pub(super) fn all_of(entry: &Entry, as_map: Option<&AsMap>) -> Vec<PeerGroup> {
        if entry.host.is_onion() || entry.ip.is_some_and(|ip| !netgroup::is_public(ip)) {
            return Vec::new();
        }
        let mut groups = Vec::new();
        if let Some(ip) = entry.ip {
            groups.extend(Netgroup::nested(ip).map(PeerGroup::Range));
            groups.extend(as_map.and_then(|map| map.asn(ip)).map(PeerGroup::Asn));
        }
        if let Host::Dns(name) = &entry.host {
            groups.push(PeerGroup::Domain(name.registrable()));
        }
        groups.extend(entry.key.map(|key| PeerGroup::Key(key.sha256)));
        groups.extend(entry.certificate_batch.map(PeerGroup::Batch));
        groups
    }

    /// Returns the group by which peers take turns: the autonomous system, otherwise the widest range.
    ///
    /// `None` for onion services and private addresses.
    pub(super) fn network_of(entry: &Entry, as_map: Option<&AsMap>) -> Option<PeerGroup> {
        let ip = entry.ip.filter(|ip| !entry.host.is_onion() && netgroup::is_public(*ip))?;
        let asn = as_map.and_then(|map| map.asn(ip)).map(PeerGroup::Asn);
        Some(asn.unwrap_or_else(|| PeerGroup::Range(Netgroup::allocation(ip))))
    }

    fn max_peers(&self) -> usize {
        match self {
            PeerGroup::Asn(_) => MAX_PER_ASN,
            PeerGroup::Range(range) if range.prefix_len() <= 32 && !range.is_single_address() => MAX_PER_WIDE_RANGE,
            PeerGroup::Range(_) | PeerGroup::Key(_) => 1,
            PeerGroup::Domain(_) => MAX_PER_DOMAIN,
            PeerGroup::Batch(_) => MAX_PER_CERTIFICATE_BATCH,
        }
    }

    fn is_address(&self) -> bool {
        matches!(self, PeerGroup::Range(range) if range.is_single_address())
    }
}

/// Number of peers of each group.
#[derive(Debug, Default)]
pub(super) struct GroupCounts(HashMap<PeerGroup, usize>);

impl GroupCounts {
    /// Creates counts for about so many peers.
    pub(super) fn with_peers(count: usize) -> GroupCounts {
        GroupCounts(HashMap::with_capacity(count * GROUPS_PER_PEER))
    }

    /// Counts a peer, whether or not its groups have room.
    pub(super) fn add(&mut self, groups: &[PeerGroup]) {
        for group in groups {
            *self.0.entry(group.clone()).or_default() += 1;
        }
    }

    /// Returns the number of peers of a group. Peers without a network count as the first of theirs.
    pub(super) fn of(&self, group: Option<&PeerGroup>) -> usize {
        group.and_then(|group| self.0.get(group)).copied().unwrap_or(0)
    }

    /// Returns whether all these groups have room for another peer.
    pub(super) fn has_room(&self, groups: &[PeerGroup]) -> bool {
        groups.iter().all(|group| self.0.get(group).is_none_or(|count| *count < group.max_peers()))
    }

    /// Counts a peer if all its groups have room. Returns whether they had.
    pub(super) fn add_within_limits(&mut self, groups: &[PeerGroup]) -> bool {
        let is_admitted = self.has_room(groups);
        if is_admitted {
            self.add(groups);
        }
        is_admitted
    }

    /// Counts a peer if its address is not taken. Returns whether it was free.
    pub(super) fn add_if_address_is_free(&mut self, groups: &[PeerGroup]) -> bool {
        let is_free = groups.iter().filter(|group| group.is_address()).all(|group| !self.0.contains_key(group));
        if is_free {
            self.add(groups);
        }
        is_free
    }
}

/// Autonomous systems that have a newcomer. In a young book each gets one, since networks are its only evidence.
///
/// Without an AS map, the limits of address ranges apply alone: one /16 often has several providers.
#[derive(Debug, Default)]
pub(super) struct NewcomerNetworks(HashSet<Asn>);

impl NewcomerNetworks {
    /// Records the autonomous system of a peer.
    pub(super) fn add(&mut self, entry: &Entry, as_map: Option<&AsMap>) {
        self.0.extend(asn_of(entry, as_map));
    }

    /// Counts a peer if its autonomous system has no newcomer and all its groups have room. Returns whether this is so.
    pub(super) fn admit(&mut self, entry: &Entry, as_map: Option<&AsMap>, counts: &mut GroupCounts) -> bool {
        let is_first = asn_of(entry, as_map).is_none_or(|asn| !self.0.contains(&asn));
        let is_admitted = is_first && counts.add_within_limits(&PeerGroup::all_of(entry, as_map));
        if is_admitted {
            self.add(entry, as_map);
        }
        is_admitted
    }
}

fn asn_of(entry: &Entry, as_map: Option<&AsMap>) -> Option<Asn> {
    match PeerGroup::network_of(entry, as_map) {
        Some(PeerGroup::Asn(asn)) => Some(asn),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::clearnet_entry;
    use super::*;

    fn admitted(entries: &[Entry], as_map: Option<&AsMap>) -> usize {
        let mut counts = GroupCounts::default();
        entries.iter().filter(|entry| counts.add_within_limits(&PeerGroup::all_of(entry, as_map))).count()
    }

    fn entries(addresses: impl Iterator<Item = String>) -> Vec<Entry> {
        addresses.enumerate().map(|(n, ip)| clearnet_entry(&format!("h{n}.site{n}.example"), &ip)).collect()
    }

    #[test]
    fn every_range_is_limited() {
        let in_one = |pattern: &str| admitted(&entries((0..9).map(|n| pattern.replace('N', &n.to_string()))), None);
        for pattern in ["5.9.0.1", "2a01:4f8::N", "2a01:4f8:0:N::1"] {
            assert_eq!(in_one(pattern), 1, "{pattern}");
        }
        for pattern in ["5.9.0.N", "5.9.N.1", "2a01:4f8:N::1"] {
            assert_eq!(in_one(pattern), 2, "{pattern}");
        }
        assert_eq!(in_one("5.1N.0.1"), 9);
        assert_eq!(in_one("2a01:4fN::1"), 9);
    }

    #[test]
    fn provider_has_two_places_with_an_as_map() {
        let ranges = [("5.8.0.0".parse().unwrap(), 14, 24_940), ("88.99.0.0".parse().unwrap(), 16, 7)];
        let map = AsMap::parse(crate::as_map::encoder::encode(&ranges)).unwrap();
        let hosting = entries((8..11).flat_map(|b| (0..3).map(move |c| format!("5.{b}.{c}.1"))));
        assert_eq!((admitted(&hosting, None), admitted(&hosting, Some(&map))), (6, 2));
        assert_eq!(admitted(&entries((0..3).map(|c| format!("88.99.{c}.1"))), Some(&map)), 2);
    }

    #[test]
    fn names_and_certificates_are_limited_across_networks() {
        let mut peers: Vec<Entry> =
            (1..9).map(|n| clearnet_entry(&format!("h{n}.example.com"), &format!("{}.9.0.1", n * 20))).collect();
        assert_eq!(admitted(&peers, None), MAX_PER_DOMAIN);
        for (n, peer) in peers.iter_mut().enumerate() {
            peer.host = format!("site{n}.example").parse().unwrap();
        }
        assert_eq!(admitted(&peers, None), 8);
        for peer in &mut peers {
            peer.certificate_batch = Some([7; 8]);
        }
        assert_eq!(admitted(&peers, None), MAX_PER_CERTIFICATE_BATCH);
    }
}
